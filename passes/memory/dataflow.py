"""Which buffers the steps of a graph touch, and which steps must have run before: all that the order of steps is about.

A step is a node that does work; views are none. A buffer is what `passes.memory` gives memory of its own: a value with
all views of it, or a join with its parts. It is held from the first step that touches it to the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Dataflow:
    """`sizes` of the buffers in bytes; for each step, the numbers of the buffers that it `touches` and of the steps
    that it comes `after`, and the `extra` bytes that it holds only while it runs.

    `in_place` has, for each step, pairs (read, written) of buffers, all of one size: of one of them the second may lie
    where the first does, if the step is the last of several to touch the first and the first of several to touch the
    second. Steps are numbered in an order in which they can run.
    """

    sizes: tuple[int, ...]
    touches: tuple[tuple[int, ...], ...]
    after: tuple[tuple[int, ...], ...]
    extra: tuple[int, ...]
    in_place: tuple[tuple[tuple[int, int], ...], ...]

    @staticmethod
    def of(sizes: Iterable[int], steps: Iterable[tuple[Iterable[int], Iterable[int]]], extra: Iterable[int] = (),
           in_place: Iterable[Iterable[tuple[int, int]]] = ()) -> Dataflow:  # fmt: skip
        """Of steps given as what each touches and what it comes after."""
        rows = [(tuple(sorted(set(touched))), tuple(sorted(set(after)))) for touched, after in steps]
        touches, befores = tuple(row[0] for row in rows), tuple(row[1] for row in rows)
        pairs = tuple(map(tuple, in_place)) or ((),) * len(rows)
        return Dataflow(tuple(sizes), touches, befores, tuple(extra) or (0,) * len(rows), pairs)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.touches)

    @cached_property
    def touchers(self) -> tuple[int, ...]:
        """For each buffer, the set of steps that touch it. Sets of steps are numbers whose bit i stands for step i."""
        found = [0] * len(self.sizes)
        for step, touched in enumerate(self.touches):
            for buffer in touched:
                found[buffer] |= 1 << step
        return tuple(found)

    @cached_property
    def before(self) -> tuple[int, ...]:
        """For each step, the set of those that it comes right after."""
        return tuple(sum(1 << step for step in after) for after in self.after)

    @cached_property
    def ancestors(self) -> tuple[int, ...]:
        """For each step, the set of all that must have run before it."""
        found: list[int] = []
        for after in self.after:
            found.append(0)
            for step in after:
                found[-1] |= found[step] | 1 << step
        return tuple(found)

    @cached_property
    def descendants(self) -> tuple[int, ...]:
        """For each step, the set of all that must run after it."""
        found = [0] * len(self)
        for step in reversed(range(len(self))):
            for earlier in self.after[step]:
                found[earlier] |= found[step] | 1 << step
        return tuple(found)

    def reversed(self) -> Dataflow:
        """The steps run backwards, as holding buffers is the same then. Step i becomes step len - 1 - i."""
        last = len(self) - 1
        after: list[list[int]] = [[] for _ in range(len(self))]
        for step, earlier in enumerate(self.after):
            for one in earlier:
                after[last - one].append(last - step)
        return Dataflow(
            self.sizes,
            self.touches[::-1],
            tuple(tuple(sorted(steps)) for steps in after),
            self.extra[::-1],
            tuple(tuple((written, read) for read, written in pairs) for pairs in self.in_place[::-1]),
        )

    def restricted(self, steps: int, done: int) -> tuple[Dataflow, list[int]]:
        """Of the set `steps` alone, when those of `done` have run and all others come after: what is live before or
        behind is touched by a step more at that end. Gives also the numbers that the steps have here; the additional
        steps are the first and the last, and have none."""
        inside = [step for step in range(len(self)) if steps >> step & 1]
        number = {step: i + 1 for i, step in enumerate(inside)}
        beyond = ~(steps | done)
        entering, leaving = [], []
        for buffer, touchers in enumerate(self.touchers):
            if touchers & done and touchers & ~done:
                entering.append(buffer)
            if touchers & beyond and touchers & (steps | done):
                leaving.append(buffer)
        used = sorted({b for step in inside for b in self.touches[step]} | set(entering) | set(leaving))
        renamed = {buffer: i for i, buffer in enumerate(used)}
        touches = [entering, *(self.touches[step] for step in inside), leaving]
        after = [(0, *(number[s] for s in self.after[step] if s in number)) for step in inside]
        return (
            Dataflow(
                tuple(self.sizes[buffer] for buffer in used),
                tuple(tuple(sorted(renamed[b] for b in touched)) for touched in touches),
                ((), *after, tuple(range(len(inside) + 1))),
                (0, *(self.extra[step] for step in inside), 0),
                ((), *(tuple((renamed[a], renamed[b]) for a, b in self.in_place[step]) for step in inside), ()),
            ),
            inside,
        )


def peak_of(flow: Dataflow, order: Sequence[int] | None = None) -> int:
    """The most bytes held at one time when the steps run in `order`, or as they are numbered.

    Raises ValueError if they cannot run so.
    """
    done = live = peak = 0
    for step in range(len(flow)) if order is None else order:
        if flow.before[step] & ~done or done >> step & 1:
            raise ValueError(f"step {step} cannot run after {done:b}")
        born, freed = change(flow, step, done)
        peak = max(peak, live + born + flow.extra[step])
        done |= 1 << step
        live += born - freed
    if done != (1 << len(flow)) - 1:
        raise ValueError("not all steps run")
    return peak


def change(flow: Dataflow, step: int, done: int) -> tuple[int, int]:
    """What `step` does to memory once those of `done` have run: the bytes that it needs beyond those that are held, and
    those that it frees when it is through."""
    born = freed = 0
    now = done | 1 << step
    touchers, sizes = flow.touchers, flow.sizes
    for buffer in flow.touches[step]:
        all_of = touchers[buffer]
        if not all_of & done:
            born += sizes[buffer]
        if not all_of & ~now:
            freed += sizes[buffer]
    for read, written in flow.in_place[step]:
        if _dies(touchers[read], done, now) and _dies(touchers[written], ~now, ~done):
            return born - sizes[written], freed - sizes[read]
    return born, freed


def _dies(touchers: int, before: int, now: int) -> bool:
    """Whether some of them are among `before` and all are among `now`."""
    return bool(touchers & before) and not touchers & ~now
