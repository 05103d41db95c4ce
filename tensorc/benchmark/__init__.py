"""Engines compared fairly on one model: each in a process of its own, taking turns.

`compare` runs them; `engines` says how each is opened; `worker` is the process that one engine lives in.
"""

from tensorc.benchmark.compare import Failure, Result, Timing, compare, speedups
from tensorc.benchmark.engines import ENGINES

__all__ = ["ENGINES", "Failure", "Result", "Timing", "compare", "speedups"]
