"""Engines compared fairly on one model: each in a process of its own, taking turns.

`compare` runs them; `engines` says how each is opened; `worker` is the process that one engine lives in; `noise` tells
whether the machine was quiet enough for the times to mean anything.
"""

from tensorc.benchmark.compare import Failure, Result, Timing, compare, speedups
from tensorc.benchmark.engines import ENGINES
from tensorc.benchmark.noise import TOLERABLE, OtherLoad

__all__ = ["ENGINES", "TOLERABLE", "Failure", "OtherLoad", "Result", "Timing", "compare", "speedups"]
