"""Kernels that only move elements, where vectors go another way than along the last axis: see conftest."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.compiler


def test_repeated_elements(kernels):
    """Each element several times side by side; the same along the axes in front of it."""
    with kernels.batch() as check:
        for times, width in ((2, 37), (3, 16), (4, 9), (2, 2100)):
            check(f"expand(x, shape=(3, 5, {width}, {times}))", x=f"f32[3,5,{width},1]")
        check("expand(x, shape=(2, 3, 21, 2, 19, 2))", x="f32[2,3,21,1,19,1]")
        for type in ("f64", "f16", "bf16", "i64", "u8", "bool"):
            check("expand(x, shape=(3, 41, 2))", x=f"{type}[3,41,1]")
        check("mul(relu(expand(x, shape=(3, 21, 2))), y)", x="f32[3,21,1]", y="f32[2]")


def test_interleaved_elements(kernels):
    """A short last axis that was another one."""
    with kernels.batch() as check:
        check("transpose(x, perm=(0, 2, 3, 1))", x="f32[2,3,5,37]")
        check("transpose(x, perm=(0, 1, 4, 2, 5, 3))", x="f32[1,5,3,2,7,19]")
        check("transpose(x, perm=(0, 2, 1))", x="f16[2,2,33]")
        check("greater(transpose(x, perm=(1, 0)), 0.0)", x="f32[3,50]")
        check("transpose(x, perm=(1, 0))", x="f32[4,9000]")


def test_images_in_narrow_blocks(kernels):
    """The pixels of a row side by side, and fillers where there are fewer channels than places."""
    padded = "pad(x, before=(0, 0, 1, 2), after=(0, 0, 1, 3), mode='constant', value={})"
    with kernels.batch() as check:
        for short in ("u8", "i8", "f32"):
            check("block(x, block=4, groups=1)", x=f"{short}[1,3,5,37]")
            check(f"block({padded.format(1.5 if short == 'f32' else 7)}, block=4, groups=1)", x=f"{short}[2,3,4,33]")
            check("block(x, block=4, groups=2)", x=f"{short}[1,6,3,20]")
        check("block(x, block=4, groups=1)", x="u8[1,4,2,17]")
        check("block(cast(clip(x, min=0.0, max=255.0), to='uint8'), block=4, groups=1)", x="f32[1,3,5,40]")


@pytest.mark.parametrize("widths", [(1, 2), (0, 3), (-2, 4), (5, -3), (38, 1)])
def test_padding_around_an_interior(kernels, widths):
    before, after = widths
    sides = f"before=(1, {before}), after=(0, {after}), mode='constant', value=1.5"
    inside = f"slice(x, starts=(0, 3), sizes=(3, {40 - before - after}), steps=(1, 1))"
    with kernels.batch() as check:
        check(f"pad(x, {sides})", x="f32[3,45]")
        check(f"transpose(pad(x, {sides}), perm=(1, 0))", x="f32[3,45]")
        check(f"add(pad({inside}, {sides}), y)", x="f32[3,45]", y="f32[4,40]")
        check(f"mul(pad(reshape(x, shape=(6, 45)), {sides}), 2.0)", x="f32[2,3,45]")
        other = sides.replace("constant", "reflect") if min(widths) >= 0 and before < 40 else sides
        check(f"pad(x, {other})", x="f32[3,45]")


def test_windows(kernels):
    windows = "unfold(x, axis=2, out=37, kernel=3)"
    rows = f"unfold({windows}, axis=1, out=2, kernel=2, stride=2, dilation=3)"
    padded = "pad(x, before=(0, 0, 1), after=(0, 0, 2), mode='constant', value=2.0)"
    with kernels.batch() as check:
        check(windows, x="f32[3,5,39]")
        check(f"transpose({rows}, perm=(0, 2, 4, 1, 3))", x="f32[3,6,39]")
        check(f"transpose(unfold({padded}, axis=2, out=40, kernel=3), perm=(0, 1, 3, 2))", x="f16[3,5,39]")
        check("unfold(x, axis=0, out=3, kernel=4, stride=5, dilation=2)", x="u8[17,5]")


def test_sums_of_shifted_elements(kernels):
    """Several paddings in one kernel: the interior is that of all of them."""
    terms = [
        f"pad(x, before=({1 - i}, {2 - j}), after=({i}, {j}), mode='constant', value=0)"
        for i in range(2) for j in range(4)
    ]  # fmt: skip
    total = terms[0]
    for term in terms[1:]:
        total = f"add({total}, {term})"
    kernels.check(total, x="f32[5,53]")
