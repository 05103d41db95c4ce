"""How large tensors may be, so that a damaged model is refused rather than tried."""

from __future__ import annotations

from tensorc.errors import UnsupportedError
from tensorc.ir.dims import is_static
from tensorc.ir.types import TensorType

#: Kernels count the elements of a tensor in 32 bits.
MOST_ELEMENTS = 2**31 - 1
#: No tensor of the standard has so many axes; numpy's limit is 64.
MOST_AXES = 64
#: Bytes of a constant that is computed rather than read from the model: memory now, and space in the artifact.
MOST_COMPUTED = 1 << 28
#: The same of one that repeats one number, which is small until it is written. Weights may be such, in benchmarks.
MOST_REPEATED = 1 << 30


def check_type(type: TensorType, what: str = "a tensor of type") -> TensorType:
    """`type`, unless no kernel can have a tensor of it. `what` begins the message."""
    if not is_static(type.shape):
        return type
    if any(isinstance(dim, int) and dim < 0 for dim in type.shape):
        raise ValueError(f"{what} {type} would have a negative size")
    if type.rank > MOST_AXES:
        raise UnsupportedError(f"{what} of {type.rank} axes is not supported; at most {MOST_AXES} are")
    if type.size > MOST_ELEMENTS:
        raise UnsupportedError(f"{what} {type} is too large: it has {type.size} elements, and may have {MOST_ELEMENTS}")
    return type


def check_computed(type: TensorType, most: int = MOST_COMPUTED) -> None:
    """Refuse a constant that is to be computed during import, before its memory is asked for."""
    if type.nbytes > most:
        raise UnsupportedError(
            f"a constant {type} would have to be computed, which has {type.nbytes} bytes; at most {most} are supported"
        )
