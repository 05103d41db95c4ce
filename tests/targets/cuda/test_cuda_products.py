"""Tiled matrix products, emulated: types, edges and ways to read operands. See the conftest of tests/targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytestmark = pytest.mark.compiler


def tile(rows, columns, depth, warp_rows, warp_columns, stages=2, split_k=1, unit="tensor"):
    return {"kind": "gemm", "rows": rows, "columns": columns, "depth": depth, "warp_rows": warp_rows,
            "warp_columns": warp_columns, "stages": stages, "split_k": split_k, "unit": unit}  # fmt: skip


def none_spills(check):
    assert all(r.spill_stores == r.spill_loads == r.stack == 0 for r in check.resources)


def test_tensor_cores(cuda):
    """float16 and bfloat16, with tails everywhere; steps that go once round all stages, and fewer."""
    with cuda.batch() as check:
        check("matmul_packed(x, w, columns=21)", schedule=tile(32, 32, 32, 1, 2), tolerance=2e-3,
              x="f16[37,40]", w="f16[3,40,8]")  # fmt: skip
        check("relu(add(matmul_packed(x, w, columns=64), b))", schedule=tile(64, 64, 32, 2, 2, 3), tolerance=2e-3,
              x="f16[2,35,136]", w="f16[8,136,8]", b="f16[64]")  # fmt: skip
        check("matmul_packed(cast(x, to='float32'), w, columns=40)", schedule=tile(16, 32, 64, 1, 1, 4),
              x="bf16[2,9,200]", w="bf16[5,200,8]")  # fmt: skip
        check("matmul_packed(x, w, columns=16)", schedule=tile(64, 16, 32, 4, 1, 4), tolerance=2e-3,
              x="f16[130,24]", w="f16[2,24,8]")  # fmt: skip
    none_spills(check)


def test_operands_that_are_converted(cuda):
    """float32 that becomes 16 bits on the way; rows that do not begin at multiples of 16 bytes."""
    with cuda.batch() as check:
        check("matmul_packed(x, w, columns=24)", schedule=tile(32, 32, 32, 1, 1, 3), tolerance=2e-3,
              x="f32[33,72]", w="f16[3,72,8]")  # fmt: skip
        check("matmul_packed(x, w, columns=24)", schedule=tile(32, 32, 32, 1, 1, 3), tolerance=1e-2,
              x="f32[33,72]", w="bf16[3,72,8]")  # fmt: skip
        check("matmul_packed(x, w, columns=24)", schedule=tile(32, 32, 32, 1, 1), tolerance=2e-3,
              x="f16[9,37]", w="f16[3,37,8]")  # fmt: skip
        check("matmul_packed(transpose(x, perm=(1, 0)), w, columns=24)", schedule=tile(32, 32, 32, 1, 1),
              x="f16[40,34]", w="f16[3,40,8]", tolerance=2e-3)  # fmt: skip
    none_spills(check)


def test_float32(cuda):
    """Multiply-adds: nothing is rounded to fewer bits."""
    with cuda.batch() as check:
        check("matmul_packed(x, w, columns=21)", schedule=tile(32, 32, 16, 2, 1, 2, unit="fma"),
              x="f32[37,40]", w="f32[3,40,8]")  # fmt: skip
        check("sub(matmul_packed(x, w, columns=72), b)", schedule=tile(64, 64, 16, 2, 1, 3, unit="fma"),
              x="f32[2,35,50]", w="f32[9,50,8]", b="f32[72]")  # fmt: skip
        check("matmul_packed(x, w, columns=128)", schedule=tile(128, 128, 16, 4, 2, 3, unit="fma"),
              x="f32[130,64]", w="f32[16,64,8]")  # fmt: skip
        check("matmul_packed(x, w, columns=72)", schedule=tile(64, 64, 32, 2, 2, 3, unit="tensor"), tolerance=2e-3,
              x="f32[70,50]", w="f32[9,50,8]")  # fmt: skip
    none_spills(check)


def test_bytes(cuda):
    """Unsigned by signed ones, exactly; sums that begin with whole numbers."""
    with cuda.batch() as check:
        check("matmul_packed(x, w, columns=24)", schedule=tile(32, 32, 64, 1, 2, 3), x="u8[37,80]", w="i8[3,80,8]")
        check("add(matmul_packed(x, w, columns=21), b)", schedule=tile(32, 32, 64, 2, 1, 2, 2), x="u8[9,200]",
              w="i8[3,200,8]", b="i32[9,21]")  # fmt: skip
        check("mul(cast(matmul(x, y), to='float32'), 0.5)", schedule=tile(32, 32, 32, 1, 1), x="u8[2,9,37]",
              y="i8[2,37,20]")  # fmt: skip
        assert check("matmul_packed(x, w, columns=24)", x="u8[1,80]", w="i8[3,80,8]").schedule
    none_spills(check)


def test_epilogues(cuda):
    """Long ones, which are written once; several outputs; whole numbers and booleans."""
    with cuda.batch() as check:
        check("gelu(add(matmul_packed(x, w, columns=40), b), approximate='none')", x="f16[40,32]", w="f16[5,32,8]",
              b="f16[40]", schedule=tile(32, 32, 32, 1, 2), tolerance=3e-3)  # fmt: skip
        check("mul(tanh(matmul_packed(x, w, columns=36)), r)", schedule=tile(64, 64, 8, 2, 1, unit="fma"),
              x="f32[70,32]", w="f32[5,32,8]", r="f32[70,36]")  # fmt: skip
        check("less(matmul_packed(x, w, columns=40), r)", x="f32[20,16]", w="f32[5,16,8]", r="f32[20,40]",
              schedule=tile(32, 32, 16, 2, 1, unit="fma"))  # fmt: skip
        check("cast(matmul_packed(x, w, columns=40), to='bfloat16')", x="f32[20,16]", w="bf16[5,16,8]",
              schedule=tile(32, 32, 32, 1, 2), tolerance=2e-2)  # fmt: skip
    none_spills(check)


def test_rows_of_16_bits(cuda):
    """Lanes exchange sums for neighbouring ones, of two fragments and of four; what lies beside is read like that."""
    residual = "add(add(matmul_packed(x, w, columns=72), r), b)"
    with cuda.batch() as check:
        for schedule in (tile(32, 32, 32, 2, 2), tile(32, 64, 32, 1, 1), tile(32, 128, 32, 1, 2)):
            check(residual, schedule=schedule, tolerance=2e-3,
                  x="f16[37,40]", w="f16[9,40,8]", r="f16[37,72]", b="f16[72]")  # fmt: skip
        check("mul(tanh(matmul_packed(x, w, columns=48)), r)", schedule=tile(32, 64, 32, 2, 2, 2, 2), tolerance=2e-3,
              x="f16[21,264]", w="f16[6,264,8]", r="f16[21,48]")  # fmt: skip
        check("add(matmul_packed(x, w, columns=40), cast(r, to='float32'))", x="f32[20,16]", w="bf16[5,16,8]",
              r="bf16[20,40]", schedule=tile(32, 32, 32, 1, 1), tolerance=1e-2)  # fmt: skip
        check("less(matmul(x, y), r)", x="f16[2,20,16]", y="f16[2,16,40]", r="f16[2,20,40]",
              schedule=tile(32, 32, 32, 1, 2))  # fmt: skip
        check("cast(clip(matmul_packed(x, w, columns=40), min=-100, max=100), to='int8')",
              x="u8[20,32]", w="i8[5,32,8]", schedule=tile(32, 32, 64, 1, 1))  # fmt: skip
    none_spills(check)


def test_split_reductions(cuda):
    """Parts of a reduction, the last one shorter, added by the last block of each tile."""
    with cuda.batch() as check:
        kernel = check("relu(matmul_packed(x, w, columns=48))", schedule=tile(32, 32, 32, 1, 2, 3, 3), tolerance=2e-3,
                       x="f16[37,232]", w="f16[6,232,8]")  # fmt: skip
        assert (kernel.blocks, kernel.counters) == (12, 4)
        check("gelu(matmul_packed(x, w, columns=48), approximate='none')", x="f32[37,100]", w="f32[6,100,8]",
              schedule=tile(32, 32, 16, 2, 1, 2, 4, unit="fma"))  # fmt: skip
    none_spills(check)


def test_shared_tiles(cuda):
    """On a GPU whose waves are 4 blocks: the last one's tiles by equal runs of their steps, some with a step more; with
    the wave before it where it has little; fewer runs than a wave where there are few steps."""
    small = replace(cuda, machine=replace(cuda.machine, multiprocessors=2, threads=128))
    tensor, fma = tile(32, 32, 32, 1, 2, 3, 0), tile(32, 32, 16, 2, 1, 2, 0, unit="fma")
    with small.batch() as check:
        found = []
        for rows, depth in ((70, 72), (37, 264), (20, 696)):
            kernel = check("add(matmul_packed(x, w, columns=72), r)", schedule=tensor, tolerance=2e-3,
                           x=f"f16[{rows},{depth}]", w=f"f16[9,{depth},8]", r=f"f16[{rows},72]")  # fmt: skip
            found.append((kernel.blocks, kernel.counters))
        check("gelu(matmul_packed(x, w, columns=40), approximate='none')", schedule=fma, x="f32[70,100]",
              w="f32[5,100,8]")  # fmt: skip
        check("add(matmul_packed(x, w, columns=24), b)", schedule=tile(32, 32, 64, 1, 2, 2, 0), x="u8[37,600]",
              w="i8[3,600,8]", b="i32[37,24]")  # fmt: skip
        check("matmul(x, y)", schedule=tensor, tolerance=2e-3, x="f16[5,37,200]", y="f16[5,200,24]")
    none_spills(check)
    # Of 9 tiles 4 are whole, and 15 steps have 3 runs; of 6 there are 18 steps of 2, of 3 66 steps, for 4 runs each.
    assert found == [(7, 5), (8, 2), (4, 3)]


def test_computed_matrices(cuda):
    """Batches, broadcast ones among them; the second operand as it is and transposed; operands behind transposes."""
    fma, tensor = tile(32, 32, 16, 2, 1, 3, unit="fma"), tile(32, 32, 32, 1, 2, 3)
    with cuda.batch() as check:
        for schedule, dtype, tolerance in ((fma, "f32", 2e-6), (tensor, "f16", 2e-3)):
            check("matmul(x, y)", schedule=schedule, tolerance=tolerance,
                  x=f"{dtype}[2,3,37,40]", y=f"{dtype}[2,3,40,24]")  # fmt: skip
            check("mul(matmul(x, y, transpose_b=1), 0.125)", schedule=schedule, tolerance=tolerance,
                  x=f"{dtype}[2,3,35,40]", y=f"{dtype}[3,37,40]")  # fmt: skip
            check("matmul(x, y)", schedule=schedule, tolerance=tolerance, x=f"{dtype}[3,9,21]", y=f"{dtype}[21,13]")
            check("matmul(transpose(x, perm=(0, 2, 1, 3)), transpose(y, perm=(0, 2, 3, 1)))", schedule=schedule,
                  tolerance=tolerance, x=f"{dtype}[1,18,2,16]", y=f"{dtype}[1,35,2,16]")  # fmt: skip
        check("matmul(x, y)", schedule=tile(32, 32, 16, 1, 2), tolerance=2e-3, x="f32[2,37,40]", y="f32[2,40,24]")
        check("matmul(x, y, transpose_b=1)", schedule=tile(32, 32, 16, 1, 2), tolerance=2e-3,
              x="f32[2,37,40]", y="f32[2,24,40]")  # fmt: skip
    none_spills(check)


def test_few_rows(cuda):
    """Reductions that warps share: with tails of columns, of panels, of steps; every type of weights."""

    def gemv(warps, panels, unroll):
        return {"kind": "gemv", "warps": warps, "panels": panels, "unroll": unroll}

    with cuda.batch() as check:
        check("relu(add(matmul_packed(x, w, columns=21), b))", schedule=gemv(2, 1, 2), tolerance=2e-6,
              x="f32[1,300]", w="f32[3,300,8]", b="f32[21]")  # fmt: skip
        check("matmul_packed(x, w, columns=37)", schedule=gemv(4, 2, 1), tolerance=2e-3,
              x="f16[3,200]", w="f16[5,200,8]")  # fmt: skip
        check("matmul_packed(cast(x, to='float32'), w, columns=16)", schedule=gemv(2, 2, 4), tolerance=2e-6,
              x="bf16[2,2,48]", w="bf16[2,48,8]")  # fmt: skip
    none_spills(check)


def test_rules(cuda):
    """What the rules pick for a few shapes runs, and what is not for tiles stays with tasks."""
    with cuda.batch() as check:
        for rows in (1, 5, 100):
            kernel = check("matmul_packed(x, w, columns=72)", x=f"f32[{rows},200]", w="f32[9,200,8]")
            assert kernel.schedule
        check("matmul(x, y)", x="f16[2,50,64]", y="f16[2,64,50]", tolerance=2e-3)
        assert not check("matmul(x, y)", x="f64[3,4]", y="f64[4,5]").schedule
        assert not check("matmul(x, y)", x="i64[3,4]", y="i64[4,5]").schedule
    none_spills(check)


def test_more_than_16_bits_hold(cuda):
    """float32 keeps all its bits: 1 + 2^-20 is not 1."""
    with cuda.batch() as check:
        check("matmul_packed(x, w, columns=8)", {"x": np.float32(1 + 2**-20), "w": np.float32(1 + 2**-19)},
              x="f32[20,8]", w="f32[1,8,8]", tolerance=1e-7)  # fmt: skip
