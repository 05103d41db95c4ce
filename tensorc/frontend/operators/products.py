"""Matrix products."""

from __future__ import annotations

from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value


@operator("MatMul")
def _matmul(call: Call) -> Value:
    return matrix_product(call, call.input(0), call.input(1))


def matrix_product(call: Call, a: Value, b: Value) -> Value:
    """A vector is a matrix of one row on the left and of one column on the right, and its axis goes again."""
    if not a.shape or not b.shape:
        raise TypeError(f"cannot multiply {a.type} by {b.type}: a matrix product takes no scalars")
    left, right = len(a.shape) == 1, len(b.shape) == 1
    if left:
        a = call.reshape(a, (1, *shape_of(a)))
    if right:
        b = call.reshape(b, (*shape_of(b), 1))
    product = call("matmul", a, b)
    *batch, rows, columns = shape_of(product)
    kept = ([] if left else [rows]) + ([] if right else [columns])
    return call.reshape(product, (*batch, *kept))


@operator("Gemm")
def _gemm(call: Call) -> Value:
    a, b, c = call.input(0), call.input(1), call.optional(2)
    if call.attr("transA", 0):
        a = call("transpose", a, perm=(1, 0))
    product = _scaled(call, call("matmul", a, b, transpose_b=int(bool(call.attr("transB", 0)))), "alpha")
    return product if c is None else call("add", product, _scaled(call, c, "beta"))


@operator("Det")
def _det(call: Call) -> Value:
    return call("det", call.input(0))


def _scaled(call: Call, value: Value, attribute: str) -> Value:
    factor = call.attr(attribute, 1.0)
    return value if factor == 1 else call("mul", value, call.like(factor, value))
