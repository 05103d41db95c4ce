"""Fusion: nodes that one kernel computes become one `group` node, whose body is the kernel's workload.

A group has at most one head, an anchor or a reduction. Elementwise work behind it joins while nobody else needs the
values in between: the chain is followed from a node to its immediate post-dominator, so that a diamond such as
x * sigmoid(x) joins whole. Work in front joins where the kernel reads each element once (reductions, elementwise
chains), or where it only says from where elements are read (slices and transposes in front of products and attention).
Where elements are moved it is in doubt whether one kernel pays: it saves a pass over memory, and reads with strides, or
many times, what would lie side by side. A target that can tell what bodies cost is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import ClassVar

from passes.lower_precision import widens
from tensorc.ir import OPS, Graph, Kind, Node, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.ops.nn import multiplies_bytes
from tensorc.ir.view import EXIT, post_dominators
from tensorc.pipeline import Pass

#: Anchors whose operands (by number) may be read through moves: addresses change, nothing else.
_MOVED_OPERANDS = {"attention": (0, 1, 2), "conv_blocked": (0,), "matmul": (0, 1), "matmul_packed": (0,)}
_MOVES = frozenset({"slice", "transpose"})
#: Anchors that read operands in 16 bits as they lie, those that are not packed weights.
WIDENING = frozenset({
    "attention", "avg_pool", "conv_blocked", "matmul", "matmul_coded", "matmul_packed", "max_pool",
})  # fmt: skip
#: A convolution whose filter is one pixel takes each channel from a place of its own.
_CHANNEL_MOVES = _MOVES | {"reshape", "unblock"}
#: These read an element of their operand several times, or many of them: nothing is computed on the way in.
_REPEATING = frozenset({"concat", "expand", "gather", "gather_elements", "gather_nd", "lrn", "pad", "unfold"})
#: Of those, what only says from where elements are read.
_ADDRESSING = frozenset({"unfold"})
_HEADS = (Kind.ANCHOR, Kind.REDUCTION)
#: Nodes in one kernel. What longer ones save is a small part of their work, and kernels are written recursively.
_MOST_NODES = 48

#: Called with the ways to make kernels of some nodes, which are the bodies of each; the first way is one kernel of all.
#: Gives the number of the best.
Choose = Callable[[Sequence[Sequence[Graph]]], int]


@dataclass
class _Group:
    """Nodes of one kernel, in order; the last gives the result. Empty once another group has taken them over."""

    nodes: list[Node]

    @property
    def tail(self) -> Node:
        return self.nodes[-1]


@dataclass(frozen=True)
class _Part:
    """Nodes that joined a group together: a group themselves, or a single node."""

    nodes: list[Node]
    was_group: bool


@dataclass(frozen=True)
class FuseGroups(Pass):
    """Every node but views (reshapes, and joins that a memory plan makes free) ends in a group.

    `choose` decides where a group that moves elements could be several; without it, it is one. With `moves` of False,
    what moves elements stays by itself: where tensors are streams, it is wiring or a buffer, no address. Kernels find
    every operand at a multiple of `alignment` bytes: joins with parts that would begin elsewhere are copied.
    """

    name: ClassVar[str] = "fuse"
    choose: Choose | None = None
    moves: bool = True
    alignment: int = 1

    def run(self, graph: Graph) -> bool:
        group_of = _Fusion(graph, self.choose, self.moves, self.alignment).group_of
        if not group_of:
            return False
        nodes: list[Node] = []
        #: The values of a group's last node -> what the group gives in their place.
        given: dict[Value, Value] = {}
        for node in graph.nodes:
            group = group_of.get(node)
            if group is None:
                if not given.keys().isdisjoint(node.inputs):
                    node.inputs = tuple(given.get(value, value) for value in node.inputs)
                nodes.append(node)
            elif node is group.tail:
                nodes.append(_outline(graph, group, given))
                given[node.output] = nodes[-1].output
        graph.outputs = [given.get(value, value) for value in graph.outputs]
        for node in group_of:
            node.inputs = ()
        graph.nodes = nodes
        return True


class _Fusion:
    """Groups grow from their heads first, which are the kernels that elementwise work is free behind."""

    def __init__(self, graph: Graph, choose: Choose | None = None, moves: bool = True, alignment: int = 1):
        self.choose = choose
        self.moves = moves
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.outputs = set(graph.outputs)
        self.dominators = post_dominators(graph)
        self.group_of: dict[Node, _Group] = {}
        starts = [node for node in graph.nodes if _starts(node, alignment)]
        for node in sorted(starts, key=lambda node: _kind(node) not in _HEADS):
            if node not in self.group_of:
                self._grow(node)

    def _grow(self, start: Node) -> None:
        group = _Group([start])
        self.group_of[start] = group
        stages = [group.nodes]
        joined: list[list[_Part]] = []
        while (nodes := self._longer(group)) is not None:
            joined.append(self._join(group, nodes))
            stages.append(nodes)
        kept = self._best(stages, joined)
        group.nodes = _without_views(stages[kept])
        for part in (part for parts in joined[kept:] for part in parts):
            self._part(part)
        for node in set(stages[kept]).difference(group.nodes):
            del self.group_of[node]

    def _join(self, group: _Group, nodes: list[Node]) -> list[_Part]:
        """Make `nodes` the group's; gives what they were before, but for those that were its own."""
        parts: dict[int, _Part] = {}
        for node in nodes:
            other = self.group_of.get(node)
            if other is not group:
                parts.setdefault(id(other or node), _Part([], other is not None)).nodes.append(node)
                self.group_of[node] = group
            if other is not None and other is not group:
                other.nodes = []
        group.nodes = nodes
        return list(parts.values())

    def _part(self, part: _Part) -> None:
        """Undo what `_join` did to it."""
        group = _Group(part.nodes)
        for node in part.nodes:
            if part.was_group:
                self.group_of[node] = group
            else:
                del self.group_of[node]

    def _best(self, stages: list[list[Node]], joined: list[list[_Part]]) -> int:
        """The number of the stage at which the group had better stopped growing: the last, but where moves met others
        it may be another."""
        last = len(stages) - 1
        if self.choose is None:
            return last
        #: Kernels -> the stage after which they part.
        ways: dict[tuple[tuple[Node, ...], ...], int] = {(tuple(_without_views(stages[last])),): last}
        for k in range(last):
            if _moves(stages[k][-1:]) or any(_moves(part.nodes) for part in joined[k]):
                before = set(stages[k])
                rest = [node for node in stages[last] if node not in before]
                parts = [rest] if self._one_kernel(rest) else [part.nodes for parts in joined[k:] for part in parts]
                kernels = (tuple(nodes) for nodes in map(_without_views, [stages[k], *parts]) if nodes)
                ways.setdefault(tuple(kernels), k)
        if len(ways) == 1:
            return last
        return list(ways.values())[self.choose([[body_of(nodes)[0] for nodes in way] for way in ways])]

    def _longer(self, group: _Group) -> list[Node] | None:
        """The group with all between its tail and its tail's post-dominator, and with the groups that those nodes are
        in by now (they were met from another operand), when one kernel can still do it all."""
        end = self.dominators.get(group.tail, EXIT)
        if not isinstance(end, Node):
            return None
        members = dict.fromkeys(group.nodes)
        frontier, seen = [group.tail], {group.tail}
        while frontier:
            for user in frontier.pop().output.users:
                if user.regions:
                    return None
                if user not in seen:
                    seen.add(user)
                    other = self.group_of.get(user)
                    members.update(dict.fromkeys(other.nodes if other else [user]))
                    if len(members) > _MOST_NODES:
                        return None
                    if user is not end:
                        frontier.append(user)
        nodes = sorted(members, key=self.position.__getitem__)
        return nodes if self._one_kernel(nodes) else None

    def _one_kernel(self, nodes: list[Node]) -> bool:
        """Whether the rules at the top of this module hold for `nodes`."""
        inside = set(nodes)
        behind: set[Node] = set()  # the head and what depends on it
        moved: set[Node] = set()  # only moves elements: to compute it again costs a load
        slid: set[Node] = set()  # moves them as an anchor's operand may be moved
        widened: set[Node] = set()  # of those, what any operand may be: converted on its way in
        moves = _CHANNEL_MOVES if any(_takes_channels(node) for node in nodes) else _MOVES
        for node in nodes:
            if node is not nodes[-1] and (node.output in self.outputs or not inside.issuperset(node.output.users)):
                return False
            made = [v.producer for v in node.inputs if v.producer in inside]
            kind, shape = _kind(node), node.output.shape
            if kind in (Kind.VIEW, Kind.INJECTIVE) and not self.moves:
                return False
            if kind in _HEADS:
                if behind or not _reads_through(node, made, slid, widened):
                    return False
                behind.add(node)
            elif not behind.isdisjoint(made):
                if kind is not Kind.ELEMENTWISE:
                    return False
                behind.add(node)
            elif kind not in (Kind.ELEMENTWISE, Kind.VIEW, Kind.INJECTIVE):
                return False
            # What is computed, not just moved, is computed once for each element: shapes stay what they are.
            computed = [maker for maker in made if maker not in moved]
            if kind is Kind.ELEMENTWISE:
                if any(maker.output.shape != shape for maker in computed):
                    return False
                if widens(node) and not computed:
                    moved.add(node)
                    if slid.issuperset(made):
                        slid.add(node)
                        if not made:
                            widened.add(node)
            elif kind in (Kind.VIEW, Kind.INJECTIVE):
                if (node.op == "concat" and made) or (node.op in _REPEATING and computed):
                    return False
                # A row whose place is data is to be one run of memory, not a line for each of its elements.
                if node.op == "gather_nd" and any(maker.op == "transpose" for maker in made):
                    return False
                # Other elements of it than the ones at hand would be computed for its other readers.
                if any(len(maker.output.users) > 1 for maker in computed):
                    return False
                if not computed and (node.op not in _REPEATING or node.op in _ADDRESSING):
                    moved.add(node)
                if node.op in moves and slid.issuperset(made):
                    slid.add(node)
        return True


def _reads_through(head: Node, made: list[Node], slid: set[Node], widened: set[Node]) -> bool:
    """Whether a kernel of `head` can compute `made`, which its group makes of its operands, on the way in."""
    made = [maker for maker in made if maker not in widened or head.op not in WIDENING]
    if _kind(head) is Kind.ANCHOR:
        numbers = _MOVED_OPERANDS.get(head.op, ()) if head.op != "conv_blocked" or _takes_channels(head) else ()
        if len(head.inputs) > 1 and multiplies_bytes(head.inputs[0].type, head.inputs[1].type):  # several read at once
            numbers = ()
        moved = {head.inputs[number] for number in numbers if number < len(head.inputs)}
        return slid.issuperset(made) and all(maker.output in moved for maker in made)
    # A reduction reads its first operand once, its parameters once for every row.
    return all(value.producer not in made for value in head.inputs[1:])


def _takes_channels(node: Node) -> bool:
    """A convolution of plain input by filters of one pixel."""
    return node.op == "conv_blocked" and len(node.inputs[0].shape) == 4 and node.inputs[1].shape[2:4] == (1, 1)


def _kind(node: Node) -> Kind:
    return OPS[node.op].kind


def _starts(node: Node, alignment: int) -> bool:
    if node.op == "concat" and is_free_concat(node):
        return any(part.type.nbytes % alignment for part in node.inputs[:-1])
    return _kind(node) is not Kind.VIEW and node.op != "group" and not node.regions


def is_free_concat(node: Node) -> bool:
    """A join whose parts lie one behind the other in memory: to place the parts is to have the result."""
    return math.prod(static_shape(node.output.shape)[: node.attrs["axis"]]) == 1


def is_view(node: Node) -> bool:
    """The result is bytes that are there already, if the memory plan puts them right."""
    return _kind(node) is Kind.VIEW or (node.op == "concat" and is_free_concat(node))


def _moves(nodes: Sequence[Node]) -> bool:
    return any(_kind(node) is Kind.INJECTIVE for node in nodes)


def _without_views(nodes: list[Node]) -> list[Node]:
    """Views at the ends are free outside of a kernel. What is widened last is so where it is read, and lies in memory
    as it was before."""
    first, end = 0, len(nodes)
    narrowed = any(_kind(node) is not Kind.VIEW and not widens(node) for node in nodes)
    while end and (_kind(nodes[end - 1]) is Kind.VIEW or (narrowed and widens(nodes[end - 1]))):
        end -= 1
    while first < end and _kind(nodes[first]) is Kind.VIEW:
        first += 1
    return nodes[first:end]


def _outline(graph: Graph, group: _Group, given: Mapping[Value, Value]) -> Node:
    """A group node that computes what the nodes do, with those inputs that are among `given` replaced by what stands
    in their place now."""
    body, inputs = body_of(group.nodes)
    return graph.make("group", [given.get(v, v) for v in inputs], {}, body, name=group.tail.output.name)


def body_of(nodes: Sequence[Node]) -> tuple[Graph, list[Value]]:
    """A graph that computes what the nodes do, and the values that are its inputs. Single numbers go into it."""
    body = Graph("body")
    known: dict[Value, Value] = {}
    inputs: list[Value] = []
    inside = set(nodes)

    def inner(value: Value) -> Value:
        if value not in known:
            if value.constant is not None and _is_literal(value, inside):
                known[value] = body.add_constant(value.constant, value.name)
            else:
                known[value] = body.add_input(value.name, value.type)
                inputs.append(value)
        return known[value]

    for node in nodes:
        known[node.output] = body.add(node.op, [inner(v) for v in node.inputs], node.attrs, name=node.output.name)
    body.outputs = [known[nodes[-1].output]]
    return body, inputs


def _is_literal(value: Value, inside: Set[Node]) -> bool:
    """Whether a constant is a number that all its readers among `inside` take as such; anchors read memory."""
    assert value.constant is not None
    if value.constant.splat is None:
        return False
    kinds = {_kind(user) for user in value.users if user in inside}
    return kinds == {Kind.ELEMENTWISE} or (math.prod(value.shape) == 1 and Kind.ANCHOR not in kinds)


def copy_of(graph: Graph, value: Value) -> Node:
    """A group that copies `value`: its body gives back what it is given."""
    body = Graph("body")
    body.outputs = [body.add_input(value.name, value.type)]
    return graph.make("group", [value], {}, body, name=value.name)
