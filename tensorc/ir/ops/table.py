"""The op table: one row an operator, and nothing about an operator anywhere else in the IR.

A row says how many inputs the operator takes, which attributes with which defaults, how the result's type
follows, how it may be fused, and what it means in numpy. The numpy meaning is the oracle: constant folding,
the interpreter and every kernel test use it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tensorc.errors import IRError
from tensorc.ir.types import TensorType

Attrs = Mapping[str, Any]
#: The types that a region takes and gives.
Signature = tuple[Sequence[TensorType], Sequence[TensorType]]
TypeRule = Callable[..., Sequence[TensorType]]
Meaning = Callable[..., np.ndarray | tuple[np.ndarray, ...]]


class Kind(enum.Enum):
    """How an operator takes part in fusion."""

    ELEMENTWISE = "elementwise"  #: one output element from the same (broadcast) element of each input
    VIEW = "view"  #: the same bytes under another shape
    INJECTIVE = "injective"  #: every output element from a bounded number of input elements, by index arithmetic
    REDUCTION = "reduction"  #: output elements from whole rows of the input; elementwise work fuses on both sides
    ANCHOR = "anchor"  #: has schedules of its own; elementwise work fuses behind it
    OPAQUE = "opaque"  #: known to the IR (it folds when its inputs are constants) but not lowered to kernels


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()


@dataclass(frozen=True)
class Op:
    """One row. `infer` gets the input types and the attributes, `numpy` the input arrays and the attributes by keyword.

    For an operator with `regions` those follow: `infer` gets their signatures, `numpy` the keywords `regions`, which
    are functions from arrays to arrays, and `signatures`.
    """

    name: str
    kind: Kind
    arity: tuple[int, int | None]
    infer: TypeRule
    numpy: Meaning
    attrs: Mapping[str, Any] = field(default_factory=dict)
    doc: str = ""
    regions: int = 0

    def complete(self, given: Attrs) -> dict[str, Any]:
        """`given` with defaults filled in; raises on a missing or unknown attribute."""
        unknown = given.keys() - self.attrs.keys()
        if unknown:
            raise IRError(f"{self.name} has no attribute {sorted(unknown)}; it takes {sorted(self.attrs)}")
        result: dict[str, Any] = {}
        for name, default in self.attrs.items():
            value = given.get(name, default)
            if value is REQUIRED:
                raise IRError(f"{self.name} needs the attribute {name!r}")
            result[name] = tuple(value) if isinstance(value, list) else value
        return result

    def check_arity(self, count: int) -> None:
        """Raise IRError unless the operator takes `count` inputs."""
        least, most = self.arity
        if count < least or (most is not None and count > most):
            legal = str(least) if most == least else f"{least} or more" if most is None else f"{least} to {most}"
            raise IRError(f"{self.name} takes {legal} inputs, not {count}")

    def evaluate(self, inputs: Sequence[np.ndarray], attrs: Attrs, **regions: Any) -> tuple[np.ndarray, ...]:
        with np.errstate(all="ignore"):  # infinities and nan are results like others
            result = self.numpy(*inputs, **attrs, **regions)
        return result if isinstance(result, tuple) else (np.asarray(result),)


OPS: dict[str, Op] = {}


def register(
    name: str,
    kind: Kind,
    arity: int | tuple[int, int | None],
    infer: TypeRule,
    numpy: Meaning,
    doc: str = "",
    regions: int = 0,
    **attrs: Any,
) -> None:
    """Add a row. `arity` is a number, or (least, most) with None for no limit."""
    if name in OPS:
        raise IRError(f"op {name!r} is in the table already")
    bounds = (arity, arity) if isinstance(arity, int) else arity
    OPS[name] = Op(name, kind, bounds, infer, numpy, attrs, doc, regions)
