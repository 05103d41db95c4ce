from __future__ import annotations

import numpy as np
import pytest

from tensorc.search.model import pairwise_accuracy
from tensorc.search.space import Algorithm, Space

MATMUL = Algorithm(
    kind="matmul",
    knobs={"rows": (1, 2, 4, 8), "vectors": (1, 2, 4), "order": ("a", "b")},
    legal=lambda v: v["rows"] * v["vectors"] <= 16,
)
SPLIT = Algorithm("split", {"parts": (2, 4)}, lambda _: True)
DEFAULT = {"kind": "matmul", "rows": 4, "vectors": 2, "order": "a"}
SPACE = Space((MATMUL,), DEFAULT)
BOTH = Space((MATMUL, SPLIT), DEFAULT)


def test_enumeration_is_every_legal_combination_once():
    found = list(SPACE.enumerate())
    assert SPACE.size() == 24
    assert len(found) == len(set(found)) == 22
    assert all(SPACE.is_legal(values) for values in found)


def test_schedules_turn_back_into_values():
    found = list(BOTH.enumerate())
    assert BOTH.size() == 26
    assert len(found) == 24
    for values in found:
        assert BOTH.values(BOTH.schedule(values)) == values


@pytest.mark.parametrize(
    "schedule",
    [
        {"kind": "conv", "rows": 4, "vectors": 2, "order": "a"},
        {"kind": "matmul", "rows": 4, "vectors": 2},
        {"kind": "matmul", "rows": 4, "vectors": 2, "order": "a", "unroll": 1},
        {"kind": "matmul", "rows": 3, "vectors": 2, "order": "a"},
        {"kind": "matmul", "rows": 8, "vectors": 4, "order": "a"},
        {"rows": 4, "vectors": 2, "order": "a"},
        {"kind": "split", "parts": 2},
    ],
)
def test_schedules_of_other_spaces_are_refused(schedule):
    assert SPACE.values(schedule) is None


def test_the_default_is_legal():
    assert SPACE.default_values() == ("matmul", 4, 2, "a")
    with pytest.raises(ValueError, match="not in its space"):
        Space((SPLIT,), DEFAULT).default_values()


def test_sampling_mutation_and_crossing_stay_inside():
    rng = np.random.default_rng(0)
    seen = set()
    values = SPACE.default_values()
    for _ in range(300):
        turned = SPACE.mutate(values, rng)
        assert SPACE.is_legal(turned)
        assert sum(a != b for a, b in zip(values, turned, strict=True)) == 1
        values = SPACE.cross(turned, SPACE.sample(rng), rng)
        assert SPACE.is_legal(values)
        seen.add(values)
    assert len(seen) > 15


def test_a_space_of_one_choice_has_nothing_to_turn():
    only = Space((Algorithm("one", {"rows": (4,)}, lambda _: True),), {"kind": "one", "rows": 4})
    rng = np.random.default_rng(0)
    assert only.mutate(("one", 4), rng) == only.sample(rng) == ("one", 4)


def test_every_algorithm_is_met():
    rng = np.random.default_rng(0)
    assert {BOTH.sample(rng)[0] for _ in range(50)} == {"matmul", "split"}
    values, kinds = BOTH.default_values(), set()
    for _ in range(200):
        values = BOTH.mutate(values, rng)
        assert BOTH.is_legal(values)
        kinds.add(values[0])
    assert kinds == {"matmul", "split"}
    assert BOTH.cross(("split", 2), ("matmul", 4, 2, "a"), rng) == ("split", 2)


def test_pairwise_accuracy():
    truth = [np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0])]
    assert pairwise_accuracy(truth, truth) == 1
    assert pairwise_accuracy([-t for t in truth], truth) == 0
    assert pairwise_accuracy([np.zeros(3), np.zeros(2)], truth) == 0.5
    assert pairwise_accuracy([np.array([3.0, 1.0, 2.0]), truth[1]], truth) == 0.75
