"""What the cost model is told of a candidate, computed from workload, schedule and GPU: nothing is lowered.

One row of numbers for each candidate, the columns named by `FEATURES`; the baseline is the analytic estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from targets.cpu.kernels import head
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.coded import coded_dtype, extents_of_coded
from targets.cuda.kernels.codes import PANEL
from targets.cuda.kernels.conv import extents_of_conv
from targets.cuda.kernels.matmul import extents_of_matmul
from targets.cuda.kernels.operands import operand_dtype
from targets.cuda.occupancy import occupancy
from targets.cuda.schedules import (
    CodedSchedule,
    Extents,
    GemmSchedule,
    GemvSchedule,
    coded_schedule,
    gemm_cycles,
    gemv_schedule,
    parse_schedule,
    stream_of,
    tiles_of,
)
from tensorc.ir import Graph, Node
from tensorc.ir.cost import work
from tensorc.search.space import ScheduleJson

BASELINE = "log2_estimate"
FEATURES = (
    BASELINE, "log2_flops", "log2_bytes", "log2_rows", "log2_columns", "log2_depth", "few", "tensor", "warpgroups",
    "log2_tile_rows", "log2_tile_columns", "log2_step", "warps", "stages", "log2_split", "panels", "log2_unroll",
    "log2_blocks", "log2_shared", "resident",
)  # fmt: skip
#: Cycles a second that the estimate supposes; the model learns the GPU's own rate.
_HERTZ = 1.5e9
#: Bytes a second of memory that it supposes of products whose time is that of reading weights.
_BANDWIDTH = 1e12


def features(body: Graph, gpu: Gpu, schedules: Sequence[ScheduleJson]) -> np.ndarray:
    node = head(body)
    assert node is not None
    (extents, dtype), amount = _product(node, gpu), work(body)
    common = [_log2(number) for number in (amount.flops, amount.nbytes, extents.rows, extents.columns, extents.depth)]
    rows = []
    for row in schedules:
        match parse_schedule(row):
            case GemmSchedule() as s:
                seconds = gemm_cycles(s, extents, dtype, gpu, node.op == "matmul_coded") / _HERTZ
                tiles, stream = tiles_of(s, extents), stream_of(s, extents, dtype, gpu)
                blocks = stream.whole + stream.blocks if stream is not None else tiles * s.split_k
                shared = s.shared_bytes(dtype)
                resident = occupancy(gpu, s.threads, min(s.registers(), 255), shared).blocks
                own = [0.0, float(s.unit == "tensor"), float(s.unit == "warpgroups"), _log2(s.rows), _log2(s.columns),
                       _log2(s.depth), s.threads / 32, s.stages, _log2(blocks / tiles), 0.0, 0.0]  # fmt: skip
            case GemvSchedule() | CodedSchedule() as v:
                rule: GemvSchedule | CodedSchedule = gemv_schedule(extents, gpu)
                panel = 8
                if isinstance(v, CodedSchedule):
                    rule, panel = coded_schedule(extents, node.attrs["width"], gpu), PANEL
                off = sum(abs(_log2(getattr(v, knob) / getattr(rule, knob))) for knob in ("warps", "panels", "unroll"))
                seconds = amount.nbytes / _BANDWIDTH * (1 + 0.1 * off)
                blocks, shared, resident = -(-extents.columns // (panel * v.panels)), 0, 0
                own = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, v.warps, 0.0, 0.0, v.panels, _log2(v.unroll)]
            case other:
                raise ValueError(f"nothing is known of schedules such as {other}")
        rows.append([_log2(seconds), *common, *own, _log2(blocks), _log2(shared), resident])
    return np.array(rows, np.float32).reshape(len(rows), len(FEATURES))


def _product(node: Node, gpu: Gpu) -> tuple[Extents, str]:
    if node.op == "matmul_coded":
        return extents_of_coded(node), coded_dtype(node, gpu)
    extents = extents_of_conv(node) if node.op == "conv_blocked" else extents_of_matmul(node)
    return extents, operand_dtype(node.inputs[0], node.inputs[1], gpu)


def _log2(number: float) -> float:
    return math.log2(number) if number > 0 else 0.0
