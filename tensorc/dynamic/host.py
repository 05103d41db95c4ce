"""Operators that are done by numpy between two stages: what they give has a shape that the data decide, or is text.

Each takes its inputs in ONNX's order, None for those that are not there, and gives one result or a tuple of them.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorc.dynamic.kinds import Datum
from tensorc.ir.types import numpy_dtype

Function = Callable[..., Datum]

HOST: dict[str, Function] = {}


def _host(function: Function) -> Function:
    HOST[function.__name__.removeprefix("_")] = function
    return function


@_host
def _nonzero(x: np.ndarray) -> np.ndarray:
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)


@_host
def _compress(x: np.ndarray, condition: np.ndarray, axis: int | None) -> np.ndarray:
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x.take(np.flatnonzero(condition[: x.shape[axis]]), axis)


@_host
def _unique(x: np.ndarray, axis: int | None, is_sorted: int) -> tuple[np.ndarray, ...]:
    values, first, inverse, counts = np.unique(x, True, True, True, axis=axis, equal_nan=False)
    inverse = inverse.reshape(-1)
    if not is_sorted:  # in the order of first occurrence
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(order.size)
        values = values.take(order, 0 if axis is None else axis)
        first, inverse, counts = first[order], rank[inverse], counts[order]
    return values, *(part.astype(np.int64) for part in (first, inverse, counts))


def _corners(boxes: np.ndarray, centered: int) -> np.ndarray:
    """[n, 4] as y1, x1, y2, x2, the smaller ones first."""
    if centered:
        x, y, width, height = boxes.T
        return np.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], 1)
    y1, x1, y2, x2 = boxes.T
    return np.stack([np.minimum(y1, y2), np.minimum(x1, x2), np.maximum(y1, y2), np.maximum(x1, x2)], 1)


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union."""
    top = np.maximum(box[:2], others[:, :2])
    sides = np.maximum(np.minimum(box[2:], others[:, 2:]) - top, 0)
    shared = sides[:, 0] * sides[:, 1]
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    with np.errstate(all="ignore"):
        return np.where(shared > 0, shared / (area + areas - shared), 0)


@_host
def _non_max_suppression(
    boxes: np.ndarray, scores: np.ndarray, most: np.ndarray | None, overlap: np.ndarray | None,
    least: np.ndarray | None, center_point_box: int,
) -> np.ndarray:  # fmt: skip
    """Rows of batch, class and box: per class, greedily by score, the boxes that overlap none chosen before."""
    limit = 0 if most is None else int(most.reshape(()))
    threshold = 0.0 if overlap is None else float(overlap.reshape(()))
    chosen = []
    for batch in range(scores.shape[0]):
        corners = _corners(boxes[batch].astype(np.float64), center_point_box)
        for category in range(scores.shape[1]):
            row = scores[batch, category]
            left = np.argsort(-row, kind="stable")
            if least is not None:
                left = left[row[left] > least.reshape(())]
            taken = 0
            while left.size and taken < limit:
                best, left = left[0], left[1:]
                chosen.append((batch, category, best))
                taken += 1
                left = left[_overlaps(corners[best], corners[left]) <= threshold]
    return np.array(chosen, np.int64).reshape(-1, 3)


# Text -------------------------------------------------------------------------------------------------------


def _texts(texts: Sequence[str], shape: Sequence[int]) -> np.ndarray:
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)


def _each(function: Callable[[str], Any], x: np.ndarray, dtype: Any = object) -> np.ndarray:
    array = np.empty(x.size, dtype)
    array[:] = [function(str(text)) for text in x.reshape(-1)]
    return array.reshape(x.shape)


@_host
def _string_concat(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a.astype(object) + b.astype(object), object)


@_host
def _string_split(x: np.ndarray, delimiter: str | None, maxsplit: int | None) -> tuple[np.ndarray, np.ndarray]:
    parts = [str(text).split(delimiter or None, -1 if maxsplit is None else maxsplit) for text in x.reshape(-1)]
    longest = max(map(len, parts), default=0)
    filled = [text for part in parts for text in (*part, *[""] * (longest - len(part)))]
    return _texts(filled, (*x.shape, longest)), np.array([len(p) for p in parts], np.int64).reshape(x.shape)


@_host
def _regex_full_match(x: np.ndarray, pattern: str) -> np.ndarray:
    compiled = re.compile(pattern)
    return _each(lambda text: compiled.fullmatch(text) is not None, x, bool)


@_host
def _string_normalizer(
    x: np.ndarray, case_change_action: str, is_case_sensitive: int, stopwords: Sequence[str]
) -> np.ndarray:
    def fold(text: str) -> str:
        return text if is_case_sensitive else text.lower()

    stops = {fold(word) for word in stopwords}
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(case_change_action, str)
    rows = [[change(str(t)) for t in row if fold(str(t)) not in stops] for row in x.reshape(-1, x.shape[-1])]
    if not all(rows):  # of nothing one empty text is left
        rows = [row or [""] for row in rows]
    return _texts([text for row in rows for text in row], (*x.shape[:-1], len(rows[0]) if rows else 0))


@_host
def _cast_to_string(x: np.ndarray) -> np.ndarray:
    """The shortest decimals that give the number back, as C++ prints it; whole ones without a fraction."""

    def text(number: Any) -> str:
        if isinstance(number, (str, bytes)):
            return number if isinstance(number, str) else number.decode()
        if x.dtype.kind not in "fV" and not x.dtype.name.startswith(("bfloat", "float")):
            return str(number)
        if np.isnan(number):
            return "NaN"
        if np.isinf(number):
            return "INF" if number > 0 else "-INF"
        return np.format_float_positional(number, trim="-") if 1e-5 <= abs(number) < 1e16 or not number else str(number)

    return _texts([text(number) for number in x.reshape(-1)], x.shape)


@_host
def _cast_from_string(x: np.ndarray, to: str) -> np.ndarray:
    dtype = numpy_dtype(to)
    whole = dtype.kind in "iub"
    return _each(lambda text: int(text) if whole else float(text), x, np.int64 if whole else np.float64).astype(dtype)


@_host
def _tf_idf(
    x: np.ndarray, mode: str, grams: Sequence[Sequence[Any]], columns: Sequence[int], weights: Sequence[float],
    skips: int, shortest: int, longest: int,
) -> np.ndarray:  # fmt: skip
    """How often each n-gram occurs in each row, with up to `skips` elements left out between those of a gram."""
    rows = x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x.reshape(1, -1)
    width = max(columns) + 1
    where = {tuple(gram): (column, weight) for gram, column, weight in zip(grams, columns, weights, strict=True)}
    result = np.zeros((len(rows), width), np.float32)
    for number, row in enumerate(rows):
        texts = [item if isinstance(item, str) else int(item) for item in row]
        counts: dict[tuple[Any, ...], int] = {}
        for length in range(shortest, longest + 1):
            for skip in range(1, (skips + 1 if length > 1 else 1) + 1):
                for start in range(len(texts) - (length - 1) * skip):
                    gram = tuple(texts[start : start + (length - 1) * skip + 1 : skip])
                    counts[gram] = counts.get(gram, 0) + 1
        for gram, count in counts.items():
            if gram in where:
                column, weight = where[gram]
                result[number, column] = {"TF": count, "IDF": weight, "TFIDF": count * weight}[mode]
    return result if x.ndim > 1 else result[0]


@_host
def _label_encoder(x: np.ndarray, keys: Sequence[Any], values: Sequence[Any], default: Any, dtype: str) -> np.ndarray:
    table = dict(zip(keys, values, strict=True))

    def is_nan(key: Any) -> bool:
        return isinstance(key, float) and math.isnan(key)

    nan = next((value for key, value in table.items() if is_nan(key)), default)
    found = [nan if is_nan(key) else table.get(key, default) for key in x.reshape(-1).tolist()]
    return _texts(found, x.shape).astype(numpy_dtype(dtype))


# Images ------------------------------------------------------------------------------------------------------


@_host
def _image_decoder(x: np.ndarray, pixel_format: str) -> np.ndarray:
    """[height, width, channels]; of what is no image, nothing."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ValueError("decoding images needs Pillow: pip install 'tensorc[images]'") from error
    try:
        with Image.open(io.BytesIO(x.tobytes())) as image:
            pixels = np.asarray(image.convert("L" if pixel_format == "Grayscale" else "RGB"))
    except (UnidentifiedImageError, OSError):
        return np.empty((0, 0, 1 if pixel_format == "Grayscale" else 3), np.uint8)
    if pixel_format == "Grayscale":
        return pixels[..., None]
    return pixels[..., ::-1] if pixel_format == "BGR" else pixels


# ONNX Runtime ------------------------------------------------------------------------------------------------


@_host
def _onnx_runtime(*inputs: Datum, model: bytes) -> tuple[Datum, ...]:
    session = _session(model)
    names = [info.name for info in session.get_inputs()]
    try:
        return tuple(session.run(None, dict(zip(names, inputs, strict=True))))
    except Exception as error:  # its errors have no common base but this
        raise ValueError(f"ONNX Runtime: {error}") from error


@functools.lru_cache(maxsize=256)
def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
