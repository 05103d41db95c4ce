"""Convolutions as tiled matrix products, emulated: see the conftest of tests/targets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .test_cuda_products import none_spills, tile

pytestmark = pytest.mark.compiler

_FMA, _TENSOR = tile(32, 32, 16, 2, 1, 3, unit="fma"), tile(32, 32, 32, 1, 2, 3)


def conv(x="x", strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), groups=1):
    return f"conv_blocked({x}, w, strides={strides}, pads={pads}, dilations={dilations}, groups={groups}, depthwise=0)"


def test_blocked_images(cuda):
    """Of pixels, of windows with padding, strides and dilations, in groups; several images."""
    with cuda.batch() as check:
        for schedule, dtype, tolerance in ((_FMA, "f32", 2e-6), (_TENSOR, "f16", 2e-3)):
            check(conv(), schedule=schedule, tolerance=tolerance, x=f"{dtype}[2,3,5,7,8]", w=f"{dtype}[3,24,1,1,8]")
            check(f"relu(add({conv(pads=(1, 1, 1, 1))}, r))", schedule=schedule, tolerance=tolerance,
                  x=f"{dtype}[2,2,6,5,8]", w=f"{dtype}[3,16,3,3,8]", r=f"{dtype}[2,3,6,5,8]")  # fmt: skip
            check(conv(strides=(2, 1), pads=(2, 0, 1, 3), dilations=(1, 2)), schedule=schedule, tolerance=tolerance,
                  x=f"{dtype}[1,2,9,8,8]", w=f"{dtype}[5,16,3,2,8]")  # fmt: skip
            check(conv(groups=2, strides=(2, 2)), schedule=schedule, tolerance=tolerance,
                  x=f"{dtype}[1,4,5,6,8]", w=f"{dtype}[6,16,1,1,8]")  # fmt: skip
    none_spills(check)


def test_plain_images(cuda):
    """The first convolution of a network: channels are gathered from planes."""
    with cuda.batch() as check:
        check(conv(strides=(2, 2), pads=(3, 3, 3, 3)), schedule=_FMA, x="f32[2,3,11,9]", w="f32[2,3,7,7,8]")
        check(conv(pads=(1, 1, 1, 1)), schedule=_TENSOR, x="f32[1,3,6,7]", w="f16[2,3,3,3,8]", tolerance=2e-3)
        check(conv(groups=2), schedule=_FMA, x="f32[1,6,5,5]", w="f32[4,3,2,2,8]")
        check(conv(), schedule=_FMA, x="f32[1,3,4,5]", w="f32[2,3,1,1,8]")  # of one pixel, with and without a rest
        check(conv(groups=2), schedule=_FMA, x="f32[1,8,4,5]", w="f32[4,4,1,1,8]")
        check(conv("cast(x, to='float32')"), schedule=_TENSOR, x="f16[1,3,5,5]", w="f16[2,3,2,2,8]", tolerance=2e-6)
        check(conv(), schedule=_TENSOR, x="f16[1,3,5,5]", w="f16[2,3,2,2,8]", tolerance=2e-3)
    none_spills(check)


def test_other_types(cuda):
    """Images in float32 with weights in 16 bits, which are rounded on the way, and images that were widened."""
    with cuda.batch() as check:
        check(conv(pads=(1, 0, 1, 0)), schedule=_TENSOR, tolerance=1e-2, x="f32[1,2,5,6,8]", w="bf16[2,16,3,1,8]")
        check(conv("cast(x, to='float32')"), schedule=_TENSOR, x="bf16[1,2,5,6,8]", w="bf16[2,16,1,1,8]")
    none_spills(check)


def test_bytes(cuda):
    with cuda.batch() as check:
        schedule = tile(32, 32, 64, 1, 2)
        check(conv(pads=(1, 1, 1, 1)), schedule=schedule, x="u8[1,3,5,6,8]", w="i8[2,24,3,3,8]")
        check(conv(), schedule=schedule, x="u8[1,1,5,6,4]", w="i8[2,4,2,2,8]")
    none_spills(check)


def test_split_reductions(cuda):
    with cuda.batch() as check:
        schedule = tile(32, 32, 32, 1, 2, 3, split_k=3)
        kernel = check(f"silu({conv(pads=(1, 1, 1, 1))})", schedule=schedule, tolerance=3e-3,
                       x="f16[1,3,5,7,8]", w="f16[5,24,3,3,8]")  # fmt: skip
        assert (kernel.blocks, kernel.counters) == (12, 4)
        assert check(conv(), x="f32[1,32,2,2,8]", w="f32[4,256,1,1,8]").schedule["split_k"] > 1
    none_spills(check)


def test_shared_tiles(cuda):
    """Blocks that go on to the next tile look for other pixels then; of a plain image the table of taps stays."""
    small = replace(cuda, machine=replace(cuda.machine, multiprocessors=2, threads=128))
    with small.batch() as check:
        kernel = check(f"relu({conv(pads=(1, 1, 1, 1))})", schedule=tile(32, 32, 32, 1, 2, 3, split_k=0),
                       tolerance=2e-3, x="f16[1,4,9,7,8]", w="f16[9,32,3,3,8]")  # fmt: skip
        assert (kernel.blocks, kernel.counters) == (8, 2)
        check(conv(strides=(2, 2), pads=(3, 3, 3, 3)), schedule=tile(32, 32, 16, 2, 1, 2, split_k=0, unit="fma"),
              x="f32[1,3,15,13]", w="f32[3,3,7,7,8]")  # fmt: skip
    none_spills(check)
