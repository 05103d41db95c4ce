"""Where a run's time goes, kernel by kernel, against what the machine could do at best.

A target measures (see `tensorc.target.Executable.profile`); what is here knows of no target.
"""

from tensorc.profiling.ceilings import Ceilings, Level
from tensorc.profiling.profile import KernelFacts, KernelRow, Profile, StepTime, totals
from tensorc.profiling.turns import take_turns

__all__ = ["Ceilings", "KernelFacts", "KernelRow", "Level", "Profile", "StepTime", "take_turns", "totals"]
