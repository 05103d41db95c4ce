"""Rows of the op table that no ONNX operator reaches, and what all rows have in common."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tensorc.errors import IRError
from tensorc.ir import OPS, Graph, TensorType, evaluate
from tensorc.ir.ops.layout import blocks_of, pack_conv_weight, pack_matmul_weight
from tensorc.ir.ops.nn import window_output

RNG = np.random.default_rng(1)


def noise(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def run(op: str, *arrays: np.ndarray, **attrs: object) -> np.ndarray:
    """The op's result, whose type must be what the type rule says."""
    graph = Graph()
    inputs = [graph.add_input("x", TensorType(a.dtype.name, a.shape)) for a in arrays]
    graph.outputs = [graph.add(op, inputs, attrs)]
    (result,) = evaluate(graph, {v.name: a for v, a in zip(inputs, arrays, strict=True)})
    assert TensorType(result.dtype.name, result.shape) == graph.outputs[0].type
    return result


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups", "block"), [(8, 1, 4), (6, 1, 4), (6, 2, 4), (3, 3, 2)])
def test_blocking_and_back(channels: int, groups: int, block: int) -> None:
    x = noise(2, channels, 3, 5)
    blocked = run("block", x, block=block, groups=groups)
    assert blocked.shape == (2, blocks_of(channels, groups, block), 3, 5, block)
    np.testing.assert_array_equal(run("unblock", blocked, channels=channels, groups=groups), x)


@pytest.mark.parametrize(("channels", "filters", "groups"), [(8, 8, 1), (6, 10, 1), (8, 8, 2)])
@pytest.mark.parametrize("plain", [False, True])
def test_blocked_convolution_is_the_plain_one(channels: int, filters: int, groups: int, plain: bool) -> None:
    x, w = noise(1, channels, 7, 6), noise(filters, channels // groups, 3, 3)
    window = {"strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 1), "groups": groups}
    data = x if plain else run("block", x, block=4, groups=groups)
    weight = pack_conv_weight(w, groups, 4, in_block=1 if plain else 4)
    blocked = run("conv_blocked", data, weight, **window)
    close(run("unblock", blocked, channels=filters, groups=groups), run("conv", x, w, **window))


def test_blocked_depthwise_convolution_is_the_plain_one() -> None:
    x, w = noise(1, 6, 5, 5), noise(6, 1, 3, 3)
    window = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 6}
    weight = np.moveaxis(np.pad(w, [(0, 2), (0, 0), (0, 0), (0, 0)]).reshape(2, 4, 1, 3, 3), 1, -1)
    blocked = run("conv_blocked", run("block", x, block=4), weight, **window, depthwise=1)
    close(run("unblock", blocked, channels=6), run("conv", x, w, **window))


def test_packed_product_is_the_plain_one() -> None:
    a, b = noise(2, 3, 5), noise(5, 10)
    close(run("matmul_packed", a, pack_matmul_weight(b, 4), columns=10), a @ b)


def test_transposed_product() -> None:
    a, b = noise(2, 3, 5), noise(2, 4, 5)
    close(run("matmul", a, b, transpose_b=1), a @ b.swapaxes(1, 2))


@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_its_definition(heads: int, masked: bool) -> None:
    q, k, v = noise(2, 3, 4, 8), noise(2, 5, heads, 8), noise(2, 5, heads, 6)
    mask = [np.where(noise(1, 1, 3, 5) > 0, 0, -1e9).astype(np.float32)] if masked else []
    got = run("attention", q, k, v, *mask, scale=0.3)
    for h in range(4):
        keys, values = k[:, :, h * heads // 4], v[:, :, h * heads // 4]
        scores = q[:, :, h] @ keys.swapaxes(1, 2) * 0.3 + (mask[0][0] if masked else 0)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        close(got[:, :, h], weights / weights.sum(-1, keepdims=True) @ values)


def test_pooling_of_blocked_images() -> None:
    x = noise(1, 8, 6, 5)
    window = {"kernel": (3, 2), "strides": (2, 2), "pads": (1, 0, 0, 1), "dilations": (1, 1), "ceil": 1}
    for op in ("max_pool", "avg_pool"):
        blocked = run(op, run("block", x, block=4), **window)
        close(run("unblock", blocked, channels=8), run(op, x, **window))


def test_unary_rows_without_an_onnx_operator() -> None:
    x = np.abs(noise(5)) + 0.1
    close(run("rsqrt", x), 1 / np.sqrt(x))
    close(run("silu", -x), -x / (1 + np.exp(x)))


def test_integer_division_goes_towards_zero_and_survives_zero() -> None:
    a, b = np.array([7, -7, 7, -7, -(2**31), 5], np.int32), np.array([2, 2, -2, -2, 1, 0], np.int32)
    np.testing.assert_array_equal(run("div", a, b), [3, -3, -3, 3, -(2**31), 0])
    np.testing.assert_array_equal(run("pow", np.array([2, -1]), np.array([-1, -3])), [0, -1])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bit_sums_do_not_drift(dtype: type) -> None:
    ones = np.ones((1, 4096), dtype)
    assert run("reduce_sum", ones, axes=(1,)).item() == 4096
    assert run("matmul", ones, ones.T.copy()).item() == 4096
    close(run("softmax", ones, axis=1).astype(np.float32), np.full((1, 4096), 2.0**-12))
    image = np.ones((1, 64, 8, 8), dtype)
    window = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
    assert run("conv", image, image, **window).item() == 4096
    assert run("max_pool", -image, kernel=(2, 2), ceil=0, **(window | {"pads": (1,) * 4})).max() == -1


def test_reductions_of_nothing() -> None:
    nothing = np.empty((2, 0), np.float32)
    assert run("reduce_max", nothing, axes=(1,), keepdims=0).tolist() == [-np.inf] * 2
    assert run("reduce_min", nothing.astype(np.int8), axes=(1,), keepdims=0).tolist() == [127] * 2
    assert run("reduce_sum", nothing, axes=(1,), keepdims=0).tolist() == [0] * 2


def test_window_outputs() -> None:
    assert window_output(7, 3, 2, 0, 0, 1) == 3
    assert window_output(8, 3, 2, 0, 0, 1, ceil=True) == 4
    assert window_output(4, 1, 2, 0, 1, 1, ceil=True) == 2  # a third window would start in the padding
    assert window_output("n", 3, 1, 1, 1, 1) == "n"
    with pytest.raises(TypeError, match="does not fit 2 padded by 0 and 0"):
        window_output(2, 5, 1, 0, 0, 1)


F32 = TensorType("float32", (2, 3))


@pytest.mark.parametrize(
    ("op", "types", "attrs", "message"),
    [
        ("add", [F32, TensorType("int64", (2, 3))], {}, "different element types"),
        ("where", [F32, F32, F32], {}, "condition must be bool"),
        ("cast", [F32], {"to": "float8"}, "unknown element type 'float8'"),
        ("reduce_sum", [F32], {"axes": (0, 0)}, "each once"),
        ("reduce_sum", [F32], {"axes": (2,)}, "are not axes of"),
        ("layer_norm", [F32, F32], {"axis": 1}, r"must be \[3\]"),
        ("layer_norm", [F32, F32], {"axis": 2}, "axis 2 is not an axis"),
        ("reshape", [F32], {"shape": (7,)}, "element counts differ"),
        ("slice", [F32], {"starts": (0,), "sizes": (1,), "steps": (1,)}, "one start, size and step for each axis"),
        ("slice", [F32], {"starts": (0, 2), "sizes": (2, 2), "steps": (1, 1)}, "leaves axis 1"),
        ("slice", [F32], {"starts": (0, 0), "sizes": (2, -1), "steps": (1, 1)}, "negative size"),
        ("concat", [F32, F32], {"axis": -1}, "axis -1 is not an axis"),
        ("expand", [F32], {"shape": (3, 3)}, "do not broadcast"),
        ("expand", [F32], {"shape": (1, 3)}, "cannot expand"),
        ("pad", [F32], {"before": (1,), "after": (1,)}, "for each axis"),
        ("pad", [F32], {"before": (1, 1), "after": (1, 1), "mode": "odd"}, "not 'odd'"),
        ("gather", [F32, F32], {"axis": 0}, "indices must be int32 or int64"),
        ("gather_nd", [F32, TensorType("int64", (1, 3))], {}, "does not take indices"),
        ("unfold", [F32], {"axis": 9, "out": 1, "kernel": 1}, "unfold of"),
        ("unfold", [F32], {"axis": 0, "out": 99, "kernel": 2}, "ends at"),
        ("matmul", [F32, F32], {}, "cannot multiply"),
        ("batch_norm", [F32, F32, F32, F32, F32], {}, r"must be \[3\]"),
        ("block", [TensorType("float32", (1, 3, 2, 2))], {"block": 4, "groups": 2}, "do not divide into 2 groups"),
    ],
)
def test_type_rules_name_what_disagrees(op: str, types: list[TensorType], attrs: dict, message: str) -> None:
    row = OPS[op]
    with pytest.raises((TypeError, ValueError), match=message):
        row.infer(types, row.complete(attrs))


def test_attributes_are_checked_and_completed() -> None:
    assert OPS["reduce_sum"].complete({"axes": [0, 1]}) == {"axes": (0, 1), "keepdims": 1}
    with pytest.raises(IRError, match="needs the attribute 'axes'"):
        OPS["reduce_sum"].complete({})
    with pytest.raises(IRError, match=r"no attribute \['axis'\]; it takes \['axes', 'keepdims'\]"):
        OPS["reduce_sum"].complete({"axis": 1})
