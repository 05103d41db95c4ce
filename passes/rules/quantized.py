"""Products of quantized tensors in integers, and what is quantized in terms of plain arithmetic.

The sum of products of (x - zx) * sx by (w - zw) * sw is (sum of x * w' - zx * sum of w') * sx * sw with w' = w - zw:
the sum of bytes by bytes is exact in int32, what is subtracted is known for constant weights, and the scales are
multiplied with once for each result. Such a product takes unsigned by signed bytes, as the instructions do: signed
inputs are moved up by 128, and their zero points with them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from passes.rules.matching import combine, private, reciprocal, uniform, wide
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Constant, Node, Value
from tensorc.ir.numbers import is_from_integers
from tensorc.ir.ops.quantization import BYTES
from tensorc.ir.rewriter import Builder, Rule, producer
from tensorc.ir.types import TensorType, integer_limits

#: Products that one sum may have: of the largest bytes, that many fit in int32.
WIDEST_SUM = (1 << 31) // (255 * 128)
#: Products that the instructions add at once: bytes of neighbouring channels.
TOGETHER = 4


# Where quantized tensors go ----------------------------------------------------------------------------------


def _number(value: Value) -> float | None:
    """Of a constant that is one number for the whole tensor."""
    return uniform(value) if math.prod(value.shape) == 1 else None


def _one_number(node: Node) -> bool:
    """Whether the parameters of a `quantize` or `dequantize` are for the whole tensor."""
    return all(math.prod(value.shape) == 1 for value in node.inputs[1:])


def _parameters(node: Node) -> tuple[float, int] | None:
    """Scale and zero point, if they are known single numbers."""
    scale = _number(node.inputs[1])
    zero = _number(node.inputs[2]) if len(node.inputs) > 2 else 0
    return None if scale is None or zero is None else (scale, int(zero))


def sink_dequantize(node: Node, build: Builder) -> Value | None:
    """Elements are moved, and the greatest chosen, as bytes."""
    data = node.inputs if node.op == "concat" else node.inputs[:1]
    sources = [producer(value, "dequantize") for value in data]
    first = sources[0]
    if first is None or not _one_number(first) or first.inputs[0].dtype not in BYTES:
        return None
    if any(source is None or not _alike(source, first) for source in sources):
        return None
    parts = [source.inputs[0] for source in sources if source is not None]
    moved = build(node.op, *parts, *node.inputs[len(data) :], **node.attrs)
    return build("dequantize", moved, *(_flat(build, value) for value in first.inputs[1:]))


def _alike(a: Node, b: Node) -> bool:
    if a.inputs[0].dtype != b.inputs[0].dtype:
        return False
    known = _parameters(a)
    return a.inputs[1:] == b.inputs[1:] or (known is not None and known == _parameters(b))


def _flat(build: Builder, parameter: Value) -> Value:
    return build("reshape", parameter, shape=()) if parameter.shape else parameter


def lift_quantize(node: Node, build: Builder) -> Value | None:
    """Bytes are moved, and the greatest chosen, instead of what they are made of."""
    source = producer(node.inputs[0], "concat", "max_pool", "reshape", "transpose")
    if source is None or not _one_number(node) or not private(node.inputs[0], build.graph):
        return None
    parameters = [_flat(build, value) for value in node.inputs[1:]]
    early = [build("quantize", part, *parameters, **node.attrs) for part in source.inputs]
    return build(source.op, *early, **source.attrs)


def quantize_again(node: Node, build: Builder) -> Value | None:  # noqa: ARG001  (a rule)
    """What was just taken apart."""
    source = producer(node.inputs[0], "dequantize")
    if source is None or source.inputs[0].dtype != node.attrs["to"] or source.inputs[0].shape != node.output.shape:
        return None
    known = _parameters(source)
    same = known is not None and known == _parameters(node) and known[0] > 0
    return source.inputs[0] if same else None


def limited_anyway(node: Node, build: Builder) -> Value | None:
    """A limit that the quantized type has itself."""
    source = producer(node.inputs[0], "relu", "clip")
    known = _parameters(node)
    if source is None or known is None or not known[0] > 0:
        return None
    low, high = integer_limits(node.attrs["to"])
    scale, zero = known
    if source.op == "relu":
        least, most = 0.0, math.inf
    else:
        least, most = source.attrs["min"], source.attrs["max"]
    if round(least / scale) + zero > low or most / scale + zero < high:
        return None
    return build("quantize", source.inputs[0], *node.inputs[1:], **node.attrs)


# Products ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Operand:
    """Bytes, with the zero point that is taken off (None for 0)."""

    data: Value
    zero: Value | None


def _centred(value: Value) -> _Operand | None:
    """The bytes of which `value`, in int32, is the difference to a zero point."""
    zero = None
    if (difference := producer(value, "sub")) is not None:
        value, zero = difference.inputs
    elif (total := producer(value, "add")) is not None and total.inputs[1].constant is not None:
        return None  # simplified: not before this pass
    cast = producer(value, "cast")
    if cast is None or cast.inputs[0].dtype not in BYTES:
        return None
    return _Operand(cast.inputs[0], zero)


def integer_product(node: Node, build: Builder) -> Value | None:
    """A product in int32 of what were bytes."""
    x, w = node.inputs
    if node.output.dtype != "int32" or w.constant is None or w.dtype != "int32":
        return None
    operand = _centred(x)
    if operand is None or not _fits_bytes(w.constant):
        return None
    weights = w.constant.derive(TensorType("int8", w.shape), lambda data: data.astype(np.int8), how="int8")
    return _product(node, operand, weights, build)


def _fits_bytes(constant: Constant) -> bool:
    data = wide(constant)
    return data.size == 0 or bool(data.min() >= -128 and data.max() <= 127)


def quantized_product(node: Node, build: Builder) -> Value | None:
    """A product of floats both of which are quantized."""
    x, w = (producer(value, "dequantize") for value in node.inputs)
    if x is None or w is None or x.inputs[0].dtype not in BYTES or not _one_number(x) or x.output.shape == ():
        return None
    bytes_of_w = w.inputs[0].constant
    if bytes_of_w is None or bytes_of_w.type.dtype not in BYTES:
        return None
    axis = node.output.type.rank - 1 if node.op == "matmul" else 1
    factor = _channels(node, w.inputs[1], axis)
    weights = _signed(bytes_of_w, w.inputs[2].constant if len(w.inputs) > 2 else None)
    if factor is None or weights is None:
        return None
    total = _product(node, _Operand(x.inputs[0], _zero_point(x, build)), weights, build)
    if total is None:
        return None
    scale = build("mul", _flat(build, x.inputs[1]), build("reshape", w.inputs[1], shape=factor))
    return build("mul", build("cast", total, to="float32"), scale)


def _zero_point(node: Node, build: Builder) -> Value | None:
    """Of a `dequantize`, in int32; None for 0."""
    if len(node.inputs) < 3:
        return None
    known = _number(node.inputs[2])
    if known is None:
        return build("cast", _flat(build, node.inputs[2]), to="int32")
    return build.constant(np.int32(known)) if known else None


def _channels(node: Node, parameter: Value, axis: int) -> tuple[int, ...] | None:
    """The shape in which a parameter of the weights broadcasts to the result, whose `axis` is theirs of channels; None
    where it is not one number, nor one for each channel."""
    w = node.inputs[1]
    if math.prod(parameter.shape) == 1:
        return ()
    own = (1,) * (w.type.rank - len(parameter.shape)) + static_shape(parameter.shape)
    # Which axis of the weights the channels are: the first of filters, the last of matrices.
    along = 0 if node.op == "conv" or node.attrs["transpose_b"] else w.type.rank - 1
    if w.type.rank > 2 and node.op == "matmul":
        return None
    if any(extent != 1 for at, extent in enumerate(own) if at != along):
        return None
    return tuple(own[along] if at == axis else 1 for at in range(node.output.type.rank))


def _signed(constant: Constant, zero: Constant | None) -> Constant | None:
    """The weights minus their zero point, if those are signed bytes."""
    if zero is None and constant.type.dtype == "int8":
        return constant
    offset = np.asarray(0) if zero is None else wide(zero).astype(np.int32)
    if constant.type.dtype != "uint8" or (offset != 128).any():
        data = constant.numpy().astype(np.int32) - offset
        if data.min(initial=0) < -128 or data.max(initial=0) > 127:
            return None
    shift = functools.partial(_shifted, offset=offset)
    return constant.derive(TensorType("int8", constant.type.shape), shift, how=("minus", offset.tobytes()))


def _shifted(data: np.ndarray, offset: np.ndarray) -> np.ndarray:
    return np.asarray((data.astype(np.int32) - offset).astype(np.int8))


def _product(node: Node, x: _Operand, weights: Constant, build: Builder) -> Value | None:
    """`node` in int32, of bytes by constant bytes."""
    shape = static_shape(weights.type.shape)
    if node.op == "matmul":
        if len(shape) != 2 or len(x.data.shape) < 2 or static_shape(x.data.shape)[-1] % TOGETHER:
            return None
        depth = static_shape(x.data.shape)[-1]
        over: tuple[int, ...] = (1 if node.attrs["transpose_b"] else 0,)
        channels: tuple[int, ...] = (-1,)
    else:
        if len(shape) != 4:
            return None
        depth, over = math.prod(shape[1:]), (1, 2, 3)
        channels = (-1, 1, 1)
    if depth > WIDEST_SUM or (x.zero is not None and math.prod(x.zero.shape) != 1):
        return None
    x = _unsigned(x, build)
    attrs = dict(node.attrs)
    data = x.data
    if x.zero is not None and node.op == "conv" and any(attrs["pads"]):
        known = _number(x.zero)
        if known is None:
            return None
        top, left, bottom, right = attrs["pads"]
        data = build("pad", data, before=(0, 0, top, left), after=(0, 0, bottom, right), mode="constant", value=known)
        attrs["pads"] = (0, 0, 0, 0)
    total = build(node.op, data, build.constant(weights, name=node.inputs[1].name), **attrs)
    if x.zero is None:
        return total
    sums = weights.numpy().sum(over, dtype=np.int64).astype(np.int32).reshape(channels)
    return build("add", total, build("mul", build.constant(-sums), _flat(build, x.zero)))  # what sums may begin with


def _unsigned(x: _Operand, build: Builder) -> _Operand:
    if x.data.dtype == "uint8":
        return x
    source = producer(x.data, "quantize")
    known = None if source is None else _parameters(source)
    if source is not None and known is not None:
        zero = build.constant(np.uint8(known[1] + 128))
        data = build("quantize", source.inputs[0], source.inputs[1], zero, to="uint8")
    else:
        flipped = build("bit_xor", x.data, build.constant(Constant.full(TensorType("int8", ()), -128)))
        data = build("bitcast", flipped, to="uint8")
    moved = build.constant(np.int32(128))
    return _Operand(data, moved if x.zero is None else build("add", x.zero, moved))


# Plain arithmetic ------------------------------------------------------------------------------------------------


def spell_quantize(node: Node, build: Builder) -> Value:
    zero = node.inputs[2:]
    low, high = integer_limits(node.attrs["to"])
    # Limited as a float first: an integer could not hold every number. No zero point reaches further.
    rounded = build("round", _steps(node, build))
    known = _number(zero[0]) if zero else 0
    if known is not None:
        offset = int(known)
        whole = build("cast", build("clip", rounded, min=float(low - offset), max=float(high - offset)), to="int32")
        if offset:
            whole = build("add", whole, build.constant(np.int32(offset)))
        return build("cast", whole, to=node.attrs["to"])
    point = build("cast", zero[0], to="int32")
    whole = build("cast", build("clip", rounded, min=float(low - high), max=float(high - low)), to="int32")
    return build("cast", build("clip", build("add", whole, point), min=low, max=high), to=node.attrs["to"])


def _steps(node: Node, build: Builder) -> Value:
    """What a `quantize` rounds: its input in steps of the scale."""
    x, scale = node.inputs[:2]
    inverse = None if scale.constant is None else reciprocal(scale.constant)
    # What is computed is rounded already: a last place more or less decides nothing that was exact.
    return build("div", x, scale) if inverse is None or x.producer is None else _times(x, inverse, build)


def _times(x: Value, factor: Constant, build: Builder) -> Value:
    """x * factor, with the factor taken into constants that x was multiplied by or that were added."""
    made = producer(x, "add", "mul")
    if made is not None and private(x, build.graph) and x.shape == made.inputs[0].shape:
        inner, constant = made.inputs[0], made.inputs[1].constant
        scaled = None if constant is None else combine(np.multiply, constant, factor)
        if scaled is not None:
            if made.op == "add":
                inner = _times(inner, factor, build)
            return build(made.op, inner, build.constant(scaled))
    return build("mul", x, build.constant(factor))


def spell_dequantize(node: Node, build: Builder) -> Value:
    q, scale, *zero = node.inputs
    value = build("cast", q, to="float32")
    for point in zero:
        value = build("sub", value, build("cast", point, to="float32"))
    return build("mul", value, scale)


def stay_float(node: Node, build: Builder) -> Value | None:
    """What is quantized for nobody but a `dequantize` is rounded, and stays a float. What is no number would become the
    zero point on the way: so it must be known to be one."""
    rounding = producer(node.inputs[0], "quantize")
    if rounding is None or not private(node.inputs[0], build.graph) or not is_from_integers(rounding.inputs[0]):
        return None
    known, own = _parameters(rounding), _parameters(node)
    if known is None or own is None:
        return None
    low, high = integer_limits(rounding.attrs["to"])
    value = build("round", _steps(rounding, build))
    value = build("clip", value, min=float(low - known[1]), max=float(high - known[1]))
    if known[1] != own[1]:
        value = build("add", value, build.constant(np.float32(known[1] - own[1])))
    return build("mul", value, node.inputs[1])


RULES: dict[str, list[Rule]] = {
    **{op: [sink_dequantize] for op in ("concat", "gather", "max_pool", "reshape", "slice", "transpose")},
    "conv": [quantized_product, integer_product],
    "matmul": [quantized_product, integer_product],
    "quantize": [quantize_again, limited_anyway, lift_quantize],
}
#: When it is settled which products take bytes.
FLOATS: dict[str, list[Rule]] = {"dequantize": [stay_float]}
SPELLING: dict[str, list[Rule]] = {"dequantize": [spell_dequantize], "quantize": [spell_quantize]}
