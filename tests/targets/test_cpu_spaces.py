"""Spaces and features: all that a space offers can be lowered, and every candidate has finite numbers of its own."""

from __future__ import annotations

import numpy as np
import pytest

from targets.cpu.features import BASELINE, FEATURES, features
from targets.cpu.kernels import lower
from targets.cpu.machine import NAMED
from targets.cpu.schedules import ConvSchedule, MatmulSchedule, parse_schedule
from targets.cpu.spaces import space_of
from targets.cpu.tuning.context import CpuTuning
from tensorc.search.records import identity_of

MACHINE = NAMED["sapphirerapids"]
CONV = "conv_blocked(x, w, strides={}, pads={}, dilations=(1, 1), groups={}, depthwise={})"


def conv(x, w, strides=(1, 1), pads=(0, 0, 0, 0), groups=1, depthwise=0):
    return CONV.format(strides, pads, groups, depthwise), {"x": x, "w": w}


BODIES = {
    "3x3": conv("f32[1,4,14,14,16]", "f32[4,64,3,3,16]", pads=(1, 1, 1, 1)),
    "3x3 of stride 2": conv("f32[1,4,14,14,16]", "f32[4,64,3,3,16]", (2, 2), (1, 1, 1, 1)),
    "1x1": conv("f32[1,4,7,7,16]", "f32[8,64,1,1,16]"),
    "first": conv("f32[1,3,32,32]", "f32[2,3,7,7,16]", (2, 2), (3, 3, 3, 3)),
    "grouped": conv("f32[2,4,9,9,16]", "f32[6,32,3,3,16]", pads=(1, 1, 1, 1), groups=2),
    "plain groups": conv("f32[1,20,9,9]", "f32[4,10,1,1,16]", groups=2),
    "depthwise": conv("f32[1,4,14,14,16]", "f32[4,1,3,3,16]", pads=(1, 1, 1, 1), groups=64, depthwise=1),
    "one row of results": conv("f32[1,2,3,40,16]", "f32[2,32,3,3,16]"),
    "packed": ("matmul_packed(x, w, columns=70)", {"x": "f32[33,300]", "w": "f32[5,300,16]"}),
    "packed, one row": ("matmul_packed(x, w, columns=70)", {"x": "f32[1,300]", "w": "f32[5,300,16]"}),
    "attention": (
        "attention(q, k, v, scale=0.1)",
        {"q": "f32[2,19,4,24]", "k": "f32[2,37,2,24]", "v": "f32[2,37,2,20]"},
    ),
    "product": ("matmul(x, y)", {"x": "f32[3,20,30]", "y": "f32[3,30,40]"}),
}


@pytest.fixture(params=BODIES)
def body(request, kernels_body):
    expression, types = BODIES[request.param]
    return kernels_body(expression, **types)


@pytest.fixture
def kernels_body(host):
    return host.body


def schedules_of(body, numerics="strict"):
    space = space_of(body, MACHINE, numerics)
    return space, [space.schedule(values) for values in space.enumerate()]


def test_the_rules_pick_is_in_the_space_and_is_what_lowering_picks(body):
    space, _ = schedules_of(body)
    assert space.is_legal(space.default_values())
    assert lower(body, MACHINE, space.default).schedule == space.default


def test_what_a_space_offers_can_be_lowered(body):
    _, schedules = schedules_of(body)
    rng = np.random.default_rng(0)
    for schedule in (schedules[i] for i in rng.permutation(len(schedules))[:6]):
        kernel = lower(body, MACHINE, schedule)
        assert kernel.schedule == schedule
        assert kernel.tasks >= 1


def test_schedules_of_one_packing_read_the_same_constants(body):
    _, schedules = schedules_of(body)
    context = CpuTuning(MACHINE, 1)
    rng = np.random.default_rng(0)
    names: dict = {}
    for schedule in (schedules[i] for i in rng.permutation(len(schedules))[:24]):
        packed = {number: packing.name for number, packing in lower(body, MACHINE, schedule).packings.items()}
        assert names.setdefault(context.packing(body, schedule), packed) == packed


def test_candidates_are_told_apart(body):
    _, schedules = schedules_of(body)
    rows = features(body, MACHINE, 2, schedules)
    assert rows.shape == (len(schedules), len(FEATURES))
    assert np.isfinite(rows).all()
    assert len({identity_of(schedule) for schedule in schedules}) == len(schedules)
    distinct = len(np.unique(rows, axis=0))
    assert distinct >= 0.9 * len(schedules)  # a share of a task more or less may amount to the same


def test_features_do_not_depend_on_the_company(body):
    _, schedules = schedules_of(body)
    rows = features(body, MACHINE, 1, schedules)
    np.testing.assert_array_equal(features(body, MACHINE, 1, schedules[-1:]), rows[-1:])


def test_the_estimate_prefers_a_full_register_tile(host):
    expression, types = BODIES["3x3"]
    body = host.body(expression, **types)
    few, many = ({"kind": "conv", "rows": 1, "columns": c, "vectors": 2, "order": "channels", "unroll": 4,
                  "outer": "weights"} for c in (1, 14))  # fmt: skip
    estimate = features(body, MACHINE, 1, [few, many])[:, FEATURES.index(BASELINE)]
    assert estimate[1] < estimate[0] - 1  # in log2: more than twice as fast


def test_numerics_decide_about_winograd(host):
    def tiles(name, numerics):
        expression, types = BODIES[name]
        _, schedules = schedules_of(host.body(expression, **types), numerics)
        return {schedule["tile"] for schedule in schedules if schedule["kind"] == "winograd"}

    assert tiles("3x3", "strict") == {2}
    assert tiles("3x3", "fast") == {2, 4}
    assert tiles("3x3 of stride 2", "fast") == tiles("1x1", "fast") == tiles("grouped", "fast") == set()


def test_nothing_to_choose(host):
    for expression, types in (("relu(x)", {"x": "f32[4]"}), ("softmax(x, axis=0)", {"x": "f32[4]"})):
        body = host.body(expression, **types)
        assert space_of(body, MACHINE) is None
        with pytest.raises(ValueError, match="nothing to choose"):
            lower(body, MACHINE, MatmulSchedule(1, 1, 1).to_json())


def test_schedules_are_json_both_ways():
    schedule = ConvSchedule(1, 14, 2, "channels", 4, "weights")
    assert parse_schedule(schedule.to_json()) == schedule
    with pytest.raises(ValueError, match="not a schedule of a conv kernel"):
        parse_schedule({"kind": "conv", "rows": 1})
    with pytest.raises(ValueError, match="no kernel has a schedule of kind 'magic'"):
        parse_schedule({"kind": "magic"})


def test_a_schedule_of_another_kernel_is_refused(host):
    for name in ("3x3", "packed", "product", "depthwise"):
        expression, types = BODIES[name]
        other = MatmulSchedule(1, 1, 1) if name != "packed" else ConvSchedule(1, 1, 1, "taps", 1, "weights")
        with pytest.raises(ValueError, match="expected a schedule of kind"):
            lower(host.body(expression, **types), MACHINE, other.to_json())
