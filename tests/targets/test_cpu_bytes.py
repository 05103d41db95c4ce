"""Products of bytes, on a CPU whose instructions multiply them: exact, to the extremes of their types."""

from __future__ import annotations

import numpy as np
import pytest

from targets.cpu.kernels import lower
from targets.cpu.machine import NAMED
from targets.cpu.spaces import space_of
from tensorc.errors import UnsupportedError

pytestmark = pytest.mark.compiler

CONV = "conv_blocked(x, w, strides={}, pads={}, dilations=(1, 1), groups={}, depthwise={})"
#: What follows a product in a quantized network; a power of two, so that nothing depends on how it is rounded.
REQUANTIZED = (
    "cast(add(cast(clip(round(mul(cast({}, to='float32'), 0.0009765625)), min=-128.0, max=127.0), to='int32'), 128), "
    "to='uint8')"
)


def conv(x, w, strides=(1, 1), pads=(0, 0, 0, 0), groups=1, depthwise=0):
    return CONV.format(strides, pads, groups, depthwise), {"x": x, "w": w}


BODIES = {
    "3x3": conv("u8[1,2,9,13,16]", "i8[3,32,3,3,16]", pads=(1, 1, 1, 1)),
    "3x3 of stride 2": conv("u8[2,2,9,10,16]", "i8[2,32,3,3,16]", (2, 2), (1, 1, 1, 1)),
    "1x1": conv("u8[1,4,7,7,16]", "i8[5,64,1,1,16]"),
    "few channels": conv("u8[1,1,20,21,4]", "i8[2,4,7,7,16]", (2, 2), (3, 3, 3, 3)),
    "grouped": conv("u8[1,4,9,9,16]", "i8[4,32,3,3,16]", pads=(1, 1, 1, 1), groups=2),
    "narrow groups": conv("u8[1,3,9,9,12]", "i8[3,12,3,3,16]", pads=(1, 1, 1, 1), groups=3),
    "depthwise": conv("u8[1,3,9,21,16]", "i8[3,1,3,3,16]", pads=(1, 1, 1, 1), groups=48, depthwise=1),
    "matrices": ("matmul_packed(x, w, columns=70)", {"x": "u8[2,11,520]", "w": "i8[5,520,16]"}),
    "a vector": ("matmul_packed(x, w, columns=70)", {"x": "u8[1,36]", "w": "i8[5,36,16]"}),
}


def shape_of(type):
    return tuple(map(int, type[type.index("[") + 1 : -1].split(",")))


def extremes(types):
    """Random bytes, and among them many of the largest."""
    rng = np.random.default_rng(7)
    data = {}
    for name, type in types.items():
        shape = shape_of(type)
        low, high = (0, 255) if type.startswith("u8") else (-128, 127)
        values = rng.integers(low, high + 1, shape)
        data[name] = np.where(rng.random(shape) < 0.3, high if rng.random() < 0.5 else low, values)
    return data


@pytest.fixture
def vnni(host):
    assert host.machine.multiplies_bytes, "these tests need a CPU with VNNI"
    return host


@pytest.mark.parametrize("name", BODIES)
def test_sums_are_exact(vnni, name):
    expression, types = BODIES[name]
    space = space_of(vnni.body(expression, **types), vnni.machine)
    candidates = [space.schedule(values) for values in space.enumerate()]
    chosen = np.random.default_rng(1).permutation(len(candidates))[:5]
    with vnni.batch() as check:
        check(expression, extremes(types), **types)
        check(REQUANTIZED.format(expression), extremes(types), **types)
        for number in chosen:
            check(expression, extremes(types), schedule=candidates[number], **types)


#: What is added to the sums, one number for each channel, and is what they begin with.
ADDENDS = {"3x3": "i32[1,3,1,1,16]", "few channels": "i32[1,2,1,1,16]", "depthwise": "i32[1,3,1,1,16]",
           "matrices": "i32[70]", "whole panels": "i32[80]", "grouped": "i32[1,4,1,1,16]"}  # fmt: skip


@pytest.mark.parametrize("name", ADDENDS)
def test_sums_begin_with_what_is_added(vnni, name):
    whole = ("matmul_packed(x, w, columns=80)", {"x": "u8[2,11,520]", "w": "i8[5,520,16]"})
    expression, types = whole if name == "whole panels" else BODIES[name]
    types = {**types, "z": ADDENDS[name]}
    data = extremes(types) | {"z": np.random.default_rng(2).integers(-(10**6), 10**6, shape_of(ADDENDS[name]))}
    with vnni.batch() as check:
        for text in (f"add({expression}, z)", f"add(z, {expression})", f"sub({expression}, z)"):
            check(text, data, **types)
            check(REQUANTIZED.format(text), data, **types)


def test_rounding_of_what_comes_from_integers(vnni):
    """Ties to even, limits on both sides, and the same for what stays a float."""
    rounded = "clip(round(mul(cast(x, to='float32'), 0.25)), min=-3.0, max=9.0)"
    data = {"x": np.arange(-40, 80)}
    with vnni.batch() as check:
        for text in (rounded, f"cast({rounded}, to='int32')", f"mul(add({rounded}, 3.0), 0.5)",
                     f"cast(add(cast({rounded}, to='int32'), 3), to='uint8')"):  # fmt: skip
            check(text, data, x="i32[120]")
        # Where floats come in, what is no number stays so.
        x = np.array([np.nan, np.inf, -np.inf, 0.5, 1.5, 2.5, 1e30, -0.5], np.float32)
        check("clip(round(mul(x, 1.0)), min=-3.0, max=9.0)", {"x": x}, x="f32[8]")


def test_the_largest_sums(vnni):
    """All products of the same sign: nothing saturates on the way."""
    with vnni.batch() as check:
        for weight in (127, -128):
            check("matmul_packed(x, w, columns=16)", {"x": 255, "w": weight}, x="u8[3,4096]", w="i8[1,4096,16]")
            expression, types = conv("u8[1,4,5,5,16]", "i8[1,64,3,3,16]", pads=(1, 1, 1, 1))
            check(expression, {"x": 255, "w": weight}, **types)
            # More of them than float32 holds exactly.
            expression, types = conv("u8[1,1,23,24,16]", "i8[1,1,23,23,16]", groups=16, depthwise=1)
            check(expression, {"x": 255, "w": weight}, **types)


def test_what_cannot_be_multiplied_as_bytes(host):
    body = host.body("matmul_packed(x, w, columns=16)", x="u8[3,64]", w="i8[1,64,16]")
    with pytest.raises(UnsupportedError, match="x86-64-v3 has no instruction that multiplies bytes"):
        lower(body, NAMED["x86-64-v3"])
