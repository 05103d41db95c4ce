"""Random operators: a compiled model has no state, so that they give the same in every run.

Their numbers are constants, drawn when the model is packed by numpy's Mersenne Twister from the node's seed, as ONNX's
reference implementation draws them; a node without a seed has one made of the name of its output.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.reader import element_type
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Constant, Value
from tensorc.ir.types import TensorType, is_float, numpy_dtype


def _drawn(call: Call, shape: Sequence[int], dtype: str,
           draw: Callable[[np.random.RandomState], np.ndarray]) -> Value:  # fmt: skip
    name = next((name for name in call.node.output if name), "")
    seed = int(call.attr("seed", zlib.crc32(name.encode()))) % 2**32

    def load() -> np.ndarray:
        return np.asarray(draw(np.random.RandomState(seed))).astype(numpy_dtype(dtype)).reshape(tuple(shape))

    return call.constant(Constant(TensorType(dtype, tuple(shape)), load, f"{name}.random"))


def _uniform(call: Call, shape: Sequence[int], dtype: str, low: float = 0.0, high: float = 1.0) -> Value:
    """In [low, high)."""
    kind = numpy_dtype(dtype)

    def draw(state: np.random.RandomState) -> np.ndarray:
        numbers = np.asarray(state.random_sample(tuple(shape)) * (high - low) + low).astype(kind)
        # Rounded to few bits, one in a few thousand is `high`.
        return np.asarray(np.minimum(numbers, np.nextafter(np.asarray(high, kind), np.asarray(low, kind))))

    return _drawn(call, shape, dtype, draw)


def _target(call: Call) -> tuple[tuple[int, ...], str]:
    """The shape and the type that a generator's node asks for."""
    like = call.optional(0)
    shape = call.required("shape") if like is None else shape_of(like)
    default = "float32" if like is None else like.dtype
    dtype = element_type(call.attr("dtype")) if call.has("dtype") else default
    if not is_float(dtype):
        raise ValueError(f"random numbers are floats, not {dtype}")
    return tuple(shape), dtype


@operator("RandomUniform", "RandomUniformLike")
def _random_uniform(call: Call) -> Value:
    shape, dtype = _target(call)
    return _uniform(call, shape, dtype, call.attr("low", 0.0), call.attr("high", 1.0))


@operator("RandomNormal", "RandomNormalLike")
def _random_normal(call: Call) -> Value:
    shape, dtype = _target(call)
    mean, scale = call.attr("mean", 0.0), call.attr("scale", 1.0)
    return _drawn(call, shape, dtype, lambda state: state.standard_normal(shape) * scale + mean)


@operator("Bernoulli")
def _bernoulli(call: Call) -> Value:
    x = call.input(0)
    dtype = element_type(call.attr("dtype")) if call.has("dtype") else x.dtype
    return call.cast(call("less", _uniform(call, shape_of(x), x.dtype), x), dtype)


@operator("Multinomial")
def _multinomial(call: Call) -> Value:
    """Each sample is the number of classes whose running sum of probabilities it is not below."""
    x = call.input(0)
    if len(x.shape) != 2:
        raise ValueError(f"the input must be [batch, classes], not {x.type}")
    batch, classes = shape_of(x)
    samples = call.attr("sample_size", 1)
    drawn = _uniform(call, (batch, samples, 1), x.dtype)
    sums = call("cumsum", call("softmax", x, axis=1), axis=1)
    sums = call("slice", sums, starts=(0, 0), sizes=(batch, classes - 1), steps=(1, 1))
    beyond = call("less_equal", call.reshape(sums, (batch, 1, classes - 1)), drawn)
    dtype = element_type(call.attr("dtype", 6))
    return call("reduce_sum", call.cast(beyond, dtype), axes=(2,), keepdims=0)


@operator("Dropout")
def _dropout(call: Call) -> tuple[Value, Value]:
    """Nothing is dropped but in training, where what is kept is scaled; before opset 12 no model is in training."""
    x = call.input(0)
    shape = shape_of(x)
    training = call.opset >= 12 and call.optional(2) is not None and bool(call.number(2))
    ratio = float(call.number(1)) if training and call.optional(1) is not None else 0.5
    if not training or ratio == 0:
        return x, call.constant(Constant.full(TensorType("bool" if call.opset >= 10 else x.dtype, shape), 1))
    if not 0 <= ratio < 1:
        raise ValueError(f"the ratio {ratio} is not from 0 on and below 1")
    mask = _drawn(call, shape, "bool", lambda state: state.random_sample(shape) >= ratio)
    kept = call("mul", call.cast(mask, x.dtype), x)
    return call("mul", kept, call.like(1 / (1 - ratio), x)), mask
