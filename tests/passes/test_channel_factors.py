"""Equalising layers and smoothing activations change no result by a bit; what they even out is even; and what bias
correction takes off is what the rounding of weights adds on average."""

from __future__ import annotations

import numpy as np
import pytest

from passes.bias_correction import correction
from passes.equalise import EqualiseChannels
from passes.quantize import QuantizeProducts
from passes.smooth import SmoothActivations
from tensorc.ir import clone, evaluate, parse_graph
from tensorc.ir.graph import Node
from tensorc.pipeline import run_passes
from tensorc.quantization.params import QuantParams

CONV = "strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), groups"
RNG = np.random.default_rng(2)


#: Of eight channels, from a tenth to ten times.
FACTORS = 10.0 ** np.array([0.9, -0.8, 0.1, -1, 1, -0.3, -0.9, 0.6])


def uneven(*shape, axis, factors=FACTORS):
    """Weights whose channels along `axis` are so many times as large."""
    data = RNG.standard_normal(shape) * factors.reshape([-1 if at == axis else 1 for at in range(len(shape))])
    return data.astype(np.float32)


def network(between, groups=1):
    return f"""graph @g(%x: f32[1,4,6,6]) {{
      %w = constant @"w" : f32[8,4,3,3]
      %b = constant @"b" : f32[8,1,1]
      %v = constant @"v" : f32[8,{8 // groups},3,3]
      %a = conv(%x, %w) {{{CONV}=1}} : f32[1,8,6,6]
      %p = add(%a, %b) : f32[1,8,6,6]
      {between}
      %y = conv(%q, %v) {{{CONV}={groups}}} : f32[1,8,6,6]
      return %y
    }}"""


def data(groups=1):
    """The second layer reads the first one's channels as much smaller as they are larger."""
    read = np.repeat(1 / FACTORS.reshape(groups, -1), 8 // groups, axis=0)
    v = RNG.standard_normal((8, 8 // groups, 3, 3)) * read[:, :, None, None]
    return {"w": uneven(8, 4, 3, 3, axis=0), "b": uneven(8, 1, 1, axis=0), "v": v.astype(np.float32)}


def same(text, data, step, *, changes=True):
    """The graph after `step`, which computes the same, bit by bit."""
    before = parse_graph(text, data)
    after = clone(before)
    run_passes(after, [step])
    feed = {v.name: RNG.standard_normal(v.shape).astype(np.float32) * 3 for v in before.inputs}
    for want, got in zip(evaluate(before, feed), evaluate(after, feed), strict=True):
        np.testing.assert_array_equal(got, want)
    weights = [[v.constant.numpy() for v in graph.constants()] for graph in (before, after)]
    moved = any(a.shape != b.shape or (a != b).any() for a, b in zip(*weights, strict=False))
    assert moved == changes
    return after


def weights(graph, number):
    """Of the product with that number."""
    return [n.inputs[1].constant.numpy() for n in graph.nodes if n.op in ("conv", "matmul")][number]


BETWEEN = {
    "relu": "%q = relu(%p) : f32[1,8,6,6]",
    "nothing": "%n = constant 0.0 : f32[]\n %q = add(%p, %n) : f32[1,8,6,6]",
    "clip": "%q = clip(%p) {min=0.0, max=6.0} : f32[1,8,6,6]",
    "a clip that is not relu6": "%q = clip(%p) {min=-1.0, max=2.0} : f32[1,8,6,6]",
    "pool": """%r = leaky_relu(%p) {alpha=0.25} : f32[1,8,6,6]
      %q = max_pool(%r) {kernel=(3, 3), strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), ceil=0} : f32[1,8,6,6]""",
    "a limit": "%m = constant 0.5 : f32[]\n %q = min(%p, %m) : f32[1,8,6,6]",
}


@pytest.mark.parametrize("between", BETWEEN)
def test_equalised_layers_compute_the_same(between):
    graph = same(network(BETWEEN[between]), data(), EqualiseChannels())
    given, read = np.abs(weights(graph, 0)).max((1, 2, 3)), np.abs(weights(graph, 1)).max((0, 2, 3))
    # As even as powers of two make it: the two ranges of a channel are less than a factor of two apart either way.
    assert np.abs(np.log2(given / read)).max() <= 1.01


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_grouped_and_depthwise_filters_are_numbered_through(groups):
    graph = same(network(BETWEEN["relu"], groups), data(groups), EqualiseChannels())
    read = np.abs(weights(graph, 1)).reshape(groups, -1, 8 // groups, 9).max((1, 3)).reshape(-1)
    assert np.abs(np.log2(np.abs(weights(graph, 0)).max((1, 2, 3)) / read)).max() <= 1.01


OTHERS = {
    "sigmoid": "%q = sigmoid(%p) : f32[1,8,6,6]",
    "a softplus before the pool": "%r = softplus(%p) : f32[1,8,6,6]\n %q = relu(%r) : f32[1,8,6,6]",
    "another reader": """%q = relu(%p) : f32[1,8,6,6]
      %o = sigmoid(%q) : f32[1,8,6,6]
      %z = add(%o, %p) : f32[1,8,6,6]""",
    "a sum of two": "%s = sigmoid(%a) : f32[1,8,6,6]\n %q = add(%p, %s) : f32[1,8,6,6]",
}


@pytest.mark.parametrize("between", OTHERS)
def test_what_no_factor_goes_through(between):
    text = network(OTHERS[between])
    if "%z" in text:
        text = text.replace("return %y", "return %y, %z")
    same(text, data(), EqualiseChannels(), changes=False)


def test_even_layers_are_left_as_they_are():
    arrays = {name: RNG.standard_normal(array.shape).astype(np.float32) for name, array in data().items()}
    same(network(BETWEEN["relu"]), arrays, EqualiseChannels(), changes=False)


def test_channels_of_nothing_are_left_alone():
    arrays = data()
    arrays["w"][3] = 0
    arrays["v"][:, 5] = 0
    same(network(BETWEEN["relu"]), arrays, EqualiseChannels())


def test_chains_are_even_from_end_to_end():
    text = """graph @g(%x: f32[3,8]) {
      %u = constant @"u" : f32[8,8]
      %v = constant @"v" : f32[8,8]
      %w = constant @"w" : f32[8,8]
      %a = matmul(%x, %u) : f32[3,8]
      %b = relu(%a) : f32[3,8]
      %c = matmul(%b, %v) {transpose_b=1} : f32[3,8]
      %d = relu(%c) : f32[3,8]
      %e = matmul(%d, %w) : f32[3,8]
      return %e
    }"""
    v = uneven(8, 8, axis=0, factors=FACTORS[::-1]) / FACTORS.astype(np.float32)
    arrays = {"u": uneven(8, 8, axis=1), "v": v, "w": uneven(8, 8, axis=0, factors=1 / FACTORS[::-1])}
    graph = same(text, arrays, EqualiseChannels())
    u, v, w = (np.abs(weights(graph, number)) for number in range(3))
    for given, read in ((u.max(0), v.max(0)), (v.max(1), w.max(1))):
        assert np.abs(np.log2(given / read)).max() <= 1.6


BLOCK = """graph @g(%x: f32[2,5,16]) {
  %s = constant @"s" : f32[16]
  %b = constant @"b" : f32[16]
  %v = constant @"v" : f32[16,8]
  %w = constant @"w" : f32[12,16]
  %n = layer_norm(%x, %s, %b) {axis=2, epsilon=1e-05} : f32[2,5,16]
  %p = matmul(%n, %v) : f32[2,5,8]
  %q = matmul(%n, %w) {transpose_b=1} : f32[2,5,12]
  return %p, %q
}"""


def block():
    scale = np.ones(16, np.float32)
    scale[3], scale[7] = 60, 100
    weights = {"v": RNG.standard_normal((16, 8)), "w": RNG.standard_normal((12, 16))}
    return {"s": scale, "b": np.zeros(16, np.float32), **{n: a.astype(np.float32) for n, a in weights.items()}}


def test_outliers_behind_a_norm_move_into_the_weights():
    arrays = block()
    (value,) = SmoothActivations().watched(parse_graph(BLOCK, arrays))
    assert value.name == "n"
    graph = same(BLOCK, arrays, SmoothActivations({"n": tuple(3 * arrays["s"])}))
    (norm,) = [node for node in graph.nodes if node.op == "layer_norm"]
    scale = norm.inputs[1].constant.numpy()
    assert scale.max() / scale.min() < 20
    assert np.abs(weights(graph, 0)[7]).max() > 4 * np.abs(arrays["v"][7]).max()


def test_even_channels_are_not_smoothed():
    arrays = block() | {"s": np.ones(16, np.float32)}
    same(BLOCK, arrays, SmoothActivations({"n": (3.0,) * 16}), changes=False)
    same(BLOCK, block(), SmoothActivations({}), changes=False)


def test_another_reader_keeps_a_norm_as_it_is():
    text = BLOCK.replace("return %p, %q", "%o = exp(%n) : f32[2,5,16]\n  return %p, %q, %o")
    same(text, block(), SmoothActivations({"n": tuple(3 * block()["s"])}), changes=False)


@pytest.mark.parametrize(
    ("op", "groups", "transposed"), [("matmul", 0, 0), ("matmul", 0, 1), ("conv", 1, 0), ("conv", 2, 0)]
)
def test_the_correction_is_the_mean_error(op, groups, transposed):
    """Of inputs that are constant for each channel, where there is no border, it is all of the error."""
    means = RNG.standard_normal(4)
    if op == "conv":
        shape, x = (6, 4 // groups, 3, 3), np.broadcast_to(means[:, None, None], (1, 4, 3, 3))
        attrs = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": groups}
    else:
        shape, x = (6, 4) if transposed else (4, 6), means[None]
        attrs = {"transpose_b": transposed}
    exact = RNG.standard_normal(shape).astype(np.float32)
    rounded = np.round(exact * 4) / 4
    text = f"graph @g(%x: f32[{','.join(map(str, x.shape))}], %w: f32[{','.join(map(str, shape))}]) {{ return %x }}"
    graph = parse_graph(text)
    y = graph.add(op, graph.inputs, attrs)
    graph.outputs = [y]

    def product(w):
        return evaluate(graph, {"x": x.astype(np.float32), "w": w.astype(np.float32)})[0]

    node = y.producer
    assert isinstance(node, Node)
    np.testing.assert_allclose(product(rounded) + correction(node, exact, rounded, means), product(exact), atol=1e-5)


def test_corrected_products_are_right_on_average():
    text = """graph @g(%x: f32[64,16]) {
      %w = constant @"w" : f32[16,8]
      %y = matmul(%x, %w) : f32[64,8]
      return %y
    }"""
    exact = parse_graph(text, {"w": uneven(16, 8, axis=1)})
    x = np.abs(RNG.standard_normal((64, 16))).astype(np.float32) + 2
    (want,) = evaluate(exact, {"x": x})
    bias = []
    for means in ({}, {"x": tuple(x.mean(0))}):
        graph = clone(exact)
        params = {"x": QuantParams("uint8", float(x.max()) / 255, 0)}
        run_passes(graph, [QuantizeProducts(params, per_channel=False, means=means)])
        bias.append(np.abs((evaluate(graph, {"x": x})[0] - want).mean(0)).max())
    assert bias[1] < bias[0] / 5
