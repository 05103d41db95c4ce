"""Damaged models: each is refused in words, whatever the damage, and none makes the importer take much memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.damaged.kinds import KINDS, Damaged, damaged_models
from benchmarks.damaged.sound import SOUND
from tensorc.cli import main
from tensorc.cli.console import tensor
from tensorc.errors import UnsupportedError, UserError
from tensorc.frontend import import_model, read_model
from tensorc.frontend.importer import open_model

MOST_MEMORY = 1 << 30


def write(folder: Path, model: Damaged) -> Path:
    for name, data in model.files.items():
        (folder / name).write_bytes(data)
    path = folder / "model.onnx"
    path.write_bytes(model.data)
    return path


@pytest.mark.parametrize("name", SOUND)
def test_the_models_are_sound_before(tmp_path: Path, name: str) -> None:
    sound = SOUND[name]()
    path = write(tmp_path, Damaged("none", name, sound.proto.SerializeToString(), dict(sound.files)))
    onnx.checker.check_model(str(path), full_check=True)
    try:
        import_model(path)
    except UnsupportedError:
        return


def test_damaged_models_are_the_same_for_a_seed() -> None:
    first, again = list(damaged_models(len(KINDS), 3)), list(damaged_models(len(KINDS), 3))
    assert first == again
    assert {model.kind for model in first} == set(KINDS)
    sound = {name: make().proto.SerializeToString() for name, make in SOUND.items()}
    assert sum(model.data == sound[model.origin] for model in first) <= 3


@pytest.mark.parametrize("model", damaged_models(2 * len(KINDS), seed=4), ids=lambda m: f"{m.kind}-{m.origin}")
def test_damage_is_refused_in_words(tmp_path: Path, model: Damaged) -> None:
    path = write(tmp_path, model)
    tracemalloc.start()
    try:
        import_model(path)
    except UserError as error:
        assert str(error).startswith(str(path))  # noqa: PT017  (a model may also have stayed sound)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST_MEMORY


@pytest.mark.parametrize("kind", ["truncated", "names not utf8", "unknown input", "huge input", "deep messages"])
def test_the_command_line_says_it_in_one_line(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    model = next(m for m in damaged_models(3 * len(KINDS), 1) if m.kind == kind and m.origin != "control_flow")
    path = write(tmp_path, model)
    out = tmp_path / "model.tcm"
    assert main(["compile", str(path), "-o", str(out)]) == 2
    printed, said = capfd.readouterr()
    assert (printed, said.count("\n")) == ("", 1)
    assert said.startswith(f"tensorc: error: {path}")
    assert len(said) < 11_000
    assert not out.exists()


def test_names_that_a_terminal_cannot_take(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model_of("\x1b[31mNo\nSuch\0" + "x" * 1000, {}), path)
    assert main(["compile", str(path), "-o", str(tmp_path / "model.tcm")]) == 2
    said = capfd.readouterr().err
    assert "ai.onnx.?[31mNo Such?xxx" in said
    assert "..." in said
    assert len(said) < 1000


# What is refused, one by one --------------------------------------------------------------------------------


def model_of(
    op: str, constants: dict[str, Any], inputs: int = 1, opset: int = 18, **attributes: Any
) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    names = [f"x{i}" for i in range(inputs)]
    node = helper.make_node(op, [*names, *constants], ["y"], **attributes)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of("Expand", {"s": [2**40, 2, 3]}), r"its result f32\[1099511627776,2,3\] is too large: it has "),
        (model_of("Expand", {"s": [1] * 70 + [2, 3]}), "its result of 72 axes is not supported"),
        (model_of("Tile", {"r": [2**20, 2**20]}), "its result .* is too large"),
        (model_of("Pad", {"p": [0, 2**62, 0, 2**62]}), "its result .* is too large"),
        (model_of("ConstantOfShape", {"s": [2**32, 2**32]}, 0), "its result .* is too large"),
        (model_of("Range", {"a": np.float32(0), "b": np.float32(3e38), "c": np.float32(1)}, 0), "is too large"),
        (model_of("Reshape", {"s": [-2, -3]}), r"its result f32\[-2,-3\] would have a negative size"),
        (model_of("Pad", {"p": [0, -4, 0, 0]}), r"its result f32\[2,-1\] would have a negative size"),
        (
            model_of("OneHot", {"i": [1], "d": 2**40, "v": np.float32([0, 1])}, 0),
            r"a constant i64\[1099511627776\] would have to be computed, which has 8796093022208 bytes",
        ),
        (model_of("ConstantOfShape", {"s": [2**29]}, 0), "a constant .* would have to be computed"),
        (model_of("Softmax", {}, axis="last"), "the attribute 'axis' must be INT, not STRING"),
        (model_of("Softmax", {}, axes=1), "there is no attribute 'axes'; attributes: axis"),
        (model_of("LeakyRelu", {}, alpha=1), "the attribute 'alpha' must be FLOAT, not INT"),
        (model_of("Relu", {"more": np.float32(1)}), "it has 2 inputs, and may have 1"),
        (model_of("MatMul", {}), "input 1 is missing"),
        (model_of("LRN", {}), "the attribute 'size' is missing"),
    ],
    ids=lambda x: x.graph.node[0].op_type if isinstance(x, onnx.ModelProto) else "",
)
def test_what_a_node_may_not_be(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_model(model)


@pytest.mark.parametrize("op", ["Trilu", "EyeLike"])
def test_a_constant_too_large_to_be_computed(op: str) -> None:
    model = model_of(op, {})
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**29
    with pytest.raises(UnsupportedError, match=rf"ai\.onnx\.{op} \(a constant .* would have to be computed"):
        import_model(model)


def test_attributes_that_say_one_thing_and_hold_another() -> None:
    model = model_of("Constant", {}, 0, value=numpy_helper.from_array(np.ones(2, np.float32)))
    model.graph.node[0].attribute[0].ClearField("t")
    with pytest.raises(UserError, match="the attribute 'value' has no value"):
        import_model(model)


def test_an_attribute_that_is_given_twice() -> None:
    model = model_of("LeakyRelu", {}, alpha=0.5)
    model.graph.node[0].attribute.add().CopyFrom(model.graph.node[0].attribute[0])
    with pytest.raises(UserError, match="the attribute 'alpha' is given twice"):
        import_model(model)


def test_attributes_of_exporters_are_passed_over() -> None:
    import_model(model_of("Relu", {}, _output_shapes="none"))


@pytest.mark.parametrize("shape", [[2**31], [2**16, 2**15], [1] * 65])
def test_inputs_too_large(shape: list[int]) -> None:
    model = model_of("Relu", {})
    model.graph.input[0].type.tensor_type.shape.ClearField("dim")
    for size in shape:
        model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=size)
    with pytest.raises(UserError, match=r"input 'x0' .* is too large: it may have 2147483647 elements and 64 axes"):
        import_model(model)


def test_weights_too_large() -> None:
    model = model_of("Relu", {"w": np.ones(3, np.float32)}, 0)
    model.graph.initializer[0].dims[:] = [2**16, 2**15]
    with pytest.raises(UnsupportedError, match=r"tensor 'w': the type f32\[65536,32768\] is too large"):
        import_model(model)


def test_a_file_that_protobuf_does_not_take(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:  # sparse: a description of 3 GiB
        file.write(b"\x32" + b"\x80\x80\x80\x80\x0c")
        file.truncate(6 + (3 << 30))
    with pytest.raises(UserError, match=r"is too large: protobuf allows 2 GiB, it has 3221225478 bytes .*external"):
        read_model(path)


def test_text_that_is_none() -> None:
    data = model_of("Relu", {"weight": np.ones(3, np.float32)}, 0).SerializeToString()
    with pytest.raises(UserError, match=r"a NodeProto\.input in it is not UTF-8 text"):
        read_model(data.replace(b"weight", b"\xff\xfeight"))


def test_descriptions_may_be_anything() -> None:
    model = model_of("Relu", {})
    model.doc_string = "written"
    assert read_model(model.SerializeToString().replace(b"written", b"\xe9crit\xe9!")).proto.graph.node


@pytest.mark.parametrize("location", ["a\0b", "x" * 5000])
def test_external_files_that_cannot_be(tmp_path: Path, location: str) -> None:
    model = model_of("Relu", {"w": np.ones(3, np.float32)}, 0)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="tensor 'w' names the external file") as caught:
        import_model(path)
    assert len(str(caught.value)) < 400


def test_shapes_that_are_free_are_written_so() -> None:
    assert tensor({"dtype": "float32", "shape": None}) == "float32[...]"
    assert tensor({"dtype": "int8", "shape": ["n", None, 3]}) == "int8[n,?,3]"


def test_a_resize_to_infinity() -> None:
    model = model_of("Resize", {"roi": np.zeros(0, np.float32), "scales": np.float32([3e38, 3e38])})
    with pytest.raises(UserError, match=r"the scales .* make f32\[2,3\] infinite"):
        import_model(model)


# Models whose shapes are free -------------------------------------------------------------------------------


def free(body: str, outputs: str = "y") -> onnx.ModelProto:
    results = ", ".join(f"float[n,3] {name}" for name in outputs.split())
    return onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 18]> g (float[n,3] x, bool c) => ({results}) {{ {body} }}'
    )


BRANCHES = "y = If(c) <then_branch = t () => (float[n,3] a) {{ {0} }}, else_branch = e () => (float[n,3] a) {{ {0} }}>"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (free("y = NoSuch(x)"), r"holds what is not supported: ai\.onnx\.NoSuch \(1x, such as 'y'\)"),
        (free("y = Relu(z)"), r"node 'y' \(Relu\): reads 'z', which nothing before it defines"),
        (free("y = Relu(x) y = Relu(x)"), "its output 'y' is defined before"),
        (free("z = Relu(x)"), "nothing defines the output 'y'"),
        (free('y = Softmax<axis = "last">(x)'), "the attribute 'axis' must be INT, not STRING"),
        (free("y = LRN(x)"), "the attribute 'size' is missing"),
        (free(BRANCHES.format("a = Relu(z)")), "reads 'z', which nothing before it defines"),
        (free(BRANCHES.format("a = NoSuch(x)")), r"ai\.onnx\.NoSuch \(2x, such as 'a'\)"),
    ],
)
def test_what_is_wrong_whatever_the_shape_is_found_when_it_is_opened(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_model(model)


@pytest.mark.parametrize(
    "body", ["y = Relu(x)", BRANCHES.format("a = Relu(x)"), BRANCHES.format("b = Neg(x) a = Abs(b)")]
)
def test_what_is_right_is_opened(body: str) -> None:
    assert not open_model(free(body)).inputs[0].is_static


def test_what_the_standard_defines_by_others_is_opened() -> None:
    assert open_model(free("y = MeanVarianceNormalization(x)")).inputs
    assert open_model(free("y = Elu(x)")).inputs


def test_fallback_may_take_what_has_no_rule() -> None:
    open_model(free("y = NoSuch(x)"), fallback=True)
