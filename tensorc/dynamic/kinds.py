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

    def to_json(self) -> Any:
        """None, a name, a list, or the texts and the shape of a literal."""
        if self.name:
            return self.name
        if self.items is not None:
            return [item.to_json() for item in self.items]
        return None if self.literal is None else {"texts": self.literal.reshape(-1).tolist(),
                                                  "shape": list(self.literal.shape)}  # fmt: skip

    @classmethod
    def from_json(cls, row: Any) -> Binding:
        if isinstance(row, list):
            return cls(items=[cls.from_json(item) for item in row])
        if isinstance(row, dict):
            return cls(literal=np.array(row["texts"], object).reshape(row["shape"]))
        return cls(row or "")

    def read(self, data: dict[str, Datum]) -> Datum:
        if self.name:
            return data[self.name]
        return self.literal if self.items is None else [item.read(data) for item in self.items]


def kind_to_json(kind: Kind) -> Any:
    if isinstance(kind, SequenceKind):
        return {"items": [kind_to_json(item) for item in kind.items], "dtype": kind.dtype}
    return None if kind is None else [kind.dtype, list(kind.shape)]


def kind_from_json(row: Any) -> Kind:
    if isinstance(row, dict):
        return SequenceKind(tuple(kind_from_json(item) for item in row["items"]), row["dtype"])
    return None if row is None else TensorType(row[0], tuple(row[1]))


def item_name(name: str, number: int) -> str:
    """The name of one datum of a sequence."""
    return f"{name}[{number}]"
