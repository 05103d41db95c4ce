"""Arrays of other libraries read where they lie, and arrays of ours given to them: the DLPack protocol.

The structures are those of dlpack.h 1.0; the exchange is Python's: a capsule that whoever takes it over renames, or
whose destructor calls the producer's deleter. What is borrowed here is never taken over: the capsule is held for as
long as the memory is needed.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorc.errors import UserError
from tensorc.ir.types import numpy_dtype

#: Kinds of devices. Memory of the host that a GPU can read (3) is memory of the host; managed memory is a GPU's too.
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13

#: (code, bits) of an element type. Numbers of less than 8 bits lie denser there than here.
_TYPES: dict[tuple[int, int], str] = {
    **{(0, bits): f"int{bits}" for bits in (8, 16, 32, 64)},
    **{(1, bits): f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{(2, bits): f"float{bits}" for bits in (16, 32, 64)},
    (4, 16): "bfloat16",
    (6, 8): "bool",
    (10, 8): "float8_e4m3fn",
    (11, 8): "float8_e4m3fnuz",
    (12, 8): "float8_e5m2",
    (13, 8): "float8_e5m2fnuz",
    (14, 8): "float8_e8m0fnu",
}
_CODES = {name: code for code, name in _TYPES.items()}

_NAME, _VERSIONED_NAME = b"dltensor", b"dltensor_versioned"
_VERSION = (1, 0)
_READ_ONLY = 1


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_name_of = ctypes.pythonapi.PyCapsule_GetName
_name_of.argtypes, _name_of.restype = [ctypes.py_object], ctypes.c_char_p
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.argtypes, _pointer_of.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.argtypes, _new_capsule.restype = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p], ctypes.py_object
# For a capsule that is being destroyed, which must not be referred to as an object.
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_pythonapi = ctypes.PyDLL(None)
_dying_is_valid = _pythonapi.PyCapsule_IsValid
_dying_is_valid.argtypes, _dying_is_valid.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_int
_dying_pointer = _pythonapi.PyCapsule_GetPointer
_dying_pointer.argtypes, _dying_pointer.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_void_p


@dataclass(frozen=True)
class Borrowed:
    """An array where it lies: an address on `device` (kind and number). `owner` keeps it there."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    device: tuple[int, int]
    is_contiguous: bool
    is_writable: bool
    owner: Any = field(repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize


def device_of(value: Any) -> tuple[int, int] | None:
    """Kind and number of the device of an array of another library; None for what has no DLPack."""
    if isinstance(value, np.ndarray) or not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        return None
    kind, number = value.__dlpack_device__()
    return int(kind), int(number)


def borrow(value: Any, device: tuple[int, int], stream: int | None) -> Borrowed:
    """The array `value`, which lies on `device`; its producer has `stream` (a handle; not for the host) wait until it
    is written.

    Raises UserError for what cannot be lent, or is of a type that has no name here.
    """
    # Stream 0 is the legacy default stream, which DLPack spells 1.
    asked = {} if device[0] in (CPU, CUDA_HOST) else {"stream": stream or 1}
    try:
        try:
            capsule = value.__dlpack__(max_version=_VERSION, **asked)
        except TypeError:  # a producer of before 1.0
            capsule = value.__dlpack__(**asked)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"an array of type {type(value).__name__} does not lend its memory: {error}") from error
    name, is_writable = _name_of(capsule), True
    if name == _VERSIONED_NAME:
        found = _Versioned.from_address(_pointer_of(capsule, name))
        if found.major != _VERSION[0]:
            raise UserError(f"an array comes as DLPack {found.major}.{found.minor}; only 1.x is read here")
        tensor, is_writable = found.tensor, not found.flags & _READ_ONLY
    else:
        tensor = _Managed.from_address(_pointer_of(capsule, _NAME)).tensor
    dtype = _TYPES.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if dtype is None:
        raise UserError(
            f"an array has DLPack's element type (code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes), "
            f"which has no name here"
        )
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides and tensor.ndim else None
    address = (tensor.data or 0) + tensor.byte_offset
    is_contiguous = strides is None or _is_contiguous(shape, strides)
    return Borrowed(address, dtype, shape, device, is_contiguous, is_writable, (value, capsule))


def _is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """In C order; strides are in elements, and those of axes of one element say nothing."""
    if 0 in shape:
        return True
    expected = 1
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return True


def on_host(value: Any, device: tuple[int, int]) -> np.ndarray:
    """An array of another library in memory of the host, as numpy's, without a copy if it is contiguous. One that may
    not be written to cannot be by numpy."""
    borrowed = borrow(value, device, None)
    if not borrowed.is_contiguous:
        return np.ascontiguousarray(np.from_dlpack(value))
    array = array_at(borrowed.address, borrowed.dtype, borrowed.shape, borrowed)
    array.flags.writeable = borrowed.is_writable
    return array


class _Memory:
    """What numpy takes for an array; `owner` lives as long as the array."""

    def __init__(self, address: int, nbytes: int, owner: Any):
        self.owner = owner
        self.__array_interface__ = {"data": (address, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}


def array_at(address: int, dtype: str, shape: tuple[int, ...], owner: Any) -> np.ndarray:
    """Memory of the host as an array, which keeps `owner`."""
    nbytes = math.prod(shape) * numpy_dtype(dtype).itemsize
    if not nbytes:
        return np.empty(shape, numpy_dtype(dtype))
    return np.asarray(_Memory(address, nbytes, owner)).view(numpy_dtype(dtype)).reshape(shape)


class DeviceArray:
    """An array on a device, which other libraries take by DLPack: `torch.from_dlpack`, `cupy.from_dlpack`.

    Its memory lives as long as it, and as long as whoever took it. `numpy()` waits, and copies.
    """

    def __init__(self, address: int, dtype: str, shape: tuple[int, ...], device: tuple[int, int], owner: Any,
                 before: Callable[[int], None], read: Callable[[np.ndarray], None]):  # fmt: skip
        """`before(stream)` has a stream wait until the array is written; `read(out)` waits, and copies it to the
        host."""
        self.address = address
        self.dtype = dtype
        self.shape = shape
        self._device = device
        self._owner = owner
        self._before = before
        self._read = read

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize

    def numpy(self) -> np.ndarray:
        out = np.empty(self.shape, numpy_dtype(self.dtype))
        self._read(out)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array on a device becomes one of numpy's by a copy only")
        return np.asarray(self.numpy(), dtype)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The array as a capsule; what is asked of `stream` afterwards finds it written (None: the legacy default
        stream; -1: the caller waits itself)."""
        if copy or dl_device not in (None, self._device):
            raise BufferError("the array is lent where it is, without a copy")
        if self.dtype not in _CODES:
            raise BufferError(f"DLPack has no element type {self.dtype}")
        if stream != -1:
            self._before(stream or 1)
        return _export(self, versioned=max_version is not None and max_version >= _VERSION)

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)})"


#: Address of a structure that others hold -> what must live for as long.
_lent: dict[int, tuple[Any, ...]] = {}


def _export(array: DeviceArray, versioned: bool) -> Any:
    held = _Versioned(major=_VERSION[0], minor=_VERSION[1]) if versioned else _Managed()
    tensor, rank = held.tensor, len(array.shape)
    shape = (ctypes.c_int64 * max(rank, 1))(*array.shape)
    strides = (ctypes.c_int64 * max(rank, 1))(*(math.prod(array.shape[axis + 1 :]) for axis in range(rank)))
    tensor.data = array.address
    tensor.device_type, tensor.device_id = array.__dlpack_device__()
    tensor.ndim = rank
    (tensor.code, tensor.bits), tensor.lanes = _CODES[array.dtype], 1
    tensor.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
    tensor.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
    held.deleter = _DELETE
    address = ctypes.addressof(held)
    _lent[address] = held, shape, strides, array._owner
    return _new_capsule(address, _VERSIONED_NAME if versioned else _NAME, ctypes.cast(_DESTROY, ctypes.c_void_p))


def _delete(address: int) -> None:
    _lent.pop(address, None)


def _destroy(capsule: int) -> None:
    """Of a capsule; one that nobody took over still has its name."""
    for name in (_NAME, _VERSIONED_NAME):
        if _dying_is_valid(capsule, name):
            _lent.pop(_dying_pointer(capsule, name), None)


_DELETE, _DESTROY = _Deleter(_delete), _Destructor(_destroy)
