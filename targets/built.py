"""What builds of kernels and a memory plan have in common: what they refuse, and what they tell."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Generic, TypeVar

from passes.memory import MemoryPlan, Place, Space
from targets.control import A, Branch, Carried, Control, Loop, Repeat, Slice
from targets.packing import PackedConstants, Packing
from tensorc.errors import UnsupportedError, UserError
from tensorc.ir import OPS, Graph, Kind, Node, Value
from tensorc.ir.cost import work
from tensorc.ir.graph import nested
from tensorc.lowering.indexing import lowered_ops
from tensorc.options import format_bytes, whole_bytes
from tensorc.search.choice import Choice
from tensorc.search.space import ScheduleJson
from tensorc.target import PackedConstant

#: A step that runs something.
S = TypeVar("S")


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


class StepsOf(abc.ABC, Generic[A, S]):
    """Lists the steps of a graph in order, and collects the constants that they read. `first_pointer` is the number of
    the first of the plan's pointers."""

    def __init__(self, plan: MemoryPlan, constants: PackedConstants, first_pointer: int = 0):
        self.plan = plan
        self.constants = constants
        self.steps: list[S | Control[A]] = []
        self._first_pointer = first_pointer

    @abc.abstractmethod
    def group(self, node: Node, calls: int) -> None:
        """Add the steps of a group. `calls` is how often a run does them, if all branches are taken and each loop whose
        end is not known runs once."""

    @abc.abstractmethod
    def address(self, place: Place, packing: Packing | None = None) -> A: ...

    def arguments(self, node: Node, packings: Mapping[int, Packing]) -> list[A]:
        """Of a group, some of whose inputs its kernel wants packed: inputs, then outputs. Raises UnsupportedError."""
        inputs = [self._input(value, packings.get(number)) for number, value in enumerate(node.inputs)]
        return inputs + [self.address(self.plan.places[value]) for value in node.outputs]

    def _input(self, value: Value, packing: Packing | None) -> A:
        place = self.plan.places[value]
        if packing is not None:
            if place.space is not Space.WEIGHTS:
                raise UnsupportedError(f"%{value.name} is computed, and a kernel wants it packed")
            if value.constant is None:
                raise UnsupportedError(f"%{value.name} is a view of a constant, which a kernel wants packed")
        return self.address(place, packing)

    def add(self, graph: Graph, calls: int = 1) -> None:
        for node in graph.nodes:
            if node.body is not None:
                self.group(node, calls)
            elif node.op == "loop":
                self._loop(node, calls)
            elif node.op == "if":
                self._if(node, calls)

    def _loop(self, node: Node, calls: int) -> None:
        plan, address, pointers = self.plan.loops[node], self.address, self._first_pointer
        carried = tuple(
            Carried(pointers + value.read, pointers + value.write, address(value.start),
                    (address(value.slots[0]), address(value.slots[1])), address(value.result), value.nbytes)
            for value in plan.carried
        )  # fmt: skip
        slices = tuple(Slice(pointers + part.pointer, address(part.start), part.stride) for part in plan.slices)
        (region,) = node.regions
        conditional, trips = node.attrs["conditional"], node.attrs["trips"]
        begin, label = len(self.steps), _label(node)
        self.steps.append(Branch(label, begin))  # until it is known where the loop ends
        self.add(region, calls if conditional else calls * trips)
        self.steps[begin] = Loop(
            label, trips, len(self.steps), address(plan.counter),
            address(self.plan.places[region.inputs[1]]) if conditional else None, carried, slices,
        )  # fmt: skip
        self.steps.append(Repeat(f"end of {label}", begin))

    def _if(self, node: Node, calls: int) -> None:
        begin, label = len(self.steps), _label(node)
        self.steps.append(Branch(label, begin))
        self.add(node.regions[0], calls)
        middle = len(self.steps)
        self.steps.append(Branch(f"end of {label}", middle))
        self.add(node.regions[1], calls)
        self.steps[begin] = Branch(label, middle + 1, self.address(self.plan.places[node.inputs[0]]))
        self.steps[middle] = Branch(f"end of {label}", len(self.steps))


def _label(node: Node) -> str:
    return f"{node.op} -> {', '.join(value.name for value in node.outputs)}"


def lookups(body: Graph) -> Iterator[tuple[int, int]]:
    """The inputs that are tables of which only rows are read, one after the other as results are made; how many."""
    for number, value in enumerate(body.inputs):
        users = [node for node in body.nodes if value in node.inputs]
        if len(users) != 1 or users[0].op != "gather" or users[0].attrs["axis"] != 0 or users[0].inputs[0] is not value:
            continue
        rows = users[0].inputs[1].type
        if rows.size and all(out.shape[: rows.rank] == rows.shape for out in body.outputs):
            yield number, rows.size


def too_small(budget: int, needed: int) -> UserError:
    """What is said of a memory budget of fewer bytes than are needed."""
    least = whole_bytes(needed, up=True)
    return UserError(f"a memory budget of {format_bytes(budget)} is too small: the smallest feasible one is {least}")


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
