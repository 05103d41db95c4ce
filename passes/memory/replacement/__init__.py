"""A fast memory that is smaller than what a graph needs: order, addresses, and what leaves and comes again.

`problem_of` makes the problem of a fused graph, `exact`, `divide_and_conquer` and `greedy` solve it, `check` replays a
solution.
"""

from passes.memory.replacement.graph import problem_of
from passes.memory.replacement.problem import (
    Operator,
    Replacement,
    ReplacementError,
    ReplacementProblem,
    Role,
    Stay,
    Tensor,
    check,
)
from passes.memory.replacement.solve import Solved, divide_and_conquer, exact, greedy

__all__ = [
    "Operator",
    "Replacement",
    "ReplacementError",
    "ReplacementProblem",
    "Role",
    "Solved",
    "Stay",
    "Tensor",
    "check",
    "divide_and_conquer",
    "exact",
    "greedy",
    "problem_of",
]
