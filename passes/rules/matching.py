"""What the rules share: who reads a value, and arithmetic on constants.

Constants that take part in arithmetic at compile time are small (`EAGER` elements) or one repeated number; floats
are combined in float64 and rounded once. Weights are never touched here: they change lazily, by `Constant.derive`.
"""

from __future__ import annotations

import numpy as np

from tensorc.ir.dims import broadcast, static_shape
from tensorc.ir.graph import Constant, Graph, Node, Value
from tensorc.ir.rewriter import only_user, scalar
from tensorc.ir.types import TensorType, is_float, numpy_dtype

#: Constants up to this many elements are computed at once.
EAGER = 1 << 16
#: Constant masks up to this many elements (1024 queries by 1024 keys) are looked into.
INSPECTED = 1 << 20


def is_output(value: Value, graph: Graph) -> bool:
    return any(out is value for out in graph.outputs)


def private(value: Value, graph: Graph) -> bool:
    """Whether one node reads `value`, once, and nothing else sees it: it may vanish into that node."""
    return only_user(value) is not None and not is_output(value, graph)


def enclosed(value: Value, graph: Graph, *readers: Node | None) -> bool:
    """Whether none but `readers` see `value`: it may vanish together with them."""
    return all(any(user is reader for reader in readers) for user in value.users) and not is_output(value, graph)


def repeats(value: Value, number: float) -> bool:
    """Whether `value` is a constant that holds `number` and nothing else."""
    return scalar(value) == number


def uniform(value: Value) -> float | None:
    """The number that a constant holds everywhere, by looking at its elements. For masks: weights stay unread."""
    constant = value.constant
    if constant is None or constant.splat is not None or not 0 < constant.type.size <= INSPECTED:
        return scalar(value)
    data = constant.numpy().reshape(-1)
    return float(data[0]) if (data == data[0]).all() else None


def is_small(constant: Constant) -> bool:
    return constant.splat is not None or constant.type.size <= EAGER


def wide(constant: Constant) -> np.ndarray:
    """The data in the type that arithmetic at compile time is done in; a repeated number stays one number."""
    data = np.asarray(constant.splat) if constant.splat is not None else constant.numpy()
    return data.astype(np.float64) if is_float(constant.type.dtype) else data


def compact(data: np.ndarray, type: TensorType) -> Constant:
    """A constant of `data` broadcast to `type`; one repeated number is kept as such (compared bit by bit)."""
    with np.errstate(over="ignore"):
        exact = np.asarray(data).astype(numpy_dtype(type.dtype), copy=False)
    first = exact.reshape(-1)[:1]
    if exact.size and first.tobytes() * exact.size == exact.tobytes():
        return Constant.full(type, first[0])
    return Constant.of(np.broadcast_to(exact, static_shape(type.shape)))


def combine(function: np.ufunc, a: Constant, b: Constant) -> Constant | None:
    """`function` of two constants, or None when that is large or overflows where the operands do not."""
    if not (is_small(a) and is_small(b)):
        return None
    type = TensorType(a.type.dtype, broadcast(a.type.shape, b.type.shape))
    if type.size > max(a.type.size, b.type.size) and type.size > EAGER:
        return None
    left, right = wide(a), wide(b)
    with np.errstate(all="ignore"):
        result = compact(function(left, right), type)
    if is_float(type.dtype) and np.isfinite(left).all() and np.isfinite(right).all():
        return result if np.isfinite(wide(result)).all() else None
    return result


def reciprocal(constant: Constant) -> Constant | None:
    """1 / constant, or None when a quotient is not a normal number: then dividing is not multiplying."""
    if not is_float(constant.type.dtype) or not is_small(constant):
        return None
    divisor = wide(constant)
    if not np.isfinite(divisor).all() or not divisor.all():
        return None
    result = compact(1 / divisor, constant.type)
    quotient = np.abs(wide(result))
    normal = np.isfinite(quotient).all() and (quotient >= 1e-37).all()
    return result if normal and (constant.type.dtype != "float16" or (quotient >= 6.2e-5).all()) else None


def negated(constant: Constant) -> Constant | None:
    if not is_float(constant.type.dtype) or not is_small(constant):
        return None
    return compact(-wide(constant), constant.type)


def reshaped(constant: Constant, shape: tuple[int, ...]) -> Constant:
    type = constant.type.with_shape(shape)
    return Constant.full(type, constant.splat) if constant.splat is not None else constant.derive(
        type, lambda data: data.reshape(shape), how=("reshape", shape)
    )  # fmt: skip


def transposed(constant: Constant, perm: tuple[int, ...]) -> Constant:
    type = constant.type.with_shape(tuple(constant.type.shape[axis] for axis in perm))
    if constant.splat is not None:
        return Constant.full(type, constant.splat)
    return constant.derive(type, lambda data: np.transpose(data, perm), how=("transpose", perm))
