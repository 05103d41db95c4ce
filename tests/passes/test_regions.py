"""Passes and regions: what goes in, what is run inside, and plans under which every byte is found where it is read."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.canonical import canonical_passes
from passes.fold import FoldConstants
from passes.fusion import FuseGroups
from passes.memory import InsertCopies, MemoryPlan, OrderNodes, Place, Space, plan_memory
from passes.regions import SimplifyRegions
from passes.simplify import Simplify
from tensorc.ir import Graph, Node, Value, clone, evaluate, parse_graph, verify
from tensorc.ir.graph import nested
from tensorc.ir.interpreter import evaluate_node
from tensorc.pipeline import run_passes

ROW = (4,)

# What regions are handed -------------------------------------------------------------------------------------------


def test_constants_go_into_regions_and_what_nobody_reads_stays_outside(becomes):
    becomes([SimplifyRegions()], """
        graph @main(%x: f32[4], %y: f32[4], %c: bool[]) {
          %k = constant splat 2.0 : f32[4]
          %a = loop(%x, %k, %y) {trips=3, carried=1} {
            graph @body(%i: i64[], %s: f32[4], %k: f32[4], %unread: f32[4]) {
              %t = mul(%s, %k) : f32[4]
              return %t
            }
          } : f32[4]
          %b = if(%c, %a, %k, %y) {
            graph @yes(%p: f32[4], %q: f32[4], %r: f32[4]) { return %q }
            graph @no(%p: f32[4], %q: f32[4], %r: f32[4]) { return %p }
          } : f32[4]
          return %b
        }""", """
        graph @main(%x: f32[4], %y: f32[4], %c: bool[]) {
          %a = loop(%x) {trips=3, carried=1} {
            graph @body(%i: i64[], %s: f32[4]) {
              %k = constant splat 2.0 : f32[4]
              %t = mul(%s, %k) : f32[4]
              return %t
            }
          } : f32[4]
          %b = if(%c, %a) {
            graph @yes(%p: f32[4]) {
              %q = constant splat 2.0 : f32[4]
              return %q
            }
            graph @no(%p: f32[4]) { return %p }
          } : f32[4]
          return %b
        }""")  # fmt: skip


def test_what_a_loop_carries_unchanged_is_captured(becomes):
    becomes([SimplifyRegions()], """
        graph @main(%x: f32[4], %y: f32[4], %z: f32[4]) {
          %a, %b, %c = loop(%x, %y, %z) {trips=3, carried=3} {
            graph @body(%i: i64[], %s: f32[4], %t: f32[4], %u: f32[4]) {
              %v = add(%s, %t) : f32[4]
              return %s, %v, %u
            }
          } : f32[4], f32[4], f32[4]
          %d = sub(%a, %c) : f32[4]
          return %b, %d
        }""", """
        graph @main(%x: f32[4], %y: f32[4], %z: f32[4]) {
          %b = loop(%y, %x) {trips=3, carried=1} {
            graph @body(%i: i64[], %t: f32[4], %s: f32[4]) {
              %v = add(%s, %t) : f32[4]
              return %v
            }
          } : f32[4]
          %d = sub(%x, %z) : f32[4]
          return %b, %d
        }""")  # fmt: skip


def test_a_condition_stays_what_a_loop_carries_first(keeps):
    keeps([SimplifyRegions()], """
        graph @main(%go: bool[], %x: f32[4]) {
          %a, %b = loop(%go, %x) {trips=3, carried=2, conditional=1} {
            graph @body(%i: i64[], %c: bool[], %s: f32[4]) {
              %t = exp(%s) : f32[4]
              return %c, %t
            }
          } : bool[], f32[4]
          return %b
        }""")  # fmt: skip


def test_passes_are_run_on_regions_too(becomes):
    becomes([SimplifyRegions(), FoldConstants(), Simplify()], """
        graph @main(%x: f32[4]) {
          %k = constant 2.0 : f32[]
          %a = loop(%x, %k) {trips=3, carried=1} {
            graph @body(%i: i64[], %s: f32[4], %k: f32[]) {
              %n = neg(%k) : f32[]
              %t = sub(%s, %n) : f32[4]
              %u = transpose(%t) {perm=(0,)} : f32[4]
              return %u
            }
          } : f32[4]
          return %a
        }""", """
        graph @main(%x: f32[4]) {
          %a = loop(%x) {trips=3, carried=1} {
            graph @body(%i: i64[], %s: f32[4]) {
              %k = constant 2.0 : f32[]
              %t = add(%s, %k) : f32[4]
              return %t
            }
          } : f32[4]
          return %a
        }""")  # fmt: skip


def test_groups_end_at_regions():
    graph = parse_graph("""
        graph @main(%x: f32[4]) {
          %e = exp(%x) : f32[4]
          %a = loop(%e, %e) {trips=3, carried=1} {
            graph @body(%i: i64[], %s: f32[4], %k: f32[4]) {
              %t = add(%s, %k) : f32[4]
              %u = tanh(%t) : f32[4]
              return %u
            }
          } : f32[4]
          %f = add(%a, %e) : f32[4]
          return %f
        }""")
    run_passes(graph, [FuseGroups()])
    assert [node.op for node in graph.nodes] == ["group", "loop", "group"]
    (body,) = graph.nodes[1].regions
    assert [[inner.op for inner in node.body.nodes] for node in body.nodes] == [["add", "tanh"]]


# Memory ------------------------------------------------------------------------------------------------------------


class Writer:
    """Random graphs of rows, the values that are `ROW`, with loops and branches up to `depth` deep."""

    def __init__(self, seed: int, depth: int = 3):
        self.rng = np.random.default_rng(seed)
        self.depth = depth

    def graph(self) -> Graph:
        graph = Graph("main")
        rows = [graph.add_input("x", t) for t in [parse_type("f32[4]")] * 2]
        bools = [graph.add_input("b", parse_type("bool[]"))]
        self.fill(graph, rows, bools, self.depth)
        graph.outputs = [self.pick(rows) for _ in range(self.rng.integers(1, 4))]
        for part in nested(graph):
            part.remove_dead()
        return graph

    def pick(self, values: list[Value]) -> Value:
        return values[self.rng.integers(len(values))]

    def fill(self, graph: Graph, rows: list[Value], bools: list[Value], depth: int) -> None:
        for _ in range(self.rng.integers(1, 5)):
            control = [self.loop, self.loop, self.branch, self.wait]
            plain = [self.compute, self.view, self.join]
            number = self.rng.integers(len(plain) + (len(control) if depth else 0))
            if number < len(plain):
                plain[number](graph, rows)
            else:
                control[number - len(plain)](graph, rows, bools, depth)

    def compute(self, graph: Graph, rows: list[Value]) -> None:
        rows.append(graph.add("max" if self.rng.integers(2) else "sub", [self.pick(rows), self.pick(rows)]))

    def view(self, graph: Graph, rows: list[Value]) -> None:
        square = graph.add("reshape", [self.pick(rows)], {"shape": (2, 2)})
        if self.rng.integers(2):
            square = graph.add("tanh", [square])
        rows.append(graph.add("reshape", [square], {"shape": ROW}))

    def join(self, graph: Graph, rows: list[Value]) -> None:
        rows.append(self.row(graph, self.stack(graph, rows, 2), 1))

    def stack(self, graph: Graph, rows: list[Value], count: int) -> Value:
        parts = [graph.add("reshape", [self.pick(rows)], {"shape": (1, 4)}) for _ in range(count)]
        return graph.add("concat", parts, {"axis": 0})

    def row(self, graph: Graph, stack: Value, number: int) -> Value:
        attrs = {"starts": (number, 0), "sizes": (1, 4), "steps": (1, 1)}
        return graph.add("reshape", [graph.add("slice", [stack], attrs)], {"shape": ROW})

    def region(self, types: list, bools: list[Value], rows: list[Value], depth: int):
        """A region with inputs of `types` and what it captures: some rows, all booleans."""
        region = Graph("region")
        captured = [self.pick(rows) for _ in range(self.rng.integers(3))]
        inputs = [region.add_input("p", type) for type in types]
        inner = [region.add_input("q", value.type) for value in captured]
        flags = [region.add_input("c", value.type) for value in bools]
        own = [*(value for value in inputs if value.shape == ROW), *inner] or [region.constant([1.0] * 4, "float32")]
        self.fill(region, own, flags, depth - 1)
        return region, [*captured, *bools], own, flags

    def loop(self, graph: Graph, rows: list[Value], bools: list[Value], depth: int) -> None:
        trips, carried, scanned, stacked = (int(n) for n in self.rng.integers([0, 0, 0, 0], [4, 3, 3, 3]))
        trips = max(trips, 1) if scanned or stacked else trips
        row = rows[0].type
        types = [parse_type("i64[]"), *[row] * (carried + scanned)]
        region, captured, own, _ = self.region(types, bools, rows, depth)
        region.outputs = [self.pick(own) for _ in range(carried + stacked)]
        inputs = [*(self.pick(rows) for _ in range(carried)), *(self.stack(graph, rows, trips) for _ in range(scanned))]
        attrs = {"scanned": self.directions(scanned), "stacked": self.directions(stacked)}
        attrs |= {"trips": trips, "carried": carried}
        node = graph.make("loop", [*inputs, *captured], attrs, regions=[region])
        graph.nodes.append(node)
        rows += node.outputs[:carried]
        rows += [self.row(graph, value, int(self.rng.integers(trips))) for value in node.outputs[carried:]]

    def directions(self, count: int) -> tuple[int, ...]:
        return tuple(int(back) for back in self.rng.integers(2, size=count))

    def wait(self, graph: Graph, rows: list[Value], bools: list[Value], depth: int) -> None:
        """A loop that its condition ends, at the latest after three trips."""
        types = [parse_type("i64[]"), parse_type("bool[]"), *[rows[0].type] * 2]
        region, captured, own, flags = self.region(types, bools, rows, depth)
        more = region.add("less", [region.inputs[0], region.constant(int(self.rng.integers(3)), "int64")])
        region.outputs = [more if self.rng.integers(3) else self.pick(flags), self.pick(own), self.pick(own)]
        inputs = [self.pick(bools), self.pick(rows), self.pick(rows), *captured]
        node = graph.make("loop", inputs, {"trips": 4, "carried": 3, "conditional": 1}, regions=[region])
        graph.nodes.append(node)
        bools.append(node.outputs[0])
        rows += node.outputs[1:]

    def branch(self, graph: Graph, rows: list[Value], bools: list[Value], depth: int) -> None:
        first, captured, own, _ = self.region([], bools, rows, depth)
        other = clone(first)
        count = int(self.rng.integers(1, 3))
        first.outputs = [self.pick(own) for _ in range(count)]
        others = [v for v in other.values() if v.shape == ROW] or [other.constant([2.0] * 4, "float32")]
        self.fill(other, others, [v for v in other.inputs if not v.shape], 0)
        other.outputs = [self.pick(others) for _ in range(count)]
        node = graph.make("if", [self.pick(bools), *captured], regions=[first, other])
        graph.nodes.append(node)
        rows += node.outputs


def parse_type(text: str):
    return parse_graph(f"graph @g(%x: {text}) {{ return %x }}").inputs[0].type


def arrays_of(graph: Graph, flag: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {v.name: rng.standard_normal(ROW).astype(np.float32) if v.shape else np.array(flag) for v in graph.inputs}


class Run:
    """Executes a planned graph on real buffers, with pointers as the plan says."""

    def __init__(self, graph: Graph, plan: MemoryPlan, arrays: dict[str, np.ndarray]):
        self.plan = plan
        self.buffers = {(Space.ARENA, 0): np.full(plan.arena_bytes, 0xA5, np.uint8)}
        for number, value in enumerate(graph.outputs):
            self.buffers[Space.OUTPUT, number] = np.full(value.type.nbytes, 0xA5, np.uint8)
        for number, value in enumerate(graph.inputs):
            self.buffers[Space.INPUT, number] = arrays[value.name].reshape(-1).view(np.uint8).copy()
        for number, value in enumerate(plan.constants):
            self.buffers[Space.WEIGHTS, number] = (
                np.ascontiguousarray(value.constant.numpy()).reshape(-1).view(np.uint8)
            )
        self.pointers: dict[int, tuple[np.ndarray, int]] = {}
        self.graph(graph)

    def at(self, place: Place) -> tuple[np.ndarray, int]:
        if place.space is not Space.POINTER:
            return self.buffers[place.space, place.index], place.offset
        buffer, offset = self.pointers[place.index]
        return buffer, offset + place.offset

    def bytes(self, where: tuple[np.ndarray, int], count: int) -> np.ndarray:
        buffer, offset = where
        assert 0 <= offset <= len(buffer) - count
        return buffer[offset : offset + count]

    def view(self, value: Value) -> np.ndarray:
        return self.bytes(self.at(self.plan.places[value]), value.type.nbytes).view(value.dtype).reshape(value.shape)

    def graph(self, graph: Graph) -> None:
        for node in graph.nodes:
            if node.body is not None:
                self.view(node.output)[...] = evaluate_node(node, [self.view(value) for value in node.inputs])[0]
            elif node.op == "if":
                self.graph(node.regions[0 if self.view(node.inputs[0]) else 1])
            elif node.op == "loop":
                self.loop(node)

    def loop(self, node: Node) -> None:
        plan, pointers = self.plan.loops[node], self.pointers
        counter = self.bytes(self.at(plan.counter), 8).view(np.int64)
        counter[0] = 0
        for value in plan.carried:
            pointers[value.read], pointers[value.write] = self.at(value.start), self.at(value.slots[0])
        for part in plan.slices:
            pointers[part.pointer] = self.at(part.start)
        for number in range(node.attrs["trips"]):
            assert counter[0] == number
            if node.attrs["conditional"] and not self.bytes(pointers[plan.carried[0].read], 1)[0]:
                break
            self.graph(node.regions[0])
            assert counter[0] == number
            counter[0] += 1
            for value in plan.carried:
                pointers[value.read] = pointers[value.write]
                pointers[value.write] = self.at(value.slots[counter[0] % 2])
            for part in plan.slices:
                buffer, offset = pointers[part.pointer]
                pointers[part.pointer] = buffer, offset + part.stride
        for value in plan.carried:
            last, result = pointers[value.read], self.at(value.result)
            known = node.attrs["trips"] and not node.attrs["conditional"]
            assert not known or (last[0] is result[0] and last[1] == result[1]), "no copy is needed"
            self.bytes(result, value.nbytes)[:] = self.bytes(last, value.nbytes).copy()


def check(seed: int, passes: list) -> None:
    graph = Writer(seed).graph()
    verify(graph)
    original = clone(graph)
    run_passes(graph, passes)
    plan = plan_memory(graph)
    for flag in (True, False):
        arrays = arrays_of(original, flag)
        run = Run(graph, plan, arrays)
        for want, value in zip(evaluate(original, arrays), graph.outputs, strict=True):
            np.testing.assert_allclose(run.view(value), want, rtol=1e-5, atol=1e-5)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 32))
def test_random_graphs_of_regions(seed):
    check(seed, [FuseGroups(), InsertCopies()])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32))
def test_random_graphs_of_regions_after_all_passes(seed):
    check(seed, [*canonical_passes(), FuseGroups(), InsertCopies(), OrderNodes()])


def test_the_random_graphs_have_what_can_go_wrong():
    ops = [node.op for seed in range(40) for part in nested(Writer(seed).graph()) for node in part.nodes]
    assert ops.count("loop") > 20
    assert ops.count("if") > 10
    deep = [part for seed in range(40) for part in nested(Writer(seed).graph()) if part.name == "region"]
    assert any(node.regions for part in deep for node in part.nodes)
