"""Softmax, normalisation and attention in C simulation and in Verilog, bit for bit; how often attention reads keys."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import numpy as np
import pytest

from targets.hls.hardware import timing
from targets.hls.hardware.pipeline import designs_of, least_ii
from targets.hls.layers.attention import Mask, key_rows_read
from targets.hls.layers.layer import Unroll
from targets.hls.printing import cpp
from targets.hls.simulation import csim, rtl
from tensorc.errors import UnsupportedError
from tensorc.frontend.importer import open_model
from tensorc.ir import Graph, TensorType, evaluate

DIGITS = Path(__file__).parents[3] / "examples" / "digits"


class Builder:
    """A graph of independent operators, each with inputs of its own."""

    def __init__(self, name: str = "rows", images: int = 5):
        self.rng = np.random.default_rng(0)
        self.graph = Graph(name)
        self.images = images
        self.samples: list[np.ndarray] = []

    def input(self, *shape: int, scale: float = 2.0):
        self.samples.append(self.rng.standard_normal((self.images, *shape)) * scale)
        return self.graph.add_input(f"x{len(self.samples)}", TensorType("float64", shape))

    def constant(self, *shape: int):
        return self.graph.constant(self.rng.standard_normal(shape), name="c")

    def add(self, name: str, op: str, *inputs, **attrs) -> None:
        self.graph.outputs = [*self.graph.outputs, self.graph.add(op, list(inputs), attrs, name=name)]

    def attention(self, name: str, batch, queries, keys, heads, shared, depth, width, *mask: np.ndarray) -> None:
        shapes = ((queries, heads, depth), (keys, shared, depth), (keys, shared, width))
        operands = [self.input(batch, *shape) for shape in shapes]
        operands += [self.graph.constant(numbers, name="mask") for numbers in mask]
        self.add(name, "attention", *operands, scale=depth**-0.5)


def rows() -> Builder:
    build = Builder()
    build.add("soft", "softmax", build.input(3, 10, scale=3), axis=1)
    build.add("single", "softmax", build.input(4, 1), axis=1)
    build.add("pixels", "softmax", build.input(1, 3, 2, 4), axis=1)
    build.add("layer", "layer_norm", build.input(2, 3, 8), build.constant(8), build.constant(8), axis=2, epsilon=1e-5)
    build.add("root", "rms_norm", build.input(2, 3, 8), build.constant(3, 8), axis=1, epsilon=1e-3)
    build.attention("plain", 1, 5, 5, 2, 2, 4, 4)
    build.attention("batched", 2, 3, 7, 4, 2, 6, 4)
    build.attention("shared", 1, 7, 6, 2, 1, 4, 4)
    build.attention("single_key", 1, 2, 1, 1, 1, 2, 2)
    build.attention("causal", 1, 5, 5, 1, 1, 4, 4, np.where(np.tri(5, dtype=bool), 0, -np.inf))
    build.attention("padded", 2, 3, 5, 1, 1, 4, 4, np.array([0, 0.5, 0, -1e9, -1e9]))
    return build


UNROLLS = {
    "little": {},
    "more": {
        "layer": Unroll(4, 4), "root": Unroll(2, 2), "plain": Unroll(2, 2), "batched": Unroll(2, 2),
        "shared": Unroll(4, 4), "single_key": Unroll(2, 1),
        "causal": Unroll(2, 4), "padded": Unroll(1, 2),
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def operators(fixed):
    build = rows()
    return fixed(build.graph, build.samples)


def unrolled(network, wanted):
    """By layers' names, which may have numbers behind them."""
    return {layer.name: unroll for layer in network.layers for name, unroll in wanted.items()
            if layer.name.startswith(name)}  # fmt: skip


@pytest.mark.compiler
def test_lines_between_entries_are_exact_in_c_and_in_verilog(fixed, project):
    """Of numbers of 14 bits: straight, and as relu and a bend."""
    build = Builder("curves", images=300)
    for op, attrs in (("tanh", {}), ("gelu", {"approximate": "none"}), ("sqrt", {})):
        build.add(op, op, build.input(1, 2, scale=3), **attrs)
    build.samples[2] = np.abs(build.samples[2])
    made = fixed(build.graph, build.samples, 14)
    assert sum(node.op == "interpolate" for group in made.graph.nodes for node in group.body.nodes) == 3
    program = made.program("curves")
    check_c(made, program, project, 300)
    check_verilog(made, program, 300)


def check_c(made, program, project, images):
    inputs, wanted = made.vectors(program, images)
    for port, found, right in zip(program.outputs, csim.run(project(program), inputs), wanted, strict=True):
        np.testing.assert_array_equal(found, right, err_msg=port.name)


def check_verilog(made, program, images):
    inputs, wanted = made.vectors(program, images)
    for port, found, right in zip(program.outputs, rtl.simulate(program, inputs).outputs, wanted, strict=True):
        np.testing.assert_array_equal(found.reshape(images, -1), right, err_msg=port.name)


@pytest.mark.compiler
def test_rows_are_exact_in_c(operators, project):
    check_c(operators, operators.program("rows", unrolled(operators.network, UNROLLS["more"])), project, 5)


@pytest.mark.compiler
@pytest.mark.parametrize("unrolls", UNROLLS.values(), ids=UNROLLS)
def test_rows_are_exact_in_verilog(operators, unrolls):
    check_verilog(operators, operators.program("rows", unrolled(operators.network, unrolls)), 5)


HEADS = 2


@functools.cache
def attention_program(fixed, positions: int, slots: int):
    build = Builder(f"attention{positions}_{slots}", images=1)
    build.attention(f"heads{positions}_{slots}", 1, positions, positions, HEADS, HEADS, 4, 4)
    made = fixed(build.graph, build.samples)
    (layer,) = made.network.layers
    return made.program(build.graph.name, {layer.name: Unroll(slots, 4)})


COUNTED = [(64, 1), (64, 6), (256, 64)]


@pytest.mark.compiler
def test_rows_of_keys_are_read_as_the_formula_says(fixed, tmp_path):
    """The words that are loaded of keys are counted while the C++ runs; a row is one word here."""
    sources = ["#include <cstdio>", "static long loaded = 0;"]
    calls = []
    for positions, slots in COUNTED:
        program = attention_program(fixed, positions, slots)
        folder = tmp_path / program.name
        (folder / "weights").mkdir(parents=True)
        for name, text in cpp.files(program):
            # All slots share the word that is loaded for the first.
            load = "queries0[query_at][lane] * keys[key_at][lane]"
            assert text.count(load) == name.endswith(".cpp")
            counting = "queries0[query_at][lane] * (loaded += lane == 0, keys[key_at][lane])"
            (folder / name).write_text(text.replace(load, counting))
        sources.append(f'#include "{program.name}/{program.name}.cpp"')
        *given, taken = [port.channel for port in (*program.inputs, *program.outputs)]
        body = [f"{cpp.stream_type(c)} {c.name};" for c in (*given, taken)]
        body += [f"for (int i = 0; i < {c.count}; i++) {c.name}.write({cpp.word_type(c)}());" for c in given]
        body += ["loaded = 0;", f"{program.name}({', '.join(c.name for c in (*given, taken))});"]
        body += [f"while (!{taken.name}.empty()) {taken.name}.read();", 'printf("%ld\\n", loaded);']
        calls += ["{", *body, "}"]
    (tmp_path / "main.cpp").write_text("\n".join([*sources, "int main() {", *calls, "}"]))
    flags = [*csim.FLAGS, f"-I{csim.headers()}"]
    csim.compile_cpp([tmp_path / "main.cpp"], tmp_path / "main", flags, 300)
    said = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=True).stdout
    assert [int(line) for line in said.split()] == [HEADS * key_rows_read(n, n, p) for n, p in COUNTED]


@pytest.mark.parametrize(("mask", "wanted"), [
    (np.zeros((3, 4)), Mask(np.zeros(4))),
    (np.array([[0, 1, -9]] * 2), Mask(np.array([0, 1, -9]))),
    (np.where(np.tri(3, 5, 2, dtype=bool), 0, -9), Mask(np.zeros(5), 2, 9)),
    (np.where(np.tri(4, 4, -1, dtype=bool), 0, -9), Mask(np.zeros(4), -1, 9)),
    (np.where(np.tri(3, dtype=bool), 1, -9), None),
    (np.where(np.tri(3, dtype=bool).T, 0, -9), None),
    (np.eye(3), None),
])  # fmt: skip
def test_masks(mask, wanted):
    found = Mask.of(mask.astype(np.int64))
    assert (found is None) == (wanted is None)
    if wanted is not None:
        np.testing.assert_array_equal(found.keys, wanted.keys)
        assert (found.ahead, found.less) == (wanted.ahead, wanted.less)


def test_masks_that_take_memory_for_each_pair_of_positions_have_no_hardware(fixed):
    build = Builder()
    build.attention("heads", 1, 3, 3, 1, 1, 4, 4, np.eye(3))
    with pytest.raises(UnsupportedError, match="square of positions"):
        fixed(build.graph, build.samples)


def test_sweeps():
    assert [key_rows_read(64, 64, p) // 64 for p in (1, 6, 8, 64)] == [64, 11, 8, 1]
    assert key_rows_read(3, 100, 2) == 200


def test_no_buffer_of_attention_grows_with_the_square_of_positions(fixed):
    def bits(positions):
        (process,) = attention_program(fixed, positions, 8).processes
        return {memory.name: memory.bits * memory.depth for memory in process.memories if memory.data is None}

    small, large = bits(128), bits(256)
    assert small.keys() == large.keys()
    for name in small:
        assert large[name] <= 2.2 * small[name], name  # twice as many, some of a few bits more
    assert bits(256)["queries0"] == bits(128)["queries0"]


@pytest.fixture(scope="module")
def transformer(fixed):
    graph = open_model(str(DIGITS / "digits_transformer.onnx"), {}, False).static().graph
    return fixed(graph, [np.load(DIGITS / "calibration.npz")["image"].reshape(-1, 1, 1, 8, 8).astype(np.float64)])


def test_the_digits_transformer_loses_less_than_a_point_of_accuracy(transformer):
    """In float32 it reads 97.5 % of these."""
    held = np.load(DIGITS / "heldout.npz")
    graph = transformer.graph
    read = [
        evaluate(graph, {graph.inputs[0].name: image.reshape(1, 1, 8, 8) / 16.0})[0].argmax() == label
        for image, label in zip(held["images"], held["labels"], strict=True)
    ]
    assert np.mean(read) > 0.965


def test_iterations_follow_each_other_as_fast_as_registers_allow(operators):
    program = operators.program("rows", unrolled(operators.network, UNROLLS["more"]))
    places = [place for design in designs_of(program) for place in design.places if place.nest.trip > 1]
    assert {place.nest.ii - least_ii(place.pipeline.path) for place in places} == {0}
    assert {place.name for place in places if place.nest.ii > 1} == {"sum"}  # of a softmax, a product on its way


def middling(network, most=8):
    return {
        layer.name: [u for u in layer.choices() if u.inputs <= most and u.outputs <= most][-1]
        for layer in network.layers
    }


@pytest.mark.compiler
def test_the_digits_transformer_is_exact_in_verilog_in_the_cycles_that_were_foretold(transformer):
    program = transformer.program("digits", middling(transformer.network))
    program = timing.with_depths(program, timing.depths(program))
    inputs, (wanted,) = transformer.vectors(program, 3)
    run = rtl.simulate(program, inputs, quiet=10**6)
    np.testing.assert_array_equal(run.outputs[0].reshape(3, -1), wanted)
    found = timing.timing_of(program)
    assert (found.latency, found.interval) == (run.latency, run.interval)


def test_products_of_what_is_computed_are_of_as_many_matrices(fixed):
    build = Builder()
    build.add("product", "matmul", build.input(1, 3, 4), build.input(2, 4, 3))
    with pytest.raises(UnsupportedError, match="a product of computed"):
        fixed(build.graph, build.samples)
