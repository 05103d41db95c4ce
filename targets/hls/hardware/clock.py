"""What fits between two clock edges: the pipelines of a design follow from its clock.

A level of logic, of which an addition of usual width is two, is taken for 0.75 ns with its wires, and a register for
0.5 ns: six levels in 5 ns. That is a rule of thumb for parts of today, not a timing analysis.
"""

from __future__ import annotations

from tensorc.errors import UserError

#: Nanoseconds, unless a user says otherwise; and between what a user may.
CLOCK = 5.0
FASTEST, SLOWEST = 2.75, 100.0
_LEVEL, _REGISTER = 0.75, 0.5


def levels_of(clock: float) -> int:
    """Levels of logic in a cycle of so many nanoseconds."""
    return int((clock - _REGISTER) / _LEVEL + 1e-9)


def period_of(levels: int) -> float:
    """Nanoseconds that so many levels take, with the register behind them."""
    return _REGISTER + _LEVEL * levels


def check_clock(clock: float) -> None:
    """Raises UserError for one that no pipeline is made for."""
    if not FASTEST <= clock <= SLOWEST:
        raise UserError(f"--clock {clock:g}ns: pipelines are made for {FASTEST:g}ns ({1e3 / FASTEST:.0f}MHz) to "
                        f"{SLOWEST:g}ns ({1e3 / SLOWEST:.0f}MHz)")  # fmt: skip


#: In a cycle of `CLOCK`.
LEVELS = levels_of(CLOCK)
