"""The constants of programs: in an artifact one behind the other, in memory shared between the programs of a model."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tensorc.target import PackedConstant

#: The artifact's section, and the manifest's key of the table of what lies where.
SECTION = "constants"
#: A cache line, which is also the widest vector.
ALIGNMENT = 64


def table(constants: Sequence[PackedConstant]) -> list[list[int]]:
    """Offset and size in bytes of each, in a section made of `chunks`."""
    rows = []
    offset = 0
    for constant in constants:
        rows.append([offset, constant.nbytes])
        offset += constant.nbytes + -constant.nbytes % ALIGNMENT
    return rows


def chunks(constants: Sequence[PackedConstant]) -> Iterator[Any]:
    """Each is loaded when it is asked for, and let go before the next."""
    for constant in constants:
        yield _bytes_of(constant)
        if rest := -constant.nbytes % ALIGNMENT:
            yield bytes(rest)


def views(section: memoryview, rows: Sequence[Sequence[int]]) -> list[memoryview]:
    """The constants in a section that `table` describes."""
    return [section[offset : offset + nbytes] for offset, nbytes in rows]


def _bytes_of(constant: PackedConstant) -> np.ndarray:
    data = np.ascontiguousarray(constant.load()).reshape(-1).view(np.uint8)
    assert data.size == constant.nbytes, f"a constant of {constant.nbytes} bytes has {data.size}"
    return data


def content_key(constant: PackedConstant) -> Hashable:
    """An origin for one that has none; it is loaded for that."""
    return _content(_bytes_of(constant))


def _content(data: np.ndarray) -> Hashable:
    return data.size, hashlib.blake2b(data.data).digest()


class ConstantStore:
    """Constants in memory, each once, for as long as a program holds it."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[Hashable, _Held] = weakref.WeakValueDictionary()

    @property
    def nbytes(self) -> int:
        """Of all that is held."""
        return sum(held.data.nbytes for held in self._known.values())

    def get(self, constants: Sequence[PackedConstant]) -> list[memoryview]:
        """The constants' bytes. Two of one origin, or of one content where that is not known, are one."""
        return [self._get(constant).data for constant in constants]

    def _get(self, constant: PackedConstant) -> _Held:
        key: Hashable = constant.origin
        held = None if key is None else self._known.get(key)
        if held is not None:
            return held
        data = _bytes_of(constant)
        if key is None:
            key = _content(data)
            held = self._known.get(key)
        if held is None:
            held = self._known[key] = _held(data)
        return held


class _Held(np.ndarray):
    """Bytes; unlike numpy's own arrays they can be referred to weakly, and views of them keep them alive."""


def _held(data: np.ndarray) -> _Held:
    """A copy at a multiple of `ALIGNMENT`."""
    whole = np.empty(data.size + ALIGNMENT, np.uint8).view(_Held)
    start = -whole.ctypes.data % ALIGNMENT
    whole[start : start + data.size] = data
    return whole[start : start + data.size].view(_Held)
