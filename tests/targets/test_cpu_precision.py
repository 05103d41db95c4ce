"""Products by weights in 16 bits: computed in float32, whether weights are widened once or as they are read; pairs of
bfloat16, where an instruction multiplies them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from targets.cpu.codegen import build_module
from targets.cpu.kernels import lower
from targets.cpu.kernels.matmul import pack_panels
from targets.cpu.machine import NAMED
from targets.cpu.spaces import space_of
from tensorc.lowering import tir

pytestmark = pytest.mark.compiler

CONV = "conv_blocked({x}, w, strides={strides}, pads={pads}, dilations=(1, 1), groups={groups}, depthwise={depthwise})"


def conv(x, w, strides=(1, 1), pads=(0, 0, 0, 0), groups=1, depthwise=0):
    return CONV.format(x="{x}", strides=strides, pads=pads, groups=groups, depthwise=depthwise), {"x": x, "w": w}


WIDENED = "cast(x, to='float32')"
#: With b for the number of channels in a block.
BODIES = {
    "3x3": conv("[1,2,9,13,{b}]", "[3,{2b},3,3,{b}]", pads=(1, 1, 1, 1)),
    "3x3 of stride 2": conv("[2,2,9,10,{b}]", "[2,{2b},3,3,{b}]", (2, 2), (1, 1, 1, 1)),
    "1x1": conv("[1,4,17,17,{b}]", "[5,{4b},1,1,{b}]"),
    "one pixel": conv("[1,4,1,1,{b}]", "[5,{4b},1,1,{b}]"),
    "three channels": conv("[1,3,20,21]", "[2,3,7,7,{b}]", (2, 2), (3, 3, 3, 3)),
    "grouped": conv("[1,4,9,9,{b}]", "[4,{2b},3,3,{b}]", pads=(1, 1, 1, 1), groups=2),
    "depthwise": conv("[1,3,9,21,{b}]", "[3,1,3,3,{b}]", pads=(1, 1, 1, 1), groups=48, depthwise=1),
    "many rows": ("matmul_packed({x}, w, columns=70)", {"x": "[2,31,201]", "w": "[{70/b},201,{b}]"}),
    "few rows": ("matmul_packed({x}, w, columns=70)", {"x": "[3,520]", "w": "[{70/b},520,{b}]"}),
    "a vector": ("matmul_packed({x}, w, columns=70)", {"x": "[1,35]", "w": "[{70/b},35,{b}]"}),
}


def sized(name, block, inputs, weights, x="x"):
    """The expression and the types of one of the bodies."""
    expression, shapes = BODIES[name]
    depthwise = "depthwise=1" in expression
    sizes = {"{b}": block, "{2b}": 2 * block, "{4b}": 4 * block, "{70/b}": -(-70 // block)}
    types = {}
    for operand, shape in shapes.items():
        for text, size in sizes.items():
            shape = shape.replace(text, str(size))
        types[operand] = {"x": inputs, "w": weights}[operand] + shape
    expression = expression.replace("{x}", x)
    return expression.replace("groups=48", f"groups={3 * block}") if depthwise else expression, types


@pytest.mark.parametrize("weights", ["bf16", "f16"])
def test_products_by_weights_in_16_bits(kernels, weights):
    with kernels.batch() as check:
        for name in BODIES:
            expression, types = sized(name, kernels.block, "f32", weights)
            check(f"relu(add({expression}, 0.5))", **types)


@pytest.mark.parametrize("weights", ["bf16", "f16"])
@pytest.mark.parametrize("name", ["3x3", "1x1", "many rows"])
def test_every_schedule_is_right(host, name, weights):
    expression, types = sized(name, host.block, "f32", weights)
    space = space_of(host.body(expression, **types), host.machine)
    candidates = [space.schedule(values) for values in space.enumerate()]
    kinds = {schedule["kind"] for schedule in candidates}
    rng = np.random.default_rng(1)
    with host.batch() as check:
        for kind in sorted(kinds):
            some = [schedule for schedule in candidates if schedule["kind"] == kind]
            for number in rng.permutation(len(some))[:3]:
                # Winograd's weights are rounded once more, after they are transformed.
                tolerance = {"f16": 2e-3, "bf16": 2e-2}[weights] if kind == "winograd" else 2e-6
                check(expression, schedule=some[number], tolerance=tolerance, **types)
    assert kinds == {"3x3": {"conv", "winograd"}, "1x1": {"conv"}}.get(name, {"matmul", "blocked_matmul"})


def test_numbers_at_the_ends_of_the_formats(host):
    """Subnormal numbers, zeros and the largest ones are weights like others."""
    with host.batch() as check:
        for weights, numbers in (("f16", [6e-8, -6e-5, 65504, 0]), ("bf16", [1e-38, -3e38, 0, -0.0])):
            data = np.tile(np.array(numbers), 4 * 16 * 4).reshape(4, 16, 16)
            check("matmul_packed(x, w, columns=64)", {"w": data, "x": np.eye(16)[None]}, x="f32[1,16,16]",
                  w=f"{weights}[4,16,16]")  # fmt: skip


def test_left_operands_in_16_bits_are_widened_as_they_are_read(kernels):
    with kernels.batch() as check:
        for dtype in ("bf16", "f16"):
            for name in ("3x3", "1x1", "three channels", "depthwise", "few rows"):
                expression, types = sized(name, kernels.block, dtype, dtype, WIDENED)
                check(expression, **types)


# Pairs -------------------------------------------------------------------------------------------------------

#: What stands for the instruction where there is none: the same products and sums, each rounded.
EMULATED = """
declare <{lanes} x float> @llvm.fma.v{lanes}f32(<{lanes} x float>, <{lanes} x float>, <{lanes} x float>)

define linkonce_odr <{lanes} x float> @{name}(<{lanes} x float> %sums, <{lanes} x i32> %a, <{lanes} x i32> %b) #0 {{
  %a0 = shl <{lanes} x i32> %a, splat (i32 16)
  %b0 = shl <{lanes} x i32> %b, splat (i32 16)
  %a1 = and <{lanes} x i32> %a, splat (i32 -65536)
  %b1 = and <{lanes} x i32> %b, splat (i32 -65536)
  %c0 = bitcast <{lanes} x i32> %a0 to <{lanes} x float>
  %d0 = bitcast <{lanes} x i32> %b0 to <{lanes} x float>
  %c1 = bitcast <{lanes} x i32> %a1 to <{lanes} x float>
  %d1 = bitcast <{lanes} x i32> %b1 to <{lanes} x float>
  %t0 = call <{lanes} x float> @llvm.fma.v{lanes}f32(
    <{lanes} x float> %c0, <{lanes} x float> %d0, <{lanes} x float> %sums)
  %t1 = call <{lanes} x float> @llvm.fma.v{lanes}f32(
    <{lanes} x float> %c1, <{lanes} x float> %d1, <{lanes} x float> %t0)
  ret <{lanes} x float> %t1
}}

attributes #0 = {{ alwaysinline }}
"""
PAIRED = ["3x3", "3x3 of stride 2", "1x1", "one pixel", "grouped", "few rows"]


@pytest.fixture
def paired(host, monkeypatch):
    """This machine, with products of pairs in place of the instruction that it may lack."""
    assert host.machine.vector_bits == 512, "these tests need a CPU with AVX-512"
    monkeypatch.setattr(tir, "_PAIR_PRODUCTS", EMULATED)
    machine = replace(host.machine, features=host.machine.features | {"avx512_bf16"})
    assert machine.multiplies_bfloat16
    return replace(host, machine=machine)


@pytest.mark.parametrize("name", PAIRED)
def test_pairs_meet_their_weights(paired, name):
    expression, types = sized(name, 16, "bf16", "bf16", WIDENED)
    space = space_of(paired.body(expression, **types), paired.machine)
    candidates = [space.schedule(values) for values in space.enumerate()]
    assert "winograd" not in {schedule["kind"] for schedule in candidates}
    with paired.batch() as check:
        check(expression, **types)
        check(f"cast(relu({expression}), to='float16')", tolerance=1e-3, **types)
        for number in np.random.default_rng(1).permutation(len(candidates))[:3]:
            check(expression, schedule=candidates[number], **types)


@pytest.mark.parametrize("name", ["many rows", "three channels", "depthwise"])
def test_what_has_no_pairs_is_widened(paired, name):
    """An odd reduction, channels that are not side by side, and a channel on its own."""
    expression, types = sized(name, 16, "bf16", "bf16", WIDENED)
    paired.check(expression, **types)


@pytest.mark.parametrize("machine", ["sapphirerapids", "znver4"])
def test_the_instruction_is_generated(host, machine):
    bodies = [sized(name, 16, "bf16", "bf16", WIDENED) for name in ("3x3", "few rows")]
    kernels = [lower(host.body(expression, **types), NAMED[machine]).function for expression, types in bodies]
    text = build_module({f"k{number}": kernel for number, kernel in enumerate(kernels)}, NAMED[machine]).inspect_source(
        "asm"
    )
    assert text.count("vdpbf16ps") > 50
    assert "call" not in text


def test_weights_of_a_pair_lie_together():
    """The first and the second step of a column in the halves of 32 bits."""
    plain = np.arange(6 * 32).reshape(6, 32)
    packing = pack_panels((2, 6, 16), 32, 32, 2)
    packed = packing.apply(plain.reshape(6, 2, 16).transpose(1, 0, 2))
    assert packed.shape == packing.shape == (1, 3, 64)
    for step in range(3):
        for column in range(32):
            assert (
                packed[0, step, 2 * column : 2 * column + 2].tolist() == plain[2 * step : 2 * step + 2, column].tolist()
            )
