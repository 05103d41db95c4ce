"""Operators of ONNX Runtime's own domain, com.microsoft, that models with weights in few bits are made of."""

from __future__ import annotations

import functools
import math

import ml_dtypes
import numpy as np

from tensorc.errors import UnsupportedError
from tensorc.formats import bits
from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value
from tensorc.ir.types import TensorType

DOMAIN = "com.microsoft"
_FLOATS = ("float16", "float32", "bfloat16")


@operator("MatMulNBits", domain=DOMAIN)
def _matmul_n_bits(call: Call) -> Value:
    """`accuracy_level` allows less than what is computed here. Codes are unsigned; each row's are whole blocks."""
    a, width = call.input(0), int(call.attr("bits", 4))
    depth, columns, block = (int(call.required(name)) for name in ("K", "N", "block_size"))
    if not 2 <= width <= 8:
        raise UnsupportedError(f"weights of {width} bits: those of 2 to 8 are multiplied")
    if depth < 1 or columns < 1 or block < 16 or block & (block - 1):
        raise ValueError(f"K={depth} and N={columns} are positive, and block_size={block} is a power of two from 16 on")
    if a.dtype not in _FLOATS or not a.shape or a.shape[-1] != depth:
        raise TypeError(f"{a.type} is not a matrix of floats whose rows have K={depth} elements")
    groups = -(-depth // block)
    _check_order(call, depth, block)
    codes = _codes(call, width, depth, columns, groups * block)
    scales = _parameter(call, 2, columns, groups)
    zeros = _zeros(call, width, columns, groups)
    attrs = {"width": width, "group": block, "zero": float(1 << (width - 1))}
    product = call("matmul_coded", call.cast(a, "float32"), codes, scales, *zeros, **attrs)
    bias = call.optional(5)
    if bias is not None:
        product = call("add", product, call.cast(bias, "float32"))
    return call.cast(product, a.dtype)


def _codes(call: Call, width: int, depth: int, columns: int, padded: int) -> Value:
    """[N, blocks, bytes] as one packed row for each column, without what fills up the last block."""
    packed = call.input(1)
    if packed.dtype != "uint8" or math.prod(shape_of(packed)) * 8 != columns * padded * width:
        raise TypeError(f"{packed.type} does not hold {columns} rows of {padded} codes of {width} bits")
    call.array(1)
    assert packed.constant is not None
    nbytes = bits.packed_bytes(depth, width)

    def cut(data: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(data.reshape(columns, -1)[:, :nbytes])

    return call.constant(packed.constant.derive(TensorType("uint8", (columns, nbytes)), cut, how=("codes", nbytes)))


def _parameter(call: Call, index: int, columns: int, groups: int) -> Value:
    value = call.input(index)
    if value.dtype not in _FLOATS or math.prod(shape_of(value)) != columns * groups:
        raise TypeError(f"{value.type} does not hold a float for each of {columns} x {groups} blocks")
    call.array(index)
    assert value.constant is not None
    type = TensorType(value.dtype, (columns, groups))
    return call.constant(value.constant.derive(type, functools.partial(np.reshape, shape=type.shape), how="blocks"))


def _zeros(call: Call, width: int, columns: int, groups: int) -> list[Value]:
    """Zero points: packed as codes are, or floats. Without them codes are around the middle."""
    value = call.optional(3)
    if value is None:
        return []
    if value.dtype != "uint8":
        return [_parameter(call, 3, columns, groups)]
    if math.prod(shape_of(value)) != columns * bits.packed_bytes(groups, width):
        raise TypeError(f"{value.type} does not hold {columns} rows of {groups} zero points of {width} bits")
    points = bits.unpack(call.array(3).reshape(columns, -1), width, groups)
    return [call.constant(points.astype(ml_dtypes.bfloat16))]  # exact


def _check_order(call: Call, depth: int, block: int) -> None:
    """Rows of the weights may name their blocks; only the order that they are in is multiplied."""
    if call.optional(4) is not None and not np.array_equal(call.array(4), np.arange(depth) // block):
        raise UnsupportedError("g_idx puts the elements of a block apart")
