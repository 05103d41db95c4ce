"""Operators that are done on the host, between two stages: see `tensorc.dynamic.host`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tensorc.frontend.call import Call, axis_of
from tensorc.frontend.registry import operator
from tensorc.frontend.scope import OnHost


@operator("NonZero")
def _non_zero(call: Call) -> OnHost:
    return OnHost("nonzero", [call.input(0)])


def _axis(call: Call) -> int | None:
    return axis_of(call.attr("axis"), len(call.input(0).shape)) if call.has("axis") else None


@operator("Compress")
def _compress(call: Call) -> OnHost:
    return OnHost("compress", [call.input(0), call.input(1)], {"axis": _axis(call)})


@operator("Unique")
def _unique(call: Call) -> OnHost:
    return OnHost("unique", [call.input(0)], {"axis": _axis(call), "is_sorted": call.attr("sorted", 1)})


@operator("NonMaxSuppression")
def _non_max_suppression(call: Call) -> OnHost:
    inputs = [call.optional(index) for index in range(5)]
    return OnHost("non_max_suppression", inputs, {"center_point_box": call.attr("center_point_box", 0)})


@operator("StringConcat")
def _string_concat(call: Call) -> OnHost:
    return OnHost("string_concat", [call.input(0), call.input(1)])


@operator("StringSplit")
def _string_split(call: Call) -> OnHost:
    attrs = {"delimiter": call.attr("delimiter"), "maxsplit": call.attr("maxsplit")}
    return OnHost("string_split", [call.input(0)], attrs)


@operator("StringNormalizer")
def _string_normalizer(call: Call) -> OnHost:
    stopwords = [word.decode() for word in call.attr("stopwords", ())]
    attrs = {
        "case_change_action": call.attr("case_change_action", "NONE"),
        "is_case_sensitive": call.attr("is_case_sensitive", 0),
        "stopwords": stopwords,
    }
    return OnHost("string_normalizer", [call.input(0)], attrs)


@operator("RegexFullMatch")
def _regex_full_match(call: Call) -> OnHost:
    return OnHost("regex_full_match", [call.input(0)], {"pattern": call.required("pattern")})


@operator("TfIdfVectorizer")
def _tf_idf(call: Call) -> OnHost:
    pool = [word.decode() for word in call.attr("pool_strings", ())] or call.attr("pool_int64s", ())
    starts = (*call.required("ngram_counts"), len(pool))
    grams = [
        pool[position : position + length]
        for length, (start, end) in enumerate(itertools.pairwise(starts), start=1)
        for position in range(start, end, length)
    ]
    shortest, longest = call.required("min_gram_length"), call.required("max_gram_length")
    columns = call.required("ngram_indexes")
    if len(columns) != len(grams):
        raise ValueError(f"there are {len(grams)} n-grams and {len(columns)} indexes for them")
    attrs = {
        "mode": call.required("mode"),
        "grams": grams,
        "columns": columns,
        "weights": call.attr("weights", (1.0,) * len(grams)),
        "skips": call.required("max_skip_count"),
        "shortest": shortest,
        "longest": longest,
    }
    return OnHost("tf_idf", [call.input(0)], attrs)


@operator("LabelEncoder", domain="ai.onnx.ml")
def _label_encoder(call: Call) -> OnHost:
    x = call.input(0)
    keys: Sequence[Any]
    values: Sequence[Any]
    if call.has("classes_strings"):  # the first version: either way, by its input
        names = [name.decode() for name in call.attr("classes_strings")]
        keys, values = (names, range(len(names))) if x.dtype == "string" else (range(len(names)), names)
        default = call.attr("default_int64", -1) if x.dtype == "string" else call.attr("default_string", "_Unused")
        dtype = "int64" if x.dtype == "string" else "string"
    else:
        keys, _ = _listed(call, "keys")
        values, dtype = _listed(call, "values")
        if call.has("default_tensor"):
            default = call.tensor("default_tensor").numpy().reshape(-1)[0].tolist()
        else:
            name = {"string": "string", "int64": "int64"}.get(dtype, "float")
            default = call.attr(f"default_{name}", {"string": "_Unused", "int64": -1}.get(dtype, -0.0))
    if len(keys) != len(values):
        raise ValueError(f"there are {len(keys)} keys and {len(values)} values")
    attrs = {"keys": list(keys), "values": list(values), "default": default, "dtype": dtype}
    return OnHost("label_encoder", [x], attrs)


def _listed(call: Call, what: str) -> tuple[Sequence[Any], str]:
    """`keys` or `values`, and their element type."""
    if call.has(f"{what}_tensor"):
        array = call.tensor(f"{what}_tensor").numpy()
        return array.reshape(-1).tolist(), "string" if array.dtype == object else array.dtype.name
    for name, dtype in (("strings", "string"), ("int64s", "int64"), ("floats", "float32")):
        if call.has(f"{what}_{name}"):
            found = call.attr(f"{what}_{name}")
            return [text.decode() if isinstance(text, bytes) else text for text in found], dtype
    raise ValueError(f"there are no {what}")


@operator("ImageDecoder")
def _image_decoder(call: Call) -> OnHost:
    wanted = call.attr("pixel_format", "RGB")
    if wanted not in ("RGB", "BGR", "Grayscale"):
        raise ValueError(f"pixel_format is RGB, BGR or Grayscale, not {wanted!r}")
    return OnHost("image_decoder", [call.input(0)], {"pixel_format": wanted})
