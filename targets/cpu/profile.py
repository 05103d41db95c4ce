"""Times the steps of a loaded CPU model: the executor reads the clock between steps when it is asked to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.cpu.ceilings import ceilings
from targets.cpu.program import Step
from tensorc.errors import UserError
from tensorc.profiling import KernelFacts, Profile, StepTime, take_turns
from tensorc.target import Progress

if TYPE_CHECKING:
    from targets.cpu.executable import CpuExecutable


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
    whole, outside, timed = take_turns(
        lambda: executable.run(inputs), lambda: executable.run_timed(inputs)[1][numbers], seconds, progress
    )
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
