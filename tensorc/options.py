"""What a user may ask of one compilation. Frozen, so that it can key caches and stand in an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CompileOptions:
    """`threads` of 0 means all cores of the machine; `shapes` gives input shapes by name, `None` for a free axis."""

    target: str = "cpu"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int = 0
    print_ir_after: frozenset[str] = frozenset()
