"""Fixed point: where numbers are rounded, as text; what grids are known; that both are true of what is computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.exact import ComputeExactly
from passes.fixed_point import FixedPoint
from passes.fusion import FuseGroups
from tensorc.errors import UnsupportedError, UserError
from tensorc.fixed_point import Grid, grids
from tensorc.ir import evaluate, parse_graph, print_graph
from tensorc.ir.ops.fixed import fix_numpy
from tensorc.pipeline import run_passes
from tensorc.quantization.params import Range

CONV = "{strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), groups=1}"
ONE = Range(-1.0, 1.0)


def fixed(text, bits=8, weight_bits=None, data=None, **ranges):
    graph = parse_graph(text, data)
    run_passes(graph, [FixedPoint(bits, weight_bits or bits, ranges)])
    return graph


def lines(graph):
    return [line.strip() for line in print_graph(graph).splitlines()]


def test_a_chain_is_rounded_once_at_its_end(becomes):
    becomes(
        [FixedPoint(8, 4, {"x": ONE, "y": ONE, "r": Range(0.0, 3.0)})],
        """graph @g(%x: f64[2,3]) {
          %w = constant [0.5, -0.25, 0.3, 0.1, 0.7, -0.9] : f64[3,2]
          %b = constant [0.1, -0.2] : f64[2]
          %m = matmul(%x, %w) {transpose_b=0} : f64[2,2]
          %y = add(%m, %b) : f64[2,2]
          %r = relu(%y) : f64[2,2]
          return %r
        }""",
        """graph @g(%x: f64[2,3]) {
          %w = constant [0.5, -0.25, 0.25, 0.125, 0.75, -0.875] : f64[3,2]
          %b = constant [0.099609375, -0.2001953125] : f64[2]
          %f = receive(%x) {fraction=7, signed=1, width=8} : f64[2,3]
          %m = matmul(%f, %w) {transpose_b=0} : f64[2,2]
          %y = add(%m, %b) : f64[2,2]
          %r = relu(%y) : f64[2,2]
          %o = fix(%r) {fraction=6, signed=0, width=8} : f64[2,2]
          return %o
        }""",
        tolerance=0.3,  # of 4-bit weights
    )


def test_what_several_read_is_rounded_where_it_is_made():
    graph = fixed(
        """graph @g(%x: f64[4]) {
          %c = constant 0.9 : f64[]
          %a = mul(%x, %c) : f64[4]
          %b = relu(%a) : f64[4]
          %d = add(%a, %b) : f64[4]
          return %d
        }""",
        x=ONE, a=ONE, b=ONE, d=ONE,
    )  # fmt: skip
    ops = [node.op for node in graph.nodes]
    assert ops == ["receive", "mul", "fix", "relu", "add", "fix"]
    assert graph.nodes[3].inputs[0] is graph.nodes[2].output  # relu keeps the grid, so it is not rounded again


def test_functions_become_tables_of_few_bits():
    graph = fixed("graph @g(%x: f64[3]) {\n %y = tanh(%x) : f64[3]\n return %y\n}", bits=10, x=Range(-4.0, 4.0), y=ONE)
    assert [node.op for node in graph.nodes] == ["receive", "lookup"]
    table = graph.nodes[-1].inputs[1].constant.numpy()
    assert len(table) == 1 << 10
    x = np.linspace(-4, 3.9, 57)
    (y,) = evaluate(graph, {"x": x})
    np.testing.assert_allclose(y, np.tanh(x), atol=2.0**-7)  # half a step of x, at a slope of 1, and of y


def test_means_are_rounded_before_anything_else():
    graph = fixed(
        """graph @g(%x: f64[1,2,3,3]) {
          %m = reduce_mean(%x) {axes=(2, 3), keepdims=0} : f64[1,2]
          %r = relu(%m) : f64[1,2]
          return %r
        }""",
        x=ONE, m=ONE, r=ONE,
    )  # fmt: skip
    assert [node.op for node in graph.nodes] == ["receive", "reduce_mean", "fix", "relu"]
    assert grids(graph)[graph.nodes[1].output].divisor == 9


def test_groups_move_nothing():
    """What moves elements is wiring where tensors are streams: no kernel takes it in."""
    text = f"""graph @g(%x: f64[1,2,4,4]) {{
      %w = constant @"w" : f64[2,2,3,3]
      %a = conv(%x, %w) {CONV} : f64[1,2,4,4]
      %t = transpose(%a) {{perm=(0, 2, 3, 1)}} : f64[1,4,4,2]
      %r = relu(%t) : f64[1,4,4,2]
      return %r
    }}"""
    whole, apart = (parse_graph(text, {"w": np.ones((2, 2, 3, 3))}) for _ in range(2))
    run_passes(whole, [FuseGroups()])
    run_passes(apart, [FuseGroups(moves=False)])
    assert [len(node.body.nodes) for node in apart.nodes] == [1, 1, 1]
    assert len(whole.nodes) < 3


def test_everything_is_in_double_precision(becomes):
    becomes(
        [ComputeExactly()],
        "graph @g(%x: f32[2], %n: i64[2]) {\n %c = constant [1.5, 0.1] : f32[2]\n"
        ' %f = cast(%n) {to="float32"} : f32[2]\n'
        " %y = mul(%x, %c) : f32[2]\n %z = add(%y, %f) : f32[2]\n return %z\n}",
        "graph @g(%x: f64[2], %n: i64[2]) {\n %c = constant [1.5, 0.10000000149011612] : f64[2]\n"
        ' %f = cast(%n) {to="float64"} : f64[2]\n %y = mul(%x, %c) : f64[2]\n %z = add(%y, %f) : f64[2]\n return %z\n}',
    )


def test_what_has_no_form_is_named():
    with pytest.raises(UnsupportedError, match=r"%y: div of .* has no fixed-point form"):
        fixed("graph @g(%x: f64[3]) {\n %y = div(%x, %x) : f64[3]\n return %y\n}", x=ONE, y=ONE)
    with pytest.raises(UserError, match="it has no range of %x"):
        fixed("graph @g(%x: f64[3]) {\n %y = relu(%x) : f64[3]\n return %y\n}")


def test_sums_that_are_not_exact_are_refused():
    text = "graph @g(%x: f64[1,4096]) {\n %w = constant @\"w\" : f64[4096,1]\n %y = matmul(%x, %w) {transpose_b=0} : f64[1,1]\n return %y\n}"  # fmt: skip  # noqa: E501
    with pytest.raises(UnsupportedError, match=r"%y: matmul of fixed-point numbers makes .* more than the 53"):
        fixed(text, 24, data={"w": np.random.default_rng(0).normal(size=(4096, 1))}, x=ONE, y=ONE)


NUMBERS = st.floats(-1e3, 1e3, allow_nan=False)


@given(NUMBERS, st.integers(1, 20), st.integers(-4, 20), st.booleans())
def test_rounding_is_to_the_nearest_that_fits(x, width, fraction, signed):
    got = float(fix_numpy(np.float64(x), width, fraction, int(signed)))
    low = -(2 ** (width - 1)) if signed else 0
    high = 2 ** (width - 1) - 1 if signed else 2**width - 1
    assert low <= got * 2.0**fraction <= high
    assert (got * 2.0**fraction) % 1 == 0
    inside = low / 2.0**fraction <= x <= high / 2.0**fraction
    assert not inside or abs(got - x) <= 2.0 ** -(fraction + 1)


@given(NUMBERS, NUMBERS, st.integers(2, 24))
def test_a_fitted_grid_reaches_as_far_as_it_must(a, b, bits):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    grid = Grid.fit(low, high, bits)
    step = 2.0**-grid.fraction
    assert grid.bits <= bits
    slack = 1 + 1e-8  # of a logarithm
    assert grid.low * step * slack <= low
    assert grid.high * step * slack >= high - step
    if max(high, -low) > 1e-9:  # and no further than twice that
        assert grid.high * step < 2 * max(high, -low) + 3 * step or grid.low * step > 2 * low - 3 * step


@st.composite
def _chains(draw):
    """Random arithmetic on grids."""
    rows = ["graph @g(%v0: f64[6]) {", "  %c = constant [0.5, -0.375, 2.0, 0.0, 1.25, -3.0] : f64[6]"]
    rows.append(
        f"  %v1 = fix(%v0) {{width={draw(st.integers(2, 8))}, fraction={draw(st.integers(-2, 5))}, signed=1}} : f64[6]"
    )
    count = draw(st.integers(1, 6))
    for number in range(2, count + 2):
        op = draw(st.sampled_from(["add", "sub", "mul", "max", "min", "neg", "abs", "relu", "clip", "fix"]))
        source = f"%v{draw(st.integers(1, number - 1))}"
        other = draw(st.sampled_from([f"%v{draw(st.integers(1, number - 1))}", "%c"]))
        attrs = {"clip": "{min=-1.5, max=2.25}", "fix": "{width=6, fraction=2, signed=1}"}.get(op, "")
        operands = f"{source}, {other}" if op in ("add", "sub", "mul", "max", "min") else source
        rows.append(f"  %v{number} = {op}({operands}) {attrs} : f64[6]")
    return "\n".join([*rows, f"  return %v{count + 1}", "}"])


@settings(max_examples=60, deadline=None)
@given(_chains(), st.lists(NUMBERS, min_size=6, max_size=6))
def test_grids_hold_what_is_computed(text, numbers):
    graph = parse_graph(text)
    try:
        known = grids(graph)
    except UnsupportedError:
        return
    graph.outputs = [node.output for node in graph.nodes]
    for value, array in zip(graph.outputs, evaluate(graph, {"v0": np.array(numbers)}), strict=True):
        raw = array * 2.0 ** known[value].fraction
        assert (raw % 1 == 0).all()
        assert known[value].low <= raw.min()
        assert raw.max() <= known[value].high


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3), st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 1)]))
def test_sums_of_products_stay_in_their_grid(seed, groups, pads):
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 12, (1, 2 * groups, 5, 4)) / 4
    w = rng.integers(-7, 8, (groups, 2, 3, 3)) / 8
    attrs = f"{{strides=(1, 1), pads={pads}, dilations=(1, 1), groups={groups}}}"
    shape = (1, groups, 5 + pads[0] + pads[2] - 2, 4 + pads[1] + pads[3] - 2)
    text = f"""graph @g(%x: f64[1,{2 * groups},5,4]) {{
      %w = constant @"w" : f64[{groups},2,3,3]
      %q = fix(%x) {{width=5, fraction=2, signed=1}} : f64[1,{2 * groups},5,4]
      %y = conv(%q, %w) {attrs} : f64[{",".join(map(str, shape))}]
      return %y
    }}"""
    graph = parse_graph(text, {"w": w})
    grid = grids(graph)[graph.outputs[0]]
    (y,) = evaluate(graph, {"x": x})
    raw = y * 2.0**grid.fraction
    assert (raw == np.rint(raw)).all()
    assert grid.low <= raw.min()
    assert raw.max() <= grid.high


def test_ranges_of_zero_and_constants_have_grids():
    assert Grid.of(np.array([0.0, 0.0])) == Grid(0, 0, 0)
    assert Grid.of(np.array([0.75, -2.0])) == Grid(2, -8, 3)
    assert Grid.of(np.array([np.pi, 1e-30])) is None
    assert Grid.fit(0.0, 0.0, 8).fraction == 0
    assert Grid.fit(0.0, 1.0, 8) == Grid(8, 0, 255)


def test_two_bits_are_ternary_and_few_bits_cut_off_what_is_far_out():
    weights = np.random.default_rng(1).laplace(0, 0.2, 4000)
    ternary = Grid.closest(weights, 2)
    assert (ternary.low, ternary.high) == (-1, 1)
    assert set(np.unique(ternary.raw(ternary.rounded(weights)))) == {-1, 0, 1}
    whole = Grid.fit(float(weights.min()), float(weights.max()), 3, signed=True)
    chosen = Grid.closest(weights, 3)
    assert chosen.fraction > whole.fraction
    assert np.square(chosen.rounded(weights) - weights).sum() < np.square(whole.rounded(weights) - weights).sum()
