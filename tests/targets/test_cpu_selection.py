"""Kernels that find elements, run along an axis or scatter, in guarded memory: see conftest."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.compiler

TYPES = ("f32", "f64", "f16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8", "bool")
NUMBERS = TYPES[:-1]
RNG = np.random.default_rng(0)
#: Every order of special values: what stands first, and among what.
SPECIAL = RNG.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-40, 6e4], (40, 21))


def extremes(type: str) -> list[int]:
    bits = int(type[1:])
    low, high = (0, 2**bits - 1) if type[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return [low, high, high, low, low + 1, high - 1, 0]


def test_arg_of_every_type(kernels):
    with kernels.batch() as check:
        for type in TYPES:
            for op in ("arg_max", "arg_min"):
                check(f"{op}(x, axis=1)", x=f"{type}[3,7]")
                check(f"{op}(x, axis=1, last=1, keepdims=0)", x=f"{type}[3,101]")
                check(f"{op}(x, axis=1, last=1)", x=f"{type}[2,5,37]")
                check(f"{op}(x, axis=0, keepdims=0)", x=f"{type}[9,2,3]")


def test_arg_around_it_and_odd_shapes(kernels):
    with kernels.batch() as check:
        check("arg_max(x, axis=1)", x="f32[3,1]")
        check("arg_max(x, axis=0, keepdims=0)", x="f32[5]")
        check("arg_min(x, axis=1, keepdims=0)", x="f32[3,70,1,1]")
        check("add(arg_max(mul(x, y), axis=1), 3)", x="f32[3,70]", y="f32[3,70]")
        check("arg_max(transpose(x, perm=(1, 0)), axis=0)", x="f32[37,5]")


def test_special_values_have_a_place(kernels):
    with kernels.batch() as check:
        for type in ("f32", "f64", "f16"):
            for last in (0, 1):
                check(f"arg_max(x, axis=1, last={last})", {"x": SPECIAL}, x=f"{type}[40,21]")
                check(f"arg_min(x, axis=0, last={last})", {"x": SPECIAL}, x=f"{type}[40,21]")
            for largest in (0, 1):
                check(f"top_k(x, axis=1, k=21, largest={largest})", {"x": SPECIAL}, x=f"{type}[40,21]")
        for type in NUMBERS[3:]:
            for op in ("arg_max(x, axis=0)", "arg_min(x, axis=0, last=1)", "top_k(x, axis=0, k=7)",
                       "top_k(x, axis=0, k=5, largest=0)"):  # fmt: skip
                check(op, {"x": np.array(extremes(type), np.uint64 if type == "u64" else None)}, x=f"{type}[7]")


def test_top_k(kernels):
    with kernels.batch() as check:
        for type in TYPES:
            check("top_k(x, axis=1, k=5)", x=f"{type}[3,37]")
            check("top_k(x, axis=0, k=17, largest=0)", x=f"{type}[17,2,3]")
        for k in (1, 2, 3, 4, 63, 64, 65, 100):
            check(f"top_k(x, axis=1, k={k})", x="f32[2,100]")
        check("top_k(x, axis=0, k=1)", x="f32[1]")
        for rows in (np.arange(300), -np.arange(300), np.zeros(300)):
            check("top_k(x, axis=0, k=40)", {"x": rows}, x="f32[300]")
        check("add(top_k(neg(x), axis=1, k=6), 1)", x="f32[4,20]")


def test_running_sums_and_products(kernels):
    with kernels.batch() as check:
        for type in NUMBERS:
            check("cumsum(x, axis=1, exclusive=1)", tolerance=4e-3, x=f"{type}[2,19]")
        for op in ("cumsum", "cumprod"):
            for exclusive, reverse in ((0, 0), (0, 1), (1, 0), (1, 1)):
                how = f"exclusive={exclusive}, reverse={reverse}"
                check(f"{op}(x, axis=1, {how})", x="f32[3,19]")
                check(f"{op}(x, axis=1, {how})", x="f64[2,5,37]")
                check(f"{op}(x, axis=0, {how})", x="i32[5,3]")
        infinite = {"x": np.array([1, np.inf, 2, -np.inf])}
        check("cumsum(x, axis=0, exclusive=1)", infinite, x="f32[4]")
        check("mul(cumsum(exp(x), axis=0), 2.0)", x="f32[6,33]")


def test_scatter(kernels):
    rng = np.random.default_rng(1)
    rows = {"i": rng.integers(-2, 8, (2, 9))}  # some of them outside of [0, 6), most of them twice
    with kernels.batch() as check:
        for type in NUMBERS:
            for how in ("none", "add", "mul", "max", "min"):
                check(f"scatter(x, i, u, reduction={how!r})", rows, tolerance=2e-2, x=f"{type}[2,6,3]", i="i64[2,9]",
                      u=f"{type}[2,9,3]")  # fmt: skip
        check("scatter(x, i, u)", rows, x="bool[2,6,1]", i="i32[2,9]", u="bool[2,9,1]")
        check("not_(scatter(x, i, u))", rows, x="bool[2,6,5]", i="i32[2,9]", u="bool[2,9,5]")
        for columns in (1, 17, 128, 1200, 521):  # one task a batch, or several
            check("scatter(x, i, u, reduction='add')", rows, x=f"f32[2,6,{columns}]", i="i64[2,9]",
                  u=f"f32[2,9,{columns}]")  # fmt: skip
            check("relu(scatter(x, i, u))", rows, x=f"f32[2,6,{columns}]", i="i64[2,9]", u=f"f32[2,9,{columns}]")
        for how in ("max", "min"):
            check(f"scatter(x, i, u, reduction={how!r})", {"x": SPECIAL, "u": SPECIAL[::-1], "i": np.arange(40)},
                  x="f32[1,40,21]", i="i64[1,40]", u="f32[1,40,21]")  # fmt: skip


def test_reductions_keep_nan(kernels):
    with kernels.batch() as check:
        for type in ("f32", "f64", "f16"):
            for how in ("max", "min"):
                for axis in (0, 1):
                    check(f"reduce_{how}(x, axes=({axis},))", {"x": SPECIAL}, x=f"{type}[40,21]")


def test_trigonometry_of_every_float(host):
    ranges = {"acosh": (1, 4), "asin": (-1, 1), "acos": (-1, 1), "atanh": (-0.9, 0.9)}
    with host.batch() as check:
        for op in ("acos", "acosh", "asin", "asinh", "atan", "atanh", "cosh", "sinh", "tan"):
            x = {"x": RNG.uniform(*ranges.get(op, (-1.5, 1.5)), (3, 37))}
            check(f"{op}(x)", x, x="f32[3,37]")
            check(f"{op}(x)", x, tolerance=1e-3, x="f16[3,37]")
            check(f"{op}(x)", x, tolerance=1e-14, x="f64[3,37]")


def test_modulo_of_floats(host):
    a, b = (m.reshape(-1) for m in np.meshgrid([0.0, -0.0, 1, -1, 5.5, -5.5, 3e8, np.inf, -np.inf, np.nan],
                                                [1, -1, 0.3, -0.3, 3, -7, np.inf, -np.inf, 0, np.nan]))  # fmt: skip
    with host.batch() as check:
        for type in ("f32", "f64"):
            for fmod in (0, 1):
                # What the type holds is what is divided: 0.3 is another number in each.
                data = {"a": a.astype(np.float32), "b": b.astype(np.float32)}
                check(f"mod(a, b, fmod={fmod})", data, a=f"{type}[100]", b=f"{type}[100]")
