"""What may be chosen for each kind of CUDA kernel: the algorithms and their knobs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from targets.cpu.kernels import head
from targets.cuda.flash import AttentionExtents, FlashSchedule, flash_fits, flash_schedule
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.attention import extents_of_attention
from targets.cuda.kernels.coded import coded_dtype, extents_of_coded
from targets.cuda.kernels.conv import extents_of_conv
from targets.cuda.kernels.matmul import extents_of_matmul
from targets.cuda.kernels.operands import operand_dtype
from targets.cuda.schedules import (
    GEMV_ROWS,
    LEAST_STEPS,
    CodedSchedule,
    Extents,
    GemmSchedule,
    GemvSchedule,
    coded_schedule,
    gemm_fits,
    gemm_schedule,
    gemv_schedule,
    is_few,
    stream_of,
    unit_of,
)
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.options import Numerics
from tensorc.search.space import Algorithm, Space

_SIDES = (16, 32, 64, 128, 256)
_WARPS = (1, 2, 4, 8)
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
#: Of tiles with more warps, those wait for each other longer than they help.
_MOST_WARPS = 16


def space_of(body: Graph, gpu: Gpu, numerics: Numerics = "strict") -> Space | None:
    """The schedules of a fused group's body; None where there is nothing to choose."""
    node = head(body)
    try:
        match node.op if node is not None else "":
            case "conv_blocked":
                assert node is not None
                return None if node.attrs["depthwise"] else _product(node, extents_of_conv(node), gpu, numerics)
            case "matmul":
                assert node is not None
                return _product(node, extents_of_matmul(node), gpu, numerics)
            case "matmul_coded":
                assert node is not None
                return _coded(node, gpu, numerics)
            case "matmul_packed":
                assert node is not None
                return _packed(node, gpu, numerics)
            case "attention":
                assert node is not None
                return _attention(extents_of_attention(node, gpu), gpu)
    except UnsupportedError:  # what runs as tasks
        pass
    return None


def _packed(node: Node, gpu: Gpu, numerics: Numerics) -> Space:
    extents = extents_of_matmul(node)
    tiles = _product(node, extents, gpu, numerics)
    if extents.rows > 2 * GEMV_ROWS or node.output.dtype == "int32":
        return tiles
    panels = static_shape(node.inputs[1].shape)[0]
    few = Algorithm(
        GemvSchedule.kind,
        {"warps": (2, 4, 8, 16), "panels": tuple(p for p in (1, 2, 4) if p <= panels), "unroll": (1, 2, 4, 8)},
        # Sums, and the weights that are under way, are in registers.
        lambda knobs: knobs["panels"] * 8 * (extents.rows + knobs["unroll"]) <= 128,
    )
    default = tiles.default
    if extents.rows <= GEMV_ROWS:
        default = gemv_schedule(extents, gpu).to_json()
    return Space((*tiles.algorithms, few), default)


def _coded(node: Node, gpu: Gpu, numerics: Numerics) -> Space:
    extents, dtype, width = extents_of_coded(node), coded_dtype(node, gpu), node.attrs["width"]
    tiles = _tiles(extents, dtype, gpu, numerics, decodes=True)
    if extents.rows > 3 * GEMV_ROWS:
        return tiles
    few = Algorithm(
        CodedSchedule.kind,
        {"warps": _WARPS, "panels": (1, 2, 4), "unroll": (1, 2, 4)},
        lambda knobs: CodedSchedule(**knobs).fits(extents.rows, width),
    )
    default = coded_schedule(extents, width, gpu).to_json() if is_few(extents, dtype, gpu) else tiles.default
    return Space((*tiles.algorithms, few), default)


def _product(node: Node, extents: Extents, gpu: Gpu, numerics: Numerics) -> Space:
    x, w = node.inputs
    return _tiles(extents, operand_dtype(x, w, gpu), gpu, numerics)


def _tiles(extents: Extents, dtype: str, gpu: Gpu, numerics: Numerics, decodes: bool = False) -> Space:
    """tf32 rounds operands to 10 bits of fraction: it is for those who have said that they do not mind."""
    default = gemm_schedule(extents, dtype, gpu, decodes)
    fast = dtype == "float32" and numerics == "fast" and gpu.multiplies_bfloat16
    chunk = 16 // {"uint8": 1, "float32": 4}.get(dtype, 2)
    rows, columns = (_near(extent) for extent in (extents.rows, extents.columns))
    units = ("fma", "tensor") if fast else (unit_of(dtype, gpu),)
    if extents.in_chunks and gpu.specific and dtype != "float32":
        units = (*units, "warpgroups")

    def legal(knobs: Mapping[str, Any]) -> bool:
        schedule = GemmSchedule(**knobs)
        steps = -(-extents.depth // schedule.depth)
        if schedule.split_k > 1 and steps < schedule.split_k * LEAST_STEPS:
            return False
        if schedule.split_k == 0 and stream_of(schedule, extents, dtype, gpu) is None:
            return False
        few = schedule.warp_rows * schedule.warp_columns <= _MOST_WARPS
        return few and gemm_fits(schedule, dtype, gpu)

    algorithm = Algorithm(
        GemmSchedule.kind,
        {
            "rows": rows,
            "columns": columns,
            "depth": (2 * chunk, 4 * chunk, 8 * chunk),
            "warp_rows": _WARPS,
            "warp_columns": _WARPS,
            "stages": (2, 3, 4) if gpu.has_async_copies else (2,),
            "split_k": (0, *_SPLITS),
            "unit": units,
        },
        legal,
    )
    return Space((algorithm,), default.to_json())


def _attention(extents: AttentionExtents, gpu: Gpu) -> Space | None:
    default = flash_schedule(extents, gpu)
    if default is None:
        return None
    splits = {split for split in _SPLITS if split <= extents.keys // 16} | {default.splits, 1}
    algorithm = Algorithm(
        FlashSchedule.kind,
        {
            "rows": tuple(rows for rows in (16, 32, 64, 128) if rows == 16 or rows < 2 * extents.rows),
            "keys": tuple(keys for keys in (16, 32, 64, 128) if keys == 16 or keys < 2 * extents.keys),
            "stages": (2, 3, 4),
            "splits": tuple(sorted(splits)),
            "warps": (1, 2, 4, 8),
        },
        lambda knobs: flash_fits(FlashSchedule(**knobs), extents, gpu),
    )
    return Space((algorithm,), default.to_json())


def _near(extent: int) -> tuple[int, ...]:
    """Sides of tiles that are not mostly beyond the edge."""
    whole = 1 << max(0, math.ceil(math.log2(extent)))
    return tuple(side for side in _SIDES if side <= max(whole, 32))
