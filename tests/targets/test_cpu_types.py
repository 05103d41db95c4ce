"""Kernels on every element type: conversions to the bit, integers that wrap, float64, moves of bytes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tensorc
from tensorc.ir.types import DTYPES, SMALL_FLOATS, STORED, bits_of, integer_limits, numpy_dtype

pytestmark = pytest.mark.compiler

SHORT = {name: short for short, name in DTYPES.items()}
FLOAT8 = [name for name in STORED if name.startswith("float8")]
NARROW = ("int4", "uint4", "int2", "uint2")
INTEGERS = ("i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8")


def numbers_around(dtype: str) -> np.ndarray:
    """float32: every number of a small float, those half way between, the neighbours of both, and what is beyond."""
    exact = np.arange(256, dtype=np.uint8).view(numpy_dtype(dtype)).astype(np.float32)
    exact = np.unique(exact[np.isfinite(exact)])
    near = np.concatenate([exact, (exact[1:] / 2 + exact[:-1] / 2), exact * np.float32(1.1)])
    near = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))])
    return np.concatenate([near, np.float32([np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38])])


@pytest.mark.parametrize("dtype", [*FLOAT8, "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn"])
def test_casts_of_small_floats(kernels, dtype):
    x = numbers_around(dtype)
    has_nan = dtype.startswith("float8")
    if has_nan:
        x = np.append(x, np.float32(np.nan))
    if dtype == "float8_e8m0fnu":
        x = np.abs(x)
    size = f"[{x.size}]"
    codes = (np.arange(256) % (1 << bits_of(dtype))).astype(np.uint8).view(numpy_dtype(dtype))
    with kernels.batch() as check:
        check(f"bitcast(cast(x, to='{dtype}'), to='uint8')" if has_nan else f"cast(x, to='{dtype}')", {"x": x},
              x="f32" + size)  # fmt: skip
        check("cast(x, to='float32')", {"x": codes}, tolerance=0, x=f"{SHORT[dtype]}[256]")
        check("cast(x, to='float64')", {"x": codes}, tolerance=0, x=f"{SHORT[dtype]}[256]")
        check("cast(x, to='float16')", {"x": np.arange(9) % 3 + 1}, tolerance=0, x=f"{SHORT[dtype]}[9]")
        check("cast(x, to='int32')", {"x": np.arange(9) % 3 + 1}, x=f"{SHORT[dtype]}[9]")
        check(f"cast(x, to='{dtype}')", {"x": np.arange(9) % 3 + 1}, x="i64[9]")


@pytest.mark.parametrize("dtype", FLOAT8)
def test_casts_to_float8_without_saturation(host, dtype):
    x = np.append(numbers_around(dtype), np.float32(np.nan))
    modes = ("up",)
    if dtype == "float8_e8m0fnu":
        x, modes = np.abs(x), ("up", "down", "nearest")
    with host.batch() as check:
        for mode in modes:
            for saturate in (0, 1):
                check(
                    f"bitcast(cast_float8(x, to='{dtype}', saturate={saturate}, round_mode='{mode}'), to='uint8')",
                    {"x": x}, x=f"f32[{x.size}]",
                )  # fmt: skip


def test_every_bfloat16_and_what_rounds_to_it(kernels):
    codes = np.arange(1 << 16, dtype=np.uint32)
    x = np.concatenate([(codes << 16 | tail).astype(np.uint32) for tail in (0, 0x7FFF, 0x8000, 0x8001)])
    x = x.view(np.float32)[::7]
    numbers = codes[(codes & 0x7FFF) <= 0x7F80]
    with kernels.batch() as check:
        check("bitcast(cast(x, to='bfloat16'), to='uint16')", {"x": x[~np.isnan(x)]}, x=f"f32[{(~np.isnan(x)).sum()}]")
        check("bitcast(cast(bitcast(x, to='bfloat16'), to='float32'), to='int32')", {"x": numbers},
              x=f"u16[{numbers.size}]")  # fmt: skip
        check("cast(cast(x, to='bfloat16'), to='bool')", {"x": [0, -0.0, 1, np.nan, 1e-45]}, x="f32[5]")
        check("cast(x, to='bfloat16')", {"x": [0.5, np.nan, -np.nan, np.inf, -np.inf, 3.4e38]}, tolerance=0, x="f32[6]")
        check("cast(x, to='bfloat16')", {"x": [1, 257, 1 << 40]}, tolerance=0, x="i64[3]")
        check("cast(x, to='bfloat16')", {"x": [1, 1e300, -1e-300]}, tolerance=0, x="f64[3]")
        # The bits of a constant infinity, as masks have it.
        check("where(c, cast(full('bf16[3]', -1e999), to='float32'), x)", c="bool[3]", x="f32[3]")


def test_zeros_that_are_compared_as_other_types():
    """Between columns there is nothing: TVM takes the bits of a constant 0 for those of a pointer."""
    x = np.random.default_rng(0).integers(0, 9, (1, 2, 8)).astype(np.uint64)
    given = [numpy_helper.from_array(np.array(size), name) for name, size in (("image", [3, 7]), ("block", [1, 2]))]
    info = helper.make_tensor_value_info("x", TensorProto.UINT64, x.shape)
    nodes = [
        helper.make_node("Col2Im", ["x", "image", "block"], ["m"], pads=[1, 0, 0, 1], strides=[2, 2]),
        helper.make_node("ArgMax", ["m"], ["y"], axis=2, select_last_index=1),
    ]
    graph = helper.make_graph(nodes, "g", [info], [helper.make_empty_tensor_value_info("y")], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    with tensorc.compile(model, threads=1) as compiled:
        (got,) = compiled.run(None, {"x": x})
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(got, want)


def test_bfloat16_zeros_that_are_known():
    """What a loop over padding reads: TVM refuses to generate code for the bits of a constant 0."""
    x = np.random.default_rng(0).integers(-3, 4, (2, 4, 2))
    bf16 = numpy_dtype("bfloat16")
    given = [numpy_helper.from_array(np.int64(14), "length"), numpy_helper.from_array(np.int64(1), "axis")]
    info = helper.make_tensor_value_info("x", TensorProto.BFLOAT16, x.shape)
    node = helper.make_node("DFT", ["x", "length", "axis"], ["y"], inverse=1)
    graph = helper.make_graph([node], "g", [info], [helper.make_empty_tensor_value_info("y")], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with tensorc.compile(model, threads=1) as compiled:
        (y,) = compiled.run(None, {"x": x.astype(bf16)})
    want = np.fft.ifft(x[..., 0] + 1j * x[..., 1], 14, axis=1)
    np.testing.assert_allclose(y.astype(np.float32), np.stack([want.real, want.imag], -1), atol=0.01)


def test_casts_of_narrow_integers(host):
    floats = np.array([0.9, -0.9, 1.5, -1.5, 3, -8, 7, 15])
    with host.batch() as check:
        for dtype in NARROW:
            low, high = integer_limits(dtype)
            kind = f"{SHORT[dtype]}[16]"
            every = {"x": np.arange(16) % (high - low + 1) + low}
            for target in ("float32", "int64", "uint8", "bool", "float16", "bfloat16", "float8_e5m2"):
                check(f"cast(x, to='{target}')", every, tolerance=0, x=kind)
            check(f"cast(x, to='{dtype}')", {"x": np.arange(-20, 20)}, x="i8[40]")
            check(f"cast(x, to='{dtype}')", {"x": np.arange(40)}, x="u16[40]")
            check(f"cast(x, to='{dtype}')", {"x": floats}, x="f32[8]")
            check(f"cast(x, to='{dtype}')", {"x": [True, False]}, x="bool[2]")


def test_casts_of_floats_to_integers(host):
    """Towards zero; what does not fit in few bits loses the upper ones, as it does in numpy."""
    x = np.array([0.9, -0.9, 1.5, -1.5, 127.9, 200.0, -129.0, 255.5, 40000.0, -1.0])
    with host.batch() as check:
        for source in ("f32", "f64"):
            for target in ("int8", "uint8", "int16", "uint16", "int32", "int64", "bool"):
                check(f"cast(x, to='{target}')", {"x": x}, x=f"{source}[10]")
        check("cast(x, to='uint32')", {"x": [4e9, 1.5]}, x="f64[2]")
        check("cast(x, to='uint64')", {"x": [1.5e19, 1.5]}, x="f64[2]")


@pytest.mark.parametrize("dtype", STORED)
def test_moves(host, dtype):
    kind = SHORT[dtype]
    with host.batch() as check:
        check("x", x=f"{kind}[3,5]")
        check("transpose(reshape(x, shape=(5, 3)), perm=(1, 0))", x=f"{kind}[3,5]")
        check(
            "concat(x, slice(y, starts=(1, 4), sizes=(2, 3), steps=(1, -2)), axis=0)",
            x=f"{kind}[2,3]",
            y=f"{kind}[4,6]",
        )
        check("pad(x, before=(1, 0), after=(0, 2), value=1)", x=f"{kind}[3,5]")
        check("gather(x, i, axis=1)", {"i": [4, -1, 0]}, x=f"{kind}[3,5]", i="i64[3]")
        check(f"where(c, x, full('{kind}[]', 1))", c="bool[3,1]", x=f"{kind}[3,5]")
        check("expand(x, shape=(4, 5))", x=f"{kind}[1,5]")


def test_bitcasts(host):
    with host.batch() as check:
        for source, target in (("f32", "int32"), ("i32", "uint32"), ("u8", "int8"), ("u16", "float16"),
                               ("i16", "bfloat16"), ("f64", "int64"), ("bf16", "float16"), ("f8e5m2", "int8"),
                               ("i4", "uint4"), ("u2", "int2"), ("u4", "float4_e2m1fn")):  # fmt: skip
            check(f"bitcast(x, to='{target}')", {"x": [0, 1, 2, 1]}, tolerance=0, x=f"{source}[4]")
        check("bitcast(x, to='uint8')", x="bool[7]")
        check("bitcast(x, to='bool')", {"x": [0, 1, 1]}, x="u8[3]")


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_wrap(kernels, kind):
    low, high = integer_limits(DTYPES[kind])
    edges = np.array([low, low + 1, high, high - 1, 0, 1, 2, 3, high // 2 + 1, 77], object)
    x, y = (grid.reshape(-1).astype(numpy_dtype(DTYPES[kind])) for grid in np.meshgrid(edges, edges))
    data, types = {"x": x, "y": y}, {"x": f"{kind}[100]", "y": f"{kind}[100]"}
    with kernels.batch() as check:
        for op in ("add", "sub", "mul", "max", "min", "bit_and", "bit_or", "bit_xor", "less", "greater_equal"):
            check(f"{op}(x, y)", data, **types)
        check("less(sub(x, y), x)", data, **types)
        for expression in ("abs(x)", "neg(x)", "bit_not(x)", "pow(x, 2)", "less(add(x, 1), x)"):
            check(expression, {"x": x}, x=types["x"])
        check("pow(x, y)", {"x": x, "y": np.maximum(y, 0) % 9}, **types)


@pytest.mark.parametrize("kind", INTEGERS)
def test_shifts(host, kind):
    low, high = integer_limits(DTYPES[kind])
    bits = int(kind[1:])
    values, counts = (
        np.array([low, high, 0, 1, 5, high // 3], object),
        np.array([0, 1, 2, bits - 1, bits, bits + 1, high], object),
    )
    if low:
        counts = np.append(counts, [-1, low])
        values = np.append(values, [-1, -5])
    x, y = (grid.reshape(-1).astype(numpy_dtype(DTYPES[kind])) for grid in np.meshgrid(values, counts))
    with host.batch() as check:
        for left in (0, 1):
            check(f"bit_shift(x, y, left={left})", {"x": x, "y": y}, x=f"{kind}[{x.size}]", y=f"{kind}[{x.size}]")


def test_float64_functions(kernels):
    numbers = np.concatenate([np.linspace(-30, 30, 41), [1e-300, -1e-9, 700, -750, np.inf, -np.inf, np.nan, 0.0]])
    kind = f"f64[{numbers.size}]"
    with kernels.batch() as check:
        for function in ("exp", "tanh", "erf", "sigmoid", "sin", "cos", "silu", "softplus", "elu", "gelu"):
            usual = numbers[np.isfinite(numbers) & (numbers < 100)]
            check(f"{function}(x)", {"x": usual}, tolerance=1e-15, x=f"f64[{usual.size}]")
        for function in ("exp", "tanh", "erf", "sigmoid"):
            check(f"{function}(x)", {"x": numbers}, tolerance=1e-15, x=kind)
        check("gelu(x, approximate='tanh')", {"x": numbers[:41]}, tolerance=1e-15, x="f64[41]")
        check(
            "log(x)", {"x": np.append(np.geomspace(1e-300, 1e300, 30), [0, np.inf, -1])}, tolerance=1e-15, x="f64[33]"
        )
        check("pow(x, y)", {"x": [2, 0.1, 7, -2, 0, -8], "y": [0.5, 3.3, -2.5, 3, 0, 1 / 3]}, tolerance=1e-15,
              x="f64[6]", y="f64[6]")  # fmt: skip
        check("lrn(x, size=3)", tolerance=1e-14, x="f64[1,5,3,3]")
        # The index is a variable in a loop over vectors, the function one of single elements.
        data = {"x": np.linspace(-1, 1, 8), "i": np.arange(8) % 2}
        check("asin(gather_elements(x, i, axis=0))", data, tolerance=1e-15, x="f64[2,8]", i="i64[2,8]")
        check("lrn(x, size=3)", tolerance=2e-3, x="f16[1,5,3,3]")


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_remainders_of_floats(host, kind):
    """Exact for any quotient; infinities, zeros and their signs."""
    edges = [0.0, -0.0, 3.0, -3.0, 1e30, -1e30, 0.1, np.inf, -np.inf, np.nan, 2.5]
    x, y = (grid.reshape(-1).astype(numpy_dtype(DTYPES[kind])) for grid in np.meshgrid(edges, edges))
    data, types = {"x": x, "y": y}, {"x": f"{kind}[121]", "y": f"{kind}[121]"}
    # By their bits, or by their signs where float32's rounding differs from the reference's float64.
    with host.batch() as check:
        for fmod in (0, 1):
            check(f"mod(x, y, fmod={fmod})", data, tolerance=1e-7 if kind == "f32" else 0, **types)
            check(f"reciprocal(mod(x, y, fmod={fmod}))", data, tolerance=1e-4, **types)


@pytest.mark.parametrize(("kind", "tolerance"), [("f64", 1e-14), *((kind, 0) for kind in ("i64", "i32", "u64", "u32"))])
def test_products(kernels, kind, tolerance):
    block = kernels.block
    with kernels.batch() as check:
        check(
            f"matmul_packed(x, w, columns={block + 3})", tolerance=tolerance, x=f"{kind}[7,9]", w=f"{kind}[2,9,{block}]"
        )
        check("matmul(x, y)", tolerance=tolerance, x=f"{kind}[2,5,7]", y=f"{kind}[7,19]")
        check("matmul(x, y, transpose_b=1)", tolerance=tolerance, x=f"{kind}[2,5,7]", y=f"{kind}[2,19,7]")
        attrs = "strides=(1, 2), pads=(1, 1, 1, 1), dilations=(1, 1)"
        check(f"conv_blocked(x, w, {attrs})", tolerance=tolerance, x=f"{kind}[1,2,6,7,{block}]",
              w=f"{kind}[3,{2 * block},3,3,{block}]")  # fmt: skip
        check(f"conv_blocked(x, w, {attrs}, groups={2 * block}, depthwise=1)", tolerance=tolerance,
              x=f"{kind}[1,2,6,7,{block}]", w=f"{kind}[2,1,3,3,{block}]")  # fmt: skip
        check(f"conv_blocked(x, w, {attrs})", tolerance=tolerance, x=f"{kind}[1,3,6,7]", w=f"{kind}[1,3,3,3,{block}]")


def test_largest_codes_are_the_largest_numbers():
    for dtype, form in SMALL_FLOATS.items():
        largest = np.array(form.largest, np.uint8).view(numpy_dtype(dtype)).astype(np.float32)
        every = np.arange(1 << form.bits, dtype=np.uint8).view(numpy_dtype(dtype)).astype(np.float32)
        assert largest == every[np.isfinite(every)].max()
