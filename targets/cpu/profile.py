"""Times the steps of a loaded CPU model.

The executor reads the clock between steps when it is asked to, and that costs a little each time: so runs in which
steps are timed and runs that are timed whole take turns, and what a step gets is the median over all of the former.
What a run spends outside steps is the median of single runs' differences: that of two medians would drown in noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.cpu.ceilings import ceilings
from targets.cpu.program import Step
from tensorc.errors import UserError
from tensorc.profiling import KernelFacts, Profile, StepTime
from tensorc.target import Progress

if TYPE_CHECKING:
    from targets.cpu.executable import CpuExecutable

#: Runs of each kind. More samples than this move no median that anybody could read.
_LEAST, _MOST = 3, 2000


def profile(
    executable: CpuExecutable,
    kernels: Mapping[str, Any],
    inputs: Sequence[np.ndarray],
    seconds: float,
    measure_ceilings: bool,
    progress: Progress,
) -> Profile:
    """Run for about `seconds`. `kernels` is the manifest's table.

    Raises UserError where the table lacks what a profile needs, as that of an older artifact does.
    """
    kept = [(number, step) for number, step in enumerate(executable.program.steps) if isinstance(step, Step)]
    steps = [step for _, step in kept]
    facts = {name: _facts(kernels, name) for name in dict.fromkeys(step.kernel for step in steps)}
    progress(0, 0, "ceilings")
    roofs = ceilings(executable.threads, again=measure_ceilings)
    numbers = [number for number, _ in kept]
    whole, outside, timed = _times(executable, inputs, numbers, seconds, progress)
    return Profile(
        threads=executable.threads,
        runs=len(whole),
        whole_seconds=float(np.median(whole)),
        overhead_seconds=float(np.median(outside)),
        steps=[
            StepTime(step.kernel, step.label, float(median), step.calls)
            for step, median in zip(steps, np.median(timed, axis=0), strict=True)
        ],
        kernels=facts,
        ceilings=roofs,
    )


def _facts(kernels: Mapping[str, Any], name: str) -> KernelFacts:
    try:
        row = kernels[name]
        return KernelFacts(row["schedule"], row["origin"], row["predicted_seconds"], row["predicted_deviation"],
                           row["flops"], row["bytes"], row["of_bytes"])  # fmt: skip
    except (KeyError, TypeError):  # a row that is missing, short or, as it was once, a text
        raise UserError(
            f"the artifact does not say what its kernel {name!r} does, as those of this version do: "
            "compile the model again"
        ) from None


def _times(
    executable: CpuExecutable, inputs: Sequence[np.ndarray], numbers: Sequence[int], seconds: float, progress: Progress
) -> tuple[list[float], list[float], list[np.ndarray]]:
    """Seconds of whole runs; of as many others, what they spent outside the steps of these numbers, and those steps."""
    start = time.perf_counter()
    executable.run_timed(inputs)  # pages weights in, and shows how long a run takes
    executable.run(inputs)
    pair = time.perf_counter() - start
    whole: list[float] = []
    outside: list[float] = []
    timed: list[np.ndarray] = []
    until = time.perf_counter() + seconds
    while len(whole) < _LEAST or (time.perf_counter() < until and len(whole) < _MOST):
        left = max(until - time.perf_counter(), 0)
        total = min(max(len(whole) + math.ceil(left / pair), _LEAST), _MOST)
        progress(len(whole), total, "runs")
        begin = time.perf_counter()
        executable.run(inputs)
        middle = time.perf_counter()
        _, steps = executable.run_timed(inputs)
        steps = steps[numbers]
        end = time.perf_counter()
        whole.append(middle - begin)
        outside.append(end - middle - float(steps.sum()))
        timed.append(steps)
        pair = (end - until + seconds) / len(whole)
    return whole, outside, timed
