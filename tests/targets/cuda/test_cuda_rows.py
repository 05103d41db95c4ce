"""Reductions, softmax and norms, emulated: teams of a few threads, of a warp, of a block, and of several blocks."""

from __future__ import annotations

import re

import numpy as np
import pytest

from targets.cuda.codegen import print_kernel

pytestmark = pytest.mark.compiler


def shares_rows(kernel):
    """Whether threads tell each other what they found, each in the lanes that differ by so much."""
    return max(
        map(int, re.findall(r"tc_shuffle_xor\(\w+\[0\], (\d+)\)", print_kernel(kernel.function, "k"))), default=0
    )


def test_softmax(cuda, well_made):
    with cuda.batch() as check:
        kernel = check("softmax(x, axis=1)", x="f32[5,7]")
        assert (kernel.blocks, kernel.threads, shares_rows(kernel)) == (1, 64, 4)
        kernel = check("softmax(mul(x, 4), axis=1)", x="f32[3,1000]")
        assert (kernel.blocks, kernel.threads, shares_rows(kernel)) == (3, 256, 16)
        check("log_softmax(x, axis=1)", {"x": np.linspace(-900, 900, 48)}, x="f16[3,48]", tolerance=1e-3)
        check("cast(softmax(x, axis=1), to='bfloat16')", {"x": np.full((2, 5), -np.inf)}, x="f32[2,5]")
        # Too long to be kept: read three times.
        check("softmax(x, axis=1)", x="f32[1,33000]", tolerance=1e-5)
        check("softmax(x, axis=1)", x="f32[0,3]")
    assert well_made(check)


def test_norms(cuda, well_made):
    with cuda.batch() as check:
        kernel = check("layer_norm(x, g, b, axis=1, epsilon=1e-5)", {"x": np.linspace(1e4, 1e4 + 5, 260)},
                       x="f32[2,260]", g="f32[260]", b="f32[260]", tolerance=2e-4)  # fmt: skip
        assert (kernel.blocks, kernel.threads, shares_rows(kernel)) == (2, 96, 16)
        check("relu(rms_norm(cast(x, to='float32'), g, axis=1, epsilon=1e-5))", x="f16[5,2,12]", g="f32[2,12]")
        check("layer_norm(x, g, axis=1, epsilon=1e-5)", x="f16[3,37]", g="f16[37]", tolerance=1e-3)
        check("layer_norm(add(cast(gather(t, i, axis=0), to='float32'), y), g, b, axis=2, epsilon=1e-5)",
              {"i": np.array([[0, 6, -1]])}, t="f16[7,520]", i="i64[1,3]", y="f32[1,3,520]", g="f32[520]",
              b="f32[520]")  # fmt: skip
    assert well_made(check)


def test_reductions_of_rows(cuda, well_made):
    with cuda.batch() as check:
        check("reduce_sum(mul(x, y), axes=(1,))", x="f32[5,129]", y="f32[129]")
        check("relu(reduce_mean(x, axes=(0,2)))", x="f32[3,5,8]")
        check("reduce_max(x, axes=(1,), keepdims=0)", {"x": [[1, np.nan, 3, 2], [1, 2, -np.inf, 0]]}, x="f32[2,4]")
        check("reduce_min(x, axes=(1,))", x="i8[2,40]")
        check("reduce_mean(x, axes=(0,1))", x="i64[3,7]")
        check("reduce_prod(x, axes=(1,))", x="f64[2,9]")
        check("reduce_sum(x, axes=(1,))", x="f16[2,33]", tolerance=1e-3)
        check("reduce_max(x, axes=(1,))", x="bool[4,3]")
        check("reduce_sum(x, axes=(1,))", x="f32[3,0]")
        check("reduce_sum(x, axes=(1,))", x="f32[0,3]")
    assert well_made(check)


def test_a_long_row_is_several_blocks(cuda, well_made):
    with cuda.batch() as check:
        kernel = check("sqrt(reduce_sum(mul(x, x), axes=(1,)))", x="f32[2,65540]")
        assert (kernel.blocks, kernel.counters) == (8, 1)
        check("reduce_max(x, axes=(0,))", x="i32[65537]")
    assert well_made(check)


def test_long_columns_are_several_blocks(cuda, well_made):
    with cuda.batch() as check:
        kernel = check("relu(reduce_sum(x, axes=(0,), keepdims=0))", x="f32[4200,5]", tolerance=1e-5)
        assert (kernel.blocks, kernel.counters) == (3 * 4, 1)
        check("reduce_max(x, axes=(1,))", x="i16[3,4099,16]")
    assert well_made(check)


def test_reductions_of_columns(cuda, well_made):
    with cuda.batch() as check:
        # Threads go along what stays; several share what is reduced.
        kernel = check("reduce_mean(relu(x), axes=(2,3))", x="f32[2,3,7,7,8]")
        assert (kernel.blocks, kernel.threads) == (2, 128)
        check("reduce_sum(x, axes=(0,), keepdims=0)", x="f16[300,24]", tolerance=1e-3)
        check("reduce_max(x, axes=(0,))", {"x": [[1, np.nan, 3], [np.nan, 2, 0]]}, x="f32[2,3]")
        check("reduce_min(x, axes=(0,2))", x="i8[5,3,4,17]")
        check("reduce_mean(x, axes=(1,))", x="i64[2,3,700]")
        check("reduce_prod(x, axes=(0,))", x="f64[9,2]")
        check("add(reduce_sum(x, axes=(1,), keepdims=1), y)", x="f32[2,9,30]", y="f32[30]")
        check("reduce_sum(x, axes=(1,))", x="f32[3,0,5]")
    assert well_made(check)


def test_where_the_greatest_is(cuda, well_made):
    same = np.array([[1, 7, 7, 0, 7, -2], [np.nan, 1, np.nan, 2, np.inf, 0], [-np.inf] * 6])
    with cuda.batch() as check:
        for op, last in (("arg_max", 0), ("arg_min", 1)):
            check(f"{op}(x, axis=1, last={last})", {"x": same}, x="f32[3,6]")
        kernel = check("cast(arg_max(x, axis=1, keepdims=0), to='int32')", x="f16[2,1001]")
        assert (kernel.blocks, kernel.threads) == (2, 1024)
        check("arg_min(x, axis=0)", x="i64[300,1]")
        check("arg_max(x, axis=1)", x="f32[1,33001]")  # read twice
    assert well_made(check)
