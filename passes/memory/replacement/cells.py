"""A problem in cells that can be solved one after the other, and nothing is lost.

After an operator that all others come before or after, the order so far no longer matters; if besides it touches all
that is used on both sides, and what is in slow memory of these is known, nor does what was kept. Chains of blocks, as
most networks are, fall apart into these blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from passes.memory.replacement.ilp import Decision
from passes.memory.replacement.problem import Operator, ReplacementProblem, Role, Tensor


@dataclass(frozen=True)
class Cell:
    """`operators` and `tensors` are the numbers in the whole of those of `problem`. In all cells but the first, the
    first operator is the last one of the cell before, as far as it hands on something."""

    problem: ReplacementProblem
    operators: tuple[int, ...]
    tensors: tuple[int, ...]


def cells_of(problem: ReplacementProblem) -> list[Cell]:
    """In the order in which they run."""
    cuts = list(_cuts(problem))
    found = []
    done, entry = 0, None
    for cut in [*cuts, None]:
        upto = (1 << len(problem.operators)) - 1 if cut is None else problem.flow.ancestors[cut] | 1 << cut
        found.append(_cell(problem, upto & ~done, done, entry))
        done, entry = upto, cut
    return found


def _cuts(problem: ReplacementProblem) -> Iterator[int]:
    flow = problem.flow
    everything = (1 << len(flow)) - 1
    for step in range(len(flow)):
        before, behind = flow.ancestors[step] | 1 << step, flow.descendants[step]
        if before | behind == everything and behind and all(
            _known(problem, tensor, step)
            for tensor, touchers in enumerate(flow.touchers) if touchers & before and touchers & behind
        ):  # fmt: skip
            yield step


def _known(problem: ReplacementProblem, tensor: int, step: int) -> bool:
    """Whether it is clear what there is of the tensor when `step` runs."""
    if problem.tensors[tensor].role is Role.INPUT:
        return tensor in problem.flow.touches[step]
    return tensor in problem.operators[step].writes


def _cell(problem: ReplacementProblem, steps: int, done: int, entry: int | None) -> Cell:
    flow = problem.flow
    inside = [step for step in range(len(flow)) if steps >> step & 1]
    entering = [t for t, touchers in enumerate(flow.touchers) if touchers & done and touchers & steps]
    numbers = [*([] if entry is None else [entry]), *inside]
    renamed = {step: i for i, step in enumerate(numbers)}
    tensors = sorted({tensor for step in inside for tensor in flow.touches[step]} | set(entering))
    local = {tensor: i for i, tensor in enumerate(tensors)}
    beyond = ~(steps | done)

    def role(tensor: int) -> Role:
        whole = problem.tensors[tensor].role
        # What it takes to hand an output on or out is counted where it is used last.
        return Role.INSIDE if whole is Role.OUTPUT and flow.touchers[tensor] & beyond else whole

    operators = []
    if entry is not None:
        handed = [tensor for tensor in entering if problem.tensors[tensor].role is not Role.INPUT]
        fetched = [local[tensor] for tensor in entering if tensor not in handed]
        operators.append(Operator("entry", tuple(fetched), tuple(local[tensor] for tensor in handed), ()))
    for step in inside:
        operator = problem.operators[step]
        after = {renamed[earlier] for earlier in operator.after if earlier in renamed}
        if entry is not None:
            after.add(0)
        operators.append(Operator(
            operator.name, tuple(local[t] for t in operator.reads), tuple(local[t] for t in operator.writes),
            tuple(sorted(after)),
        ))  # fmt: skip
    kinds = (problem.tensors[tensor] for tensor in tensors)
    own = tuple(Tensor(kind.name, kind.size, role(tensor)) for kind, tensor in zip(kinds, tensors, strict=True))
    return Cell(ReplacementProblem(own, tuple(operators), problem.capacity), tuple(numbers), tuple(tensors))


def joined(problem: ReplacementProblem, cells: list[Cell], decisions: list[Decision]) -> Decision:
    """The decision for the whole that those for its cells make."""
    order: list[int] = []
    keeps: list[list[bool]] = [[] for _ in problem.tensors]
    for number, (cell, decision) in enumerate(zip(cells, decisions, strict=True)):
        order += [cell.operators[step] for step in decision.order[min(number, 1) :]]
        for tensor, kept in zip(cell.tensors, decision.keeps, strict=True):
            keeps[tensor] += kept
    return Decision(tuple(order), keeps)
