"""The CUDA kernels of fused groups. `lower` is the door; what has no kernel of its own here runs as tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from targets.cpu.kernels import head
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.conv import lower_conv
from targets.cuda.kernels.kernel import Kernel
from targets.cuda.kernels.matmul import lower_matmul, lower_matmul_packed
from targets.cuda.kernels.tasks import lower_as_tasks
from targets.cuda.schedules import parse_schedule
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.search.schedule import Schedule

__all__ = ["Kernel", "lower"]

#: By the operator that heads a group; a kernel that raises UnsupportedError leaves the group to its tasks.
_KERNELS: dict[str, Callable[[Graph, Node, Gpu, Schedule | None], Kernel]] = {
    # Products: matmul, matmul_packed, conv_blocked.
    "conv_blocked": lower_conv,
    "matmul": lower_matmul,
    "matmul_packed": lower_matmul_packed,

    # Attention.

    # Rows and windows: reductions, softmax, norms, pools.
}  # fmt: skip


def lower(body: Graph, gpu: Gpu, schedule: Mapping[str, Any] | None = None) -> Kernel:
    """The kernel of a fused group's body, by the rules where no schedule is given.

    Raises UnsupportedError for what has no kernel, ValueError for a schedule that is not one of this body's.
    """
    node = head(body)
    if node is not None and node.op in _KERNELS:
        try:
            return _KERNELS[node.op](body, node, gpu, parse_schedule(schedule) if schedule else None)
        except UnsupportedError:
            if schedule:
                raise
    if schedule:
        raise ValueError(f"this kernel has nothing to choose, but was given {schedule}")
    return lower_as_tasks(body)
