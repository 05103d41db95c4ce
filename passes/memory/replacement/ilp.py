"""Order and replacement as an integer linear program, solved by HiGHS.

Every operator has a window of times; where all windows are one time wide the order is given and only what is kept is
decided, and where they are as wide as dependences leave them, the solution is the best of all. For each tensor there is
a variable for each time at which it may be touched, and one for each stretch between: to keep it for a part of such a
stretch would be of no use. Addresses come later: here what is kept has to fit in sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from passes.memory.replacement.problem import ReplacementProblem, Role, touched_at
from passes.memory.replacement.stays import Keeps

#: First and last time at which an operator may run.
Window = tuple[int, int]
#: Coefficients by variable, and what is added.
_Sum = tuple[dict[int, float], float]


@dataclass(frozen=True)
class Decision:
    """An order and what is kept."""

    order: tuple[int, ...]
    keeps: Keeps


def widest_windows(problem: ReplacementProblem) -> list[Window]:
    """As wide as dependences leave them."""
    flow = problem.flow
    last = len(flow) - 1
    return [(a.bit_count(), last - d.bit_count()) for a, d in zip(flow.ancestors, flow.descendants, strict=True)]


def decide(problem: ReplacementProblem, windows: Sequence[Window], seconds: float,
           below: int | None = None) -> tuple[Decision | None, int]:  # fmt: skip
    """The best decision within the windows, or the best that is found in time, and what no such decision is below, both
    counted in bytes beyond the compulsory ones. With `below`, only what is below that is looked for."""
    return _Program(problem, windows).solve(seconds, below)


@dataclass
class _Program:
    """Variables are numbered as they are made, and lie between 0 and 1."""

    problem: ReplacementProblem
    windows: Sequence[Window]
    costs: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)
    constant: float = 0.0
    done: dict[tuple[int, int], int] = field(default_factory=dict)
    slots: list[list[tuple[int, int, int | None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        problem = self.problem
        #: In these units all sizes are whole numbers, and small ones.
        self.unit = math.gcd(*(tensor.size for tensor in problem.tensors)) or 1
        self.steps = len(problem.operators)
        self._order()
        self.extra = [0] * self.steps
        #: Of each time: what may be there, and what it takes.
        self.held: list[list[tuple[int | None, int]]] = [[] for _ in range(self.steps)]
        for tensor, touchers in enumerate(problem.flow.touchers):
            steps = [step for step in range(self.steps) if touchers >> step & 1]
            if len(steps) > 1:
                self._tensor(tensor, steps)
                continue
            self.slots.append([])
            for step in steps:
                self.extra[step] += self._size(tensor)
        self._capacity()

    def _size(self, tensor: int) -> int:
        return self.problem.tensors[tensor].size // self.unit

    def _variable(self, cost: float = 0.0, whole: bool = False) -> int:
        self.costs.append(cost)
        self.whole.append(whole)
        return len(self.costs) - 1

    def _at_most(self, total: _Sum, most: float) -> None:
        """A row: the sum is at most so much."""
        coefficients, constant = total
        self.rows.append((coefficients, -np.inf, most - constant))

    # The order ------------------------------------------------------------------------------------------------

    def _order(self) -> None:
        for step, (low, high) in enumerate(self.windows):
            for time in range(low, high):
                self.done[step, time] = self._variable(whole=True)
                if time > low:
                    self._at_most(_total((self._done(step, time - 1), 1), (self._done(step, time), -1)), 0)
        for step, operator in enumerate(self.problem.operators):
            for earlier in operator.after:
                low, high = self.windows[step][0], self.windows[earlier][1]
                for time in range(low, high + 1):
                    self._at_most(_total((self._done(step, time), 1), (self._done(earlier, time - 1), -1)), 0)
        for time in range(self.steps):
            here = [self._done(step, time) for step in range(self.steps)]
            coefficients, constant = _total(*((one, 1) for one in here))
            if coefficients:
                self.rows.append((coefficients, time + 1 - constant, time + 1 - constant))

    def _done(self, step: int, time: int) -> _Sum:
        """1 if the step has run when the time is over."""
        variable = self.done.get((step, time))
        return ({}, float(time >= self.windows[step][1])) if variable is None else ({variable: 1.0}, 0.0)

    def _runs(self, step: int, time: int) -> _Sum:
        return _total((self._done(step, time), 1), (self._done(step, time - 1), -1))

    # What is kept ---------------------------------------------------------------------------------------------

    def _tensor(self, tensor: int, steps: Sequence[int]) -> None:
        """Slots are the times at which an operator may touch the tensor, and the stretches between."""
        windows = [self.windows[step] for step in steps]
        first, last = min(low for low, _ in windows), max(high for _, high in windows)
        slots: list[tuple[int, int, int | None]] = []
        time = first
        while time <= last:
            end = time + 1
            if any(low == high == time for low, high in windows):
                slots.append((time, end, None))
            elif any(low <= time <= high for low, high in windows):
                slots.append((time, end, self._variable(whole=True)))
            else:
                end = min(low for low, _ in windows if low > time)
                slots.append((time, end, self._variable(whole=True)))
            time = end
        self.slots.append(slots)
        for begin, end, variable in slots:
            for time in range(begin, end):
                self.held[time].append((variable, self._size(tensor)))
            if end == begin + 1 and variable is not None:
                for step in steps:
                    if self.windows[step][0] <= begin <= self.windows[step][1]:
                        self._at_most(_total((self._runs(step, begin), 1), (_is(variable), -1)), 0)
        writers = [step for step in steps if tensor in self.problem.operators[step].writes]
        if len(writers) > 1:
            self._written_in_parts(tensor, writers, slots)
            return
        size, role = self._size(tensor), self.problem.tensors[tensor].role
        stored = self._variable(size) if role is Role.INSIDE else None
        if role is Role.INPUT:
            self.constant -= size
        for i, (begin, _, variable) in enumerate(slots):
            before = _is(slots[i - 1][2]) if i else _NOTHING
            terms = [(_is(variable), 1.0), (before, -1.0)]
            if writers:
                terms.append((self._runs(writers[0], begin), -1.0))
            total = _total(*terms)
            if not total[0] and total[1] <= 0:
                continue
            fetched = self._variable(size)
            self._at_most(_total((total, 1), (_is(fetched), -1)), 0)
            if stored is not None:
                self._at_most(_total((_is(fetched), 1), (_is(stored), -1)), 0)

    def _written_in_parts(
        self, tensor: int, writers: Sequence[int], slots: Sequence[tuple[int, int, int | None]]
    ) -> None:
        """What leaves between two of the operators that write it has to be stored more than once."""
        size = self._size(tensor)
        before, valid = _NOTHING, _NOTHING
        for begin, end, variable in slots:
            here = _is(variable)
            fetched, stores, now = self._variable(size), self._variable(size), self._variable()
            for writer in writers:
                # What is there was there before, or is fetched, or nobody has written it yet.
                made = self._done(writer, begin - 1)
                self._at_most(_total((here, 1), (before, -1), (_is(fetched), -1), (made, 1)), 1)
                if end == begin + 1:
                    runs = self._runs(writer, begin)
                    self._at_most(_total((_is(now), 1), (runs, 1), (_is(stores), -1)), 1)
            self._at_most(_total((_is(fetched), 1), (valid, -1)), 0)
            self._at_most(_total((_is(now), 1), (valid, -1), (_is(stores), -1)), 0)
            self._at_most(_total((_is(stores), 1), (here, -1)), 0)
            before, valid = here, _is(now)
        if self.problem.tensors[tensor].role is Role.OUTPUT:
            self._at_most(_total((valid, -1)), -1)
            self.constant -= size

    def _capacity(self) -> None:
        most = self.problem.capacity // self.unit
        for time, held in enumerate(self.held):
            terms = [(_is(variable), float(size)) for variable, size in held]
            terms += [
                (self._runs(step, time), float(self.extra[step]))
                for step, (low, high) in enumerate(self.windows) if low <= time <= high and self.extra[step]
            ]  # fmt: skip
            coefficients, constant = _total(*terms)
            if sum(c for c in coefficients.values() if c > 0) + constant > most:
                self._at_most((coefficients, constant), most)

    # Solving --------------------------------------------------------------------------------------------------

    def solve(self, seconds: float, below: int | None) -> tuple[Decision | None, int]:
        if below is not None:
            most = below // self.unit - 1
            self._at_most(({v: cost for v, cost in enumerate(self.costs) if cost}, self.constant), most)
        found, bound = self._optimise(seconds)
        if math.isinf(bound):
            if below is None:
                raise RuntimeError("HiGHS finds no decision, and there is always one")
            return None, below
        least = max(0, math.ceil(bound + self.constant - 1e-6)) * self.unit
        if found is None:
            return None, least
        starts = [
            low + sum(found[self.done[step, time]] < 0.5 for time in range(low, high))
            for step, (low, high) in enumerate(self.windows)
        ]
        order = sorted(range(self.steps), key=starts.__getitem__)
        keeps = []
        for times, slots in zip(touched_at(self.problem, order), self.slots, strict=True):
            absent = [begin for begin, _, variable in slots if variable is not None and found[variable] < 0.5]
            keeps.append([not any(a < gone < b for gone in absent) for a, b in pairwise(times)])
        return Decision(tuple(order), keeps), least

    def _optimise(self, seconds: float) -> tuple[np.ndarray | None, float]:
        """The variables, and a bound of the costs: infinite if nothing fits."""
        # Loaded where it is used: that takes longer than many problems.
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        if not self.costs:
            fits = all(low <= 0 <= high for _, low, high in self.rows)
            return (np.zeros(0), 0.0) if fits else (None, math.inf)
        starts = np.cumsum([0, *(len(row) for row, _, _ in self.rows)])
        columns = [column for row, _, _ in self.rows for column in row]
        values = [value for row, _, _ in self.rows for value in row.values()]
        matrix = csr_array((values, columns, starts), shape=(len(self.rows), len(self.costs)))
        lower, upper = np.array([row[1:] for row in self.rows]).reshape(-1, 2).T
        scale = max(max(self.costs), 1.0)
        result = milp(
            np.array(self.costs) / scale,
            integrality=np.array(self.whole, dtype=int),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, lower, upper),
            options={"time_limit": seconds, "mip_rel_gap": 0.0},
        )
        if result.status == _INFEASIBLE:
            return None, math.inf
        bound = result.mip_dual_bound
        return result.x, -self.constant if bound is None else bound * scale


#: Of scipy's results.
_INFEASIBLE = 2

_NOTHING: _Sum = ({}, 0.0)


def _is(variable: int | None) -> _Sum:
    """A variable; None is one that is 1."""
    return ({}, 1.0) if variable is None else ({variable: 1.0}, 0.0)


def _total(*terms: tuple[_Sum, float]) -> _Sum:
    coefficients: dict[int, float] = {}
    constant = 0.0
    for (some, more), factor in terms:
        constant += factor * more
        for variable, coefficient in some.items():
            coefficients[variable] = coefficients.get(variable, 0.0) + factor * coefficient
    return {variable: c for variable, c in coefficients.items() if c}, constant
