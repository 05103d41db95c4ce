"""Kernels of elements made from elements, emulated: wide moves, and the order in which threads go over the result."""

from __future__ import annotations

import re

import numpy as np
import pytest

from targets.cuda.codegen import print_kernel
from tensorc.lowering.gpu import BlockBuilder

pytestmark = pytest.mark.compiler


def moves(kernel):
    """The wide moves in a kernel's text: how many elements each loads, and stores."""
    text = print_kernel(kernel.function, "k")
    return tuple([int(n) for n in re.findall(rf"tc_{way}<(\d+)>\(", text)] for way in ("load", "store"))


def test_neighbours_are_moved_at_once(cuda, well_made):
    with cuda.batch() as check:
        assert moves(check("relu(add(mul(x, y), z))", x="f32[1,3,5,7,8]", y="f32[1,3,1,1,8]", z="f32[1,3,1,1,8]")) == (
            [4, 4, 4], [4])  # fmt: skip
        assert moves(check("gelu(x, approximate='none')", x="f16[4,24]", tolerance=1e-3)) == ([8], [8])
        # The narrowest type says how many elements: those of wider ones take several moves.
        assert moves(check("cast(x, to='float16')", x="f32[64]", tolerance=1e-3)) == ([4, 4], [8])
        assert moves(check("cast(x, to='bfloat16')", x="f32[64]", tolerance=1e-2)) == ([4, 4], [8])
        assert moves(check("add(x, y)", x="i64[6]", y="i64[6]")) == ([2, 2], [2])
        assert moves(check("less(x, y)", x="i8[2,32]", y="i8[32]")) == ([16, 16], [16])
        assert moves(check("where(c, x, y)", c="bool[8]", x="f64[8]", y="f64[8]")) == (
            [8, 2, 2, 2, 2, 2, 2, 2, 2],
            [2] * 4,
        )
    assert well_made(check)


def test_moves_are_as_wide_as_places_are_aligned(cuda):
    with cuda.batch() as check:
        narrow = check("slice(x, starts=(0,2), sizes=(3,12), steps=(1,1))", x="f32[3,24]")
        assert moves(narrow) == ([2, 2], [4])
        assert moves(check("slice(x, starts=(0,1), sizes=(3,12), steps=(1,1))", x="f32[3,24]")) == ([], [4])
        assert moves(check("slice(x, starts=(0,0), sizes=(3,12), steps=(1,2))", x="f32[3,24]")) == ([], [])
        assert moves(check("slice(x, starts=(0,22), sizes=(3,20), steps=(1,-1))", x="f32[3,24]")) == ([], [])


def test_odd_sizes(cuda, well_made):
    with cuda.batch() as check:
        for size in (3, 1023):
            check("relu(x)", x=f"f16[{size}]", tolerance=1e-3)
            check("add(x, y)", x=f"f32[{size}]", y=f"f32[{size}]")
        check("add(x, y)", x="f32[3,1,5]", y="f32[4,1]")
        check("neg(x)", x="f32[]")
        check("and_(x, y)", x="bool[3,7]", y="bool[7]")
    assert well_made(check)


def test_functions_of_16_bits(cuda, well_made):
    with cuda.batch() as check:
        positive = {"x": np.linspace(0.25, 9, 24).reshape(3, 8)}
        for function in ("abs", "ceil", "floor", "round"):
            check(f"{function}(x)", x="f16[3,8]", tolerance=1e-3)
        for function in ("sqrt", "rsqrt"):
            check(f"{function}(x)", positive, x="f16[3,8]", tolerance=1e-3)
        check("equal(abs(x), y)", {"x": -np.inf, "y": np.inf}, x="f16[3,5]", y="f16[3,5]")
    assert well_made(check)


def test_small_tensors_are_one_block(cuda):
    with cuda.batch() as check:
        kernel = check("add(x, y)", x="f32[3,5]", y="f32[3,5]")
        assert (kernel.blocks, kernel.threads) == (1, 32)
        kernel = check("add(x, y)", x="f32[20,50]", y="f32[20,50]")
        assert kernel.blocks * kernel.threads < 20 * 50 / 4 + 128


def test_nothing_is_computed_of_nothing(cuda):
    with cuda.batch() as check:
        check("relu(x)", x="f32[0]")
        check("transpose(x, perm=(1,0))", x="f32[0,3]")


def test_moved_elements(cuda, well_made):
    with cuda.batch() as check:
        # Threads follow the operand, each with eight neighbours of the result: two moves of 16 bytes.
        assert moves(check("transpose(x, perm=(0,2,3,1))", x="f32[2,16,5,7]")) == ([], [4, 4])
        assert moves(check("transpose(x, perm=(1,0))", x="f16[48,67]", tolerance=0)) == ([], [8, 8])
        check("transpose(x, perm=(2,0,1))", x="i64[5,6,7]")
        # A block of channels is a thread's.
        assert moves(check("unblock(x, channels=24, groups=1)", x="f32[2,3,5,7,8]")) == ([4, 4], [])
        assert moves(check("block(x, block=8, groups=1)", x="f32[2,24,5,7]")) == ([], [4, 4])
        check("unblock(x, channels=21, groups=1)", x="f32[2,3,5,7,8]")
        check("block(x, block=8, groups=1)", x="f32[2,21,5,7]")
        kernel = check(
            "transpose(reshape(unblock(x, channels=24, groups=1), shape=(1,24,35)), perm=(0,2,1))", x="f32[1,3,5,7,8]"
        )
        assert moves(kernel) == ([4], [4])
        check("lrn(unblock(x, channels=16, groups=1), size=5, alpha=0.1, beta=0.75, bias=1.0)", x="f32[1,2,5,7,8]")
    assert well_made(check)


def test_elements_of_data(cuda, well_made):
    rows = {"i": np.array([[0, 6, -1, 3]])}
    with cuda.batch() as check:
        assert moves(check("add(cast(gather(x, i, axis=0), to='float32'), y)", rows,
                           x="f16[7,24]", i="i64[1,4]", y="f32[1,4,24]")) == ([8, 4, 4], [4, 4])  # fmt: skip
        check("gather(x, i, axis=1)", rows, x="f32[3,7,2]", i="i64[1,4]")
        check("concat(x, y, axis=2)", x="f16[3,5,4]", y="f16[3,5,9]")
        check("pad(x, before=(0,1), after=(0,2), mode='constant', value=1.5)", x="f32[5,7]")
        check("mul(expand(x, shape=(4,5,8)), y)", x="f32[5,1]", y="f32[4,5,8]")
    assert well_made(check)


def test_what_may_not_happen_is_not_moved():
    """A load under a condition stays where it is, and so does one of what the loop itself writes."""
    builder = BlockBuilder(32)
    x, out = builder.parameter("in0", "float32", 64), builder.parameter("out0", "float32", 64)
    with builder.vector(4) as lane:
        builder.when(lane < 2, lambda: builder.store(out, builder.load(x, lane), lane))
    with builder.vector(4) as lane:
        builder.store(out, builder.load(out, lane + 4), lane)
    text = print_kernel(builder.launched("k", 1), "k")
    assert "tc_load" not in text
    assert "tc_store" not in text
