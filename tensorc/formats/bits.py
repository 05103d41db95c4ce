"""Codes of 1 to 8 bits, packed into bytes and unpacked.

Code i of a row has the bits i * width to (i + 1) * width - 1 of the row's bytes, the lowest bit of a byte first. A
row begins with a byte of its own; the bits after its last code are 0.
"""

from __future__ import annotations

import numpy as np

#: So many codes of any width fill whole bytes; together they fit in 64 bits.
_GROUP = 8


def packed_bytes(length: int, width: int) -> int:
    """Bytes of a row of `length` codes."""
    return -(-length * width // 8)


def pack(codes: np.ndarray, width: int) -> np.ndarray:
    """uint8 codes [..., length], each below 2**width, to uint8 [..., packed_bytes]."""
    if width == 8:
        return codes
    length = codes.shape[-1]
    groups = _padded(codes, _GROUP)
    words: np.ndarray = np.zeros(groups.shape[:-1], "<u8")
    for i in range(_GROUP):
        words |= groups[..., i].astype("<u8") << np.uint64(i * width)
    written = words[..., None].view(np.uint8)[..., :width].reshape(*codes.shape[:-1], words.shape[-1] * width)
    return np.ascontiguousarray(written[..., : packed_bytes(length, width)])


def unpack(packed: np.ndarray, width: int, length: int) -> np.ndarray:
    """The uint8 codes [..., length] that `pack` was given."""
    if width == 8:
        return packed
    groups = _padded(packed, width)
    wide = np.zeros((*groups.shape[:-1], 8), np.uint8)
    wide[..., :width] = groups
    words = wide.view("<u8")[..., 0]
    codes = np.empty((*words.shape, _GROUP), np.uint8)
    mask = np.uint64(2**width - 1)
    for i in range(_GROUP):
        codes[..., i] = words >> np.uint64(i * width) & mask
    return np.ascontiguousarray(codes.reshape(*packed.shape[:-1], words.shape[-1] * _GROUP)[..., :length])


def _padded(array: np.ndarray, multiple: int) -> np.ndarray:
    """[..., length] to [..., groups, multiple] with zeros at the end."""
    length = array.shape[-1]
    groups = -(-length // multiple)
    wide = np.zeros((*array.shape[:-1], groups * multiple), array.dtype)
    wide[..., :length] = array
    return wide.reshape(*array.shape[:-1], groups, multiple)
