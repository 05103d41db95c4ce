"""Winograd convolutions against float64, in guarded memory (see conftest), and their knobs.

Tolerances are relative to the largest result: F(4x4,3x3) loses a decimal digit or more to its transforms.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from targets.cpu.kernels import lower
from targets.cpu.kernels.winograd import is_winograd, pack_winograd, winograd_knobs, winograd_legal
from targets.cpu.machine import detect, find
from targets.cpu.schedules import WinogradSchedule, parse_schedule
from tensorc.errors import UnsupportedError

from .conftest import body_of

TOLERANCE = {2: 1e-5, 4: 5e-5}


def few(count: int):
    """So many examples, always the same, unless the profile asks for more."""
    if settings.get_current_profile_name() == "campaign":
        return settings.get_profile("campaign")
    return settings(
        max_examples=count, derandomize=True, phases=[Phase.generate], deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def winograd(tile=4, rows=3, vectors=2, strip=2, shares=1) -> dict[str, object]:
    return WinogradSchedule(tile, rows, vectors, strip, shares).to_json()


def conv(c, x, blocks, pads=(1, 1, 1, 1), n=1, **other):
    """(expression, types) of a convolution: `x` is (blocks, height, width)."""
    attrs = {"strides": (1, 1), "dilations": (1, 1), "groups": 1, "depthwise": 0, "kernel": (3, 3)} | other
    h, w = attrs.pop("kernel")
    per_group = 1 if attrs["depthwise"] else x[0] * c // attrs["groups"]
    text = ", ".join(f"{name}={value}" for name, value in attrs.items())
    types = {"x": f"f32[{n},{x[0]},{x[1]},{x[2]},{c}]", "w": f"f32[{blocks},{per_group},{h},{w},{c}]"}
    return f"conv_blocked(x, w, pads={tuple(pads)}, {text})", types


SHAPES = {
    "whole tiles": {"x": (2, 8, 12), "blocks": 4},
    "odd sizes": {"x": (2, 9, 11), "blocks": 3},
    "no padding": {"x": (1, 10, 9), "blocks": 2, "pads": (0, 0, 0, 0)},
    "asymmetric": {"x": (1, 7, 6), "blocks": 2, "pads": (0, 1, 2, 0)},
    "batch": {"x": (1, 7, 7), "blocks": 5, "n": 3},
    "one pixel": {"x": (1, 1, 1), "blocks": 1},
    "one result": {"x": (2, 3, 3), "blocks": 1, "pads": (0, 0, 0, 0)},
    "a row": {"x": (1, 1, 23), "blocks": 2},
    "a column": {"x": (1, 23, 1), "blocks": 2},
    "more padding than image": {"x": (1, 2, 3), "blocks": 2, "pads": (9, 7, 8, 10)},
}


@pytest.mark.compiler
@pytest.mark.parametrize("tile", TOLERANCE)
def test_shapes(kernels, tile):
    with kernels.batch() as check:
        for row in SHAPES.values():
            expression, types = conv(kernels.block, **row)
            for rows, strip, shares in ((3, 2, 2), (4, 100, 1)):
                schedule = winograd(tile, rows, 2, strip, shares)
                kernel = check(expression, tolerance=TOLERANCE[tile], schedule=schedule, **types)
                assert kernel.schedule == schedule


@pytest.mark.compiler
@pytest.mark.parametrize("tile", TOLERANCE)
def test_epilogues(kernels, tile):
    c = kernels.block
    with kernels.batch() as check:
        for name in ("odd sizes", "batch", "whole tiles"):
            expression, types = conv(c, **SHAPES[name])
            result = body_of(expression, **types).outputs[0].shape
            residual, scale = f"f32[{','.join(map(str, result))}]", f"f32[1,{result[1]},1,1,{c}]"
            for text, more in (
                ("relu(add(add({}, b), r))", {"b": scale, "r": residual}),
                ("silu(mul({}, 0.1))", {}),
                ("mul({}, b)", {"b": scale}),
                ("cast({}, to='float16')", {}),
            ):
                tolerance = 2e-3 if "float16" in text else TOLERANCE[tile]
                check(text.format(expression), tolerance=tolerance, schedule=winograd(tile), **types, **more)
            before = expression.replace("x,", "relu(add(x, b)),", 1)
            check(
                before, tolerance=TOLERANCE[tile], schedule=winograd(tile, shares=2), **types,
                b=f"f32[1,{types['x'][6]},1,1,{c}]",
            )  # fmt: skip


@pytest.mark.compiler
@pytest.mark.parametrize(("blocks", "image"), [(4, 56), (8, 28), (16, 14), (32, 7)])
def test_layers_of_resnet(host, blocks, image):
    """As large as they are, but for few channels in or out."""
    with host.batch() as check:
        expression, types = conv(host.block, (blocks * 16 // host.block, image, image), 2)
        for tile in TOLERANCE:
            check(expression, tolerance=TOLERANCE[tile], schedule=winograd(tile, 7, 2, 2), **types)
        expression, types = conv(host.block, (2, image, image), blocks * 16 // host.block)
        check(f"relu({expression})", tolerance=TOLERANCE[4], schedule=winograd(4, 7, 4, 2, 3), **types)


@pytest.mark.compiler
def test_many_channels(host):
    expression, types = conv(host.block, (24, 4, 5), 24)
    host.check(expression, tolerance=TOLERANCE[4], schedule=winograd(4, 1, 3, 1, 2), **types)


@pytest.mark.compiler
@given(data=st.data())
@few(16)
def test_random(kernels, data):
    c = kernels.block
    blocks_in, blocks, n = (data.draw(st.integers(1, most)) for most in (3, 5, 3))
    h, w = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    pads = tuple(data.draw(st.integers(0, 3)) for _ in range(4))
    assume(h + pads[0] + pads[2] >= 3 and w + pads[1] + pads[3] >= 3)
    schedule = winograd(
        data.draw(st.sampled_from([2, 4])), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6)),
        data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5)),
    )  # fmt: skip
    expression, types = conv(c, (blocks_in, h, w), blocks, pads, n)
    epilogue = data.draw(st.sampled_from(["{}", "relu(add({}, b))", "silu(add({}, b))"]))
    if "b" in epilogue:
        types["b"] = f"f32[1,{blocks},1,1,{c}]"
    kernels.check(epilogue.format(expression), tolerance=TOLERANCE[schedule["tile"]], schedule=schedule, **types)


# Without a compiler ---------------------------------------------------------------------------------------


def test_tasks():
    """Image tiles are shared, and output channels where there are too few of them."""
    machine = detect()
    c = machine.vector_bits // 32
    for image, blocks, schedule, tasks in (
        (56, 4, winograd(4, 14, 2, 2), 7), (56, 4, winograd(4, 14, 2, 2, 2), 14), (56, 4, winograd(4, 14, 2, 2, 9), 14),
        (7, 8, winograd(4, 4, 2, 1, 4), 4), (7, 8, winograd(2, 8, 2, 1, 4), 8),
    ):  # fmt: skip
        expression, types = conv(c, (1, image, image), blocks)
        assert lower(body_of(expression, **types), machine, schedule).tasks == tasks


@pytest.mark.parametrize("tile", TOLERANCE)
def test_packing(tile):
    """Packed filters are G g G^T, in strips that are filled up with zeros."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3, 8, 3, 3, 4)).astype(np.float32)
    packing = pack_winograd(weights.shape, tile, 2)
    packed = packing.apply(weights)
    assert packed.dtype == np.float32
    assert packed.shape == packing.shape == (2, (tile + 2) ** 2, 8, 8)
    # The first and the last point of Winograd's scheme are 0 and infinity: G's corners pick the filter's.
    corner = weights[0, :, 0, 0, :] * (1 if tile == 2 else 1 / 16)
    np.testing.assert_allclose(packed[0, 0, :, :4], corner, rtol=1e-6)
    np.testing.assert_allclose(packed[0, -1, :, 4:], weights[1, :, 2, 2, :], rtol=1e-6)
    assert not packed[1, :, :, 4:].any()
    assert packing.name != pack_winograd(weights.shape, tile, 1).name


ILLEGAL = {
    "strided": {"strides": (2, 1)},
    "dilated": {"dilations": (1, 2)},
    "grouped": {"groups": 2},
    "depthwise": {"depthwise": 1, "groups": 32},
    "5x3": {"kernel": (5, 3)},
    "1x1": {"kernel": (1, 1)},
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_not_winograd(case):
    expression, types = conv(16, (2, 9, 9), 2, (0, 0, 0, 0), **ILLEGAL[case])
    body = body_of(expression, **types)
    assert not is_winograd(body.nodes[0], find("x86-64-v4"))
    with pytest.raises(ValueError, match="is for 3x3"):
        lower(body, find("x86-64-v4"), winograd())


def test_other_types_and_layouts():
    expression, types = conv(16, (2, 9, 9), 2)
    for name in ("f16", "f64", "i32"):
        with pytest.raises(ValueError):
            lower(
                body_of(expression, **{k: t.replace("f32", name) for k, t in types.items()}), find("x86-64-v4"),
                winograd(),
            )  # fmt: skip
    with pytest.raises(ValueError):  # of an input that is not blocked
        lower(body_of(expression, x="f32[1,3,9,9]", w="f32[2,3,3,3,16]"), find("x86-64-v4"), winograd())
    with pytest.raises(UnsupportedError):
        lower(body_of(expression.replace("w,", "relu(w),"), **types), find("x86-64-v4"), winograd())


@pytest.mark.parametrize("knob", [{"tile": 3}, {"rows": 0}, {"vectors": 0}, {"strip": 0}, {"shares": -1}])
def test_knobs_out_of_range(knob):
    expression, types = conv(16, (2, 9, 9), 2)
    with pytest.raises(ValueError, match="range"):
        lower(body_of(expression, **types), find("x86-64-v4"), winograd(**knob))


def test_json():
    schedule = WinogradSchedule(4, 14, 2, 2, 1)
    assert parse_schedule(schedule.to_json()) == schedule


@pytest.mark.parametrize("machine", ["x86-64-v4", "sapphirerapids", "haswell", "x86-64-v2"])
@pytest.mark.parametrize("layer", [(64, 56, 1), (128, 28, 1), (256, 14, 1), (512, 7, 1), (512, 7, 8)])
def test_space(machine, layer):
    """Every layer has a choice of legal schedules, not too large a one."""
    channels, image, n = layer
    machine = find(machine)
    c = machine.vector_bits // 32
    expression, types = conv(c, (channels // c, image, image), channels // c, n=n)
    (node,) = body_of(expression, **types).nodes
    knobs = winograd_knobs(node, machine)
    assert list(knobs) == [name for name in winograd() if name != "kind"]
    assert math.prod(map(len, knobs.values())) <= 2000
    legal = [values for values in itertools.product(*knobs.values())
             if winograd_legal(node, machine, dict(zip(knobs, values, strict=True)))]  # fmt: skip
    assert {values[0] for values in legal} == {2, 4}
    assert 10 <= len(legal) <= 500
