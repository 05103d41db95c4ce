"""Running a graph in a fast memory that does not hold all of it: what is to be decided, and what a decision is.

Operators run on tensors in a fast memory (a GPU's shared memory, an FPGA's block RAM, a level of a CPU's cache, a
scratchpad) of so many bytes; all else is in a slow memory that holds everything. To be decided together are the order
of the operators, the addresses of tensors, and what leaves the fast memory and is fetched again, such that the fewest
bytes are moved: the problem of COSMA, "Combined Scheduling, Memory Allocation and Tensor Replacement for Minimizing
Off-Chip Data Accesses of DNN Accelerators" (2023).

Every input that is used must be fetched once and every output stored once, whatever is decided: these bytes are
compulsory. Tensors are fetched and stored whole; a step takes no part of one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from passes.memory.dataflow import Dataflow


class Role(enum.Enum):
    """Where a tensor is when all begins and has to be when all is done."""

    INPUT = "input"  #: in slow memory from the start: the model's inputs and its weights
    OUTPUT = "output"  #: in slow memory in the end
    INSIDE = "inside"  #: nobody asks for it outside


@dataclass(frozen=True)
class Tensor:
    name: str
    size: int
    role: Role = Role.INSIDE


@dataclass(frozen=True)
class Operator:
    """Needs the tensors, by number, that it reads and writes in fast memory while it runs, and comes after the
    operators whose results it reads. Several operators may write parts of one tensor."""

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class ReplacementProblem:
    """Operators are numbered in an order in which they can run. `capacity` is that of the fast memory, in bytes."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    capacity: int

    def __post_init__(self) -> None:
        if self.smallest_capacity > self.capacity:
            worst = max(self.operators, key=self._needed)
            needed = self._needed(worst)
            raise ValueError(f"operator {worst.name} needs {needed} bytes of a fast memory that has {self.capacity}")

    def _needed(self, operator: Operator) -> int:
        return sum(self.tensors[number].size for number in {*operator.reads, *operator.writes})

    @property
    def smallest_capacity(self) -> int:
        """With less, some operator cannot run."""
        return max(map(self._needed, self.operators), default=0)

    @cached_property
    def compulsory(self) -> int:
        """Bytes that are moved whatever is decided."""
        read = {number for operator in self.operators for number in operator.reads}
        written = {number for operator in self.operators for number in operator.writes}
        return sum(
            tensor.size
            for number, tensor in enumerate(self.tensors)
            if (tensor.role is Role.INPUT and number in read) or (tensor.role is Role.OUTPUT and number in written)
        )

    @cached_property
    def flow(self) -> Dataflow:
        """The same, as what searches for orders take: all that an operator touches is held."""
        rows = [((*operator.reads, *operator.writes), operator.after) for operator in self.operators]
        return Dataflow.of([tensor.size for tensor in self.tensors], rows)


@dataclass(frozen=True)
class Stay:
    """A tensor is in fast memory at `offset` while the operators run that stand `first` to `last` in the order. At the
    begin it is `fetched`, or else made there; at the end it is `stored`, or else forgotten."""

    tensor: int
    first: int
    last: int
    offset: int
    fetched: bool
    stored: bool


@dataclass(frozen=True)
class Replacement:
    """A solution: the operators' numbers in the order in which they run, and all stays."""

    order: tuple[int, ...]
    stays: tuple[Stay, ...]


def traffic(problem: ReplacementProblem, stays: Iterable[Stay]) -> int:
    """Bytes fetched and stored."""
    return sum(problem.tensors[stay.tensor].size * (stay.fetched + stay.stored) for stay in stays)


class ReplacementError(ValueError):
    """A solution that does not work."""


def check(problem: ReplacementProblem, solution: Replacement) -> int:
    """Replay `solution`; gives the bytes that it moves beyond the compulsory ones. Raises ReplacementError."""
    if sorted(solution.order) != list(range(len(problem.operators))):
        raise ReplacementError("not every operator runs once")
    sizes = [tensor.size for tensor in problem.tensors]
    for stay in solution.stays:
        if not 0 <= stay.first <= stay.last < len(solution.order):
            raise ReplacementError(f"{stay} is outside of time")
        if stay.offset < 0 or stay.offset + sizes[stay.tensor] > problem.capacity:
            raise ReplacementError(f"{stay} is outside of the fast memory")
    #: Of each tensor: whether it has been written, and whether what is in slow memory is up to date.
    made = [tensor.role is Role.INPUT for tensor in problem.tensors]
    kept = list(made)
    ran: set[int] = set()
    here: list[Stay] = []
    for time, number in enumerate(solution.order):
        operator = problem.operators[number]
        if not ran.issuperset(operator.after):
            raise ReplacementError(f"{operator.name} runs before what it comes after")
        for stay in (stay for stay in solution.stays if stay.first == time):
            if any(other.tensor == stay.tensor for other in here):
                raise ReplacementError(f"{problem.tensors[stay.tensor].name} is there twice at step {time}")
            if stay.fetched and not kept[stay.tensor]:
                raise ReplacementError(f"{problem.tensors[stay.tensor].name} is fetched and was not stored")
            if not stay.fetched and made[stay.tensor]:
                raise ReplacementError(f"{problem.tensors[stay.tensor].name} is there again and was not fetched")
            here.append(stay)
        ordered = sorted((stay for stay in here if sizes[stay.tensor]), key=lambda stay: stay.offset)
        for low, high in pairwise(ordered):
            if low.offset + sizes[low.tensor] > high.offset:
                raise ReplacementError(f"{low} and {high} overlap")
        present = {stay.tensor for stay in here}
        for tensor in operator.reads:
            if tensor not in present or not made[tensor]:
                raise ReplacementError(f"{operator.name} reads {problem.tensors[tensor].name}, which is not there")
        for tensor in operator.writes:
            if tensor not in present:
                raise ReplacementError(f"{operator.name} writes {problem.tensors[tensor].name}, which has no place")
            made[tensor], kept[tensor] = True, False
        ran.add(number)
        for stay in (stay for stay in here if stay.last == time and stay.stored):
            kept[stay.tensor] = True
        here = [stay for stay in here if stay.last > time]
    for result, valid in zip(problem.tensors, kept, strict=True):
        if result.role is Role.OUTPUT and not valid:
            raise ReplacementError(f"output {result.name} is not stored")
    return traffic(problem, solution.stays) - problem.compulsory


def touched_at(problem: ReplacementProblem, order: Sequence[int]) -> list[list[int]]:
    """For each tensor, the times at which an operator touches it when they run in `order`."""
    times: list[list[int]] = [[] for _ in problem.tensors]
    for time, number in enumerate(order):
        for tensor in problem.flow.touches[number]:
            times[tensor].append(time)
    return times
