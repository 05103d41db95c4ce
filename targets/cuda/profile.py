"""Times the launches of a loaded CUDA model, one by one: by events around each, not in the recorded graph.

A launch then waits for the host, and what is between launches counts as outside of them; whole runs replay the graph,
and bring their inputs and outputs from the host and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.cuda.roofline import ceilings
from tensorc.profiling import KernelFacts, Profile, StepTime, take_turns
from tensorc.target import Progress

if TYPE_CHECKING:
    from targets.cuda.executable import CudaExecutable


def profile(
    executable: CudaExecutable, kernels: Mapping[str, Any], inputs: Sequence[Any], seconds: float, progress: Progress
) -> Profile:
    """Run for about `seconds`. `kernels` is the manifest's table."""
    launches = executable.program.launches
    names = list(dict.fromkeys(launch.kernel for launch in launches))
    whole, outside, timed = take_turns(
        lambda: executable.run(inputs), lambda: executable.run_timed(inputs)[1], seconds, progress
    )
    return Profile(
        threads=1,
        runs=len(whole),
        whole_seconds=float(np.median(whole)),
        overhead_seconds=float(np.median(outside)),
        steps=[
            StepTime(launch.kernel, launch.label, float(median), launch.calls)
            for launch, median in zip(launches, np.median(timed, axis=0), strict=True)
        ],
        kernels={name: _facts(kernels[name]) for name in names},
        ceilings=ceilings(executable.facts(), [kernels[name]["dtype"] for name in names]),
    )


def _facts(row: Mapping[str, Any]) -> KernelFacts:
    return KernelFacts(row["schedule"], row["origin"], row["predicted_seconds"], row["predicted_deviation"],
                       row["flops"], row["bytes"], resources=row["resources"])  # fmt: skip
