"""Matrices of weights in few bits, which DequantizeLinear says are floats."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tensorc.formats import bits
from tensorc.frontend.call import Call, axis_of, shape_of
from tensorc.ir.graph import Value
from tensorc.ir.ops.coded import group_count
from tensorc.ir.types import TensorType

_WIDTHS = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8}


def encoded_matrix(call: Call, x: Value, scale: Value, zero: Value | None) -> Value | None:
    """A constant matrix as what products take in few bits. None for all others, and for bytes that are not in blocks:
    those are multiplied as bytes."""
    block = call.attr("block_size", 0)
    parameters = [scale] if zero is None else [scale, zero]
    if x.dtype not in _WIDTHS or len(x.shape) != 2 or (_WIDTHS[x.dtype] == 8 and not block) or block < 0:
        return None
    if any(value.constant is None for value in (x, *parameters)) or scale.dtype.startswith("float8"):
        return None
    single = shape_of(scale) in ((), (1,))
    # Scales lie along the sum where there are blocks, and across it where there are none.
    axis = 0 if single else axis_of(call.attr("axis", 1), 2) if block else 1 - axis_of(call.attr("axis", 1), 2)
    shape = shape_of(x)
    depth, columns, group = shape[axis], shape[1 - axis], 0 if single else block
    blocks = (columns, group_count(depth, group))
    wanted = ((), (1,)) if single else ((blocks[::-1] if axis == 0 else blocks),) if block else ((columns,),)
    if not depth or not columns or any(shape_of(value) not in wanted for value in parameters):
        return None  # nothing, or wrong, which is said elsewhere
    width = _WIDTHS[x.dtype]
    lowest = 1 << (width - 1) if x.dtype.startswith("int") else 0

    def packed(data: np.ndarray) -> np.ndarray:
        codes = (data.astype(np.int16) + lowest).astype(np.uint8)
        return bits.pack(np.ascontiguousarray(np.moveaxis(codes, axis, 1)), width)

    def spread(data: np.ndarray) -> np.ndarray:
        turned = data.T if block and axis == 0 and not single else data.reshape(-1, 1) if not block else data
        return np.ascontiguousarray(np.broadcast_to(turned, blocks))

    assert x.constant is not None
    type = TensorType("uint8", (columns, bits.packed_bytes(depth, width)))
    made = [call.constant(x.constant.derive(type, packed, how=("codes", axis))), call.constant(spread(call.array(1)))]
    if zero is not None:
        made.append(call.constant(spread(call.array(2).astype(np.int16) + lowest).astype(ml_dtypes.bfloat16)))
    weights = call("decode", *made, depth=depth, width=width, group=group, zero=float(lowest))
    return weights if axis == 1 else call("transpose", weights, perm=(1, 0))
