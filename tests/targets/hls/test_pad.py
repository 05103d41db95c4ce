"""Padding that no window takes over, and tensors that are repeated beside larger ones: in C, HLS C++ and Verilog."""

from __future__ import annotations

import ctypes
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.c.build import build
from targets.hls.hardware.pipeline import designs_of
from targets.hls.hardware.timing import depths, timing_of, with_depths
from targets.hls.layers.pad import Pad
from targets.hls.layers.rearrange import Rearrange
from targets.hls.program import Channel
from targets.hls.simulation import csim, rtl
from tensorc.driver import compile_model
from tensorc.ir import Graph, TensorType
from tensorc.options import CompileOptions
from tensorc.quantization.scheme import Quantization
from tensorc.target import find_target

IMAGES = 3


class Builder:
    def __init__(self, name: str):
        self.rng = np.random.default_rng(0)
        self.graph = Graph(name)
        self.samples: list[np.ndarray] = []

    def input(self, *shape: int):
        self.samples.append(self.rng.uniform(-1, 1, (IMAGES, *shape)))
        return self.graph.add_input(f"x{len(self.samples)}", TensorType("float64", shape))

    def pad(self, x, before, after, value=0.0, mode="constant", name="padded"):
        attrs = {"before": before, "after": after, "mode": mode, "value": value}
        return self.graph.add("pad", [x], attrs, name=name)

    def conv(self, x, outputs, name, kernel=3):
        weights = self.rng.standard_normal((outputs, x.shape[1], *(kernel,) * (len(x.shape) - 2)))
        n = len(x.shape) - 2
        attrs = {"strides": (1,) * n, "pads": (0,) * 2 * n, "dilations": (1,) * n, "groups": 1}
        return self.graph.add("conv", [x, self.graph.constant(weights, name=f"{name}.w")], attrs, name=name)

    def give(self, *values):
        self.graph.outputs = list(values)
        return self


def pads() -> Builder:
    """Zeros, other constants, mirrors and crops; on images, signals, rows and channels."""
    build = Builder("pads")
    image = build.pad(build.input(1, 2, 4, 3), (0, 0, 1, 2), (0, 0, 0, 1), 0.3)
    image = build.graph.add("relu", [build.conv(image, 4, "first")])
    mirrored = build.conv(build.pad(image, (0, 0, 1, 1), (0, 0, 1, 1), mode="reflect"), 2, "second")
    channels = build.pad(mirrored, (0, 1, 0, 0), (0, 1, 1, 0), -40.0)
    signal = build.conv(build.pad(build.input(1, 4, 6), (0, 0, 2), (0, 0, 0)), 4, "causal")
    rows = build.pad(build.input(2, 3), (0, 2), (1, 0), -0.5)
    crops = build.pad(build.input(1, 2, 4, 4), (0, 0, -1, 1), (0, 2, 1, -1), 0.25)
    edge = build.pad(build.input(5, 2), (1, 0), (2, 1), mode="edge")
    return build.give(channels, signal, rows, crops, edge)


def repeats() -> Builder:
    """Channels and pixels that are factors, sums of what neither has whole, and rows."""
    build = Builder("repeats")
    add = build.graph.add
    image, gate, place = build.input(1, 4, 3, 2), build.input(1, 4, 1, 1), build.input(1, 1, 3, 1)
    gated = add("mul", [gate, image], {}, name="gated")
    outer = add("mul", [gate, place], {}, name="outer")
    conv = add("add", [build.conv(image, 4, "conv", 1), gate], {}, name="shifted")
    both = add("add", [add("relu", [gated]), place], {}, name="both")
    rows, column = build.input(3, 4), build.input(3, 1)
    scaled = add("mul", [rows, column], {}, name="scaled")
    least = add("max", [add("neg", [column]), build.input(4)], {}, name="least")
    return build.give(both, outer, conv, scaled, least)


@pytest.fixture(scope="module", params=[pads, repeats])
def made(request, fixed):
    build = request.param()
    return fixed(build.graph, build.samples)


@pytest.mark.compiler
@pytest.mark.parametrize("more", [False, True])
def test_exact_in_c_and_verilog_in_the_cycles_that_were_foretold(made, project, more):
    unrolls = {layer.name: layer.choices()[-1] for layer in made.network.layers} if more else {}
    program = made.program("net", unrolls)
    program = with_depths(program, depths(program))
    inputs, wanted = made.vectors(program, IMAGES)
    for port, found, right in zip(program.outputs, csim.run(project(program), inputs), wanted, strict=True):
        np.testing.assert_array_equal(found, right, err_msg=port.name)
    designs = designs_of(program)
    run = rtl.simulate(program, inputs, designs, quiet=5000)
    for port, found, right in zip(program.outputs, run.outputs, wanted, strict=True):
        np.testing.assert_array_equal(found.reshape(IMAGES, -1), right, err_msg=port.name)
    assert run.ends == timing_of(program, designs, images=IMAGES).ends


@pytest.mark.compiler
def test_exact_in_portable_c(made, tmp_path):
    names = [value.name for value in made.graph.inputs], [f"y{n}" for n in range(len(made.graph.outputs))]
    made.graph.labels = names
    source = tmp_path / "net.c"
    source.write_bytes(b"".join(build(made.graph).sections["source"]))
    strict = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1"]
    subprocess.run(["cc", *strict, "-shared", "-fPIC", str(source), "-o", str(tmp_path / "net.so")], check=True)
    program = made.program("net")
    inputs, wanted = made.vectors(program, 1)
    given = [np.ascontiguousarray(rows[0], np.int8) for rows in inputs]
    # Whether a number has a sign makes no difference to bits.
    got = [np.zeros(len(port.order), np.int16 if port.channel.kind.bits > 8 else np.int8) for port in program.outputs]
    run = getattr(ctypes.CDLL(str(tmp_path / "net.so")), made.graph.name)
    run(*(ctypes.c_void_p(one.ctypes.data) for one in (*given, *got)))
    for port, one, right in zip(program.outputs, got, wanted, strict=True):
        np.testing.assert_array_equal(one, right[0].astype(one.dtype), err_msg=port.name)


def test_layers_are_what_they_should_be(fixed):
    """Constants around need no memory; one tensor is repeated once for all who ask."""
    build = pads()
    layers = fixed(build.graph, build.samples).network.layers
    around = [layer for layer in layers if isinstance(layer, Pad)]
    assert [layer.outside for layer in around] == [38, -160, 0, -64, 32]
    assert all(not layer.process(layer.choices()[0], *channels_of(layer)).memories for layer in around)
    assert [choice.outputs for choice in around[2].choices()] == [1, 2, 4]
    build = repeats()
    layers = fixed(build.graph, build.samples).network.layers
    assert sum(isinstance(layer, Rearrange) and "x2" in layer.name for layer in layers) == 2


def channels_of(layer):
    tensors = (layer.inputs[0], layer.output)
    return [[Channel(name, tensor.kind, 1, tensor.size)] for name, tensor in zip("ab", tensors, strict=True)]


def squeeze(path):
    """A padded image, and channels weighted by what they are in the mean."""
    rng = np.random.default_rng(1)
    arrays = {"w": rng.uniform(-1, 1, (2, 1, 2, 2)), "s": rng.uniform(-1, 1, (2, 2, 1, 1)), "value": np.array(0.5),
              "pads": np.array([0, 0, 1, 0, 0, 0, 0, 1])}  # fmt: skip
    nodes = [
        helper.make_node("Pad", ["x", "pads", "value"], ["padded"]),
        helper.make_node("Conv", ["padded", "w"], ["c"]), helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["mean"]), helper.make_node("Conv", ["mean", "s"], ["e"]),
        helper.make_node("HardSigmoid", ["e"], ["gate"]), helper.make_node("Mul", ["r", "gate"], ["y"]),
    ]  # fmt: skip
    constants = [
        numpy_helper.from_array(array.astype(np.int64 if name == "pads" else np.float32), name)
        for name, array in arrays.items()
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 3, 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 3, 3])
    graph = helper.make_graph(nodes, "squeeze", [entry], [result], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    np.savez(path.with_suffix(".npz"), x=rng.uniform(-1, 1, (40, 1, 1, 3, 3)).astype(np.float32))


@pytest.mark.compiler
def test_squeeze_and_excite_passes_the_whole_chain(tmp_path):
    model, samples, out = tmp_path / "squeeze.onnx", tmp_path / "squeeze.npz", tmp_path / "squeeze"
    squeeze(model)
    options = CompileOptions(target="hls:xc7z020", quantize=Quantization("fixed6", samples), objective="resources")
    found = compile_model(model, options, out).manifest["quantized"]["accuracy"]["outputs"]
    assert found["snr_db"] > 15
    checks = find_target("hls").check(out, model, samples, lambda *_: None)
    assert [check.text for check in checks if not check.ok] == []
