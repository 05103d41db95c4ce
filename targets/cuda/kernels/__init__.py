"""The CUDA kernels of fused groups. `lower` is the door; what has no kernel of its own here runs as tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from targets.cpu.kernels import head
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.attention import lower_attention
from targets.cuda.kernels.coded import lower_coded
from targets.cuda.kernels.columns import lower_reduce
from targets.cuda.kernels.conv import lower_conv
from targets.cuda.kernels.elementwise import lower_elementwise
from targets.cuda.kernels.kernel import Kernel
from targets.cuda.kernels.matmul import lower_matmul, lower_matmul_packed
from targets.cuda.kernels.rows import lower_norm, lower_softmax
from targets.cuda.kernels.selection import lower_arg
from targets.cuda.kernels.tasks import lower_as_tasks
from targets.cuda.kernels.windows import lower_depthwise, lower_pool
from targets.cuda.schedules import parse_schedule
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.search.schedule import Schedule

__all__ = ["Kernel", "lower"]

#: By the operator that heads a group; a kernel that raises UnsupportedError leaves the group to its tasks.
_KERNELS: dict[str, Callable[[Graph, Node, Gpu, Schedule | None], Kernel]] = {
    # Products: matmul, matmul_coded, matmul_packed, conv_blocked.
    "conv_blocked": lower_conv,
    "matmul": lower_matmul,
    "matmul_coded": lower_coded,
    "matmul_packed": lower_matmul_packed,

    # Attention.
    "attention": lower_attention,

    # Rows and windows: reductions, softmax, norms, pools.
    "arg_max": lower_arg,
    "arg_min": lower_arg,
    "avg_pool": lower_pool,
    "conv_depthwise": lower_depthwise,
    "layer_norm": lower_norm,
    "log_softmax": lower_softmax,
    "max_pool": lower_pool,
    "reduce_max": lower_reduce,
    "reduce_mean": lower_reduce,
    "reduce_min": lower_reduce,
    "reduce_prod": lower_reduce,
    "reduce_sum": lower_reduce,
    "rms_norm": lower_norm,
    "softmax": lower_softmax,
}  # fmt: skip


def lower(body: Graph, gpu: Gpu, schedule: Mapping[str, Any] | None = None) -> Kernel:
    """The kernel of a fused group's body, by the rules where no schedule is given.

    Raises UnsupportedError for what has no kernel, ValueError for a schedule that is not one of this body's.
    """
    node = head(body)
    op = _named(node)
    if node is not None and op in _KERNELS:
        try:
            return _KERNELS[op](body, node, gpu, parse_schedule(schedule) if schedule else None)
        except UnsupportedError:
            if schedule:
                raise
    if schedule:
        raise ValueError(f"this kernel has nothing to choose, but was given {schedule}")
    return lower_elementwise(body, gpu) if node is None else lower_as_tasks(body)


def _named(node: Node | None) -> str:
    """What heads a group, by the kernel that it needs."""
    if node is None:
        return ""
    return "conv_depthwise" if node.op == "conv_blocked" and node.attrs["depthwise"] else node.op
