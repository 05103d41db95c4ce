"""What conversions and operations on bits mean, against ONNX's own helpers and Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from tensorc.errors import IRError
from tensorc.ir import OPS, Graph, TensorType
from tensorc.ir.types import DTYPES, bits_of, integer_limits, numpy_dtype

NUMBERS = np.concatenate([
    np.random.default_rng(0).standard_normal(400) * np.geomspace(1e-12, 1e9, 400),
    [0, -0.0, 1, -1, 448, 464, 465, 57344, 61439, 61440, np.inf, -np.inf, np.nan, 3e38, 1e-45],
]).astype(np.float32)  # fmt: skip


def result(op: str, *inputs: np.ndarray, **attrs: object) -> np.ndarray:
    row = OPS[op]
    (got,) = row.evaluate(inputs, row.complete(attrs))
    return got


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"])
def test_casts_to_float8(dtype: str) -> None:
    want = numpy_helper.saturate_cast(NUMBERS, numpy_dtype(dtype))
    for got in (result("cast", NUMBERS, to=dtype), result("cast", NUMBERS.astype(np.float64), to=dtype)):
        np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))
    with np.errstate(all="ignore"):
        want = NUMBERS.astype(numpy_dtype(dtype))
    got = result("cast_float8", NUMBERS, to=dtype, saturate=0)
    np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))


@pytest.mark.parametrize("round_mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_powers_of_two(round_mode: str, saturate: int) -> None:
    x = np.abs(NUMBERS)
    got = result("cast_float8", x, to="float8_e8m0fnu", saturate=saturate, round_mode=round_mode)
    want = numpy_helper.to_float8e8m0(x, bool(saturate), round_mode)
    np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))


def test_integers_lose_their_upper_bits() -> None:
    x = np.array([200, -200, 17, -1, 8, 65535], np.int32)
    for dtype in ("int8", "uint8", "int4", "uint4", "int2", "uint2"):
        bits = bits_of(dtype)
        low, _ = integer_limits(dtype)
        want = [(int(v) - low) % (1 << bits) + low for v in x]
        for source in (x, x.astype(np.float64), x.astype(np.int64)):
            assert result("cast", source, to=dtype).astype(np.int64).tolist() == want


def test_bits_of_every_type() -> None:
    assert {name: bits_of(name) for name in ("int4", "uint2", "float6_e3m2fn", "bool", "bfloat16", "float64")} == {
        "int4": 4, "uint2": 2, "float6_e3m2fn": 6, "bool": 8, "bfloat16": 16, "float64": 64
    }  # fmt: skip
    assert all(numpy_dtype(name).itemsize == -(-bits_of(name) // 8) for name in DTYPES.values())


def test_bitcast() -> None:
    assert result("bitcast", np.float32([1, -0.0]), to="uint32").tolist() == [0x3F800000, 0x80000000]
    assert result("bitcast", np.array(True), to="uint8").shape == ()
    graph = Graph()
    x = graph.add_input("x", TensorType("float32", (2,)))
    with pytest.raises(TypeError, match="not as many"):
        graph.add("bitcast", [x], {"to": "int64"})


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
def test_shifts(left: int, dtype: str) -> None:
    low, high = integer_limits(dtype)
    values = [low, high, 1, 5, high // 3]
    counts = [0, 1, bits_of(dtype) - 1, bits_of(dtype), 100, *([-1] if low else [])]
    x, y = (np.array(grid, numpy_dtype(dtype)) for grid in zip(*[(v, c) for v in values for c in counts], strict=True))
    for value, count, got in zip(x.tolist(), y.tolist(), result("bit_shift", x, y, left=left).tolist(), strict=True):
        inside = 0 <= count < bits_of(dtype)
        exact = (value << count if left else value >> count) if inside else (0 if left or value >= 0 else -1)
        assert got == (exact - low) % (1 << bits_of(dtype)) + low


def test_operations_on_bits_take_integers() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType("float32", (2,)))
    with pytest.raises((TypeError, IRError), match="takes integers"):
        graph.add("bit_and", [x, x])
