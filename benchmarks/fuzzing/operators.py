"""How to place each operator in a random graph: a function each, or one for all that differ in their name only.

A generator chooses inputs and attributes within what the operator's specification allows. What the specification leaves
open (a division of integers by zero, a cast of what does not fit, a shift too far) is not asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.fuzzing.graphs import FLOATS, INTS, TYPES, Graph, UnfitError, Value

Place = Callable[[Graph, str], None]
PLACES: dict[str, Place] = {}

_ONNX_NAMES = {"float32": "float", "float64": "double"}
INDICES = ("int64", "int32")


def place(*names: str) -> Callable[[Place], Place]:
    def add(function: Place) -> Place:
        PLACES.update(dict.fromkeys(names, function))
        return function

    return add


@functools.cache
def _schema(name: str, opset: int) -> onnx.defs.OpSchema:
    return onnx.defs.get_schema(name, opset, "")


def exists(name: str, opset: int) -> bool:
    """Whether the operator is in the opset, and not as one that should be used no more."""
    try:
        return not _schema(name, opset).deprecated
    except onnx.defs.SchemaError:
        return False


def types(g: Graph, name: str, index: int = 0) -> list[str]:
    """The element types that the operator's input `index` may have."""
    allowed = _schema(name, g.opset).inputs[index].types
    return [t for t in TYPES if f"tensor({_ONNX_NAMES.get(t, t)})" in allowed]


# Element by element -----------------------------------------------------------------------------------------

_SMOOTH = ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Erf", "Exp", "HardSwish", "Log", "Mish",
           "Reciprocal", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh")  # fmt: skip
_EXACT = ("Abs", "Identity", "Neg", "Not", "Relu")
_JUMPING = ("Ceil", "Floor", "IsNaN", "Round", "Sign")


@place(*_SMOOTH)
def _smooth(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name))])


@place(*_EXACT)
def _exact(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name))], exact=True)


@place(*_JUMPING)
def _jumping(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name), exact=True)], exact=True)


@place("BitwiseNot")
def _bitwise_not(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name))], exact=True)


@place("IsInf")
def _is_inf(g: Graph, name: str) -> None:
    signs = {f"detect_{sign}": g.number(0, 1) for sign in ("negative", "positive") if g.chance(0.3)}
    g.node(name, [g.any(types(g, name), exact=True)], exact=True, **signs)


@place("Celu", "Elu", "HardSigmoid", "LeakyRelu", "Selu", "Shrink", "ThresholdedRelu", "Swish")
def _with_parameters(g: Graph, name: str) -> None:
    legal = [key for key in _schema(name, g.opset).attributes if g.chance(0.6)]
    parameters = {key: float(g.pick((0.1, 0.5, 1.0, 1.7))) for key in legal}
    jumps = name in ("Shrink", "ThresholdedRelu")
    g.node(name, [g.any(types(g, name), exact=jumps)], **parameters)


@place("Gelu")
def _gelu(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name))], approximate=g.pick((None, "none", "tanh")))


@place("PRelu")
def _prelu(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    slope = [size if g.chance(0.5) else 1 for size in x.shape][g.number(0, x.rank) :]
    g.node(name, [x, g.like(x.dtype, slope)])


@place("Clip")
def _clip(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    low = 0 if x.dtype.startswith("u") else -3
    bounds = [g.new(x.dtype, (), *ends) if g.chance(0.7) else None for ends in ((low, 1), (1, 5))]
    g.node(name, [x, *bounds], exact=True)


def _pair(g: Graph, dtypes: Sequence[str], exact: bool = False) -> tuple[Value, Value]:
    a = g.any(dtypes, exact=exact)
    shape = g.partner(a.shape)
    return a, g.like(a.dtype, shape, exact=exact)


def _either_way(g: Graph, a: Value, b: Value) -> list[Value]:
    return [a, b] if g.chance(0.5) else [b, a]


@place("Add", "Sub", "Mul")
def _arithmetic(g: Graph, name: str) -> None:
    g.node(name, _either_way(g, *_pair(g, types(g, name))))


@place("And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "BitwiseAnd", "BitwiseOr",
       "BitwiseXor")  # fmt: skip
def _comparison(g: Graph, name: str) -> None:
    g.node(name, _either_way(g, *_pair(g, types(g, name), exact=True)), exact=True)


def _divisor(g: Graph, a: Value) -> Value:
    """Not 0 if it is of integers, and not -1, whose quotient by the least number does not fit."""
    shape = g.partner(a.shape)
    if a.dtype in FLOATS:
        return g.like(a.dtype, shape)
    array = g.data(a.dtype, shape, 1, 9)
    signs = g.rng.integers(0, 2, shape) if a.dtype[0] == "i" else 0
    return g.given(np.where((signs > 0) & (array > 1), -array.astype(np.int64), array).astype(a.dtype), g.chance(0.3))


@place("Div")
def _div(g: Graph, name: str) -> None:
    a = g.any(types(g, name))
    g.node(name, [a, _divisor(g, a)])


@place("Mod")
def _mod(g: Graph, name: str) -> None:
    a = g.any([t for t in types(g, name) if t not in FLOATS] if g.chance(0.6) else types(g, name), exact=True)
    b = _divisor(g, a)
    if b.loose:
        raise UnfitError
    g.node(name, [a, b], fmod=1 if a.dtype in FLOATS or g.chance(0.3) else 0)


@place("BitShift")
def _bit_shift(g: Graph, name: str) -> None:
    a = g.any(types(g, name))
    by = g.new(a.dtype, g.partner(a.shape), 0, np.iinfo(a.dtype).bits - 1)
    g.node(name, [a, by], direction=g.pick(("LEFT", "RIGHT")))


@place("Pow")
def _pow(g: Graph, name: str) -> None:
    a = g.any([t for t in types(g, name) if t in types(g, name, 1)])
    if a.dtype in INTS:
        g.node(name, [g.new(a.dtype, a.shape, 0, 3), g.new(a.dtype, g.partner(a.shape), 0, 4)])
    elif g.chance(0.5):
        g.node(name, [a, g.given(np.asarray(g.pick((2, 0.5, -1, 3, 0, 1, -2)), a.dtype) if a.dtype != "bfloat16"
                                 else g.data(a.dtype, (), 0, 3))])  # fmt: skip
    else:
        g.node(name, [a, g.new(a.dtype, g.partner(a.shape), -2, 3)])


@place("Max", "Min", "Mean", "Sum")
def _variadic(g: Graph, name: str) -> None:
    a = g.any(types(g, name))
    rest = [g.like(a.dtype, g.partner(a.shape)) for _ in range(g.number(0, 3))]
    g.node(name, [a, *rest], exact=name in ("Max", "Min"))


@place("Where")
def _where(g: Graph, name: str) -> None:
    a, b = _pair(g, types(g, name, 1))
    g.node(name, [g.like("bool", g.partner(a.shape)), *_either_way(g, a, b)], exact=True)


@place("Cast", "CastLike")
def _cast(g: Graph, name: str) -> None:
    to = g.dtype(types(g, name))
    narrow = to in INTS
    # What does not fit, or has a fraction and a sign that the type lacks, is not defined.
    x = g.any(types(g, name), exact=True, tame=narrow) if to not in FLOATS else g.any(types(g, name))
    if narrow and to.startswith("u") and not x.dtype.startswith("u") and x.dtype != "bool":
        x = g.new(x.dtype, x.shape, 0, 9)
    if name == "CastLike":
        g.node(name, [x, g.any((to,))], exact=to not in FLOATS or x.dtype == to)
    else:
        code = helper.np_dtype_to_tensor_dtype(g.data(to, ()).dtype)
        g.node(name, [x], exact=to not in FLOATS or x.dtype == to, to=code)


# Shapes -----------------------------------------------------------------------------------------------------


def _factors(g: Graph, size: int) -> list[int]:
    shape = []
    for _ in range(g.number(0, 4)):
        factor = g.pick([f for f in range(1, min(size, 70) + 1) if size % f == 0])
        shape.append(factor)
        size //= factor
    shape.insert(g.number(0, len(shape)), size)
    return shape


@place("Reshape")
def _reshape(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    size = int(np.prod(x.shape))
    if not size:
        g.node(name, [x, g.given([0, 3])], exact=True, allowzero=1) if g.opset >= 14 else None
        return
    shape = _factors(g, size)
    if g.chance(0.4):
        shape[g.number(0, len(shape) - 1)] = -1
    for axis in range(min(len(shape), x.rank)):
        if shape[axis] == x.shape[axis] and g.chance(0.3):
            shape[axis] = 0
    g.node(name, [x, g.given(shape)], exact=True)


@place("Flatten")
def _flatten(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    g.node(name, [x], exact=True, axis=None if x.rank and g.chance(0.3) else g.number(-x.rank, x.rank))


@place("Squeeze", "Unsqueeze")
def _squeeze(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    if name == "Unsqueeze":
        axes = g.axes(x.rank + 2)[:2] if x.rank else [0]
        count = x.rank + len(axes)
        axes = list(dict.fromkeys(a % count - (count if a < 0 else 0) for a in axes))
        if len({a % count for a in axes}) != len(axes) or not axes:
            raise UnfitError
    else:
        axes = [a for a in g.axes(x.rank) if x.shape[a] == 1]
    if g.opset < 13:
        g.node(name, [x], exact=True, axes=axes or None)
    else:
        g.node(name, [x, g.given(axes) if axes else None], exact=True)


@place("Transpose")
def _transpose(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    perm = None if g.chance(0.2) else [int(a) for a in g.rng.permutation(x.rank)]
    g.node(name, [x], exact=True, perm=perm)


@place("Shape", "Size")
def _shape(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    ends = {k: g.number(-4, 4) for k in ("start", "end") if name == "Shape" and g.opset >= 15 and g.chance(0.4)}
    g.node(name, [x], exact=True, **ends)


@place("Concat")
def _concat(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.axis(x.rank)
    parts = [x]
    for _ in range(g.number(0, 3)):
        shape = list(x.shape)
        shape[axis] = g.pick((1, 2, 3, 5, x.shape[axis]))
        parts.append(g.like(x.dtype, shape))
    g.node(name, [parts[int(i)] for i in g.rng.permutation(len(parts))], exact=True, axis=axis)


@place("Split")
def _split(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.axis(x.rank)
    size, count = x.shape[axis], g.number(1, 4)
    if g.chance(0.5):
        cuts = sorted(g.number(0, size) for _ in range(count - 1))
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
        if g.opset < 13:
            g.node(name, [x], count, exact=True, axis=axis, split=sizes)
        else:
            g.node(name, [x, g.given(sizes)], count, exact=True, axis=axis)
    elif g.opset >= 18:
        if (count - 1) * -(-size // count) > size:
            raise UnfitError
        g.node(name, [x], count, exact=True, axis=axis, num_outputs=count)
    else:
        g.node(name, [x], g.pick([c for c in range(1, 5) if size % c == 0]), exact=True, axis=axis)


@place("Slice")
def _slice(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axes = g.axes(x.rank, 1)
    starts = [g.number(-x.shape[a] - 2, x.shape[a] + 2) for a in axes]
    ends = [g.pick((g.number(-x.shape[a] - 2, x.shape[a] + 2), 2**31 - 1, -(2**31))) for a in axes]
    steps = [g.pick((1, 1, 1, 2, 3, -1, -2)) for _ in axes]
    if g.chance(0.5):
        g.node(name, [x, g.given(starts), g.given(ends), g.given(axes), g.given(steps)], exact=True)
    else:
        g.node(name, [x, g.given(starts), g.given(ends), g.given(axes)], exact=True)


@place("Expand")
def _expand(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    g.node(name, [x, g.given(list(g.partner([*g.dims(0, 1), *(s if s != 1 else g.pick((1, 3, 4)) for s in x.shape)])))],
           exact=True)  # fmt: skip


@place("Tile")
def _tile(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    g.node(name, [x, g.given([g.pick((1, 1, 2, 3, 0 if g.empty else 1)) for _ in x.shape])], exact=True)


@place("Pad")
def _pad(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    modes = ["constant", "edge", "reflect"] + (["wrap"] if g.opset >= 19 else [])
    mode = g.pick(modes)
    if mode != "constant" and 0 in x.shape:
        raise UnfitError
    most = [max(min(4, size - (mode == "reflect")), 0) for size in x.shape]
    low = [-min(size // 3, 2) if mode == "constant" and g.chance(0.2) else 0 for size in x.shape]
    pads = [g.number(a, b) for a, b in zip(low * 2, most * 2, strict=True)]
    value = g.new(x.dtype, (), constant=True) if mode == "constant" and g.chance(0.5) else None
    if g.opset >= 18 and g.chance(0.3):
        axes = g.axes(x.rank, 1)
        pads = [pads[a % x.rank] for a in axes] + [pads[x.rank + a % x.rank] for a in axes]
        g.node(name, [x, g.given(pads), value, g.given(axes)], exact=True, mode=mode)
    else:
        g.node(name, [x, g.given(pads), value], exact=True, mode=mode)


@place("DepthToSpace", "SpaceToDepth")
def _blocks(g: Graph, name: str) -> None:
    b = g.pick((1, 2, 3))
    n, c, h, w = (g.number(1, 4) for _ in range(4))
    shape = (n, c * b * b, h, w) if name[0] == "D" else (n, c, h * b, w * b)
    mode = g.pick((None, "DCR", "CRD")) if name[0] == "D" else None
    g.node(name, [g.like(g.dtype(types(g, name)), shape)], exact=True, blocksize=b, mode=mode)


# Indices ----------------------------------------------------------------------------------------------------


def _indices(g: Graph, shape: Sequence[int], size: int, dtypes: Sequence[str] = INDICES, back: bool = True) -> Value:
    """Indices into an axis of `size`, some counted from the back."""
    if not size and int(np.prod(shape)):
        raise UnfitError
    return g.given(g.data(g.pick(dtypes), shape, -size if back and g.chance(0.4) else 0, max(size - 1, 0)),
                   g.chance(0.4))  # fmt: skip


@place("Gather")
def _gather(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.axis(x.rank)
    g.node(name, [x, _indices(g, g.dims(0, 2, 64), x.shape[axis])], exact=True, axis=axis)


@place("GatherElements")
def _gather_elements(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.axis(x.rank)
    shape = [
        g.number(1, 5) if a == axis % x.rank else max(g.number(size - 1, size), 0) for a, size in enumerate(x.shape)
    ]
    g.node(name, [x, _indices(g, shape, x.shape[axis])], exact=True, axis=axis)


def _tuples(g: Graph, x: Value, batch: int = 0) -> tuple[Value, int]:
    """Tuples of indices into the axes of `x` from `batch` on, and how many axes they pick."""
    depth = g.number(1, x.rank - batch)
    if 0 in x.shape:
        raise UnfitError
    shape = (*x.shape[:batch], *g.dims(0, 2, 20))
    parts = [g.rng.integers(-size if g.chance(0.3) else 0, size, shape) for size in x.shape[batch : batch + depth]]
    return g.given(np.stack(parts, -1).astype(np.int64), g.chance(0.4)), depth


@place("GatherND")
def _gather_nd(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    batch = g.number(0, x.rank - 1) if g.chance(0.3) else 0
    g.node(name, [x, _tuples(g, x, batch)[0]], exact=True, batch_dims=batch or None)


@place("ScatterElements")
def _scatter_elements(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.axis(x.rank)
    # Each index once, so that the order does not matter.
    if 0 in x.shape:
        raise UnfitError
    order = np.argsort(g.rng.random(x.shape), axis=axis)
    count = g.number(1, x.shape[axis])
    index = np.take(order, range(count), axis).astype(np.int64)
    how = g.pick((None, "none", "add", "mul", "max", "min")[: 1 if g.opset < 16 else 4 if g.opset < 18 else 6])
    if x.dtype == "bool":
        how = None
    g.node(name, [x, g.given(index, g.chance(0.4)), g.like(x.dtype, index.shape)], exact=how in (None, "none"),
           axis=axis, reduction=how)  # fmt: skip


@place("ScatterND")
def _scatter_nd(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    if 0 in x.shape:
        raise UnfitError
    depth = g.number(1, x.rank)
    places = int(np.prod(x.shape[:depth]))
    chosen = g.rng.permutation(places)[: g.number(1, min(places, 9))]
    index = np.stack(np.unravel_index(chosen, x.shape[:depth]), -1).astype(np.int64)
    g.node(name, [x, g.given(index, g.chance(0.4)), g.like(x.dtype, (len(chosen), *x.shape[depth:]))], exact=True)


@place("Trilu")
def _trilu(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=2)
    k = g.given(np.asarray(g.number(-4, 4), np.int64)) if g.chance(0.6) else None
    g.node(name, [x, k], exact=True, upper=g.pick((None, 0, 1)))


@place("OneHot")
def _one_hot(g: Graph, name: str) -> None:
    shape = g.dims(0, 2, 50)
    index = g.new(g.dtype([t for t in types(g, name) if t in ("int64", "int32", "float32")]), shape, -3, 6)
    if index.dtype in FLOATS:
        index = g.given(np.rint(g.data(index.dtype, shape, -3, 6)), False)
    depth = g.given(np.asarray(g.number(1, 6), np.int64))
    values = g.new(g.dtype(types(g, name, 2)), (2,))
    g.node(name, [index, depth, values], exact=True, axis=g.pick((None, 0, -1, len(shape))))


@place("EyeLike")
def _eye_like(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name), 2, 2)], exact=True, k=g.pick((None, 0, 1, -2)))


@place("ArgMax", "ArgMin")
def _arg(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    if 0 in x.shape or g.special:
        raise UnfitError
    g.node(name, [x], exact=True, axis=g.axis(x.rank), keepdims=g.pick((None, 0, 1)),
           select_last_index=g.pick((None, 0, 1)) if g.opset >= 12 else None)  # fmt: skip


@place("TopK")
def _top_k(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    axis = g.axis(x.rank)
    if 0 in x.shape or g.special:
        raise UnfitError
    # Different elements: which of equal ones is taken is not said by all engines alike.
    order = np.argsort(g.rng.random(x.shape), axis=axis)
    if x.shape[axis] > 100:
        raise UnfitError
    x = g.given(order.astype(g.data(x.dtype, ()).dtype), False)
    g.node(name, [x, g.given([g.number(1, x.shape[axis])])], 2, exact=True, axis=axis, largest=g.pick((None, 0, 1)))


@place("ReverseSequence")
def _reverse_sequence(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=2)
    time = g.number(0, 1)
    lengths = g.given(g.data("int64", (x.shape[1 - time],), 1, max(x.shape[time], 1)))
    g.node(name, [x, lengths], exact=True, time_axis=time, batch_axis=1 - time)


@place("NonZero")
def _non_zero(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    g.end(name, [x], [("int64", 2)])


@place("Compress")
def _compress(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    axis = g.pick((None, g.axis(x.rank)))
    size = int(np.prod(x.shape)) if axis is None else x.shape[axis]
    g.end(name, [x, g.new("bool", (g.number(0 if g.empty else 1, size),))], [(x.dtype, 1 if axis is None else x.rank)],
          axis=axis)  # fmt: skip


@place("Unique")
def _unique(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    if 0 in x.shape or g.special:
        raise UnfitError
    axis = g.pick((None, g.axis(x.rank)))
    results = [(x.dtype, 1 if axis is None else x.rank), ("int64", 1), ("int64", 1), ("int64", 1)]
    g.end(name, [x], results[: g.number(1, 4)], axis=axis)


# Constants --------------------------------------------------------------------------------------------------


@place("Constant")
def _constant(g: Graph, name: str) -> None:
    array = g.data(g.dtype([t for t in TYPES if t != "bfloat16" or g.opset >= 13]), g.dims(0, 3, 100))
    g.node(name, [], exact=True, value=numpy_helper.from_array(array, "value"))


@place("ConstantOfShape")
def _constant_of_shape(g: Graph, name: str) -> None:
    value = g.data(g.dtype([t for t in TYPES if t != "bfloat16"]), (1,))
    shape = g.given(list(g.dims(1, 3)))
    g.node(name, [shape], exact=True, value=numpy_helper.from_array(value, "value") if g.chance(0.8) else None)


@place("Range")
def _range(g: Graph, name: str) -> None:
    dtype = g.dtype(types(g, name))
    step = g.pick((1, 2, -1, -3, 0.5)) if dtype in FLOATS else g.pick((1, 2, 3))
    count = g.number(0 if g.empty else 1, 40)
    numbers = (1, 1 + step * count, step)
    g.node(name, [g.given(np.asarray(n, dtype)) for n in numbers])


@place("Dropout")
def _dropout(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name))], g.number(1, 2), exact=True)


# Reductions -------------------------------------------------------------------------------------------------

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


@place(*(f"Reduce{name}" for name in _REDUCTIONS))
def _reduce(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    if 0 in x.shape and name not in ("ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"):
        raise UnfitError
    if name == "ReduceProd" and int(np.prod(x.shape)) > 100:
        raise UnfitError
    if x.dtype in INTS and name in ("ReduceL2", "ReduceLogSum", "ReduceLogSumExp"):
        x = g.new(x.dtype, x.shape, 1, 9)  # of others the root or the logarithm has no integer, or the sum does not fit
    axes, keep = g.axes(x.rank), g.pick((None, 0, 1))
    exact = name in ("ReduceMax", "ReduceMin")
    if g.opset >= (13 if name == "ReduceSum" else 18):
        given = g.given(axes) if axes or g.chance(0.2) else None
        g.node(name, [x, given], exact=exact, keepdims=keep, noop_with_empty_axes=g.pick((None, 0, 1)))
    else:
        g.node(name, [x], exact=exact, keepdims=keep, axes=axes or None)


@place("CumSum", "CumProd")
def _cumulative(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.given(np.asarray(g.axis(x.rank), g.pick(("int32", "int64"))))
    g.node(name, [x, axis], exclusive=g.pick((None, 0, 1)), reverse=g.pick((None, 0, 1)))


@place("Softmax", "LogSoftmax")
def _softmax(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    g.node(name, [x], axis=g.pick((None, g.axis(x.rank))))


@place("Hardmax")
def _hardmax(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    g.node(name, [x], exact=True, axis=g.pick((None, g.axis(x.rank))))


@place("LpNormalization")
def _lp_norm(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    g.node(name, [x], axis=g.axis(x.rank), p=g.pick((None, 1, 2)))


# Products ---------------------------------------------------------------------------------------------------


@place("MatMul")
def _matmul(g: Graph, name: str) -> None:
    a = g.any(types(g, name), low=1, fits=lambda v: v.shape[-1] > 0)
    matrix = (*g.partner(a.shape[:-2]), a.shape[-1], g.pick((1, 2, 3, 8, 16, 17, 33)))
    g.node(name, [a, g.like(a.dtype, (a.shape[-1],) if g.chance(0.2) else matrix)])


@place("Gemm")
def _gemm(g: Graph, name: str) -> None:
    a = g.any(types(g, name), 2, 2, fits=lambda v: 0 not in v.shape)
    ta, tb = g.number(0, 1), g.number(0, 1)
    rows, inner = a.shape[::-1] if ta else a.shape
    columns = g.pick((1, 2, 7, 16, 40))
    b = g.like(a.dtype, (columns, inner) if tb else (inner, columns))
    c = g.like(a.dtype, g.pick(((), (columns,), (1, columns), (rows, 1), (rows, columns)))) if g.chance(0.6) else None
    factors = {k: float(g.pick((0.5, 2.0, -1.0, 0.0))) for k in ("alpha", "beta") if g.chance(0.3)}
    if a.dtype in INTS:  # small ones: engines compute them in floats, too
        factors = {}
        a, b, c = (v and g.new(v.dtype, v.shape, 0, 9) for v in (a, b, c))
    g.node(name, [a, b, c], transA=ta or None, transB=tb or None, **factors)


@place("Einsum")
def _einsum(g: Graph, name: str) -> None:
    equation, ranks = g.pick((("ij,jk->ik", (2, 2)), ("bij,bjk->bik", (3, 3)), ("ij->ji", (2,)), ("i,i->", (1, 1)),
                              ("bi,bj->bij", (2, 2)), ("ii->i", (2,)), ("...ij,...jk->...ik", (3, 3)),
                              ("bhwc,hkc->bhwk", (4, 3)), ("ij,ij->i", (2, 2))))  # fmt: skip
    sizes = {letter: g.number(1, 9) for letter in "bijkhwc."}
    dtype = g.dtype(types(g, name))
    terms = equation.split("->")[0].replace("...", ".").split(",")
    del ranks
    g.node(name, [g.like(dtype, [sizes[letter] for letter in term]) for term in terms], equation=equation)


# Windows ----------------------------------------------------------------------------------------------------


def _window(g: Graph, sizes: Sequence[int], kernel: Sequence[int]) -> dict[str, object]:
    """Strides, dilations and pads such that each window lies at least in part inside."""
    rank = len(sizes)
    attributes: dict[str, object] = {}
    dilations = [g.pick((1, 1, 1, 2)) for _ in range(rank)] if g.chance(0.3) else [1] * rank
    if any(d != 1 for d in dilations):
        attributes["dilations"] = dilations
    if g.chance(0.5):
        attributes["strides"] = [g.number(1, 3) for _ in range(rank)]
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    if g.chance(0.2):
        attributes["auto_pad"] = g.pick(("SAME_UPPER", "SAME_LOWER", "VALID"))
        pads = [0] * 2 * rank
    else:
        pads = (
            [g.number(0, k - 1) for k in kernel] * 2 if g.chance(0.5) else [g.number(0, k - 1) for k in [*kernel] * 2]
        )
        if any(pads):
            attributes["pads"] = pads
    if any(size + pads[i] + pads[i + rank] < span for i, (size, span) in enumerate(zip(sizes, spans, strict=True))):
        raise UnfitError
    return attributes


def _image(g: Graph, dtypes: Sequence[str]) -> tuple[Value, tuple[int, ...]]:
    fits = lambda v: 0 not in v.shape and int(np.prod(v.shape[2:])) <= 400  # noqa: E731
    x = g.any(dtypes, 3, 5 if g.chance(0.1) else 4, fits=fits)
    if g.chance(0.5):
        x = g.like(x.dtype, (g.number(1, 2), g.pick((1, 3, 4, 8, 16)), *(g.number(3, 10) for _ in x.shape[2:])))
    return x, x.shape[2:]


@place("Conv")
def _conv(g: Graph, name: str) -> None:
    x, sizes = _image(g, types(g, name))
    kernel = tuple(g.pick([k for k in (1, 1, 2, 3, 3, 5) if k <= size + 2]) for size in sizes)
    group = g.pick([d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0]) if g.chance(0.4) else 1
    out = group * g.pick((1, 2, 3, 8) if group < 8 else (1, 2))
    window = _window(g, sizes, kernel)
    w = g.like(x.dtype, (out, x.shape[1] // group, *kernel))
    bias = g.like(x.dtype, (out,)) if g.chance(0.5) else None
    g.node(name, [x, w, bias], group=group if group > 1 or g.chance(0.2) else None,
           kernel_shape=kernel if g.chance(0.5) else None, **window)  # fmt: skip


@place("ConvTranspose")
def _conv_transpose(g: Graph, name: str) -> None:
    x, sizes = _image(g, types(g, name))
    kernel = [g.pick((1, 2, 3)) for _ in sizes]
    strides = [g.number(1, 3) for _ in sizes]
    w = g.like(x.dtype, (x.shape[1], g.number(1, 4), *kernel))
    extra = [g.number(0, s - 1) for s in strides] if g.chance(0.3) else None
    pads = [g.number(0, (k - 1) // 2) for k in kernel] * 2
    if any((n - 1) * s + k <= 2 * p for n, s, k, p in zip(sizes, strides, kernel, pads, strict=False)):
        raise UnfitError
    g.node(name, [x, w], strides=strides, pads=pads, output_padding=extra)


@place("MaxPool", "AveragePool", "LpPool")
def _pool(g: Graph, name: str) -> None:
    x, sizes = _image(g, types(g, name))
    if g.special and name == "MaxPool":
        raise UnfitError
    kernel = [g.number(1, min(3, size)) for size in sizes]
    window = _window(g, sizes, kernel)
    if "dilations" in window and g.opset < {"AveragePool": 19, "LpPool": 18}.get(name, 10):
        raise UnfitError
    if g.chance(0.3) and name != "LpPool" and "auto_pad" not in window and g.opset >= 10:
        window["ceil_mode"] = 1
    if name == "AveragePool" and g.chance(0.4):
        window["count_include_pad"] = 1
    g.node(name, [x], exact=name == "MaxPool", kernel_shape=kernel, **window)


@place("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(g: Graph, name: str) -> None:
    if g.special and name == "GlobalMaxPool":  # ONNX Runtime begins with the least finite number
        raise UnfitError
    g.node(name, [_image(g, types(g, name))[0]], exact=name == "GlobalMaxPool")


@place("LRN")
def _lrn(g: Graph, name: str) -> None:
    g.node(name, [_image(g, types(g, name))[0]], size=g.pick((1, 3, 5)), bias=g.pick((None, 1.5)))


@place("Resize")
def _resize(g: Graph, name: str) -> None:
    x = g.any(types(g, name), 4, 4, fits=lambda v: 0 not in v.shape)
    mode = g.pick(("nearest", "linear"))
    scales = [1.0, 1.0, *(g.pick((0.5, 2.0, 1.5, 3.0)) for _ in range(2))]
    if any(int(s * n) < 1 for s, n in zip(scales, x.shape, strict=True)):
        raise UnfitError
    where = g.pick(("half_pixel", "asymmetric", "align_corners"))
    rounding = g.pick(("floor", "round_prefer_floor")) if mode == "nearest" else None
    factors = g.given(np.asarray(scales, np.float32))
    g.node(name, [x, None, factors], exact=mode == "nearest", mode=mode, coordinate_transformation_mode=where,
           nearest_mode=rounding)  # fmt: skip


# Normalizations ---------------------------------------------------------------------------------------------


@place("BatchNormalization")
def _batch_norm(g: Graph, name: str) -> None:
    x = g.any(types(g, name), 2, 4, fits=lambda v: 0 not in v.shape)
    channels = (x.shape[1],)
    mean = [g.like(x.dtype, channels) for _ in range(3)]
    g.node(name, [x, *mean, g.new(x.dtype, channels, 0.5, 2.0)], epsilon=g.pick((None, 1e-3)))


@place("InstanceNormalization")
def _instance_norm(g: Graph, name: str) -> None:
    x, _ = _image(g, types(g, name))
    g.node(name, [x, g.like(x.dtype, x.shape[1:2]), g.like(x.dtype, x.shape[1:2])], epsilon=g.pick((None, 1e-3)))


@place("GroupNormalization")
def _group_norm(g: Graph, name: str) -> None:
    x, _ = _image(g, types(g, name))
    groups = g.pick([d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0])
    size = (groups if g.opset < 21 else x.shape[1],)
    # ONNX infers no type for what its body computes.
    g.end(name, [x, g.like(x.dtype, size), g.like(x.dtype, size)], [(x.dtype, x.rank)], loose=True, num_groups=groups)


@place("LayerNormalization", "RMSNormalization")
def _layer_norm(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, fits=lambda v: 0 not in v.shape)
    axis = g.axis(x.rank)
    shape = x.shape[axis % x.rank :]
    bias = g.like(x.dtype, shape) if name[0] == "L" and g.chance(0.5) else None
    g.node(name, [x, g.like(x.dtype, shape), bias], axis=axis, epsilon=g.pick((None, 1e-3)))


# Quantization -----------------------------------------------------------------------------------------------


@place("QuantizeLinear")
def _quantize(g: Graph, name: str) -> None:
    x = g.new("float32", g.dims(1, 4), -9, 9)
    dtype = g.pick(("uint8", "int8"))
    per = g.axis(x.rank) if g.chance(0.4) else None
    shape = () if per is None else (x.shape[per],)
    scale = g.given(np.asarray(g.data("float32", shape, 0.05, 0.2)))
    g.node(name, [x, scale, g.new(dtype, shape, 0, 9)], axis=per, loose=1.0)


@place("DequantizeLinear")
def _dequantize(g: Graph, name: str) -> None:
    x = g.any(("uint8", "int8"), low=1, exact=True)
    per = g.axis(x.rank) if g.chance(0.4) else None
    shape = () if per is None else (x.shape[per],)
    scale = g.given(np.asarray(g.data("float32", shape, 0.05, 0.2)))
    g.node(name, [x, scale, g.new(x.dtype, shape, 0, 9)], axis=per)


@place("DynamicQuantizeLinear")
def _dynamic_quantize(g: Graph, name: str) -> None:
    g.node(name, [g.new("float32", g.dims(1, 3), -9, 9)], 3, loose=1.0)


@place("MatMulInteger")
def _matmul_integer(g: Graph, name: str) -> None:
    a = g.new(g.pick(("uint8", "int8")), (g.number(1, 9), g.number(1, 20)), 0, 99)
    b = g.new(g.pick(("uint8", "int8")), (a.shape[1], g.number(1, 17)), 0, 99)
    zeros = [g.new(v.dtype, (), 0, 9) if g.chance(0.5) else None for v in (a, b)]
    g.node(name, [a, b, *zeros], exact=True)


def random_graph(rng: np.random.Generator, names: Sequence[str], most_nodes: int = 12) -> Graph:
    """A graph of 1 to `most_nodes` nodes (few more often than many) of the operators `names`."""
    newest = onnx.defs.onnx_opset_version()
    opset = int(rng.choice([13, 15, 17, 18, 19, 20, 21, 22, 23, 24]))
    g = Graph(rng, min(opset, newest))
    wanted = min(1 + int(rng.geometric(0.3)) - 1, most_nodes) or 1
    usable = [name for name in names if name in PLACES and exists(name, g.opset)]
    tries = 0
    while len(g.nodes) < wanted and tries < 20 * wanted:
        tries += 1
        # Half the nodes read what is there, by an operator that takes it; whether one does shows when it is tried.
        name = str(rng.choice(usable))
        kept = list(g.values), dict(g.inputs), dict(g.constants)
        try:
            PLACES[name](g, name)
        except UnfitError:
            g.values, g.inputs, g.constants = kept
    return g
