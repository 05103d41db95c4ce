"""Samples to calibrate or evaluate with: from a file of arrays, or from a reader as ONNX Runtime's tools have them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tensorc.errors import UserError


class Reader(Protocol):
    """Gives one feed after the other, None after the last."""

    def get_next(self) -> Mapping[str, np.ndarray] | None: ...


#: The array that says which class each sample is of; an input of that name is an input.
LABELS = "labels"


@dataclass(frozen=True)
class Samples:
    """Feeds, and where they are known the classes of each, int64 [n] with n the same for all."""

    feeds: Sequence[dict[str, np.ndarray]]
    labels: Sequence[np.ndarray] | None = None

    @classmethod
    def read(cls, source: Path | Reader, inputs: Sequence[Mapping[str, Any]]) -> Samples:
        """All that there are, with the array `labels` beside those of the inputs. Raises UserError."""
        if isinstance(source, Path):
            feeds = list(_of_file(source, inputs))
            with _opened(source) as arrays:
                labels = [arrays[LABELS]] if LABELS in arrays.files else []
            where = str(source)
        else:
            given = list(_of_reader(source))
            feeds = [
                {row["name"]: _checked(f"sample {number}", feed, row) for row in inputs}
                for number, feed in enumerate(given)
            ]
            labels = [np.asarray(feed[LABELS]) for feed in given if LABELS in feed]
            if len(labels) not in (0, len(feeds)) or len({some.shape for some in labels}) > 1:
                raise UserError("the reader does not give as many labels with each sample")
            where = "the reader"
        if not labels or any(row["name"] == LABELS for row in inputs):
            return cls(feeds)
        return cls(feeds, _classes(where, np.stack(labels), len(feeds)))


def _classes(where: str, labels: np.ndarray, count: int) -> list[np.ndarray]:
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where}: {LABELS!r} has element type {labels.dtype}; classes are whole numbers")
    if not labels.size or labels.size % max(count, 1):
        raise UserError(f"{where} has {labels.size} labels for {count} samples")
    return list(labels.astype(np.int64).reshape(count, -1))


def _of_reader(source: Reader) -> Iterator[Mapping[str, np.ndarray]]:
    given = 0
    while (feed := source.get_next()) is not None:
        given += 1
        yield feed
    if not given:
        raise UserError("the reader gives no sample")


def _opened(path: Path) -> Any:
    try:
        arrays = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no file that numpy.savez wrote: {error}") from error
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise UserError(f"{path} holds one array without a name; numpy.savez writes several, one for each input")
    return arrays


def _of_file(path: Path, inputs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, np.ndarray]]:
    with _opened(path) as arrays:
        blocks = {row["name"]: _blocks(path, arrays, row) for row in inputs}
        names = [row["name"] for row in inputs]
        if unknown := sorted(set(arrays.files) - {*names, LABELS}):
            raise UserError(f"{path} has an array {unknown[0]!r}; the model's inputs are {', '.join(names)}")
    lengths = {len(block) for block in blocks.values()}
    if len(lengths) > 1:
        listed = ", ".join(f"{name} {len(block)}" for name, block in blocks.items())
        raise UserError(f"{path} has not as many samples for each input: {listed}")
    for number in range(lengths.pop() if lengths else 0):
        feed = {name: block[number] for name, block in blocks.items()}
        yield {row["name"]: _checked(f"{path}, sample {number}", feed, row) for row in inputs}


def _blocks(path: Path, arrays: Any, row: Mapping[str, Any]) -> Sequence[np.ndarray]:
    """The samples for one input: along an axis of their own, or several behind each other along the first."""
    name, shape = row["name"], tuple(row["shape"])
    if name not in arrays.files:
        raise UserError(f"{path} has no array for input {name!r}; it has {', '.join(arrays.files) or 'none'}")
    data = _array(path, arrays, name)
    if data.shape[1:] == shape:
        blocks = list(data)
    elif shape and data.ndim == len(shape) and data.shape[1:] == shape[1:] and data.shape[0] % max(shape[0], 1) == 0:
        blocks = list(data.reshape(-1, *shape))
    else:
        wanted = f"the model takes {list(shape)}, several of them along the first axis"
        raise UserError(f"{path}: {name!r} has shape {list(data.shape)}; {wanted}")
    if not blocks:
        raise UserError(f"{path} has no sample for input {name!r}")
    return blocks


def _array(path: Path, arrays: Any, name: str) -> np.ndarray:
    """Read only now, so only now is it found damaged, or pickled."""
    try:
        return np.asarray(arrays[name])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: {name!r} cannot be read: {error}") from error


def _checked(where: str, feed: Mapping[str, np.ndarray], row: Mapping[str, Any]) -> np.ndarray:
    name, dtype, shape = row["name"], np.dtype(row["dtype"]), tuple(row["shape"])
    if name not in feed:
        raise UserError(f"{where} has nothing for input {name!r}; it has {', '.join(feed) or 'nothing'}")
    array = np.asarray(feed[name])
    if array.shape != shape:
        raise UserError(f"{where}: input {name!r} has shape {list(array.shape)}; it must be {list(shape)}")
    if array.dtype.kind != dtype.kind and not np.can_cast(array.dtype, dtype, "safe"):
        raise UserError(f"{where}: input {name!r} has element type {array.dtype}; it must be {dtype}")
    with np.errstate(over="ignore"):
        made = np.ascontiguousarray(array.astype(dtype)).reshape(shape)  # which makes [1] of a number
    if dtype.kind == "f" and not np.isfinite(made).all():
        raise UserError(f"{where}: input {name!r} has values that are not finite")
    return made
