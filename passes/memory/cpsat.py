"""Plans by OR-Tools' constraint solver CP-SAT: a second opinion, and a bound that is proven in another way.

Offsets are integer variables, and in every section of time the buffers do not overlap. Needs the extra `cpsat`.
Measured on one worker of a busy machine: of the six instances of minimalloc this solves one in 25 seconds, as does the
same constraint stated once in two dimensions (another one). HiGHS, on the mixed-integer program with a binary for each
pair that meets, is as fast on tilings of 20 buffers and not done in ten seconds at 60, where this takes 0.05.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from passes.memory import greedy
from passes.memory.bounds import conclude, lower_bound
from passes.memory.problem import Offsets, Plan, Problem, sections
from tensorc.errors import UserError

if TYPE_CHECKING:
    from ortools.sat.python import cp_model


def solve(problem: Problem, seconds: float = 60, seed: int = 0) -> Plan:
    """Within the capacity if there is one, else as low as it gets in the time. Raises UserError without OR-Tools."""
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise UserError("the planner cpsat needs OR-Tools: pip install 'tensorc[cpsat]'") from error
    start = time.monotonic()
    buffers = problem.buffers
    bound = lower_bound(problem)
    _, greedy_plan = greedy.best(problem)
    highest = problem.height(greedy_plan) if problem.capacity is None else problem.capacity
    if not buffers or bound > highest:
        return conclude(problem, greedy_plan, "cpsat", time.monotonic() - start)
    unit = math.gcd(*(b.size for b in buffers), *(b.alignment for b in buffers))
    model = cp_model.CpModel()
    steps, height = _model(model, problem, highest // unit, unit)
    if problem.capacity is None:
        model.add(height >= -(-bound // unit))
        model.minimize(height)
        for step, buffer, hint in zip(steps, buffers, greedy_plan, strict=True):
            model.add_hint(step, hint // buffer.alignment)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(seconds - (time.monotonic() - start), 0.01)
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    status = solver.solve(model)
    best: Offsets | None = greedy_plan
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        best = tuple(solver.value(step) * b.alignment for step, b in zip(steps, buffers, strict=True))
        if problem.capacity is None:
            bound = max(bound, math.ceil(solver.best_objective_bound - 1e-6) * unit)
    elif status == cp_model.INFEASIBLE:
        bound = highest + 1
    return conclude(problem, best, "cpsat", time.monotonic() - start, bound)


def _model(
    model: cp_model.CpModel, problem: Problem, highest: int, unit: int
) -> tuple[list[cp_model.IntVar], cp_model.IntVar]:
    """Each offset as a multiple of its alignment, and the height in units."""
    height = model.new_int_var(0, highest, "height")
    steps, extents = [], []
    for number, buffer in enumerate(problem.buffers):
        size, alignment = buffer.size // unit, buffer.alignment // unit
        step = model.new_int_var(0, (highest - size) // alignment, f"offset {number}")
        model.add(alignment * step + size <= height)
        steps.append(step)
        extents.append(model.new_fixed_size_interval_var(alignment * step, size, f"extent {number}"))
    times, ranges = sections(problem.buffers)
    alive: list[list[cp_model.IntervalVar]] = [[] for _ in times]
    for extent, (first, last) in zip(extents, ranges, strict=True):
        for section in range(first, last):
            alive[section].append(extent)
    for together in alive:
        model.add_no_overlap(together)
    return steps, height
