"""The CPU's kernels: for each kind of fused group, the loops around its expressions.

`lower` is the door. `elementwise`, `reduction`, `matmul`, `conv`, `pool` and `attention` each write one kind; `group`
has what they share.
"""

from __future__ import annotations

from targets.cpu.kernels.attention import lower_attention
from targets.cpu.kernels.conv import lower_conv
from targets.cpu.kernels.elementwise import lower_elementwise
from targets.cpu.kernels.group import Kernel
from targets.cpu.kernels.matmul import lower_matmul, lower_matmul_packed
from targets.cpu.kernels.pool import lower_pool
from targets.cpu.kernels.reduction import lower_reduction
from targets.cpu.machine import Machine
from tensorc.ir import OPS, Graph, Kind

_ANCHORS = {
    "attention": lower_attention,
    "avg_pool": lower_pool,
    "conv_blocked": lower_conv,
    "matmul": lower_matmul,
    "matmul_packed": lower_matmul_packed,
    "max_pool": lower_pool,
}

__all__ = ["Kernel", "lower", "lowered_anchors"]


def lowered_anchors() -> frozenset[str]:
    """The anchors that have a kernel."""
    return frozenset(_ANCHORS)


def lower(body: Graph, machine: Machine) -> Kernel:
    """The kernel of a fused group's body."""
    for node in body.nodes:
        if node.op in _ANCHORS:
            return _ANCHORS[node.op](body, node, machine)
        if OPS[node.op].kind is Kind.REDUCTION:
            return lower_reduction(body, node, machine)
    return lower_elementwise(body, machine)
