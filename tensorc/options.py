"""What a user may ask of one compilation. Frozen, so that it can key caches and stand in an artifact."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from tensorc.errors import UserError
from tensorc.search.budget import Budget

#: "strict" admits algorithms that round no worse than the plain sum of products, "fast" also those that trade some
#: digits for time.
Numerics = Literal["strict", "fast"]
#: What becomes of an operator that is not compiled: the model is refused, or it runs on ONNX Runtime, on the host.
Fallback = Literal["error", "onnxruntime"]


@dataclass(frozen=True)
class CompileOptions:
    """`threads` of 0 means all cores of the machine; `shapes` gives input shapes by name, `None` for a free axis.

    `database` is where tuning records are looked up and kept, None the user's own. With a budget to `tune`, the
    search goes on for so long before the model is built.
    """

    target: str = "cpu"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int = 0
    database: Path | None = None
    tune: Budget | None = None
    numerics: Numerics = "strict"
    fallback: Fallback = "error"
    print_ir_after: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.numerics not in get_args(Numerics):
            raise UserError(f"no numerics {self.numerics!r}; legal: {', '.join(get_args(Numerics))}")
        if self.fallback not in get_args(Fallback):
            raise UserError(f"no fallback {self.fallback!r}; legal: {', '.join(get_args(Fallback))}")


def parse_shape(text: str) -> tuple[int, ...]:
    """`1x3x224x224`. Raises UserError."""
    if not re.fullmatch(r"[0-9]*[1-9][0-9]*(x[0-9]*[1-9][0-9]*)*", text):
        raise UserError(f"{text!r} is not a shape of positive whole numbers, such as 1x3x224x224")
    return tuple(int(dim) for dim in text.split("x"))
