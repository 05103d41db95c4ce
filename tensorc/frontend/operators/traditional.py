"""Those few operators of traditional machine learning (`ai.onnx.ml`) that are plain tensor arithmetic."""

from __future__ import annotations

import math

from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value

DOMAIN = "ai.onnx.ml"


@operator("ArrayFeatureExtractor", domain=DOMAIN)
def _array_feature_extractor(call: Call) -> Value:
    """Elements of the last axis. A single row counts as a matrix of one row."""
    x, indices = call.input(0), call.input(1)
    count = math.prod(shape_of(indices))
    outer = shape_of(x)[:-1] or (1,)
    picked = call("gather", x, call.reshape(indices, (count,)), axis=len(x.shape) - 1)
    return call.reshape(picked, (*outer, count))


@operator("Binarizer", domain=DOMAIN)
def _binarizer(call: Call) -> Value:
    x = call.input(0)
    return call.cast(call("greater", x, call.like(call.attr("threshold", 0.0), x)), x.dtype)
