"""What the values of a model are when it runs: arrays, sequences of values, and optionals that hold nothing.

In memory they are numpy arrays (strings are arrays of objects), tuples or lists, and None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorc.ir.types import TensorType

#: An array, a sequence of data, or None for an optional that holds nothing.
Datum = Any


@dataclass(frozen=True)
class SequenceKind:
    """`dtype` is the element type of its tensors, which an empty one has too; "" where nobody said."""

    items: tuple[Kind, ...]
    dtype: str = ""


#: The type of a datum. None is that of an absent optional.
Kind = TensorType | SequenceKind | None


def kind_of(datum: Datum, dtype: str = "") -> Kind:
    """`dtype` is that of an empty sequence."""
    if datum is None:
        return None
    if isinstance(datum, (list, tuple)):
        items = tuple(kind_of(item) for item in datum)
        first = next((item.dtype for item in items if item is not None), dtype)
        return SequenceKind(items, first)
    return TensorType(_name(datum.dtype), datum.shape)


def _name(dtype: np.dtype) -> str:
    return "string" if dtype.kind in "OUS" else dtype.name


@dataclass(frozen=True)
class Binding:
    """Where a datum is found when the model runs: under a name, as a tuple of bindings, or as itself."""

    name: str = ""
    items: Sequence[Binding] | None = None
    literal: Datum = None

    def read(self, data: dict[str, Datum]) -> Datum:
        if self.name:
            return data[self.name]
        return self.literal if self.items is None else [item.read(data) for item in self.items]


def item_name(name: str, number: int) -> str:
    """The name of one datum of a sequence."""
    return f"{name}[{number}]"
