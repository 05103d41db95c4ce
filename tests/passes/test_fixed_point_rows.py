"""Functions, softmax, normalisations and attention as the fixed-point pass makes them, as text and by their errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from passes.fixed_curves import fit, sample
from passes.fixed_point import FixedPoint
from tensorc.errors import UnsupportedError
from tensorc.fixed_point import Grid, grids
from tensorc.ir import OPS, evaluate, parse_graph, print_graph
from tensorc.pipeline import run_passes
from tensorc.quantization.params import Range


def fixed(text: str, bits: int, data=None, **ranges: tuple[float, float]):
    graph = parse_graph(text, data)
    run_passes(graph, [FixedPoint(bits, bits, {name: Range(*ends) for name, ends in ranges.items()})])
    grids(graph)
    return graph


def body(graph) -> list[str]:
    return [line.strip() for line in print_graph(graph).splitlines()[1:-1]]


def test_softmax():
    graph = fixed(
        """graph @g(%x: f64[2,5]) {
          %y = softmax(%x) {axis=1} : f64[2,5]
          return %y
        }""",
        8, x=(-8, 8), y=(0, 1),
    )  # fmt: skip
    assert body(graph) == [
        "%x.fixed = receive(%x) {fraction=4, signed=1, width=8} : f64[2,5]",
        "%y = fixed_softmax(%x.fixed) {fraction=4, width=8} : f64[2,5]",
        "return %y",
    ]


def test_softmax_of_numbers_of_many_bits_takes_fewer():
    text = """graph @g(%x: f64[2,5]) {
      %y = softmax(%x) {axis=1} : f64[2,5]
      return %y
    }"""
    graph = fixed(text, 14, x=(-8, 8), y=(0, 1))
    assert body(graph)[1:3] == [
        "%x.fixed.index = fix(%x.fixed) {fraction=6, signed=1, width=10} : f64[2,5]",
        "%y = fixed_softmax(%x.fixed.index) {fraction=6, width=14} : f64[2,5]",
    ]


NORM = """graph @g(%x: f64[2,4]) {
  %s = constant [1.5, 0.5, 1.0, 2.0] : f64[4]
  %b = constant [0.25, 0.0, -1.0, 0.5] : f64[4]
  %y = layer_norm(%x, %s, %b) {axis=1, epsilon=0.00001} : f64[2,4]
  return %y
}"""


def test_layer_norm_is_a_norm_and_arithmetic():
    graph = fixed(NORM, 8, x=(-4, 4), y=(-3, 3))
    assert [line.split(" : ")[0] for line in body(graph)[2:]] == [
        "%x.fixed = receive(%x) {fraction=5, signed=1, width=8}",
        "%y.normal = fixed_norm(%x.fixed) {axis=1, centred=1, epsilon=1e-05, fraction=5, result=8}",
        "%y.product = mul(%y.normal, %s.1)",
        "%y = add(%y.product, %b.1)",
        "%y.fixed = fix(%y) {fraction=5, signed=1, width=8}",
        "return %y.fixed",
    ]


def test_rms_norm_has_no_mean():
    text = NORM.replace("layer_norm(%x, %s, %b)", "rms_norm(%x, %s)").replace("  %b =", "  %unused =")
    graph = fixed(text, 8, x=(-4, 4), y=(-3, 3))
    assert [node.op for node in graph.nodes] == ["receive", "fixed_norm", "mul", "fix"]
    assert graph.nodes[1].attrs["centred"] == 0


ATTENTION = """graph @g(%q: f64[1,3,2,4], %k: f64[1,5,2,4], %v: f64[1,5,2,4]) {
  %y = attention(%q, %k, %v) {scale=0.5} : f64[1,3,2,4]
  return %y
}"""


def test_attention():
    graph = fixed(ATTENTION, 8, q=(-4, 4), k=(-2, 2), v=(-1, 1), y=(-0.5, 0.5))
    assert body(graph)[3:] == [
        "%y = fixed_attention(%q.fixed, %k.fixed, %v.fixed) {bits=8, fractions=(5, 6, 7), result=8, scale=0.5, "
        "scores=6, signed=1, width=8} : f64[1,3,2,4]",
        "return %y",
    ]


def test_masks_are_as_scores_are_and_hide_with_small_numbers():
    text = ATTENTION.replace("attention(%q, %k, %v)", "attention(%q, %k, %v, %m)")
    text = text.replace("  %y =", '  %m = constant @"m" : f64[3,5]\n  %y =')
    mask = np.array([[0, 0.3, -np.inf, -1e30, 0]] * 3)
    graph = fixed(text, 8, {"m": mask}, q=(-4, 4), k=(-2, 2), v=(-1, 1), y=(-0.5, 0.5))
    (node,) = (node for node in graph.nodes if node.op == "fixed_attention")
    scores = 4 * 0.5 * 4 * 2
    (row,) = np.unique(node.inputs[3].constant.numpy(), axis=0)
    assert row[[0, 1, 4]].tolist() == [0, round(0.3 * 64) / 64, 0]
    assert (row[2:4] < -2 * scores - 8).all()
    assert (row[2:4] > -100).all()
    q, k, v = (np.random.default_rng(n).standard_normal((1, x, 2, 4)) for n, x in enumerate((3, 5, 5)))
    (got,) = evaluate(graph, {"q": q, "k": k, "v": v})
    far = evaluate(graph, {"q": q, "k": k, "v": np.where(np.arange(5)[:, None, None] // 2 == 1, 1.0, v)})[0]
    np.testing.assert_array_equal(got, far)


def test_a_computed_mask_has_no_form():
    text = ATTENTION.replace("f64[1,5,2,4]) {", "f64[1,5,2,4], %m: f64[3,5]) {").replace("%v)", "%v, %m)")
    with pytest.raises(UnsupportedError, match="computed mask"):
        fixed(text, 8, q=(-4, 4), k=(-2, 2), v=(-1, 1), y=(-0.5, 0.5), m=(-1, 0))


def test_softmax_over_another_axis_is_between_transpositions():
    text = """graph @g(%x: f64[2,5,3]) {
      %y = softmax(%x) {axis=1} : f64[2,5,3]
      return %y
    }"""
    graph = fixed(text, 8, x=(-8, 8), y=(0, 1))
    assert body(graph)[1:] == [
        "%y.transpose = transpose(%x.fixed) {perm=(0, 2, 1)} : f64[2,3,5]",
        "%y.fixed_softmax = fixed_softmax(%y.transpose) {fraction=4, width=8} : f64[2,3,5]",
        "%y = transpose(%y.fixed_softmax) {perm=(0, 2, 1)} : f64[2,5,3]",
        "return %y",
    ]
    x = np.random.default_rng(0).uniform(-8, 8, (2, 5, 3))
    x = np.floor(x * 16 + 0.5) / 16
    (got,) = evaluate(graph, {"x": x})
    assert np.abs(got - special.softmax(x, axis=1)).max() <= 2.0**-8


FUNCTIONS = {
    "erf": (special.erf, -4), "exp": (np.exp, -8), "gelu": (lambda x: x * special.ndtr(x), -8),
    "sigmoid": (special.expit, -8), "silu": (lambda x: x * special.expit(x), -8),
    "softplus": (lambda x: np.logaddexp(x, 0), -8), "sqrt": (np.sqrt, 0), "tanh": (np.tanh, -4),
}  # fmt: skip


def unary(op: str, bits: int):
    function, low = FUNCTIONS[op]
    high = min(-low or 4, 2 if op == "exp" else 8)
    attrs = {"gelu": "{approximate='none'}"}.get(op, "")
    text = f"""graph @g(%x: f64[300]) {{
      %y = {op}(%x) {attrs} : f64[300]
      return %y
    }}"""
    x = np.linspace(low, high, 300)
    exact = function(x)
    graph = fixed(text, bits, x=(low, high), y=(min(exact.min(), 0), exact.max()))
    (got,) = evaluate(graph, {"x": x})
    x = OPS["receive"].numpy(x, **graph.nodes[0].attrs)
    grid = grids(graph)[graph.outputs[0]]
    step = 2.0**-grid.fraction
    return graph, np.abs(got - np.minimum(function(x), grid.high * step)).max() / step


@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions_of_few_bits_are_rounded_once(op):
    graph, error = unary(op, 8)
    assert [node.op for node in graph.nodes] == ["receive", "lookup"]
    assert error <= 0.5 + 1e-9


@pytest.mark.parametrize("op", sorted(FUNCTIONS.keys() - {"exp", "sqrt"}))
def test_functions_of_many_bits_are_within_a_step(op):
    graph, error = unary(op, 12)
    assert error <= 1
    (table,) = (v.constant.numpy() for v in graph.constants() if v.type.rank == 1 and v.name.endswith("table"))
    assert len(table) <= 600


def test_gelu_is_relu_and_a_bend():
    graph, error = unary("gelu", 16)
    assert [node.op for node in graph.nodes] == ["receive", "abs", "clip", "interpolate", "relu", "add", "fix"]
    (table,) = (v.constant.numpy() for v in graph.constants() if v.name.startswith("gelu"))
    assert len(table) <= 172
    assert error <= 1


def test_tanh_of_many_bits_is_lines():
    graph, _ = unary("tanh", 12)
    assert [node.op for node in graph.nodes] == ["receive", "interpolate", "fix"]


@pytest.mark.parametrize("op", ["exp", "sqrt"])
def test_what_bends_too_much_is_as_near_as_a_full_table_gets(op):
    function, low = FUNCTIONS[op]
    x, result = Grid.fit(low, 2, 14), Grid.fit(0, 7, 14)
    curve = fit(function, x, result, 1024)
    assert len(curve.table) == 1025
    raw = sample(x)
    top = result.high * 2.0**-result.fraction
    wanted = np.minimum(function(raw * 2.0**-x.fraction), top)
    assert np.abs(curve.of(raw) - wanted).max() == curve.error


def test_a_division_by_a_constant_is_rounded_where_it_is_kept():
    text = """graph @g(%x: f64[4]) {
      %c = constant 4.0 : f64[]
      %y = div(%x, %c) : f64[4]
      return %y
    }"""
    graph = fixed(text, 8, x=(-4, 4), y=(-1, 1))
    assert [node.op for node in graph.nodes] == ["receive", "mul", "fix"]
