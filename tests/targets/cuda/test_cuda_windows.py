"""Pools and depthwise convolutions, emulated."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from targets.cuda.codegen import print_kernel

pytestmark = pytest.mark.compiler

_THREE = "kernel=(3,3), strides=({s},{s}), pads=(1,1,1,1), dilations=(1,1)"


def loads(kernel):
    return len(re.findall(r"tc_load<\d+>\(", print_kernel(kernel.function, "k")))


def test_max_pool(cuda, well_made):
    with cuda.batch() as check:
        kernel = check(f"max_pool(x, {_THREE.format(s=2)}, ceil=0)", x="f32[2,2,9,8,8]")
        assert loads(kernel) == 9
        check(f"relu(max_pool(x, {_THREE.format(s=1)}, ceil=0))", {"x": -1}, x="f16[1,2,5,4,8]")
        check("max_pool(x, kernel=(2,3), strides=(2,2), pads=(0,1,1,2), dilations=(2,1), ceil=1)", x="f32[2,3,9,10]")
        check("max_pool(x, kernel=(2,2), strides=(2,2), pads=(0,0,0,0), dilations=(1,1), ceil=0)", x="i8[1,2,4,6,8]")
        check("max_pool(x, kernel=(6,6), strides=(3,3), pads=(2,2,2,2), dilations=(1,1), ceil=0)",
              {"x": [float("nan"), 1, 2, 3, 4, 5, 6, 7]}, x="f32[1,1,9,9,8]")  # fmt: skip
    assert well_made(check)


def test_avg_pool(cuda, well_made):
    with cuda.batch() as check:
        for counted in (0, 1):
            check(f"avg_pool(x, {_THREE.format(s=2)}, ceil=1, count_include_pad={counted})", x="f32[1,2,6,7,8]")
        check("avg_pool(x, kernel=(2,2), strides=(2,2), pads=(0,0,0,0), dilations=(1,1), ceil=0, count_include_pad=0)",
              x="f16[2,3,4,6,8]", tolerance=1e-3)  # fmt: skip
        # A window that is the whole image: its pixels are shared out.
        whole = "kernel=(7,7), strides=(1,1), pads=(0,0,0,0), dilations=(1,1), ceil=0, count_include_pad=0"
        kernel = check(f"add(avg_pool(x, {whole}), y)", x="f32[2,3,7,7,8]", y="f32[3,1,1,8]")
        assert kernel.blocks * kernel.threads > 2 * 3 * 8
    assert well_made(check)


def test_depthwise(cuda, well_made):
    same = "pads=(1,1,1,1), dilations=(1,1), depthwise=1"
    with cuda.batch() as check:
        kernel = check(f"relu(add(conv_blocked(x, w, strides=(1,1), {same}), b))", x="f32[2,3,5,7,8]",
                       w="f32[3,1,3,3,8]", b="f32[3,1,1,8]")  # fmt: skip
        assert loads(kernel) == 19
        check(f"conv_blocked(x, w, strides=(2,2), {same})", x="f16[1,3,6,5,8]", w="f16[3,1,3,3,8]", tolerance=2e-3)
        check("conv_blocked(x, w, strides=(1,2), pads=(2,0,2,1), dilations=(2,1), depthwise=1)", x="f32[1,2,7,9,8]",
              w="f32[2,1,3,2,8]")  # fmt: skip
        check("conv_blocked(x, w, strides=(1,1), pads=(3,3,3,3), dilations=(1,1), depthwise=1)", x="f32[1,1,6,6,8]",
              w="f32[1,1,7,7,8]")  # fmt: skip
        check(f"conv_blocked(x, w, strides=(1,1), {same})", x="u8[1,2,4,5,8]", w="i8[2,1,3,3,8]")
    assert well_made(check)


def test_rows_share_what_they_read(cuda, well_made):
    """A GPU that is full with few threads: several output rows a thread, of which the last may not be there."""
    few = replace(cuda, machine=replace(cuda.machine, multiprocessors=1, threads=64))
    with few.batch() as check:
        kernel = check("conv_blocked(x, w, strides=(1,1), pads=(1,1,1,1), dilations=(1,1), depthwise=1)",
                       x="f32[1,2,7,5,8]", w="f32[2,1,3,3,8]")  # fmt: skip
        assert loads(kernel) == 6 * 3 + 4 * 9
        kernel = check(f"avg_pool(x, {_THREE.format(s=2)}, ceil=0, count_include_pad=0)", x="f32[1,2,9,9,8]")
        assert loads(kernel) == 9 * 3
    assert well_made(check)
