"""Schedules of the CUDA kernels, and the rules that pick one for any shape without tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorc.search.schedule import Schedule

KINDS: Mapping[str, type[Schedule]] = {}


def parse_schedule(row: Mapping[str, Any]) -> Schedule:
    """The schedule that `to_json` wrote. Raises ValueError."""
    if row.get("kind") not in KINDS:
        raise ValueError(f"no kernel has a schedule of kind {row.get('kind')!r}: {', '.join(KINDS)}")
    return KINDS[row["kind"]].from_json(row)
