"""Which stage operations stand in, and how soon iterations can follow each other."""

from __future__ import annotations

import numpy as np
import pytest

from targets.hls.expressions import Const, Counter, Element, Expr, Load, Register, select, smaller
from targets.hls.hardware.clock import LEVELS
from targets.hls.hardware.datapath import Affine, Loop, datapath_of, evaluated
from targets.hls.hardware.pipeline import designed, least_ii, pipelined
from targets.hls.program import (
    Channel,
    Kind,
    Memory,
    Nest,
    Process,
    Put,
    Read,
    Repeat,
    State,
    Statement,
    Update,
    When,
    Write,
)

ZERO = Const.of(0)
BYTE = Kind(0, 255)
IN, OUT = Channel("in", BYTE, 1, 8), Channel("out", Kind(0, 1 << 20).full, 1, 8)
TABLE = Memory("table", BYTE, 1, 256, np.arange(256).reshape(-1, 1))
STATE = State("state", BYTE, 1)
X: Expr = Element(0, 255, "x", ZERO)
NOW: Expr = Register(0, 255, "state", ZERO)
ROW, COLUMN = Counter.of("i", 5), Counter.of("j", 7)


def low(x: Expr) -> Expr:
    return smaller(x, 255)


def table(address: Expr) -> Expr:
    return Load(0, 255, "table", address, ZERO)


def process(*body: Statement, ii: int = 1, loops=(ROW, COLUMN)) -> Process:
    nest = Nest("nest", loops, (Read(IN, "x"), *body), ii)
    return Process("p", "", (nest,), (IN,), (OUT,), (TABLE,), (STATE,))


def path_of(*body: Statement):
    one = process(*body)
    loops = {c.name: Loop(c.name, c.high + 1) for c in (ROW, COLUMN)}
    return datapath_of(one, loops, one.steps[0].body)


def kinds(path) -> list[str]:
    return sorted(op.kind for op in path.ops if op.kind not in ("const", "lane"))


@pytest.mark.parametrize(
    ("value", "cycles"),
    [
        (low(NOW + X), 1),  # an accumulator
        (low(NOW + X * X), 1),  # products in front of the recurrence
        (low(NOW + table(X)), 1),
        (low(NOW * X), 2),
        (table(NOW), 2),
        (low(table(NOW) * X), 3),
        (select(X < 3, low(table(low(NOW * X)) * NOW), NOW), 4),
        (low(X * X), 1),  # what is not read again
    ],
)
def test_recurrences_say_how_soon_the_next_iteration_can_come(value, cycles):
    path = path_of(Update(STATE, ZERO, value))
    assert least_ii(path) == cycles
    assert pipelined(path, cycles).ii == cycles
    if cycles > 1:
        with pytest.raises(ValueError, match=f"p.nest cannot start an iteration every {cycles - 1} .*: {cycles} are"):
            designed(process(Update(STATE, ZERO, value), ii=cycles - 1))


def test_a_long_recurrence_is_one_stage_that_is_longer_than_others():
    value = NOW
    for number in range(6):
        value = select(number > X, low(value + X + number), value)
    path = path_of(Update(STATE, ZERO, value))
    assert pipelined(path, 1).levels > LEVELS
    slow = pipelined(path, 8)
    assert slow.levels <= LEVELS
    assert slow.depth > pipelined(path, 1).depth


def test_products_by_constants_are_sums_and_affine_ones_are_counters():
    path = path_of(Put("w", ZERO, X * 23 + (ROW * 7 + COLUMN + 3)), Write((OUT,), "w"))
    # 23 = 32 - 8 - 1
    assert kinds(path) == ["add", "add", "affine", "shift", "shift", "sub", "word"]
    (affine,) = (op.detail for op in path.ops if op.kind == "affine")
    assert isinstance(affine, Affine)
    assert affine.interval == (3, 3 + 4 * 7 + 6)
    assert kinds(path_of(Put("w", ZERO, table(ROW * 7 + COLUMN)), Write((OUT,), "w"))) == ["affine", "load"]


def test_equal_operations_are_one():
    path = path_of(Put("w", ZERO, (X + NOW) * (NOW + X)), Write((OUT,), "w"))
    assert kinds(path) == ["add", "mul", "register", "word"]


def test_stages():
    path = path_of(Put("w", ZERO, table(X) * X + 1), When(COLUMN.equals(6), (Write((OUT,), "w"),)))
    pipeline = pipelined(path, 1)
    at = {op.kind: pipeline.stages[op] for op in path.ops}
    assert (at["word"], at["load"], at["mul"], at["add"]) == (0, 1, 2, 2)
    assert pipeline.write_stages == [2]
    assert pipeline.depth == 3
    (condition,) = (written.condition for written in path.writes)
    (loop,) = {op.detail for op in path.ops if isinstance(op.detail, Loop)}
    assert evaluated(condition, {loop: np.arange(7)}).tolist() == [0] * 6 + [1]


def test_what_is_known_only_at_run_time_cannot_choose_lanes_or_words():
    with pytest.raises(ValueError, match="may only depend on counters"):
        path_of(Put("w", ZERO, X), When(X < 3, (Write((OUT,), "w"),)))
    with pytest.raises(ValueError, match="is not known when hardware is made"):
        path_of(Put("w", X, X), Write((OUT,), "w"))


def test_a_process_walks_its_nests():
    nest = Nest("inner", (COLUMN,), (Read(IN, "x"), Update(STATE, ZERO, table(X))))
    one = Process("p", "", (nest, Repeat(ROW, (nest, Repeat(Counter.of("k", 2), (nest,)))), nest), (IN,), (), (TABLE,),
                  (STATE,))  # fmt: skip
    design = designed(one)
    assert [place.name for place in design.places] == ["inner", "inner2", "inner3", "inner4"]
    assert [loop.name for loop in design.places[2].around] == ["i", "k"]
    # Behind the third nest: again from itself, or from the second.
    assert [(loop.name, back) for loop, back in zip(design.places[2].steps, design.places[2].back, strict=True)] == [
        ("k", 2), ("i", 1)
    ]  # fmt: skip
    assert design.places[0].pipeline.depth == 2
    assert design.cycles() == (1 + 5 + 10 + 1) * (2 + 6)
