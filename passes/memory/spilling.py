"""Smaller arenas: what waits for long is computed again, or waits in a file (on a GPU, in the host's memory).

Where the most is live at one time, some of it is there only for a reader far behind. A value that is cheap to compute
from what is live anyway is computed a second time for that reader; any other is copied to a file when nothing needs it
for a while, and back before something does. Both are ordinary nodes; `plan_memory` finds places in the file.

The largest such value at the fullest time goes first, until the arena is small enough: the offline rule of caches, with
sizes. What a node needs at one time is the least that there can be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from passes.fusion import copy_of, is_view
from passes.memory.graph import ALIGNMENT, MemoryPlan, aliases_of, plan_memory
from tensorc.ir import OPS, Graph, Kind, Node, Value, clone

#: A plan may be higher than what is live at any time. The aim is lowered by so much until the plan fits.
_LOWER = 0.97
_CHEAP = {Kind.ELEMENTWISE, Kind.INJECTIVE, Kind.VIEW}


def fit_arena(graph: Graph, most: int) -> tuple[MemoryPlan, list[Value]]:
    """Change `graph`, of fused groups, until its arena has at most `most` bytes, or until nothing helps any more; the
    plan, and the values in a file."""
    state = _State()
    helped = True
    while True:
        values = list(dict.fromkeys(state.filed.values()))
        plan = plan_memory(graph, values)
        if plan.arena_bytes <= most or not helped:
            return plan, values
        live = _Lives(graph, state).most
        helped = live > 0 and _lower(graph, min(most, _LOWER * live), state)


@dataclass
class _State:
    """What was done so far: `filed` is what each value that was copied to or from the file has there, `back` are values
    that were brought back, or computed again, for a reader."""

    filed: dict[Value, Value] = field(default_factory=dict)
    back: set[Value] = field(default_factory=set)


def _lower(graph: Graph, aim: float, state: _State) -> bool:
    """Until at most `aim` bytes are live at one time; False where that cannot be."""
    while (lives := _Lives(graph, state)).most > aim:
        wait = lives.longest_wait()
        if wait is None:
            return False
        lives.end(wait)
    return True


@dataclass(frozen=True)
class _Wait:
    """`value` is touched at `before` and then not until `after`."""

    value: Value
    before: int
    after: int


class _Lives:
    """What lives when, in a graph as it is; time is the number of a node."""

    def __init__(self, graph: Graph, state: _State):
        self.graph = graph
        self.filed = filed = state.filed
        self.back = state.back
        self.aliases = aliases_of(graph)
        self.touches: dict[Value, list[int]] = defaultdict(list)
        fixed = {*graph.inputs, *map(self._root, graph.outputs), *filed.values()}
        for time, node in enumerate(graph.nodes):
            for root in dict.fromkeys(map(self._root, (*node.inputs, *node.outputs))):
                if root.constant is None and root not in fixed:
                    self.touches[root].append(time)
        change = [0] * (len(graph.nodes) + 1)
        for root, times in self.touches.items():
            change[times[0]] += _size(root)
            change[times[-1] + 1] -= _size(root)
        self.live = []
        total = 0
        for step in change[:-1]:
            total += step
            self.live.append(total)
        self.most = max(self.live, default=0)

    def _root(self, value: Value) -> Value:
        return self.aliases.get(value, (value, 0))[0]

    def longest_wait(self) -> _Wait | None:
        """That of the largest value which waits at the fullest time; of equal ones that which is cheap, then the
        longest."""
        now = self.live.index(self.most)
        waits = []
        for root, times in self.touches.items():
            before = max((time for time in times if time < now), default=None)
            after = min((time for time in times if time > now), default=None)
            if before is None or after is None or now in times:
                continue
            wait = _Wait(root, before, after)
            if self._can_end(wait):
                waits.append((_size(root), self._cheap(wait), after - before, wait))
        return max(waits, key=lambda row: row[:3])[3] if waits else None

    def _can_end(self, wait: _Wait) -> bool:
        """The value is whole by then, it was read since it was brought back, and what reads it later reads it, or views
        of it."""
        value = wait.value
        so_far = self.graph.nodes[: wait.before + 1]
        if value.producer is None or value.producer not in so_far:
            return False
        if value in self.back and not any(
            self._root(operand) is value for node in so_far if not is_view(node) for operand in node.inputs
        ):
            return False
        return all(
            self._views(operand) is not None
            for node in self.graph.nodes[wait.after :] for operand in node.inputs if self._root(operand) is value
        )  # fmt: skip

    def _views(self, value: Value) -> list[Node] | None:
        """The views that lead from the whole of a buffer to `value`; None if it is a part of a join."""
        views: list[Node] = []
        while (made := value.producer) is not None and is_view(made) and made.op != "concat":
            views.append(made)
            value = made.inputs[0]
        return views[::-1] if self._root(value) is value else None

    def _cheap(self, wait: _Wait) -> bool:
        made = wait.value.producer
        if made is None or made.body is None or len(made.outputs) != 1 or wait.value in self.filed:
            return False
        if any(OPS[node.op].kind not in _CHEAP for node in made.body.nodes):
            return False
        return all(self._is_live(value, wait.after) for value in made.inputs)

    def _is_live(self, value: Value, until: int) -> bool:
        root = self._root(value)
        if root.constant is not None or root in self.graph.inputs:
            return True
        return root in self.touches and self.touches[root][-1] >= until

    def end(self, wait: _Wait) -> None:
        """Change the graph so that the value does not wait."""
        graph, value = self.graph, wait.value
        if self._cheap(wait):
            made = value.producer
            assert made is not None
            assert made.body is not None
            again = graph.make("group", made.inputs, made.attrs, clone(made.body), name=value.name)
        else:
            out = self.filed[value].producer if value in self.filed else None
            if out not in graph.nodes:  # or not any more
                out = None
            if out is not None and out in graph.nodes[wait.before + 1 :]:
                # It goes to the file after a later reader; now before this wait, which another look will find shorter.
                graph.nodes.remove(out)
                self._insert(wait.before + 1, [out])
                return
            if out is None:
                out = copy_of(graph, value)
                self._insert(wait.before + 1, [out])
                self.filed[value] = out.output
                wait = _Wait(value, wait.before, wait.after + 1)
            again = copy_of(graph, self.filed[value])
            self.filed[again.output] = self.filed[value]
        self.back.add(again.output)
        self._read(wait, again)
        graph.remove_dead()  # what was computed for nobody else

    def _read(self, wait: _Wait, again: Node) -> None:
        """From `wait.after` on, read what `again` makes instead."""
        nodes, known, fresh = self.graph.nodes, {wait.value: again.output}, [again]
        before = set(nodes[: wait.after])

        def instead(value: Value) -> Value:
            if value in known or self._root(value) is not wait.value or value.producer not in before:
                return known.get(value, value)
            view = value.producer
            assert view is not None
            copy = self.graph.make(view.op, [instead(view.inputs[0])], view.attrs, name=value.name)
            fresh.append(copy)
            known[value] = copy.output
            return copy.output

        for node in nodes[wait.after :]:
            node.inputs = tuple(map(instead, node.inputs))
        self._insert(wait.after, fresh)

    def _insert(self, position: int, nodes: Sequence[Node]) -> None:
        self.graph.nodes = [*self.graph.nodes[:position], *nodes, *self.graph.nodes[position:]]


def _size(value: Value) -> int:
    return max(-(-value.type.nbytes // ALIGNMENT), 1) * ALIGNMENT
