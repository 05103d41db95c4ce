"""The CUDA kernels of fused groups. `lower` is the door; what has no kernel of its own here runs as tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from targets.cuda.gpu import Gpu
from targets.cuda.kernels.kernel import Kernel
from targets.cuda.kernels.tasks import lower_as_tasks
from tensorc.ir import Graph

__all__ = ["Kernel", "lower"]


def lower(body: Graph, gpu: Gpu, schedule: Mapping[str, Any] | None = None) -> Kernel:  # noqa: ARG001
    """The kernel of a fused group's body, by the rules where no schedule is given.

    Raises UnsupportedError for what has no kernel, ValueError for a schedule that is not one of this body's.
    """
    return lower_as_tasks(body)
