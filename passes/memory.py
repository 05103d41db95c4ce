"""Memory mapping: where every value lives while the model runs.

Values that are computed share one arena; a value's place is free again after its last reader. Views and joins of
neighbouring parts cost no memory and no copy: they are places inside another value's buffer. What may not alias
(an input handed straight to an output, a part of two joins) is copied first, by `InsertCopies`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from passes.fusion import copy_of, is_view
from tensorc.ir import Graph, Value
from tensorc.pipeline import Pass

#: Every buffer starts on a cache line, which is also the widest vector.
ALIGNMENT = 64


class Space(enum.Enum):
    WEIGHTS = "weights"
    ARENA = "arena"
    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True)
class Place:
    """Bytes `offset` on in a space; `index` numbers the weight, input or output and is 0 in the arena."""

    space: Space
    index: int
    offset: int


@dataclass(frozen=True)
class Buffer:
    """A block of the arena: `size` bytes needed at times lower <= t < upper."""

    lower: int
    upper: int
    size: int


@dataclass(frozen=True)
class MemoryPlan:
    """`places` of all values; `constants` in the order of their index. `unplanned_bytes` is what the arena's values
    would take if each had memory of its own."""

    places: Mapping[Value, Place]
    constants: tuple[Value, ...]
    arena_bytes: int
    unplanned_bytes: int


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
                for number, value in enumerate(node.inputs):
                    made = value.producer
                    computed = made is not None and (not is_view(made) or made.op == "concat")
                    if not computed or value in placed:
                        copied = copy_of(graph, value)
                        nodes.append(copied)
                        node.set_input(number, copied.output)
                        value = copied.output
                    placed.add(value)
            nodes.append(node)
        graph.nodes = nodes

    def _outputs(self, graph: Graph) -> None:
        """Each output must be the whole of a buffer of its own."""
        taken: set[Value] = set()
        aliases = _aliases(graph)
        for number, value in enumerate(graph.outputs):
            root, _ = aliases.get(value, (value, 0))
            if root.producer is None or root in taken or root.type.nbytes != value.type.nbytes:
                copied = copy_of(graph, value)
                graph.nodes.append(copied)
                graph.outputs[number] = copied.output
                root = copied.output
            taken.add(root)


def _aliases(graph: Graph) -> dict[Value, tuple[Value, int]]:
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
    resolved: dict[Value, tuple[Value, int]] = {}
    for value in parents:
        root, offset = value, 0
        while root in parents:
            root, step = parents[root]
            offset += step
        resolved[value] = (root, offset)
    return resolved


def plan_memory(graph: Graph) -> MemoryPlan:
    """Places for all values of a fused graph."""
    aliases = _aliases(graph)
    roots: dict[Value, Place] = {v: Place(Space.INPUT, i, 0) for i, v in enumerate(graph.inputs)}
    constants = tuple(graph.constants())
    roots.update({v: Place(Space.WEIGHTS, i, 0) for i, v in enumerate(constants)})
    for i, value in enumerate(graph.outputs):
        roots[aliases.get(value, (value, 0))[0]] = Place(Space.OUTPUT, i, 0)

    lives: dict[Value, list[int]] = {}
    for time, node in enumerate(graph.nodes):
        for value in (*node.inputs, *node.outputs):
            root = aliases.get(value, (value, 0))[0]
            if root not in roots:
                lives.setdefault(root, [time, time])[1] = time
    buffers = [Buffer(lower, upper + 1, _aligned(v.type.nbytes)) for v, (lower, upper) in lives.items()]
    offsets = place_greedily(buffers)
    roots.update({v: Place(Space.ARENA, 0, offset) for v, offset in zip(lives, offsets, strict=True)})

    places = dict(roots)
    for value, (root, offset) in aliases.items():
        base = roots[root]
        places[value] = Place(base.space, base.index, base.offset + offset)
    height = max((o + b.size for o, b in zip(offsets, buffers, strict=True)), default=0)
    return MemoryPlan(places, constants, height, sum(b.size for b in buffers))


def _aligned(size: int) -> int:
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT


def place_greedily(buffers: Sequence[Buffer]) -> list[int]:
    """An offset for each buffer, such that those that live at one time do not overlap.

    Largest first, each at the lowest gap that holds it: the heuristic of Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference" (2020).
    """
    offsets = [0] * len(buffers)
    done: list[int] = []
    for number in sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, buffers[i].lower)):
        buffer = buffers[number]
        rivals = [i for i in done if buffers[i].lower < buffer.upper and buffer.lower < buffers[i].upper]
        offset = 0
        for rival in sorted(rivals, key=offsets.__getitem__):
            if offset + buffer.size <= offsets[rival]:
                break
            offset = max(offset, offsets[rival] + buffers[rival].size)
        offsets[number] = offset
        done.append(number)
    return offsets
