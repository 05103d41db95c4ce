"""Reading model files: where the weights are taken from, and what is said about files that are wrong."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorc.errors import UnsupportedError, UserError
from tensorc.frontend import LoadedModel, read_model

WEIGHT = np.arange(300, dtype=np.float32).reshape(30, 10)


def model_with(*initializers: TensorProto) -> onnx.ModelProto:
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([helper.make_node("Relu", ["w"], ["y"])], "g", [], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def external(location: str, **entries: object) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHT.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def weight_of(model: LoadedModel) -> np.ndarray:
    return model.initializer(model.proto.graph.initializer[0]).numpy()


def save(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


# Where the weights come from --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "string", "bytes", "proto"])
def test_every_kind_of_source_gives_the_same_weight(tmp_path: Path, kind: str) -> None:
    proto = model_with(numpy_helper.from_array(WEIGHT, "w"))
    path = save(tmp_path, proto)
    source = {"path": path, "string": str(path), "bytes": path.read_bytes(), "proto": proto}[kind]
    np.testing.assert_array_equal(weight_of(read_model(source)), WEIGHT)


@pytest.mark.parametrize(
    "array",
    [
        WEIGHT.astype(np.float16),
        WEIGHT.astype(ml_dtypes.bfloat16),
        WEIGHT.astype(np.float64),
        WEIGHT.astype(np.int8),
        WEIGHT.astype(np.uint64),
        WEIGHT > 5,
        np.float32(3).reshape(()),
        np.empty((0, 4), dtype=np.int64),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
def test_every_element_type_raw_and_typed(tmp_path: Path, array: np.ndarray, typed: bool) -> None:
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = (
        helper.make_tensor("w", code, array.shape, array.reshape(-1)) if typed else numpy_helper.from_array(array, "w")
    )
    got = weight_of(read_model(save(tmp_path, model_with(tensor))))
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(got, array)


PACKED = [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2, ml_dtypes.float4_e2m1fn,
          ml_dtypes.float6_e2m3fn, ml_dtypes.float6_e3m2fn]  # fmt: skip


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize("count", [0, 1, 7, 4001])
def test_packed_elements(tmp_path: Path, dtype: type, count: int) -> None:
    """In the message, cut from it, and in an external file at an offset."""
    array = np.random.default_rng(0).integers(0, 4, count).astype(dtype)
    tensor = numpy_helper.from_array(array, "w")
    outside = TensorProto(name="w", data_type=tensor.data_type, dims=array.shape)
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "3")):
        outside.external_data.add(key=key, value=value)
    (tmp_path / "w.bin").write_bytes(b"abc" + tensor.raw_data)
    codes = helper.make_tensor("w", tensor.data_type, array.shape, array)
    for source in (model_with(tensor), save(tmp_path, model_with(tensor)), model_with(codes)):
        np.testing.assert_array_equal(weight_of(read_model(source)), array)
    np.testing.assert_array_equal(weight_of(read_model(save(tmp_path, model_with(outside)))), array)


def test_packed_data_of_the_wrong_length() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.INT4, dims=[5], raw_data=b"12345")
    with pytest.raises(UserError, match=r"'w' holds 5 bytes, its type i4\[5\] needs 3"):
        weight_of(read_model(model_with(tensor)))


def test_raw_data_is_neither_parsed_nor_copied(tmp_path: Path) -> None:
    big = np.zeros((4 << 20,), dtype=np.float32)
    path = save(tmp_path, model_with(numpy_helper.from_array(big, "w")))
    tracemalloc.start()
    try:
        model = read_model(path)
        assert not model.proto.graph.initializer[0].HasField("raw_data")
        assert tracemalloc.get_traced_memory()[1] < big.nbytes / 16
    finally:
        tracemalloc.stop()


def test_external_data_is_mapped_from_its_offset(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"12345678" + WEIGHT.tobytes() + b"rest")
    tensor = external("sub/w.bin", offset=8, length=WEIGHT.nbytes)
    got = weight_of(read_model(save(tmp_path, model_with(tensor))))
    np.testing.assert_array_equal(got, WEIGHT)
    assert not got.flags.owndata


# External files that are wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (external("/etc/passwd"), "outside the model's folder"),
        (external("../w.bin"), "outside the model's folder"),
        (external("link/w.bin"), "outside the model's folder"),
        (external("missing.bin"), "'missing.bin', which does not exist"),
        (external("."), "does not exist"),
        (external("short.bin"), r"needs bytes 0 to 1200 of 'short.bin', which has 100 bytes"),
        (external("short.bin", offset=-4), "needs bytes -4"),
        (external("short.bin", offset="many"), "no number as offset"),
        (external("short.bin", length=100), r"holds 100 bytes, its type f32\[30,10\] needs 1200"),
        (external(""), "names no file"),
    ],
)
def test_bad_external_data(tmp_path: Path, tensor: TensorProto, message: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (folder / "short.bin").write_bytes(bytes(100))
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match=rf"model\.onnx: tensor 'w' .*{message}"):
        weight_of(read_model(save(folder, model_with(tensor))))


def test_external_data_needs_a_path() -> None:
    with pytest.raises(UserError, match=r"'w' is in the external file 'w.bin': give the model by its path"):
        weight_of(read_model(model_with(external("w.bin"))))


# Files that are wrong ---------------------------------------------------------------------------------------


def _broken(folder: Path, kind: str) -> Path:
    path = folder / kind
    whole = model_with(numpy_helper.from_array(WEIGHT, "w")).SerializeToString()
    match kind:
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "truncated":
            path.write_bytes(whole[:-200])
        case "text":
            path.write_text("Version https://git-lfs.github.com/spec/v1\n" * 20)
        case "zeros":
            path.write_bytes(bytes(1000))
        case "endless":
            path.write_bytes(b"\xff" * 40)
        case "other":
            path.write_bytes(helper.make_tensor("t", TensorProto.FLOAT, (1,), [1.0]).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("empty", "is empty"),
        ("folder", "is a folder, not an ONNX file"),
        ("truncated", "is truncated or not an ONNX model"),
        ("text", "is truncated or not an ONNX model"),
        ("zeros", "is truncated or not an ONNX model"),
        ("endless", "is truncated or not an ONNX model"),
        ("other", "not an ONNX model"),
    ],
)
def test_bad_file(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_model(_broken(tmp_path, kind))
    assert str(tmp_path / kind) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_an_error_in_one_line() -> None:
    whole = model_with(numpy_helper.from_array(WEIGHT, "w")).SerializeToString()
    for size in range(0, len(whole) - 1, 7):
        with pytest.raises(UserError) as caught:
            read_model(whole[:size])
        assert "\n" not in str(caught.value)


def test_raw_data_of_the_wrong_length() -> None:
    tensor = numpy_helper.from_array(WEIGHT, "w")
    tensor.dims[0] = 31
    with pytest.raises(UserError, match=r"tensor 'w' holds 1200 bytes, its type f32\[31,10\] needs 1240"):
        weight_of(read_model(model_with(tensor).SerializeToString()))


def test_typed_data_of_the_wrong_length() -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, (2, 2), [1, 2, 3, 4])
    tensor.dims[0] = 3
    with pytest.raises(UserError, match="tensor 'w' cannot be decoded"):
        weight_of(read_model(model_with(tensor)))


def test_negative_dimension() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-1])
    with pytest.raises(UserError, match=r"tensor 'w' has the shape \[-1\]"):
        weight_of(read_model(model_with(tensor)))


@pytest.mark.parametrize("code", [TensorProto.COMPLEX64, 0, 99])
def test_element_type_without_a_place_in_the_ir(code: int) -> None:
    tensor = TensorProto(name="w", data_type=code, dims=[4])
    with pytest.raises(UnsupportedError, match=r"tensor 'w': element type .* is not supported; supported: float64"):
        weight_of(read_model(model_with(tensor)))
