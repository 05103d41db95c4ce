"""Operators that are done on the host, between two stages: see `tensorc.dynamic.host`."""

from __future__ import annotations

import itertools

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
