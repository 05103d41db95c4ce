"""What builds of kernels and a memory plan have in common: what they refuse, and what they tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from typing import Any

from passes.memory import MemoryPlan
from tensorc.errors import UnsupportedError
from tensorc.ir import OPS, Graph, Kind
from tensorc.ir.cost import work
from tensorc.ir.graph import nested
from tensorc.lowering.indexing import lowered_ops
from tensorc.options import format_bytes
from tensorc.search.choice import Choice
from tensorc.search.space import ScheduleJson
from tensorc.target import PackedConstant


def check_kernels(graph: Graph, target: str, heads: Set[str], control: Set[str] = frozenset()) -> None:
    """Raises UnsupportedError, naming all at once, when the graph holds operators without a kernel: others than what is
    lowered to expressions, reductions, views, the `heads` of groups and `control` flow."""
    known = lowered_ops() | heads | control | {"group"}
    missing: Counter[str] = Counter()
    for node in (node for part in nested(graph) for node in part.nodes):
        for inner in node.body.nodes if node.body is not None else [node]:
            kind = OPS[inner.op].kind
            if inner.op not in known and kind is not Kind.REDUCTION and kind is not Kind.VIEW:
                missing[inner.op] += 1
    if missing:
        listed = ", ".join(f"{op} ({count})" for op, count in sorted(missing.items()))
        raise UnsupportedError(f"the {target} target has no kernel for: {listed}")


def memory_of(plan: MemoryPlan) -> dict[str, Any]:
    """For the manifest, in bytes."""
    return {
        "peak": plan.arena_bytes,
        "bound": plan.least_bytes,
        "blocks": [[name, b.lower, b.upper, b.size, offset] for name, b, offset in plan.blocks],
    }


def memory_rows(plan: MemoryPlan, constants: Sequence[PackedConstant]) -> list[tuple[str, str]]:
    """For the summary."""
    planned, least, unplanned = map(format_bytes, (plan.arena_bytes, plan.least_bytes, plan.unplanned_bytes))
    return [
        ("activation memory", f"{planned} planned, {least} at least, {unplanned} without a plan"),
        ("weights", format_bytes(sum(constant.nbytes for constant in constants))),
    ]


def kernel_facts(body: Graph, schedule: ScheduleJson, choice: Choice | None) -> dict[str, Any]:
    """What people and profiles want to know of a kernel: its schedule, where that came from, and its work."""
    amount = work(body)
    return {
        "schedule": schedule,
        "origin": choice.origin if choice else "default" if schedule else "only",
        "predicted_seconds": choice.predicted_seconds if choice else None,
        "predicted_deviation": choice.deviation if choice else None,
        "flops": amount.flops,
        "bytes": amount.nbytes,
    }
