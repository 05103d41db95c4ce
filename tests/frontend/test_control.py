"""Control flow: whole small models in ONNX's text form, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tensorc.errors import UnsupportedError, UserError
from tensorc.frontend import import_model
from tensorc.ir import Graph, evaluate, verify

F = np.float32


def model(text: str, opset: int = 16) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')


def agrees(text: str, *feeds: Mapping[str, Any], opset: int = 16) -> Graph:
    """The graph of the model, which computes what ONNX Runtime computes."""
    proto = model(text, opset)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    graph = import_model(proto).graph
    for feed in feeds:
        arrays = {name: np.asarray(value) for name, value in feed.items()}
        want = session.run(None, arrays)
        for got, expected in zip(evaluate(graph, {v.name: arrays[v.name] for v in graph.inputs}), want, strict=True):
            assert (got.shape, got.dtype) == (np.shape(expected), expected.dtype)
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    return graph


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(F)


# If ----------------------------------------------------------------------------------------------------------

IF = """
main (bool[1] c, float[2,3] x) => (y, z) <float w = {2.0}> {
  h = Relu(x)
  y, z = If(c) <
    then_branch = then () => (a, b) { a = Add(h, w)  b = Identity(x) },
    else_branch = other () => (a2, b2) <float v = {3.0}> { t = Mul(x, v)  a2 = Sub(t, h)  b2 = Neg(t) }>
}
"""


def test_branches_read_what_is_around_them() -> None:
    graph = agrees(IF, {"c": [True], "x": random(2, 3)}, {"c": [False], "x": random(2, 3)})
    (node,) = [node for node in graph.nodes if node.op == "if"]
    assert len(node.inputs) == 3, "the condition, h and x: each once"
    assert all(not v.constant for v in node.inputs)


def test_a_known_condition_leaves_only_its_branch() -> None:
    text = """
    main (float[4] x) => (y) {
      c = Constant <value = bool {%d}>()
      y = If(c) <then_branch = a () => (p) { p = Exp(x) }, else_branch = b () => (q) { q = NoSuchOperator(x) }>
    }"""
    graph = import_model(model(text % 1)).graph
    assert [node.op for node in graph.nodes] == ["exp"]
    with pytest.raises(UnsupportedError, match="NoSuchOperator"):
        import_model(model(text % 0))


def test_branches_in_branches() -> None:
    text = """
    main (bool c, bool d, float[4] x) => (y) {
      y = If(c) <
        then_branch = a () => (p) {
          e = Exp(x)
          p = If(d) <then_branch = aa () => (q) { q = Add(e, x) }, else_branch = ab () => (r) { r = Identity(e) }>
        },
        else_branch = b () => (s) { s = Identity(x) }>
    }"""
    agrees(text, *({"c": c, "d": d, "x": random(4)} for c in (True, False) for d in (True, False)))


def test_branches_of_different_types_are_no_single_program() -> None:
    text = """
    main (bool c, float[4] x) => (y) {
      y = If(c) <then_branch = a () => (p) { p = ReduceSum(x) }, else_branch = b () => (q) { q = Exp(x) }>
    }"""
    with pytest.raises(UnsupportedError, match=r"no single program: ai.onnx.If \(its input 0 is computed"):
        import_model(model(text))


def test_what_a_branch_lacks_is_named() -> None:
    text = """
    main (bool c, float[4] x) => (y) {
      n = NoSuchOperator(x)
      y = If(c) <then_branch = a () => (p) { p = Exp(n) }, else_branch = b () => (q) { q = Other(x) }>
    }"""
    with pytest.raises(UnsupportedError, match="NoSuchOperator"):
        import_model(model(text))
    with pytest.raises(UnsupportedError, match=r"holds what is not supported: ai.onnx.Other"):
        import_model(model(text.replace("n = NoSuchOperator(x)", "n = Exp(x)")))


def test_a_branch_that_reads_what_nothing_defines() -> None:
    text = IF.replace("Add(h, w)", "Add(h, nothing)")
    with pytest.raises(UserError, match="reads 'nothing', which nothing before it defines"):
        import_model(model(text))


# Loop --------------------------------------------------------------------------------------------------------

LOOP = """
main (float[3] x, float[3] h) => (last, all) <int64 n = {4}, bool yes = {1}> {
  k = Exp(h)
  last, all = Loop(n, yes, x) <body = step (int64 i, bool c, float[3] s) => (c2, s2, part) {
    c2 = Identity(c)
    f = Cast <to = 1> (i)
    t = Mul(s, k)
    s2 = Add(t, f)
    part = Sub(s2, h)
  }>
}
"""


def test_a_loop_of_known_length() -> None:
    graph = agrees(LOOP, {"x": random(3), "h": random(3)})
    (node,) = [node for node in graph.nodes if node.op == "loop"]
    assert (node.attrs["trips"], node.attrs["conditional"]) == (4, 0)


@pytest.mark.parametrize(("trips", "yes"), [(0, 1), (1, 1), (4, 0)])
def test_loops_of_none_or_one(trips: int, yes: int) -> None:
    agrees(LOOP.replace("n = {4}", f"n = {{{trips}}}").replace("yes = {1}", f"yes = {{{yes}}}"),
           {"x": random(3), "h": random(3)})  # fmt: skip


WHILE = """
main (int64 n, bool go, float[2] x, float limit) => (y) {
  y = Loop(n, go, x) <body = step (int64 i, bool c, float[2] s) => (c2, s2) {
    s2 = Add(s, s)
    m = ReduceMax <keepdims = 0> (s2)
    c2 = Less(m, limit)
  }>
}
"""


def test_a_loop_that_its_condition_or_a_computed_number_ends() -> None:
    agrees(WHILE, *(
        {"n": np.int64(n), "go": go, "x": np.array([1, 0.5], F), "limit": F(limit)}
        for n in (-1, 0, 1, 5, 100) for go in (True, False) for limit in (0, 10, 1000)
    ))  # fmt: skip


def test_a_loop_without_a_number_of_trips() -> None:
    text = WHILE.replace("int64 n, ", "").replace("Loop(n, go", "Loop(, go")
    agrees(text, *({"go": go, "x": np.array([1, 0.5], F), "limit": F(100)} for go in (True, False)))


def test_a_computed_number_of_trips_without_an_end_of_its_own() -> None:
    text = """
    main (int64[1] n, float[2] x) => (y) {
      y = Loop(n, , x) <body = step (int64 i, bool c, float[2] s) => (c, s2) { s2 = Add(s, s) }>
    }"""
    agrees(text, *({"n": [n], "x": random(2)} for n in (0, 1, 5)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WHILE.replace("(c2, s2)", "(c2, s2, s2)").replace("(y)", "(y, z)").replace("y = L", "y, z = L"),
         "its input 0 is computed from data"),
        (LOOP.replace("main (", "main (int64 n, ").replace("int64 n = {4}, ", ""), "input 0 is computed from data"),
        (LOOP.replace("main (", "main (bool yes, ").replace(", bool yes = {1}", ""), "input 1 is computed from data"),
        (LOOP.replace("Loop(n", "Loop("), "it makes more than 10 iterations"),
    ],
)  # fmt: skip
def test_loops_that_are_no_regions(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorc.frontend.unroll.MOST_ITERATIONS", 10)
    with pytest.raises(UnsupportedError, match=message):
        import_model(model(text))


def test_a_loop_whose_value_grows_is_written_out() -> None:
    text = (
        LOOP.replace("s2 = Add(t, f)", "s2 = Concat <axis = 0> (s, f1)")
        .replace("t = Mul(s, k)", "")
        .replace("f = Cast <to = 1> (i)", "f = Cast <to = 1> (i) f1 = Unsqueeze(f, zero)")
        .replace("Sub(s2, h)", "ReduceSum <keepdims = 0> (s2)")
        .replace("bool yes", "int64[1] zero = {0}, bool yes")
    )
    graph = agrees(text, {"x": random(3), "h": random(3)})
    assert not [node for node in graph.nodes if node.op == "loop"]


# Scan --------------------------------------------------------------------------------------------------------

SCAN = """
main (float[3] h, float[{x}] x, float[{z}] z) => (last, all, sums) {{
  w = Exp(h)
  last, all, sums = Scan <num_scan_inputs = 2, {attrs} body = step (float[3] s, float[3] a, float[2] b) => (s2, p, q) {{
    t = Mul(s, w)
    s2 = Add(t, a)
    p = Identity(s2)
    q = Mul(b, b)
  }}> (h, x, z)
}}
"""


@pytest.mark.parametrize(
    ("x", "z", "attrs"),
    [
        ((5, 3), (5, 2), ""),
        ((5, 3), (5, 2), "scan_input_directions = [1, 0], scan_output_directions = [0, 1],"),
        ((3, 5), (2, 5), "scan_input_axes = [1, -1], scan_output_axes = [1, -1],"),
        ((5, 3), (2, 5), "scan_input_axes = [0, 1], scan_input_directions = [0, 1], scan_output_axes = [-1, 0],"),
        ((1, 3), (1, 2), ""),
    ],
)
def test_scan(x: tuple[int, int], z: tuple[int, int], attrs: str) -> None:
    text = SCAN.format(x="{},{}".format(*x), z="{},{}".format(*z), attrs=attrs)
    agrees(text, {"h": random(3), "x": random(*x), "z": random(*z)})


BATCHED = """
main ({lengths}float[2,3] h, float[2,5,3] x) => (last, all) {{
  last, all = Scan <num_scan_inputs = 1, {attrs} body = step (float[3] s, float[3] a) => (s2, p) {{
    s2 = Add(s, a)
    p = Mul(s2, a)
  }}> ({given}, h, x)
}}
"""


@pytest.mark.parametrize("attrs", ["", "directions = [1],"])
def test_scan_over_a_batch(attrs: str) -> None:
    agrees(BATCHED.format(lengths="", given="", attrs=attrs), {"h": random(2, 3), "x": random(2, 5, 3)}, opset=8)


def test_scan_over_sequences_of_different_lengths() -> None:
    text = BATCHED.format(lengths="int64[2] n, ", given="n", attrs="")
    agrees(text, *({"n": np.array(n), "h": random(2, 3), "x": random(2, 5, 3)} for n in ([5, 2], [1, 5])), opset=8)
    with pytest.raises(UnsupportedError, match="backward through sequences of different lengths"):
        import_model(model(BATCHED.format(lengths="int64[2] n, ", given="n", attrs="directions = [1],"), 8))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("s2 = Add(t, a)", "s2 = Concat <axis = 0> (t, a)", r"what it carries is f32\[3\] and becomes f32\[6\]"),
        ("float[5,2] z", "float[4,2] z", "what it scans is 5, 4 long"),
        ("num_scan_inputs = 2,", "num_scan_inputs = 2, scan_input_directions = [1],", "has 1 numbers, not 2"),
        ("num_scan_inputs = 2,", "num_scan_inputs = 2, scan_input_axes = [0, 2],", "axis 2 is outside"),
    ],
)
def test_wrong_scans(old: str, new: str, message: str) -> None:
    text = SCAN.format(x="5,3", z="5,2", attrs="")
    assert old in text
    with pytest.raises((UserError, UnsupportedError), match=message):
        import_model(model(text.replace(old, new)))


def test_regions_of_regions() -> None:
    """A loop in a branch in a loop, where the innermost reads from each level."""
    text = """
    main (bool flip, float[3] x, float[4,3] rows) => (y, all) {
      e = Exp(x)
      y, all = Scan <num_scan_inputs = 1, body = outer (float[3] s, float[3] r) => (float[3] s2, float[3] p) {
        u = Add(s, r)
        s2 = If(flip) <
          then_branch = yes () => (a) {
            n = Constant <value = int64 {2}>()
            a = Loop(n, , s) <body = inner (int64 i, bool c, float[3] v) => (c, v2) {
              v1 = Mul(v, e)
              v2 = Sub(v1, u)
            }>
          },
          else_branch = no () => (b) { b = Sub(u, x) }>
        p = Add(s2, x)
      }> (x, rows)
    }"""
    graph = agrees(text, *({"flip": flip, "x": random(3), "rows": random(4, 3)} for flip in (True, False)))
    verify(graph)
