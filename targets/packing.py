"""Constants in the order in which kernels read them: put so when a model is compiled, each only once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tensorc.ir import Value
from tensorc.ir.types import numpy_dtype
from tensorc.target import PackedConstant


@dataclass(frozen=True)
class Packing:
    """The order in which a kernel reads a constant, which is put so when the model is compiled.

    `apply` makes of the constant an array of `shape` and the same type; packings of one name, applied to one constant,
    give the same.
    """

    name: str
    shape: tuple[int, ...]
    apply: Callable[[np.ndarray], np.ndarray]


class PackedConstants:
    """Every constant that is read, as its readers read it."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Value, str], int] = {}
        self.packed: list[PackedConstant] = []

    def number(self, value: Value, packing: Packing | None) -> int:
        """Which of the constants `value`, packed so, is."""
        key = value, packing.name if packing else ""
        if key not in self._numbers:
            self._numbers[key] = len(self.packed)
            self.packed.append(_packed(value, packing))
        return self._numbers[key]


def _packed(value: Value, packing: Packing | None) -> PackedConstant:
    constant = value.constant
    assert constant is not None

    def load() -> np.ndarray:
        data = constant.numpy()
        if packing is not None:
            data = packing.apply(data)
            assert data.shape == packing.shape, f"{packing.name} gave {data.shape}, not {packing.shape}"
        return data

    elements = math.prod(packing.shape) if packing else value.type.size
    origin = None if constant.origin is None else (constant.origin, packing.name if packing else "")
    return PackedConstant(elements * numpy_dtype(value.dtype).itemsize, load, origin)
