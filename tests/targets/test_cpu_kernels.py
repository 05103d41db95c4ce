"""The CPU's kernels against float64, in guarded memory: see conftest."""

from __future__ import annotations

import numpy as np
import pytest

from tensorc.errors import UnsupportedError
from tensorc.ir.types import DTYPES, integer_limits

pytestmark = pytest.mark.compiler

FLOATS = ("f32", "f64", "f16")
INTEGERS = ("i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8")


def attrs(**values):
    return values


# Elementwise ----------------------------------------------------------------------------------------------

UNARY = (
    "abs(x)", "ceil(x)", "clip(x, min=-0.5, max=0.75)", "elu(x, alpha=1.5)", "erf(x)", "exp(x)", "floor(x)",
    "gelu(x, approximate='none')", "gelu(x, approximate='tanh')", "hard_sigmoid(x)", "hard_swish(mul(x, 3.0))",
    "leaky_relu(x, alpha=0.2)", "neg(x)", "reciprocal(x)", "relu(x)", "round(mul(x, 4.0))", "rsqrt(abs(x))",
    "sigmoid(mul(x, 20.0))", "sign(x)", "silu(x)", "softplus(mul(x, 20.0))", "sqrt(abs(x))", "tanh(x)", "log(abs(x))",
    "sin(x)", "cos(x)",
)  # fmt: skip
BINARY = ("add", "sub", "mul", "div", "max", "min", "pow", "mod")
COMPARISONS = ("equal", "less", "less_equal", "greater", "greater_equal")


def test_unary(kernels):
    with kernels.batch() as check:
        for expression in UNARY:
            check(expression, x="f32[3,37]")


def test_unary_integers(host):
    with host.batch() as check:
        for type in INTEGERS:
            for op in ("abs", "sign", "relu"):
                check(f"{op}(x)", x=f"{type}[2,21]")
            check("clip(x, min=1, max=5)", x=f"{type}[2,21]")
            check("clip(x, min=5, max=1)", x=f"{type}[2,21]")
            lowest, highest = integer_limits(DTYPES[type])
            check(f"clip(x, min={lowest}, max=1)", x=f"{type}[2,21]")
            check(f"clip(x, min=1, max={highest})", x=f"{type}[2,21]")
            check("neg(x)", x=f"{type}[2,21]")


def test_binary(kernels):
    with kernels.batch() as check:
        for op in BINARY:
            data = {"x": np.random.default_rng(0).uniform(0.1, 2, (3, 37))} if op == "pow" else {}
            check(f"{op}(x, y)", data, x="f32[3,37]", y="f32[3,37]")
            check(f"{op}(x, y)", data, x="f32[3,37]", y="f32[37]")
        check("mod(x, y, fmod=1)", x="f32[3,37]", y="f32[3,37]")
        for op in COMPARISONS:
            check(f"{op}(x, y)", {"x": np.arange(9) % 3, "y": np.arange(9) // 3}, x="f32[9]", y="f32[9]")
            check(f"{op}(x, y)", x="i64[3,37]", y="i64[37]")
            check(f"{op}(x, y)", x="u8[3,37]", y="u8[37]")


@pytest.mark.parametrize("type", INTEGERS)
def test_binary_integers(host, type):
    smallest = 0 if type.startswith("u") else -(2 ** (int(type[1:]) - 1))
    edges = {"x": np.array([smallest, 7, -7, 0, 5, -5]) if smallest else np.array([7, 9, 0, 5, 2, 1]),
             "y": np.array([-1, 0, 2, 0, -1, -2]) if smallest else np.array([1, 0, 2, 0, 3, 2])}  # fmt: skip
    with host.batch() as check:
        for op in ("add", "sub", "mul", "max", "min"):
            check(f"{op}(x, y)", x=f"{type}[3,23]", y=f"{type}[23]")
        for op in ("div(x, y)", "mod(x, y)", "mod(x, y, fmod=1)"):
            check(op, {"y": np.arange(23) % 7 + 1}, x=f"{type}[3,23]", y=f"{type}[23]")
            check(op, edges, x=f"{type}[6]", y=f"{type}[6]")


def test_booleans(kernels):
    with kernels.batch() as check:
        for op in ("and_", "or_", "xor", "equal"):
            check(f"{op}(x, y)", x="bool[3,37]", y="bool[37]")
        check("not_(x)", x="bool[5,7]")
        check("where(c, x, y)", c="bool[5,1]", x="f32[37]", y="f32[5,37]")
        check("where(c, x, y)", c="bool[37]", x="bool[5,37]", y="bool[5,1]")
        check("and_(not_(less(x, y)), or_(c, greater(x, 0.5)))", x="f32[5,37]", y="f32[37]", c="bool[5,37]")
        check("not_(equal(x, x))", {"x": np.array([1.0, np.nan, np.inf, 0.0, np.nan])}, x="f32[5]")


def test_casts(host):
    types = (*FLOATS, *INTEGERS, "bool")
    with host.batch() as check:
        for source in types:
            x = np.array(
                [0, 1, 2, 3, 100, 7, 5, 120, 0] if source.startswith("u") else [0, 1, -2, 3, -100, 0, 7, 5, 90]
            )
            if source in FLOATS:
                x = x + np.where(x >= 0, 0.25, 0.0)
            for target in types:
                if target.startswith("u"):
                    x = np.abs(x)
                check(f"cast(x, to={DTYPES[target]!r})", {"x": x}, tolerance=4e-3, x=f"{source}[9]")


@pytest.mark.parametrize(
    "shapes",
    [("", ""), ("5", ""), ("", "1"), ("1", "1"), ("1,1,1", "1"), ("4,1", "1,5"), ("2,3,4", "3,1"), ("2,1,4", "3,1"),
     ("1,6,5,5", "6,1,1"), ("3,1,1,7", "1,4,5,1"), ("7,1", "7,1"), ("1,1,33", "5,1,1"), ("2,3,1,5", "3,4,1")],
)  # fmt: skip
def test_broadcasting(kernels, shapes):
    a, b = shapes
    with kernels.batch() as check:
        check("mul(add(x, y), 1.5)", x=f"f32[{a}]", y=f"f32[{b}]")
        check("sub(y, x)", x=f"f32[{a}]", y=f"f32[{b}]")
        check("less(y, x)", x=f"i64[{a}]", y=f"i64[{b}]")


def test_splat_constants(kernels):
    with kernels.batch() as check:
        check("add(x, full('f32[2,3]', 1.5))", x="f32[2,3]")
        check("add(x, full('f32[1,3]', 1.5))", x="f32[5,3]")
        check("add(x, full('f32[4]', 1.5))", x="f32[1]")
        check("mul(full('f32[4,1]', 1.5), x)", x="f32[1,7]")
        check("relu(add(x, full('f32[2,3,4]', 0.5)))", x="f32[3,1]")


@pytest.mark.parametrize(
    "shape", ["1", "3", "8191", "8192", "8195", "3,9001", "70,61", "129,130", "2,3,4097", "9000,3"]
)
def test_extents(kernels, shape):
    with kernels.batch() as check:
        check("relu(add(x, 0.5))", x=f"f32[{shape}]")
        check("x", x=f"f32[{shape}]")


def test_other_floats(host):
    with host.batch() as check:
        for type, tolerance in (("f16", 3e-3), ("f64", 1e-15)):
            for expression in ("add(x, y)", "mul(sub(x, y), 1.5)", "max(x, y)", "neg(x)", "abs(x)", "relu(x)",
                               "div(x, y)", "floor(x)", "where(less(x, y), x, y)", "sqrt(abs(x))",
                               "rsqrt(abs(x))"):  # fmt: skip
                check(expression, x=f"{type}[3,37]", y=f"{type}[37]", tolerance=tolerance)
            if type != "f64":
                for op in ("exp", "tanh", "sigmoid", "silu", "softplus"):
                    check(f"{op}(x)", x=f"{type}[3,37]", tolerance=tolerance)
                check("gelu(x)", x=f"{type}[3,37]", tolerance=tolerance)


def test_nan_and_signed_zero(kernels):
    x = np.array([np.nan, 1, np.inf, -np.inf, -0.0, np.nan, 2, 0.0])
    y = np.array([1, np.nan, np.inf, np.nan, 0.0, np.nan, -2, -0.0])
    types = {"x": "f32[8]", "y": "f32[8]"}
    with kernels.batch() as check:
        for op in ("max", "min", "add", *COMPARISONS):
            check(f"{op}(x, y)", {"x": x, "y": y}, **types)
            check(f"not_({op}(x, y))" if op in COMPARISONS else f"{op}(y, 1.0)", {"x": x, "y": y}, **types)
        for op in (
            "relu",
            "sign",
            "abs",
            "leaky_relu",
            "exp",
            "log",
            "tanh",
            "erf",
            "sigmoid",
            "sqrt",
            "floor",
            "elu",
            "softplus",
            "silu",
            "gelu",
            "hard_swish",
            "hard_sigmoid",
            "reciprocal",
            "rsqrt",
            "round",
            "neg",
        ):
            check(f"{op}(x)", {"x": x}, x="f32[8]")
        check("clip(x, min=-1, max=1)", {"x": x}, x="f32[8]")
        check("mod(y, x, fmod=1)", {"x": x, "y": y}, **types)
        check("cast(x, to='bool')", {"x": x}, x="f32[8]")
        check("reciprocal(neg(x))", {"x": x}, x="f32[8]")
        check("mul(x, 0.0)", {"x": x}, x="f32[8]")
        check("sub(x, x)", {"x": x}, x="f32[8]")


def test_powers(kernels):
    x = np.linspace(-3, 3, 25)
    with kernels.batch() as check:
        for exponent in (0.0, 1.0, 2.0, 3.0, 4.0, -1.0, -2.0, 5.0, -3.0, 0.5, 2.5):
            check(f"pow(x, {exponent})", {"x": x}, tolerance=1e-5, x="f32[25]")
        check("pow(x, y)", {"x": x, "y": np.arange(-12, 13)}, tolerance=1e-5, x="f32[25]", y="f32[25]")
        for type in ("i32", "i64"):
            y = np.array([0, 1, 2, 3, 5, 11, 64, 65, 100, 0, 3])
            base = np.array([3, -7, 5, -2, 9, 3, -1, -1, 1, 0, -4])
            check("pow(x, y)", {"x": base, "y": y}, x=f"{type}[11]", y=f"{type}[11]")
            check("pow(x, y)", {"x": [2, 1, -1, -1, 3], "y": [-1, -3, -2, -3, 0]}, x=f"{type}[5]", y=f"{type}[5]")
            check("pow(x, 2)", {"x": [2, 1, -1, 9, 3]}, x=f"{type}[5]")


# Moving elements ------------------------------------------------------------------------------------------


def test_moves(kernels):
    with kernels.batch() as check:
        for type in ("f32", "i64", "u8", "bool", "f16"):
            check("transpose(x, perm=(2,0,1))", x=f"{type}[3,5,7]")
            check("slice(x, starts=(4,1), sizes=(3,5), steps=(-2,3))", x=f"{type}[5,14]")
            check("concat(x, y, x, axis=1)", x=f"{type}[2,3,5]", y=f"{type}[2,4,5]")
        check("transpose(x, perm=(0,2,1,3))", x="f32[2,70,3,33]")
        check("transpose(x, perm=(1,0))", x="f32[65,131]")
        check("transpose(x, perm=())", x="f32[]")
        check("reshape(transpose(reshape(x, shape=(2,3,4,5)), perm=(0,2,1,3)), shape=(8,15))", x="f32[120]")
        check("reshape(x, shape=(1,6,1,5))", x="f32[2,3,5]")
        check("slice(x, starts=(30,), sizes=(31,), steps=(-1,))", x="f32[31]")
        check("expand(x, shape=(4,3,5))", x="f32[3,1]")
        check("expand(x, shape=(2,2))", x="f32[]")
        check("concat(x, y, axis=0)", x="f32[1,37]", y="f32[2,37]")
        check("concat(x, y, z, axis=2)", x="f32[2,3,1]", y="f32[2,3,40]", z="f32[2,3,3]")
        check("mul(relu(concat(x, mul(y, 2.0), axis=1)), 3.0)", x="f32[2,16]", y="f32[2,17]")
        check("range(start=3, step=-2, size=21, dtype='int64')")
        check("range(start=0.5, step=0.25, size=21, dtype='float32')")


def test_pad(kernels):
    shapes = [
        ((1, 2), (0, 3)), ((0, 0), (2, 0)), ((-1, 2), (0, -2)), ((2, -1), (-1, 3)), ((3, 6), (3, 6)), ((0, 0), (0, 0)),
        ((0, 40), (13, 9)),
    ]  # fmt: skip
    with kernels.batch() as check:
        for mode in ("constant", "edge", "reflect", "wrap"):
            for before, after in shapes:
                check(f"pad(x, before={before}, after={after}, mode={mode!r}, value=1.5)", x="f32[4,7]")
        check("pad(x, before=(1,), after=(2,), value=7)", x="i32[5]")
        check("pad(x, before=(1,), after=(2,), value=1)", x="bool[5]")
        check("pad(x, before=(2,), after=(2,), mode='reflect')", x="f32[1]")
        check("pad(relu(pad(x, before=(1,), after=(2,))), before=(3,), after=(0,), mode='edge')", x="f32[5]")


def test_gathers(kernels):
    with kernels.batch() as check:
        for type in ("i32", "i64"):
            check("gather(x, i, axis=0)", {"i": [[3, -1, 0, -6, 5]]}, x="f32[6,33]", i=f"{type}[1,5]")
            check("gather(x, i, axis=2)", {"i": [3, -1, 0, -4]}, x="f32[2,3,4]", i=f"{type}[4]")
            check("gather(x, i, axis=1)", {"i": -2}, x="f32[2,3,4]", i=f"{type}[]")
            check("gather_elements(x, i, axis=1)", {"i": [[0, -1, 2], [1, 1, -3]]}, x="f32[2,3]", i=f"{type}[2,3]")
            check("gather_elements(x, i, axis=0)", {"i": [[0, -1]]}, x="f32[2,3]", i=f"{type}[1,2]")
            check("gather_nd(x, i)", {"i": [[0, -1], [1, 2]]}, x="f32[2,3,19]", i=f"{type}[2,2]")
            check("gather_nd(x, i, batch_dims=1)", {"i": [[1], [-1]]}, x="f32[2,3,4]", i=f"{type}[2,1]")
            check("gather_nd(x, i)", {"i": [1, 2, 0]}, x="f32[2,3,4]", i=f"{type}[3]")
        check("relu(gather(transpose(x, perm=(1,0)), i, axis=1))", {"i": [5, 0]}, x="f32[6,33]", i="i64[2]")


def test_indices_out_of_range_stay_inside(host):
    """No meaning, so no comparison: the guarded memory is the test."""
    wild = np.array([2**31 - 1, -(2**31), 2**40, -(2**40), 6, -7, 2**63 - 1, -(2**63)])
    batch = host.new_batch()
    batch("gather(x, i, axis=0)", {"i": wild}, x="f32[6,33]", i="i64[8]")
    batch("gather(x, i, axis=1)", {"i": wild}, x="f32[3,6]", i="i64[8]")
    batch("gather_elements(x, i, axis=0)", {"i": wild}, x="f32[6]", i="i64[8]")
    batch("gather_nd(x, i)", {"i": wild.reshape(4, 2)}, x="f32[6,5,3]", i="i64[4,2]")
    batch.run(compare=False)


def test_blocks(kernels):
    c = kernels.block
    with kernels.batch() as check:
        for channels, groups in ((5 * c, 1), (40, 1), (3, 1), (6 * c, 2), (30, 2), (c, c), (12, 4), (1, 1)):
            check(f"block(x, block={c}, groups={groups})", x=f"f32[2,{channels},3,5]")
            blocks = groups * -(-(channels // groups) // c)
            check(f"unblock(x, channels={channels}, groups={groups})", x=f"f32[2,{blocks},3,5,{c}]")
            check(
                f"relu(add(unblock(x, channels={channels}, groups={groups}), y))",
                x=f"f32[2,{blocks},3,5,{c}]", y=f"f32[{channels},1,1]",
            )  # fmt: skip
        check(f"block(transpose(x, perm=(0,3,1,2)), block={c})", x="f32[1,4,5,33]")
        check(f"block(x, block={c})", x="f32[2,20,7]")
        check(f"transpose(reshape(unblock(x, channels={c}), shape=(1,{c},12)), perm=(0,2,1))", x=f"f32[1,1,3,4,{c}]")


def test_lrn(kernels):
    c = kernels.block
    with kernels.batch() as check:
        for size in (5, 4, 1, 3):
            check(f"lrn(x, size={size}, alpha=0.1, beta=0.75, bias=1.5)", x="f32[2,24,3,5]")
        check("lrn(x, size=7, alpha=0.1)", x="f32[1,3,5]")
        check(
            f"block(lrn(unblock(x, channels={2 * c}), size=5, alpha=0.5), block={c})",
            x=f"f32[1,2,3,5,{c}]",
        )


# Reductions -----------------------------------------------------------------------------------------------

REDUCTIONS = ("sum", "mean", "max", "min", "prod")
AXES = {
    "f32[]": [()], "f32[1]": [(0,), ()], "f32[5]": [(0,), ()], "f32[67]": [(0,)], "f32[1000]": [(0,)],
    "f32[3,37]": [(0,), (1,), (0, 1), ()],
    "f32[2,3,4,5]": [(0,), (1,), (2,), (3,), (0, 3), (1, 2), (0, 2), (0, 1, 2, 3)],
    "f32[4,3,1]": [(0,), (1,), (2,)], "f32[2,5,3,3]": [(2, 3)], "f32[2,3,5,5,16]": [(2, 3)],
}  # fmt: skip


def test_reductions(kernels):
    with kernels.batch() as check:
        for type, choices in AXES.items():
            for axes in choices:
                for keepdims in (0, 1):
                    check(f"reduce_sum(x, axes={axes}, keepdims={keepdims})", tolerance=1e-5, x=type)
        for how in REDUCTIONS:
            check(f"reduce_{how}(x, axes=(0,))", x="f32[3,37]")
            check(f"reduce_{how}(x, axes=(1,))", x="f32[3,37]")


def test_reductions_around(kernels):
    """Elementwise work on both sides, sources that move."""
    with kernels.batch() as check:
        for axes in ((1,), (0,), (0, 1)):
            check(f"sqrt(add(reduce_mean(mul(x, x), axes={axes}), 0.5))", tolerance=1e-5, x="f32[5,37]")
            check(f"mul(reduce_sum(exp(x), axes={axes}), y)", tolerance=1e-5, x="f32[5,37]", y="f32[1,1]")
        check("reduce_max(transpose(x, perm=(1,0)), axes=(1,))", x="f32[35,6]")
        check("reduce_sum(relu(slice(x, starts=(0,4), sizes=(5,5), steps=(1,-1))), axes=(1,))", x="f32[5,9]")


def test_reductions_of_other_types(host):
    with host.batch() as check:
        for how in REDUCTIONS:
            for axes in ((0,), (1,)):
                for type in INTEGERS:
                    if how == "mean" and type in ("u64", "u32"):
                        continue
                    data = {"x": np.arange(3 * 21).reshape(3, 21) % 4 + (how == "mean") * 50}
                    check(f"reduce_{how}(x, axes={axes})", data, x=f"{type}[3,21]")
                check(f"reduce_{how}(x, axes={axes})", tolerance=1e-14, x="f64[3,21]")
                check(f"reduce_{how}(x, axes={axes})", tolerance=1e-3, x="f16[3,21]")
        check("reduce_mean(x, axes=(0,))", {"x": 100.0}, tolerance=1e-3, x="f16[3000]")
        check("reduce_max(x, axes=(1,))", x="bool[9,3]")
        check("reduce_min(x, axes=(0,))", x="bool[3,21]")


@pytest.mark.parametrize("extents", ["1", "3", "17", "64", "100", "1030"])
def test_rows(kernels, extents):
    row = f"f32[{extents}]"
    with kernels.batch() as check:
        for op in ("softmax", "log_softmax"):
            check(f"{op}(x, axis=1)", tolerance=4e-6, x=f"f32[5,{extents}]")
            check(f"{op}(x, axis=0)", tolerance=4e-6, x=f"f32[{extents},1]")
            check(f"mul({op}(add(x, y), axis=2), 2.0)", tolerance=4e-6, x=f"f32[2,3,{extents}]", y=row)
        check("layer_norm(x, s, b, axis=1)", tolerance=4e-6, x=f"f32[5,{extents}]", s=row, b=row)
        check("rms_norm(x, s, axis=1)", tolerance=4e-6, x=f"f32[5,{extents}]", s=row)


def test_rows_around(kernels):
    with kernels.batch() as check:
        check("layer_norm(x, s, axis=2, epsilon=0.01)", tolerance=4e-6, x="f32[2,3,21]", s="f32[21]")
        check("layer_norm(x, s, b, axis=1)", tolerance=4e-6, x="f32[3,4,5]", s="f32[4,5]", b="f32[4,5]")
        check("rms_norm(x, s, axis=0)", tolerance=4e-6, x="f32[3,4,5]", s="f32[3,4,5]")
        check(
            "gelu(layer_norm(add(x, y), s, b, axis=2))",
            tolerance=4e-6, x="f32[2,3,40]", y="f32[1,3,40]", s="f32[40]", b="f32[40]",
        )  # fmt: skip
        check("mul(rms_norm(add(x, y), s, axis=1), y)", tolerance=4e-6, x="f32[3,21]", y="f32[3,21]", s="f32[21]")
        check("softmax(transpose(x, perm=(1,0)), axis=1)", tolerance=4e-6, x="f32[19,5]")
        check("softmax(where(m, x, -1e9), axis=1)", tolerance=4e-6, m="bool[5,19]", x="f32[5,19]")
        check("softmax(x, axis=0)", {"x": [1e30, -1e30, 5.0]}, x="f32[3]")
        check("log_softmax(x, axis=0)", {"x": 1e6}, x="f32[3]")  # -log(3), whatever the maximum
        check("softmax(x, axis=1)", {"x": [[-np.inf, 0, 1], [-np.inf, -np.inf, 2]]}, x="f32[2,3]")
        check("layer_norm(x, s, b, axis=1)", tolerance=3e-3, x="f16[5,40]", s="f16[40]", b="f16[40]")
        check("softmax(x, axis=1)", tolerance=2e-3, x="f16[5,40]")
        check("layer_norm(add(x, 1000.0), s, axis=1)", tolerance=3e-4, x="f32[3,768]", s="f32[768]")


# Pooling --------------------------------------------------------------------------------------------------

WINDOWS = [
    attrs(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1)),
    attrs(kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), dilations=(1, 1)),
    attrs(kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), dilations=(1, 1), ceil=1),
    attrs(kernel=(3, 2), strides=(1, 2), pads=(2, 0, 1, 1), dilations=(1, 1)),
    attrs(kernel=(2, 3), strides=(3, 2), pads=(1, 1, 0, 2), dilations=(2, 2), ceil=1),
    attrs(kernel=(1, 1), strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1)),
    attrs(kernel=(9, 8), strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1)),
    attrs(kernel=(5, 5), strides=(1, 1), pads=(2, 2, 2, 2), dilations=(1, 1)),
]


def written(values):
    return ", ".join(f"{key}={value!r}" for key, value in values.items())


def test_pools(kernels):
    with kernels.batch() as check:
        for window in WINDOWS:
            for x in ("f32[2,3,9,8]", f"f32[1,2,9,8,{kernels.block}]"):
                check(f"max_pool(x, {written(window)})", x=x)
                for count_include_pad in (0, 1):
                    check(f"avg_pool(x, {written(window)}, count_include_pad={count_include_pad})", x=x)
        outside = attrs(kernel=(2, 2), strides=(2, 1), pads=(1, 1, 1, 1), dilations=(2, 1))
        check(f"avg_pool(x, {written(outside)})", x="f32[1,2,1,4]")
        check(f"relu(add(max_pool(x, {written(WINDOWS[1])}), y))", x="f32[2,3,9,8]", y="f32[3,1,1]")
        check(f"max_pool(x, {written(WINDOWS[1])})", {"x": -np.inf}, x="f32[1,1,9,8]")


def test_pools_of_integers(host):
    with host.batch() as check:
        for type in ("i8", "u8", "i32", "i64"):
            check(f"max_pool(x, {written(WINDOWS[1])})", x=f"{type}[1,2,9,8]")
        check(f"max_pool(x, {written(WINDOWS[1])})", {"x": -128}, x="i8[1,1,9,8]")


def test_functions_of_gathered_elements(host):
    with host.batch() as check:
        for op in ("abs", "ceil", "floor", "round", "sqrt"):
            check(f"{op}(gather(x, i, axis=1))", {"x": np.arange(15).reshape(3, 5) * 0.7, "i": np.arange(70) % 5},
                  x="f32[3,5]", i="i64[70]")  # fmt: skip


def test_determinants(kernels):
    first_pivot_zero = np.array([[0, 2, 1], [3, 0, 0], [1, 1, 5]])
    with kernels.batch() as check:
        for shape in ("1,1", "2,2", "3,5,5", "2,3,17,17"):
            check("det(x)", x=f"f32[{shape}]")
        check("det(x)", x="f64[6,6]", tolerance=1e-13)
        check("det(x)", {"x": first_pivot_zero}, x="f32[3,3]")
        check("det(x)", {"x": 0}, x="f32[3,3]")
        check("relu(add(det(x), y))", x="f32[4,3,3]", y="f32[4]")


# Products -------------------------------------------------------------------------------------------------


def test_matmul(kernels):
    with kernels.batch() as check:
        for m, k, n in (
            (1, 1, 1),
            (1, 7, 5),
            (5, 1, 3),
            (16, 16, 16),
            (19, 33, 41),
            (3, 20, 130),
            (40, 9, 1),
            (31, 5, 64),
        ):
            check("matmul(x, y)", x=f"f32[{m},{k}]", y=f"f32[{k},{n}]")
            check("matmul(x, y, transpose_b=1)", x=f"f32[{m},{k}]", y=f"f32[{n},{k}]")
        for a, b in (("2,3", "2,3"), ("2,3", "3"), ("3", "2,3"), ("2,1", "1,3"), ("2,3", "1"), ("", "2"), ("2", "")):
            shape = "[{},9,13]" if a else "[9,13]"
            check("matmul(x, y)", x=f"f32{shape.format(a)}", y=f"f32[{b}{',' if b else ''}13,21]")
            check("matmul(x, y, transpose_b=1)", x=f"f32{shape.format(a)}", y=f"f32[{b}{',' if b else ''}21,13]")


def test_matmul_around(kernels):
    with kernels.batch() as check:
        heads = "transpose(x, perm=(0,2,1,3))"
        check(f"matmul({heads}, transpose(y, perm=(0,2,3,1)))", x="f32[2,11,3,20]", y="f32[2,13,3,20]")
        check(f"matmul({heads}, transpose(y, perm=(0,2,1,3)), transpose_b=1)", x="f32[2,11,3,20]", y="f32[2,13,3,20]")
        check("matmul(slice(x, starts=(0,9), sizes=(7,5), steps=(1,-2)), y)", x="f32[7,12]", y="f32[5,17]")
        check("relu(add(mul(matmul(x, y), 0.5), z))", x="f32[2,7,12]", y="f32[2,12,17]", z="f32[17]")
        check("gelu(add(matmul(x, y, transpose_b=1), z))", x="f32[7,12]", y="f32[17,12]", z="f32[7,17]")
        check("where(m, matmul(x, y), -3.0)", x="f32[7,12]", y="f32[12,17]", m="bool[1,17]")


def packed(m, k, n, width):
    return attrs(x=f"f32[{m},{k}]", w=f"f32[{-(-n // width)},{k},{width}]")


def test_matmul_packed(kernels):
    c = kernels.block
    with kernels.batch() as check:
        for m, k, n, vectors in (
            (1, 1, 1, 1), (1, 40, 100, 4), (5, 33, 2 * c, 2), (5, 33, 2 * c + 3, 1), (40, 7, 3 * c + 1, 3),
            (64, 64, 64, 4),
            (29, 12, 4 * c - 1, 4), (2, 130, 9, 2), (31, 8, 5 * c, 2),
        ):  # fmt: skip
            types = packed(m, k, n, vectors * c)
            check(f"matmul_packed(x, w, columns={n})", x=types["x"], w=types["w"])
            check(
                f"gelu(add(add(matmul_packed(x, w, columns={n}), b), r))", tolerance=4e-6,
                **types, b=f"f32[{n}]", r=f"f32[{m},{n}]",
            )  # fmt: skip
        for lead in ("2,5", "2,3,1", "1,1"):
            check("matmul_packed(x, w, columns=41)", **packed(lead, 33, 41, 2 * c))
            check("relu(add(matmul_packed(x, w, columns=41), r))", **packed(lead, 33, 41, 2 * c), r=f"f32[{lead},41]")
        check("matmul_packed(x, w, columns=41)", **packed("", 33, 41, 2 * c) | {"x": "f32[33]"})
        check(
            "matmul_packed(transpose(x, perm=(1,0)), w, columns=41)", x="f32[33,19]", w=packed(19, 33, 41, 2 * c)["w"]
        )


def test_products_of_other_types(host):
    with host.batch() as check:
        for type, tolerance in (("f64", 1e-14), ("f16", 2e-3)):
            check("matmul(x, y)", tolerance=tolerance, x=f"{type}[5,33]", y=f"{type}[33,21]")
            check("matmul(x, y, transpose_b=1)", tolerance=tolerance, x=f"{type}[5,33]", y=f"{type}[21,33]")
            check("matmul_packed(x, w, columns=21)", tolerance=tolerance, x=f"{type}[5,33]", w=f"{type}[1,33,32]")
        check("matmul(x, y)", tolerance=1e-3, data={"x": 1.0, "y": 1.0}, x="f16[1,3000]", y="f16[3000,3]")
        for type in ("i32", "i64", "u8", "i8"):
            check("matmul(x, y)", x=f"{type}[5,33]", y=f"{type}[33,21]")
            check("matmul(x, y, transpose_b=1)", x=f"{type}[5,33]", y=f"{type}[21,33]")
            check("matmul_packed(x, w, columns=21)", x=f"{type}[5,33]", w=f"{type}[1,33,32]")


# Convolutions ---------------------------------------------------------------------------------------------


def conv(
    c, x, blocks, kernel, stride=1, pads=(0, 0, 0, 0), dilations=(1, 1), groups=1, plain=False, depthwise=False, n=1
):
    """(expression, types) of a convolution: `x` is (blocks or channels, height, width)."""
    inputs = x[0] if plain else x[0] * c
    per_group = 1 if depthwise else inputs // groups
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    expression = (
        f"conv_blocked(x, w, strides={strides}, pads={tuple(pads)}, dilations={tuple(dilations)}, "
        f"groups={inputs if depthwise else groups}, depthwise={int(depthwise)})"
    )
    extents = ",".join(map(str, (n, *x))) + ("" if plain else f",{c}")
    return expression, attrs(x=f"f32[{extents}]", w=f"f32[{blocks},{per_group},{kernel[0]},{kernel[1]},{c}]")


CONVS = {
    "3x3": attrs(x=(2, 9, 11), blocks=3, kernel=3, pads=(1, 1, 1, 1)),
    "3x3 without padding": attrs(x=(1, 9, 11), blocks=2, kernel=3),
    "5x5 strided": attrs(x=(1, 13, 12), blocks=2, kernel=5, stride=2, pads=(2, 2, 2, 2)),
    "1x1": attrs(x=(2, 5, 7), blocks=3, kernel=1),
    "1x1 of a row": attrs(x=(2, 1, 37), blocks=3, kernel=1),
    "1x1 of a pixel": attrs(x=(2, 1, 1), blocks=5, kernel=1),
    "1x1 long": attrs(x=(1, 17, 19), blocks=1, kernel=1, n=2),
    "1x1 strided": attrs(x=(2, 9, 10), blocks=5, kernel=1, stride=2),
    "1x1 padded": attrs(x=(1, 4, 5), blocks=2, kernel=1, pads=(1, 0, 2, 3)),
    "grouped": attrs(x=(4, 6, 7), blocks=6, kernel=3, pads=(1, 1, 1, 1), groups=2),
    "grouped 1x1": attrs(x=(3, 6, 7), blocks=3, kernel=1, groups=3),
    "depthwise": attrs(x=(3, 9, 11), blocks=3, kernel=3, pads=(1, 1, 1, 1), depthwise=True),
    "depthwise strided": attrs(x=(2, 15, 14), blocks=2, kernel=(3, 5), stride=2, pads=(1, 2, 1, 2), depthwise=True,
                               n=2),
    "depthwise wide": attrs(x=(1, 3, 70), blocks=1, kernel=3, pads=(1, 1, 1, 1), depthwise=True),
    "plain": attrs(x=(3, 12, 13), blocks=2, kernel=3, stride=2, pads=(1, 1, 1, 1), plain=True),
    "plain 7x7": attrs(x=(3, 20, 31), blocks=2, kernel=7, stride=2, pads=(3, 3, 3, 3), plain=True),
    "plain 1x1": attrs(x=(1, 5, 9), blocks=2, kernel=1, plain=True, n=2),
    "dilated": attrs(x=(1, 13, 15), blocks=2, kernel=3, dilations=(2, 3), pads=(2, 3, 2, 3)),
    "asymmetric": attrs(x=(1, 7, 9), blocks=2, kernel=(2, 4), stride=(1, 3), pads=(1, 0, 0, 2), n=3),
    "more padding than image": attrs(x=(1, 2, 3), blocks=2, kernel=3, pads=(5, 4, 5, 6)),
    "image smaller than filter": attrs(x=(1, 2, 2), blocks=2, kernel=5, pads=(2, 2, 2, 2)),
    "filter larger than padded row": attrs(x=(1, 3, 1), blocks=1, kernel=(3, 1), pads=(0, 0, 0, 0)),
    "many blocks": attrs(x=(1, 3, 5), blocks=9, kernel=3, pads=(1, 1, 1, 1)),
    "dilated depthwise": attrs(x=(1, 9, 9), blocks=1, kernel=3, dilations=(4, 5), pads=(4, 5, 4, 5), depthwise=True),
    "wide rows": attrs(x=(1, 2, 67), blocks=1, kernel=(1, 3), pads=(0, 1, 0, 1)),
}  # fmt: skip


def test_conv(kernels):
    with kernels.batch() as check:
        for row in CONVS.values():
            expression, types = conv(kernels.block, **row)
            check(expression, tolerance=4e-6, **types)


def test_conv_epilogues(kernels):
    c = kernels.block
    with kernels.batch() as check:
        for name in ("3x3", "1x1", "depthwise", "plain", "1x1 strided", "grouped"):
            expression, types = conv(c, **CONVS[name])
            result = kernels.body(expression, **types).outputs[0].shape
            blocks = result[1]
            check(
                f"relu(add(add({expression}, b), r))", tolerance=4e-6,
                **types, b=f"f32[1,{blocks},1,1,{c}]", r=f"f32[{','.join(map(str, result))}]",
            )  # fmt: skip
            check(f"silu(mul({expression}, 0.1))", tolerance=4e-6, **types)
            check(f"mul({expression}, s)", tolerance=4e-6, **types, s=f"f32[1,{blocks},1,1,{c}]")


def test_conv_of_other_types(host):
    c = host.block
    with host.batch() as check:
        for type, tolerance in (("f64", 1e-14), ("f16", 2e-3), ("i32", 0)):
            for name in ("3x3", "1x1", "depthwise", "plain"):
                expression, types = conv(c, **CONVS[name])
                check(expression, tolerance=tolerance, **{k: t.replace("f32", type) for k, t in types.items()})


# Attention ------------------------------------------------------------------------------------------------


def test_attention(kernels):
    with kernels.batch() as check:
        for batch, queries, keys, heads, key_heads, depth, values in (
            (1, 1, 1, 1, 1, 1, 1), (2, 19, 21, 4, 2, 24, 20), (1, 5, 33, 3, 3, 8, 8), (1, 16, 16, 2, 1, 16, 16),
            (1, 1, 40, 2, 2, 7, 70), (2, 37, 3, 1, 1, 5, 3), (1, 40, 65, 2, 2, 64, 64),
        ):  # fmt: skip
            types = {
                "q": f"f32[{batch},{queries},{heads},{depth}]",
                "k": f"f32[{batch},{keys},{key_heads},{depth}]",
                "v": f"f32[{batch},{keys},{key_heads},{values}]",
            }
            check("attention(q, k, v, scale=0.3)", tolerance=4e-6, **types)
            check("relu(add(attention(q, k, v, scale=0.3), 0.1))", tolerance=4e-6, **types)
    types = {"q": "f32[2,9,4,12]", "k": "f32[2,21,2,12]", "v": "f32[2,21,2,10]"}
    with kernels.batch() as check:
        for mask in ("2,4,9,21", "1,1,9,21", "2,1,1,21", "1,4,9,1", "9,21", "21", "4,1,21", "", "1,1,1,1"):
            check("attention(q, k, v, m, scale=0.3)", tolerance=4e-6, **types, m=f"f32[{mask}]")
        causal = np.where(np.tri(9, 21, 12), 0, -np.inf)
        check("attention(q, k, v, m, scale=0.3)", {"m": causal}, tolerance=4e-6, **types, m="f32[9,21]")
        check("attention(q, k, v, m, scale=0.3)", {"m": -1e30}, tolerance=4e-6, **types, m="f32[9,21]")
        joined = "slice(x, starts=(0,0,{},0), sizes=(2,9,2,12), steps=(1,1,1,1))"
        check(
            f"attention({joined.format(0)}, {joined.format(2)}, {joined.format(4)}, scale=0.2)",
            tolerance=4e-6, x="f32[2,9,6,12]",
        )  # fmt: skip
        turned = "transpose({}, perm=(0,2,1,3))"
        check(
            f"attention({turned.format('q')}, {turned.format('k')}, v, scale=0.2)",
            tolerance=4e-6, q="f32[1,2,9,12]", k="f32[1,2,21,12]", v="f32[1,21,2,10]",
        )  # fmt: skip


def test_attention_of_float16(kernels):
    """Computed in float32: only the operands and the result are rounded."""
    with kernels.batch() as check:
        for queries, keys, depth, values in ((9, 21, 12, 10), (1, 40, 7, 70)):
            types = {
                "q": f"f16[2,{queries},4,{depth}]",
                "k": f"f16[2,{keys},2,{depth}]",
                "v": f"f16[2,{keys},2,{values}]",
            }
            check("attention(q, k, v, scale=0.3)", tolerance=1e-3, **types)
            check("relu(attention(q, k, v, m, scale=0.3))", tolerance=1e-3, **types, m=f"f16[{queries},{keys}]")


# What is not lowered --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "types"),
    [
        ("relu(x)", {"x": "bf16[4]"}),
        ("add(x, x)", {"x": "f8e5m2[4]"}),
        ("softmax(x, axis=0)", {"x": "f64[4]"}),
        ("softmax(x, axis=0)", {"x": "f32[4,2]"}),
        ("layer_norm(x, s, axis=0)", {"x": "f64[4]", "s": "f64[4]"}),
        ("attention(q, q, q, scale=1.0)", {"q": "f64[1,2,3,4]"}),
        ("max_pool(x, kernel=(2,), strides=(1,), pads=(0, 0), dilations=(1,))", {"x": "f32[1,2,8]"}),
        ("avg_pool(x, kernel=(2, 2), strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1))", {"x": "i32[1,2,8,8]"}),
        ("x", {"x": "f32[65536,32768]"}),
        ("matmul_packed(x, relu(w), columns=16)", {"x": "f32[2,3]", "w": "f32[1,3,16]"}),
    ],
)  # fmt: skip
def test_unsupported(host, expression, types):
    with pytest.raises(UnsupportedError):
        host.lower(expression, **types)
