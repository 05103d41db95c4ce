"""Loops and branches in programs that are lists of steps: the steps that say which is next.

A loop's steps are between its `Loop` and its `Repeat`. Those of a branch's two regions stand behind its `Branch`, with
another between them that leads to their end. How memory is named is the target's: its addresses are dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

#: An address.
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Slice(Generic[A]):
    """`pointer`, by its number, is at `start` in the first iteration and moves on by `stride` bytes."""

    pointer: int
    start: A
    stride: int


@dataclass(frozen=True, slots=True)
class Carried(Generic[A]):
    """The pointers that an iteration reads a value from and writes the next to: what was written is read by the next
    iteration, and `slots` take turns to be written. The first reads from `start`. The last value's `nbytes` are copied
    to `result`, unless that is where they are."""

    read: int
    write: int
    start: A
    slots: tuple[A, A]
    result: A
    nbytes: int


@dataclass(frozen=True, slots=True)
class Loop(Generic[A]):
    """A step in front of a loop's steps; `end` is the number of the `Repeat` behind them.

    The iteration's number is an int64 at `counter`. Where `condition` is not None no iteration begins while the byte
    there is 0.
    """

    label: str
    trips: int
    end: int
    counter: A
    condition: A | None
    carried: tuple[Carried[A], ...]
    slices: tuple[Slice[A], ...]

    def to_json(self) -> dict[str, Any]:
        return {"control": "loop", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Repeat:
    """A step: on to the next iteration of the loop whose `Loop` is step `begin`."""

    label: str
    begin: int

    def to_json(self) -> dict[str, Any]:
        return {"control": "repeat", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Branch(Generic[A]):
    """A step: on to step `target`, but for the case that the byte at `unless` is not 0."""

    label: str
    target: int
    unless: A | None = None

    def to_json(self) -> dict[str, Any]:
        return {"control": "branch", **asdict(self)}


#: What runs no kernel but says which step is next.
Control = Loop[A] | Repeat | Branch[A]


def control_from_json(row: Mapping[str, Any], address: Callable[..., A]) -> Control[A]:
    """`address` makes one of its fields."""
    match row["control"]:
        case "loop":
            return Loop(
                row["label"], row["trips"], row["end"], address(**row["counter"]),
                address(**row["condition"]) if row["condition"] else None,
                tuple(
                    Carried(c["read"], c["write"], address(**c["start"]),
                            (address(**c["slots"][0]), address(**c["slots"][1])), address(**c["result"]), c["nbytes"])
                    for c in row["carried"]
                ),
                tuple(Slice(s["pointer"], address(**s["start"]), s["stride"]) for s in row["slices"]),
            )  # fmt: skip
        case "repeat":
            return Repeat(row["label"], row["begin"])
        case _:
            return Branch(row["label"], row["target"], address(**row["unless"]) if row["unless"] else None)


def spans(steps: Sequence[Any], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Steps from .. to, of those from `begin` to `end`; a loop or branch is one."""
    while begin < end:
        step = steps[begin]
        after = begin + 1
        if isinstance(step, Loop):
            after = step.end + 1
        elif isinstance(step, Branch):
            after = steps[step.target - 1].target
        yield begin, after
        begin = after


def addresses(step: Any, kind: type[A]) -> Iterator[A]:
    """All of a `kind` that a step, or steps, point to."""
    if isinstance(step, kind):
        yield step
    elif isinstance(step, tuple):
        for item in step:
            yield from addresses(item, kind)
    elif is_dataclass(step):
        for field in fields(step):
            yield from addresses(getattr(step, field.name), kind)
