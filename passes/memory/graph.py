"""Memory mapping: where every value lives while the model runs.

Values that are computed share one arena; a value's place is free again after its last reader. Views and joins of
neighbouring parts cost no memory and no copy: they are places inside another value's buffer. What may not alias
(an input handed straight to an output, a part of two joins) is copied first, by `InsertCopies`.

Regions share the arena of the graph around them, and nothing is copied in or out of them: what a region captures stays
where it is, a branch writes the results of its node, and what a loop scans, stacks and carries from iteration to
iteration is reached through pointers that move.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from passes.fusion import copy_of, is_view
from passes.memory.bounds import lower_bound
from passes.memory.in_place import overwritten
from passes.memory.portfolio import quick_offsets
from passes.memory.problem import Buffer, Problem
from tensorc.ir import Constant, Graph, Node, Value
from tensorc.ir.graph import nested
from tensorc.pipeline import Pass

#: Every buffer starts on a cache line, which is also the widest vector.
ALIGNMENT = 64


class Space(enum.Enum):
    WEIGHTS = "weights"
    ARENA = "arena"
    INPUT = "input"
    OUTPUT = "output"
    POINTER = "pointer"
    FILE = "file"


@dataclass(frozen=True)
class Place:
    """Bytes `offset` on in a space; `index` numbers the weight, input, output or pointer and is 0 in the arena."""

    space: Space
    index: int
    offset: int


@dataclass(frozen=True)
class SlicePointer:
    """Is at `start` in a loop's first iteration and moves on by `stride` bytes."""

    pointer: int
    start: Place
    stride: int


@dataclass(frozen=True)
class CarriedPointers:
    """Of a value of `nbytes` that a loop carries. An iteration finds it where `read` points, at `start` in the first,
    and leaves the next where `write` points: at one of the two `slots`, in turn. One of them is `result`, where it is
    to be after the loop: the last that is written, if the number of iterations is known."""

    read: int
    write: int
    start: Place
    slots: tuple[Place, Place]
    result: Place
    nbytes: int


@dataclass(frozen=True)
class LoopPlan:
    """`counter` is the place of the iteration's number."""

    counter: Place
    carried: tuple[CarriedPointers, ...]
    slices: tuple[SlicePointer, ...]


@dataclass(frozen=True)
class MemoryPlan:
    """`places` of all values, those of regions too; `constants` in the order of their index; `loops` by their nodes,
    with `pointers` in all. `blocks` are those of the arena by the names of the values that they were made for, each
    with its offset; time counts nodes. No arena for this order of nodes is smaller than `least_bytes`.
    `unplanned_bytes` is what the arena's values would take if each had memory of its own, `file_bytes` those that are
    in a file."""

    places: Mapping[Value, Place]
    constants: tuple[Value, ...]
    loops: Mapping[Node, LoopPlan]
    pointers: int
    blocks: tuple[tuple[str, Buffer, int], ...]
    arena_bytes: int
    least_bytes: int
    unplanned_bytes: int
    file_bytes: int = 0


@dataclass(frozen=True)
class InsertCopies(Pass):
    """Copies where one value would have to be in two places."""

    name: ClassVar[str] = "copies"

    def run(self, graph: Graph) -> bool:
        before = len(graph.nodes)
        self._parts_of_joins(graph)
        self._outputs(graph)
        return len(graph.nodes) != before

    def _parts_of_joins(self, graph: Graph) -> None:
        """Each part of a free join must be a computed value that is a part of no other join, and no view."""
        placed: set[Value] = set()
        nodes = []
        for node in graph.nodes:
            if node.op == "concat" and is_view(node):
                parts = []
                for value in node.inputs:
                    made = value.producer
                    computed = made is not None and (not is_view(made) or made.op == "concat")
                    if not computed or value in placed:
                        copied = copy_of(graph, value)
                        nodes.append(copied)
                        value = copied.output
                    placed.add(value)
                    parts.append(value)
                node.inputs = tuple(parts)  # at once: there may be thousands
            nodes.append(node)
        graph.nodes = nodes

    def _outputs(self, graph: Graph) -> None:
        """Each output must be the whole of a buffer of its own."""
        taken: set[Value] = set()
        aliases = aliases_of(graph)
        for number, value in enumerate(graph.outputs):
            root, _ = aliases.get(value, (value, 0))
            if root.producer is None or root in taken or root.type.nbytes != value.type.nbytes:
                copied = copy_of(graph, value)
                graph.nodes.append(copied)
                graph.outputs[number] = copied.output
                root = copied.output
            taken.add(root)


def aliases_of(graph: Graph) -> dict[Value, tuple[Value, int]]:
    """For views and parts of joins: the value in whose buffer they lie, and at which byte."""
    parents: dict[Value, tuple[Value, int]] = {}
    for node in graph.nodes:
        if not is_view(node):
            continue
        if node.op != "concat":
            parents[node.output] = (node.inputs[0], 0)
            continue
        offset = 0
        for part in node.inputs:
            parents[part] = (node.output, offset)
            offset += part.type.nbytes
    return {value: _resolved(value, parents) for value in parents}


def _resolved(value: Value, parents: Mapping[Value, tuple[Value, int]]) -> tuple[Value, int]:
    offset = 0
    while value in parents:
        value, step = parents[value]
        offset += step
    return value, offset


def plan_memory(graph: Graph, filed: Sequence[Value] = ()) -> MemoryPlan:
    """Places for all values of a fused graph; those of `filed`, which only copies read and write, are in a file."""
    return _Planner(graph, filed).plan()


class _Planner:
    """Time goes on by one with each node, in the order in which they stand, those of regions inside that of their
    node: what lives at one time in different iterations, or in different branches, does not overlap."""

    def __init__(self, graph: Graph, filed: Sequence[Value]):
        self.graph = graph
        self.filed = filed
        self.aliases: dict[Value, tuple[Value, int]] = {}
        self.fixed: dict[Value, Place] = {}
        self.lives: dict[Value, list[int]] = {}
        self.spares: dict[Node, list[Value]] = {}
        self.time = 0
        self.pointers = 0

    def plan(self) -> MemoryPlan:
        graph = self.graph
        constants: dict[Constant, Value] = {}
        for part in nested(graph):
            for value in part.constants():
                assert value.constant is not None
                first = constants.setdefault(value.constant, value)
                if first is not value:
                    self.aliases[value] = (first, 0)
            self._alias(part)
        self.fixed.update({v: Place(Space.INPUT, i, 0) for i, v in enumerate(graph.inputs)})
        self.fixed.update({v: Place(Space.WEIGHTS, i, 0) for i, v in enumerate(constants.values())})
        self.fixed.update({self._root(v): Place(Space.OUTPUT, i, 0) for i, v in enumerate(graph.outputs)})
        file_bytes = 0
        for value in self.filed:
            self.fixed[value] = Place(Space.FILE, 0, file_bytes)
            file_bytes += aligned(value.type.nbytes)
        self._live(graph)
        self._overwrite(graph)

        problem = Problem.of(
            Buffer(lower, upper + 1, aligned(v.type.nbytes), ALIGNMENT) for v, (lower, upper) in self.lives.items()
        )
        offsets = quick_offsets(problem)
        self.fixed.update({v: Place(Space.ARENA, 0, o) for v, o in zip(self.lives, offsets, strict=True)})
        places = self.fixed | {value: self._place(value) for value in self.aliases}
        loops = {node: self._loop(node) for part in nested(graph) for node in part.nodes if node.op == "loop"}
        names = (value.name for value in self.lives)
        return MemoryPlan(
            places, tuple(constants.values()), loops, self.pointers,
            blocks=tuple(zip(names, problem.buffers, offsets, strict=True)),
            arena_bytes=problem.height(offsets),
            least_bytes=lower_bound(problem),
            unplanned_bytes=sum(b.size for b in problem.buffers),
            file_bytes=file_bytes,
        )  # fmt: skip

    def _alias(self, graph: Graph) -> None:
        """What lies inside other values or, in regions, is what the node around them has or a pointer shows."""
        inside = aliases_of(graph)
        self.aliases.update(inside)
        for node in graph.nodes:
            if node.op == "loop":
                (region,) = node.regions
                carried, scanned = node.attrs["carried"], len(node.attrs["scanned"])
                captured = zip(region.inputs[1 + carried + scanned :], node.inputs[carried + scanned :], strict=True)
                self.aliases.update({inner: (outer, 0) for inner, outer in captured})
                local = aliases_of(region)
                written = [local.get(value, (value, 0))[0] for value in region.outputs]
                for value in (*region.inputs[1 : 1 + carried + scanned], *written):
                    self.fixed[value] = Place(Space.POINTER, self.pointers, 0)
                    self.pointers += 1
                # In the last iteration but one, where the result is not to be.
                self.spares[node] = [Value(f"{value.name}.spare", value.type) for value in node.outputs[:carried]]
            elif node.op == "if":
                for region in node.regions:
                    self.aliases.update({v: (w, 0) for v, w in zip(region.inputs, node.inputs[1:], strict=True)})
                    local = aliases_of(region)
                    roots = [local.get(value, (value, 0))[0] for value in region.outputs]
                    self.aliases.update({v: (w, 0) for v, w in zip(roots, node.outputs, strict=True)})

    def _root(self, value: Value) -> Value:
        return _resolved(value, self.aliases)[0]

    def _place(self, value: Value) -> Place:
        root, offset = _resolved(value, self.aliases)
        base = self.fixed[root]
        return Place(base.space, base.index, base.offset + offset)

    def _live(self, graph: Graph) -> None:
        for node in graph.nodes:
            touched = [*node.inputs, *node.outputs]
            if node.op == "loop":
                touched += [node.regions[0].inputs[0], *self.spares[node]]
            self._touch(touched)
            for region in node.regions:
                self._live(region)
            if node.regions:
                self._touch(touched)
            self.time += 1

    def _touch(self, values: Sequence[Value]) -> None:
        for root in map(self._root, values):
            if root not in self.fixed:
                self.lives.setdefault(root, [self.time, self.time])[1] = self.time

    def _overwrite(self, graph: Graph) -> None:
        """Results lie where operands lay that die as they are made."""

        def resolve(value: Value) -> tuple[Value, int]:
            return _resolved(value, self.aliases)

        for node in (node for part in nested(graph) for node in part.nodes):
            for root in overwritten(node, resolve):
                now = self.lives.get(node.outputs[0])
                if now is not None and root in self.lives and self.lives[root][1] == now[0] > self.lives[root][0]:
                    self.aliases[node.output] = (root, 0)
                    self.lives[root][1] = self.lives.pop(node.output)[1]
                    break

    def _loop(self, node: Node) -> LoopPlan:
        (region,) = node.regions
        count, trips = node.attrs["carried"], node.attrs["trips"]
        local = aliases_of(region)
        written = [self._place(local.get(value, (value, 0))[0]).index for value in region.outputs]
        carried = []
        for i in range(count):
            result, spare = self._place(node.outputs[i]), self._place(self.spares[node][i])
            slots = (result, spare) if trips % 2 or node.attrs["conditional"] else (spare, result)
            read = self._place(region.inputs[1 + i]).index
            nbytes = node.outputs[i].type.nbytes
            carried.append(CarriedPointers(read, written[i], self._place(node.inputs[i]), slots, result, nbytes))
        slices = []
        inputs = zip(region.inputs[1 + count :], node.inputs[count:], node.attrs["scanned"], strict=False)
        outputs = zip(written[count:], region.outputs[count:], node.outputs[count:], node.attrs["stacked"], strict=True)
        rows = [(self._place(part).index, part, whole, backward) for part, whole, backward in inputs]
        for pointer, part, whole, backward in (*rows, *outputs):
            start, stride = self._place(whole), part.type.nbytes
            if backward:
                start, stride = Place(start.space, start.index, start.offset + (trips - 1) * stride), -stride
            slices.append(SlicePointer(pointer, start, stride))
        return LoopPlan(self._place(region.inputs[0]), tuple(carried), tuple(slices))


def aligned(size: int) -> int:
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT
