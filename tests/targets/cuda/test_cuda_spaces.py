"""Spaces of schedules: what they offer can be lowered, and the rules' choice is in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from targets.cuda.gpu import NAMED
from targets.cuda.kernels import lower
from targets.cuda.schedules import Extents, gemm_cycles, gemm_schedule, stream_of
from targets.cuda.spaces import space_of

from .test_cuda_convolutions import conv

_BODIES = [
    ("matmul_packed(x, w, columns=1000)", {"x": "f32[1,2048]", "w": "f32[125,2048,8]"}),
    ("relu(matmul_packed(x, w, columns=300))", {"x": "f32[6,512]", "w": "f16[38,512,8]"}),
    ("matmul(x, y, transpose_b=1)", {"x": "f16[12,128,64]", "y": "f16[12,128,64]"}),
    (conv(pads=(1, 1, 1, 1)), {"x": "f32[1,8,14,14,8]", "w": "f32[8,64,3,3,8]"}),
    (conv(strides=(2, 2)), {"x": "f32[1,3,64,64]", "w": "f16[4,3,7,7,8]"}),
    ("attention(q, k, k, scale=0.1)", {"q": "f32[2,9,4,32]", "k": "f32[2,200,2,32]"}),
    ("attention(q, k, k, scale=0.1)", {"q": "f16[1,1,4,64]", "k": "f16[1,900,4,64]"}),
    (conv(groups=2), {"x": "u8[1,4,14,14,8]", "w": "i8[4,16,1,1,8]"}),
    *(
        (
            "matmul_coded(x, c, s, width=3, group=32, zero=4.0)",
            {"x": f"f32[{rows},512]", "c": "u8[300,192]", "s": "bf16[300,16]"},
        )
        for rows in (3, 20)
    ),
]


@pytest.mark.parametrize("numerics", ["strict", "fast"])
@pytest.mark.parametrize(("expression", "types"), _BODIES)
def test_what_a_space_offers_can_be_lowered(cuda, expression, types, numerics):
    body = cuda.body(expression, **types)
    space = space_of(body, cuda.machine, numerics)
    chosen = [space.default_values()] + [space.sample(np.random.default_rng(seed)) for seed in range(3)]
    for values in chosen:
        schedule = space.schedule(values)
        assert lower(body, cuda.machine, schedule).schedule == schedule
    assert lower(body, cuda.machine).schedule == space.default


def test_float32_is_rounded_to_tf32_only_where_that_is_allowed(cuda):
    body = cuda.body("matmul(x, y)", x="f32[64,64]", y="f32[64,64]")
    units = [space_of(body, cuda.machine, numerics).algorithms[0].knobs["unit"] for numerics in ("strict", "fast")]
    assert units == [("fma",), ("fma", "tensor")]


def test_what_has_no_tile_has_no_space(cuda):
    assert space_of(cuda.body("matmul(x, y)", x="f64[6,6]", y="f64[6,6]"), cuda.machine) is None
    assert space_of(cuda.body("add(x, x)", x="f32[6,6]"), cuda.machine) is None


@pytest.mark.parametrize("gpu", NAMED.values(), ids=lambda gpu: gpu.name)
def test_rules(gpu):
    """Few tiles are split, many are not; a split costs more than the sums of tiles that are enough."""
    few, many = Extents(1, 49, 512, 4608), Extents(1, 4096, 4096, 4096)
    for dtype in ("float32", "float16"):
        schedule = gemm_schedule(few, dtype, gpu)
        stream = stream_of(schedule, few, dtype, gpu)
        tiles = -(-few.rows // schedule.rows) * (few.columns // schedule.columns)
        assert schedule.split_k != 1
        assert (stream.blocks if stream else tiles * schedule.split_k) >= gpu.multiprocessors // 2
        large = gemm_schedule(many, dtype, gpu)
        assert large.rows * large.columns >= 64 * 128
        assert gemm_cycles(large, many, dtype, gpu) < gemm_cycles(schedule, many, dtype, gpu)


def test_a_badly_filled_wave_is_shared():
    """17 % of the last wave have tiles: its steps are shared, or tiles are smaller. Where waves are whole, none is."""
    gpu = NAMED["sm_90"]
    flat, whole = Extents(1, 3000, 3000, 3000), Extents(1, 4096, 4224, 4096)
    schedule = gemm_schedule(flat, "float16", gpu)
    stream = stream_of(schedule, flat, "float16", gpu)
    assert schedule.split_k == 0
    assert stream.blocks == gpu.multiprocessors
    assert stream.whole % gpu.multiprocessors == 0
    alone = replace(schedule, split_k=1)
    assert gemm_cycles(schedule, flat, "float16", gpu) < gemm_cycles(alone, flat, "float16", gpu)
    full = replace(schedule, rows=128, columns=128, split_k=0)
    assert stream_of(full, whole, "float16", gpu) is None
    assert gemm_schedule(whole, "float16", gpu).split_k == 1


def test_schedules_that_fit_no_gpu_are_refused(cuda):
    body = cuda.body("matmul(x, y)", x="f16[64,64]", y="f16[64,64]")
    given = space_of(body, cuda.machine).default
    for wrong in ({"rows": 48}, {"warp_rows": 16}, {"stages": 9}, {"rows": 256, "columns": 256}, {"unit": "fma"}):
        with pytest.raises(ValueError, match="no tile"):
            lower(body, cuda.machine, given | wrong)
