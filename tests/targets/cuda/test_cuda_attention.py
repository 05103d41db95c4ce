"""Fused attention on the CUDA target, emulated, against float64; what the compiler says of registers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from targets.cuda import gpu as gpus
from targets.cuda.codegen import print_kernel
from targets.cuda.compiler import compile_kernel
from targets.cuda.flash import AttentionExtents, flash_schedule
from targets.cuda.kernels import lower
from targets.cuda.kernels.attention.tiles import Tile

pytestmark = pytest.mark.compiler

#: Of results, relative to the largest: the operands are what they are, weights and results are rounded.
TOLERANCE = {"f32": 3e-6, "f16": 1.5e-3, "bf16": 1.2e-2}


def attend(check, dtype, q, k, v=None, mask=None, data=None, schedule=None, tolerance=None):
    """q [B,L,H,D], k [B,S,Hk,D], v [B,S,Hk,E], mask float32, as the precision pass leaves them."""
    v = v or k
    types = {name: f"{dtype}[{','.join(map(str, shape))}]" for name, shape in zip("qkv", (q, k, v), strict=True)}
    operands = [name if dtype == "f32" else f"cast({name}, to='float32')" for name in "qkv"]
    if mask is not None:
        types["m"] = f"f32[{','.join(map(str, mask))}]"
        operands.append("m")
    text = f"attention({', '.join(operands)}, scale={1 / math.sqrt(q[3])})"
    if dtype != "f32":
        text = f"cast({text}, to='{'float16' if dtype == 'f16' else 'bfloat16'}')"
    return check(text, data, tolerance=tolerance or TOLERANCE[dtype], schedule=schedule, **types)


def flash(rows, keys, stages=2, splits=1, warps=1):
    return {"kind": "flash", "rows": rows, "keys": keys, "stages": stages, "splits": splits, "warps": warps}


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_shapes(cuda, dtype):
    with cuda.batch() as check:
        attend(check, dtype, (1, 16, 2, 32), (1, 16, 2, 32))
        attend(check, dtype, (2, 5, 3, 24), (2, 37, 3, 24))  # nothing is whole
        attend(check, dtype, (1, 33, 2, 64), (1, 70, 2, 64), schedule=flash(32, 32, 3))
        attend(check, dtype, (1, 3, 1, 20), (1, 9, 1, 20), (1, 9, 1, 12))  # rows of no whole chunks
        kernel = attend(check, dtype, (1, 1, 1, 8), (1, 1, 1, 8))
    assert kernel.schedule["kind"] == "flash"


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_warps_that_share_queries(cuda, dtype):
    with cuda.batch() as check:
        attend(check, dtype, (1, 20, 2, 32), (1, 200, 2, 32), mask=(1, 1, 1, 200), schedule=flash(16, 16, 2, 1, 4))
        attend(check, dtype, (1, 33, 1, 64), (1, 50, 1, 64), (1, 50, 1, 24), schedule=flash(32, 16, 3, 1, 2))
        rounding = replace(cuda, machine=replace(cuda.machine, rounds_products=True))
    with rounding.batch() as check:
        attend(check, "f32", (1, 20, 1, 32), (1, 90, 1, 32), schedule=flash(16, 16, 2, 1, 4), tolerance=2e-3)


def test_depths(cuda):
    with cuda.batch() as check:
        for depth in (80, 96, 128):
            attend(check, "f16", (1, 17, 1, depth), (1, 33, 1, depth))
        attend(check, "bf16", (1, 16, 1, 256), (1, 16, 1, 256), (1, 16, 1, 40))
        attend(check, "f32", (1, 9, 1, 100), (1, 33, 1, 100), (1, 33, 1, 70))


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_masks(cuda, dtype):
    rng = np.random.default_rng(0)
    causal = np.where(np.tri(19, 19, dtype=bool), 0, -np.inf)  # as PyTorch's exporter writes it
    lowest = np.where(np.tri(19, 19, dtype=bool), 0, np.finfo(np.float32).min)
    padding = np.where(rng.random((2, 1, 1, 70)) < 0.5, 0, -1e9)
    gone = np.where(np.arange(2).reshape(2, 1, 1, 1) > 0, np.float32(np.finfo(np.float32).min), 0)
    with cuda.batch() as check:
        attend(check, dtype, (1, 19, 2, 32), (1, 19, 2, 32), mask=(19, 19), data={"m": causal})
        attend(check, dtype, (1, 19, 2, 32), (1, 19, 2, 32), mask=(1, 1, 19, 19), data={"m": lowest},
               schedule=flash(32, 16))  # fmt: skip
        attend(check, dtype, (2, 3, 2, 32), (2, 70, 2, 32), mask=(2, 1, 1, 70), data={"m": padding},
               schedule=flash(16, 16))  # fmt: skip
        # Nothing is left of the second image: all its keys weigh the same.
        attend(check, dtype, (2, 3, 1, 32), (2, 20, 1, 32), mask=(2, 1, 1, 1), data={"m": gone})
        attend(check, dtype, (2, 3, 4, 16), (2, 20, 2, 16), mask=(1, 4, 3, 20))  # a bias by heads
        first = np.where(np.arange(70) < 33, -np.inf, 0)  # the first tiles have nothing
        attend(
            check, dtype, (1, 3, 1, 32), (1, 70, 1, 32), mask=(1, 1, 1, 70), data={"m": first}, schedule=flash(16, 16)
        )


def test_rows_without_keys_are_nan_as_elsewhere(cuda):
    none = np.where(np.arange(20).reshape(20, 1) < 3, -np.inf, 0)
    with cuda.batch() as check:
        for dtype in ("f16", "f32"):
            attend(check, dtype, (1, 20, 1, 16), (1, 9, 1, 16), mask=(20, 1), data={"m": none})
            attend(check, dtype, (1, 20, 1, 16), (1, 70, 1, 16), mask=(20, 1), data={"m": none},
                   schedule=flash(32, 16, splits=2))  # fmt: skip


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_grouped_heads_and_few_queries(cuda, dtype):
    """Heads that share keys are rows of one tile; the keys are split between blocks, which join."""
    with cuda.batch() as check:
        attend(check, dtype, (2, 5, 6, 32), (2, 21, 2, 32), mask=(2, 6, 5, 21))
        kernel = attend(check, dtype, (1, 1, 4, 64), (1, 1000, 1, 64))
        assert kernel.schedule["splits"] == 7
        assert kernel.counters == 1
        attend(check, dtype, (2, 1, 4, 32), (2, 90, 2, 32), mask=(2, 1, 1, 90), schedule=flash(16, 16, 3, 6))
        attend(check, dtype, (1, 3, 12, 32), (1, 50, 2, 32), schedule=flash(16, 16, 2, 3))


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_operands_behind_moves(cuda, dtype):
    """Slices of one tensor of queries, keys and values, and what exporters transpose."""
    wide = "{}" if dtype == "f32" else "cast({}, to='float32')"
    part = "slice({}, starts=(0, 0, {}, {}), sizes=(2, 19, 2, 32), steps=(1, 1, 1, {}))"

    def sliced(first, begin=0, step=1):
        return part.format(wide.format("x"), first, begin, step)

    with cuda.batch() as check:
        check(f"attention({sliced(0)}, {sliced(2)}, {sliced(4)}, scale=0.2)", x=f"{dtype}[2,19,6,32]",
              tolerance=TOLERANCE[dtype])  # fmt: skip
        # Nothing of which 16 bytes can be copied: an odd place to begin at, every second element, columns as rows.
        check(f"attention({sliced(0, 1)}, {sliced(2, 3)}, {sliced(4, 0, 2)}, scale=0.2)", x=f"{dtype}[2,19,6,65]",
              tolerance=TOLERANCE[dtype])  # fmt: skip
        q, k, v = (
            f"transpose({wide.format(name)}, perm={perm})"
            for name, perm in zip("qkv", ((0, 2, 1, 3), (0, 3, 1, 2), (0, 2, 1, 3)), strict=True)
        )
        check(f"attention({q}, {k}, {v}, scale=0.2)", q=f"{dtype}[2,3,9,16]", k=f"{dtype}[2,3,16,33]",
              v=f"{dtype}[2,3,33,16]", tolerance=TOLERANCE[dtype])  # fmt: skip


def test_types_and_what_follows(cuda):
    q, k = "[1,9,2,32]", "[1,21,2,32]"
    with cuda.batch() as check:
        check("attention(q, k, v, scale=0.3)", q=f"f16{q}", k=f"f16{k}", v=f"f16{k}", tolerance=1.5e-3)
        check("attention(cast(q, to='float32'), k, cast(v, to='float32'), scale=0.3)", q=f"f16{q}", k=f"f32{k}",
              v=f"bf16{k}", tolerance=3e-6)  # which no tensor core multiplies  # fmt: skip
        check("attention(q, k, v, scale=-0.3)", q=f"f32{q}", k=f"f32{k}", v=f"f32{k}", tolerance=3e-6)
        check("mul(relu(attention(cast(q, to='float32'), cast(k, to='float32'), cast(v, to='float32'), scale=0.3)), y)",
              q=f"f16{q}", k=f"f16{k}", v=f"f16{k}", y=f"f32{q}", tolerance=1.5e-3)  # fmt: skip
        check("attention(cast(q, to='float32'), cast(k, to='float32'), cast(v, to='float32'), cast(m, to='float32'), "
              "scale=0.3)", q=f"bf16{q}", k=f"bf16{k}", v=f"bf16{k}", m="bf16[1,1,9,21]", tolerance=1.2e-2)  # fmt: skip


def test_tf32(cuda):
    """Where the user allows it, by tensor cores: numbers of 11 significant bits."""
    rounding = replace(cuda, machine=replace(cuda.machine, rounds_products=True))
    with rounding.batch() as check:
        attend(check, "f32", (1, 17, 2, 64), (1, 70, 2, 64), tolerance=2e-3)
        attend(check, "f32", (2, 5, 4, 20), (2, 33, 2, 20), (2, 33, 2, 12), mask=(5, 33), tolerance=2e-3)
        attend(check, "f32", (1, 1, 1, 32), (1, 50, 1, 32), schedule=flash(16, 16, 3, 3), tolerance=2e-3)
    assert all(found.spill_stores == 0 for found in check.resources)
    with pytest.raises(AssertionError, match="Not equal"), rounding.batch() as check:
        attend(check, "f32", (1, 17, 2, 64), (1, 70, 2, 64))


def test_large_scores(cuda):
    """No exponential overflows, wherever the largest score is."""
    q = np.full((1, 2, 1, 16), 30.0)
    k = np.linspace(-20, 20, 70).reshape(1, 70, 1, 1)
    with cuda.batch() as check:
        for keys in (k, -k):
            for dtype in ("f16", "f32"):
                attend(check, dtype, (1, 2, 1, 16), (1, 70, 1, 16), data={"q": q, "k": keys}, schedule=flash(16, 16))


@pytest.mark.parametrize("depth", [64, 128])
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_registers_are_enough(cuda, depth, dtype):
    """At the tiles of long sequences with and without masks, and of one query."""
    to = {"f16": "float16", "bf16": "bfloat16"}.get(dtype)
    for machine, queries, mask in (("sm_80", 1024, None), ("sm_90", 1024, "f32[1,1,1024,1024]"), ("sm_90", 1, None)):
        gpu = gpus.NAMED[machine]
        types = {
            name: f"{dtype}[4,{length},16,{depth}]" for name, length in zip("qkv", (queries, 1024, 1024), strict=True)
        }
        operands = [f"cast({name}, to='float32')" if to else name for name in "qkv"]
        if mask:
            types["m"] = mask
            operands.append("m")
        text = f"attention({', '.join(operands)}, scale=0.1)"
        kernel = lower(cuda.body(f"cast({text}, to='{to}')" if to else text, **types), gpu)
        found = compile_kernel(print_kernel(kernel.function, "k"), "k", gpu).resources
        assert found.spill_stores == found.spill_loads == 0, (machine, types, kernel.schedule)
        assert kernel.shared_bytes <= gpu.shared_block


@pytest.mark.parametrize("gpu", gpus.NAMED.values(), ids=lambda gpu: gpu.name)
def test_rules(gpu):
    """Few queries have small tiles, and fewer yet split the keys; many have large ones."""
    for size in (2, 4):
        long = flash_schedule(AttentionExtents(64, 2048, 2048, 64, 64, size, size == 2), gpu)
        assert (long.rows >= 64, long.splits) == (True, 1)
        short = AttentionExtents(12, 128, 128, 64, 64, size, size == 2)
        assert flash_schedule(short, gpu).rows <= 64
        one = AttentionExtents(8, 1, 4096, 128, 128, size, size == 2)
        schedule = flash_schedule(one, gpu)
        assert schedule.rows == 16
        assert gpu.multiprocessors <= 8 * schedule.splits <= 3 * gpu.multiprocessors
    assert flash_schedule(AttentionExtents(1, 64, 64, 512, 512, 2, True), gpu) is None  # the registers are too few


@pytest.mark.parametrize("chunks", [2, 5, 8, 10, 16, 25])
def test_rows_and_chunks_lie_in_different_banks(chunks):
    """8 rows of a chunk, and of tensor cores' tiles 8 chunks of a row, which a quarter of a warp asks for at once."""
    for rows in (16, 64):
        for tile in (Tile.below(0, rows, chunks), Tile.beside(0, rows, chunks)):
            places = np.array([[tile.place(row, chunk) for chunk in range(chunks)] for row in range(rows)])
            assert len(np.unique(places)) == rows * chunks
            assert places.max() + 16 <= tile.nbytes
            banks = places // 16 % 8
            assert all(len(set(banks[first : first + 8, 0])) == 8 for first in range(0, rows, 8))
            assert len(set(banks[0, :8])) == min(chunks, 8)


def test_schedules_that_do_not_fit_are_refused(cuda):
    body = cuda.body("attention(q, k, k, scale=0.1)", q="f16[1,64,1,64]", k="f16[1,64,1,64]")
    for wrong in (
        flash(64, 64, splits=2),
        flash(128, 64, 20),
        flash(24, 16),
        flash(16, 8),
        flash(16, 16, 1),
        flash(16, 16, 2, 2, 2),
    ):
        with pytest.raises(ValueError, match="does not fit"):
            lower(body, cuda.machine, wrong)
    kernel = lower(cuda.body("attention(q, q, q, scale=0.1)", q="f16[1,4,1,512]"), cuda.machine)
    assert kernel.schedule == {}
