"""The C target: the file is compiled by the machine's C compiler and run beside the graph that it was made of."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import tensorc
from targets.c.build import build
from targets.hls.layers.network import network_of, program_of
from targets.hls.vectors import golden
from tensorc.driver import compile_model
from tensorc.errors import UnsupportedError, UserError
from tensorc.frontend.importer import open_model
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes
from tensorc.quantization.calibration import calibrated
from tensorc.quantization.data import Samples
from tensorc.quantization.scheme import Quantization
from tensorc.target import find_target

DIGITS = Path(__file__).parents[3] / "examples" / "digits"
STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1"]


def model_of(nodes, inputs, outputs, constants=()):
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def fixed(model, scheme, feeds):
    """The fixed-point graph of a model, as it reaches `build`."""
    options = CompileOptions(target="c", quantize=Quantization(scheme))
    target = find_target("c")
    imported = open_model(model, {}).static()
    graph = imported.graph
    graph.labels = (imported.input_names, imported.output_names)
    rows = [
        {"name": name, "dtype": v.dtype, "shape": list(v.shape)}
        for name, v in zip(*((imported.input_names, graph.inputs)), strict=True)
    ]
    how = calibrated(graph, Samples(feeds), rows, target, options, lambda *_: None)
    run_passes(graph, target.passes(CompileOptions(target="c", quantize=how)))
    return graph


def run_c(graph, folder, count=20, feeds=()):
    """Outputs of the compiled file and of the graph, raw, for `count` images."""
    built = build(graph)
    source = folder / "model.c"
    source.write_bytes(b"".join(built.sections["source"]))
    library = folder / "model.so"
    subprocess.run(["cc", *STRICT, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    program = program_of(network_of(graph), {}, built.manifest["name"])
    vectors = golden(graph, program, feeds, count)

    def array(port, rows):
        kind = port.channel.kind
        width = next(bits for bits in (8, 16, 32, 64) if kind.bits <= bits)
        return np.ascontiguousarray(rows, np.dtype(f"{'' if kind.signed else 'u'}int{width}"))

    run = getattr(ctypes.CDLL(str(library)), built.manifest["name"])
    got = [[] for _ in program.outputs]
    for image in range(count):
        given = [array(port, rows[image]) for port, rows in zip(program.inputs, vectors.inputs, strict=True)]
        made = [array(port, np.zeros(len(port.order))) for port in program.outputs]
        run(*(ctypes.c_void_p(one.ctypes.data) for one in (*given, *made)))
        for rows, one in zip(got, made, strict=True):
            rows.append(one.astype(np.int64))
    return [np.stack(rows) for rows in got], vectors.outputs


def weights(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def images(shape, count=8):
    rng = np.random.default_rng(5)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


CONV = {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}
CASES = {
    "strided, padded and dilated convolution": (
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], **CONV)], [1, 3, 9, 10], [1, 4, 5, 7],
        {"w": weights(4, 3, 3, 3), "b": weights(4)},
    ),
    "groups": (
        [helper.make_node("Conv", ["x", "w"], ["c"], group=2), helper.make_node("Relu", ["c"], ["y"])],
        [1, 4, 6, 6], [1, 6, 4, 4], {"w": weights(6, 2, 3, 3)},
    ),
    "depthwise with a residual": (
        [helper.make_node("Conv", ["x", "w"], ["c"], group=4, pads=[1, 1, 1, 1]),
         helper.make_node("Add", ["c", "x"], ["s"]), helper.make_node("Relu", ["s"], ["y"])],
        [1, 4, 5, 6], [1, 4, 5, 6], {"w": weights(4, 1, 3, 3)},
    ),
    "signals": (
        [helper.make_node("Conv", ["x", "w"], ["c"], pads=[2, 2], strides=[2]), helper.make_node("Relu", ["c"], ["r"]),
         helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=[2], strides=[2])],
        [1, 2, 16], [1, 3, 4], {"w": weights(3, 2, 5)},
    ),
    "pools that pad": (
        [helper.make_node("MaxPool", ["x"], ["m"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
         helper.make_node("AveragePool", ["m"], ["y"], kernel_shape=[3, 2], pads=[1, 0, 1, 0], count_include_pad=1)],
        [1, 2, 8, 9], [1, 2, 4, 4], {},
    ),
    "mean of all pixels, then a matrix": (
        [helper.make_node("GlobalAveragePool", ["x"], ["g"]), helper.make_node("Flatten", ["g"], ["f"]),
         helper.make_node("Gemm", ["f", "w", "b"], ["y"])],
        [1, 6, 5, 7], [1, 3], {"w": weights(6, 3), "b": weights(3)},
    ),
    "flattened image": (
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Flatten", ["c"], ["f"]),
         helper.make_node("MatMul", ["f", "m"], ["y"])],
        [1, 2, 4, 4], [1, 5], {"w": weights(3, 2, 2, 2), "m": weights(27, 5)},
    ),
    "rows by a matrix, functions by tables": (
        [helper.make_node("MatMul", ["x", "m"], ["p"]), helper.make_node("Tanh", ["p"], ["t"]),
         helper.make_node("Sigmoid", ["t"], ["s"]), helper.make_node("Mul", ["s", "p"], ["y"])],
        [5, 6], [5, 4], {"m": weights(6, 4)},
    ),
    "rows normalised, weighed and of many values": (
        [helper.make_node("LayerNormalization", ["x", "w", "b"], ["n"], axis=-1),
         helper.make_node("Gelu", ["n"], ["g"]), helper.make_node("Softmax", ["g"], ["y"], axis=0)],
        [4, 10], [4, 10], {"w": weights(10), "b": weights(10)},
    ),
    "transposed and cut": (
        [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
         helper.make_node("Slice", ["t", "from", "to", "axes"], ["s"]), helper.make_node("Abs", ["s"], ["y"])],
        [1, 4, 6], [1, 3, 4], {"from": np.array([1]), "to": np.array([4]), "axes": np.array([1])},
    ),
    "joined along channels, on grids of their own": (
        [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["x"], ["r"]),
         helper.make_node("Concat", ["c", "r"], ["j"], axis=1), helper.make_node("Conv", ["j", "v"], ["y"])],
        [1, 2, 5, 4], [1, 3, 4, 3], {"w": weights(4, 2, 3, 3), "v": weights(3, 6, 2, 2)},
    ),
    "joined rows": (
        [helper.make_node("MatMul", ["x", "m"], ["p"]), helper.make_node("Concat", ["x", "p"], ["j"], axis=-1),
         helper.make_node("Abs", ["j"], ["y"])],
        [3, 4], [3, 6], {"m": weights(4, 2)},
    ),
    "constants of every shape": (
        [helper.make_node("Mul", ["x", "a"], ["p"]), helper.make_node("Sub", ["p", "b"], ["q"]),
         helper.make_node("Div", ["q", "c"], ["r"]), helper.make_node("Max", ["r", "d"], ["m"]),
         helper.make_node("Clip", ["m", "low", "high"], ["n"]), helper.make_node("Neg", ["n"], ["y"])],
        [1, 3, 4, 2], [1, 3, 4, 2],
        {"a": weights(3, 1, 1), "b": weights(1, 3, 4, 2), "c": np.float32(0.7), "d": weights(2),
         "low": np.float32(-0.4), "high": np.float32(0.9)},
    ),
}  # fmt: skip


@pytest.mark.compiler
@pytest.mark.parametrize("scheme", ["fixed8", "fixed12w5", "fixed6w2"])
@pytest.mark.parametrize("case", CASES)
def test_file_computes_what_the_graph_does(tmp_path, case, scheme):
    nodes, x, y, constants = CASES[case]
    graph = fixed(model_of(nodes, {"x": x}, {"y": y}, constants), scheme, images(x))
    got, wanted = run_c(graph, tmp_path)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("name", "layers", "least"),
    [("digits", "6", 0.981), ("digits_transformer", "22", 0.965)],  # 0.986 and 0.975 in float32
)
def test_digits_in_eight_bits(tmp_path, name, layers, least):
    """From the command's own way: as accurate as in float32, but for a point at most, and right in C."""
    out = tmp_path / "digits.c"
    how = Quantization("fixed8", DIGITS / "calibration.npz")
    report = compile_model(DIGITS / f"{name}.onnx", CompileOptions(target="c", quantize=how), out)
    assert dict(report.manifest["summary"])["layers"] == layers
    macro = f"-D{name.upper()}_FLOAT"
    subprocess.run(["cc", *STRICT, macro, "-c", str(out), "-o", str(tmp_path / "digits.o")], check=True)
    with np.load(DIGITS / "heldout.npz") as data:
        images, labels = (data["images"] / 16).astype(np.float32), data["labels"]
    with tensorc.load(out) as model:
        right = sum(
            model.run(None, {"image": image[None].reshape(1, 1, 8, 8)})[0].argmax() == label
            for image, label in zip(images, labels, strict=True)
        )
    assert right / len(labels) >= least


@pytest.mark.compiler
def test_the_digits_transformer_is_exact_on_100_images(tmp_path):
    with np.load(DIGITS / "calibration.npz") as data:
        feeds = [{"image": image.reshape(1, 1, 8, 8).astype(np.float32)} for image in data["image"]]
    graph = fixed(onnx.load(DIGITS / "digits_transformer.onnx"), "fixed8", feeds)
    (got,), (wanted,) = run_c(graph, tmp_path, 100, feeds)
    np.testing.assert_array_equal(got, wanted)


def test_other_targets_compute_in_floats(tmp_path):
    with pytest.raises(UserError, match="the target cpu has no --quantize fixed8; legal: int8"):
        compile_model(DIGITS / "digits.onnx", CompileOptions(quantize=Quantization("fixed8")), tmp_path / "out.tcm")
    how = Quantization("int8", DIGITS / "calibration.npz")
    with pytest.raises(UserError, match="the target c has no --quantize int8; legal: fixed8"):
        compile_model(DIGITS / "digits.onnx", CompileOptions(target="c", quantize=how), tmp_path / "out.c")
    assert not list(tmp_path.iterdir())


def test_batches_are_refused():
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": [2, 3, 5, 5]}, {"y": [2, 4, 3, 3]},
                     {"w": weights(4, 3, 3, 3)})  # fmt: skip
    with pytest.raises(UnsupportedError, match="one image at a time, not a batch of 2"):
        build(fixed(model, "fixed8", images([2, 3, 5, 5])))


def test_files_of_others_are_told_in_one_line(tmp_path):
    (tmp_path / "mine.c").write_text("int main(void) { return 0; }\n")
    with pytest.raises(UserError, match=r"mine\.c is no C file that tensorc wrote"):
        tensorc.load(tmp_path / "mine.c")


def test_without_samples_ranges_are_said_to_be_guesses(tmp_path):
    out = tmp_path / "digits.c"
    with pytest.warns(UserWarning, match="ranges are those of random inputs"):
        compile_model(DIGITS / "digits.onnx", CompileOptions(target="c"), out)
    assert b"void digits(" in out.read_bytes()
