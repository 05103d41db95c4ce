"""What may be chosen for each kind of CPU kernel: the algorithms and their knobs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from targets.cpu.kernels import head
from targets.cpu.kernels.coded_choice import coded_space
from targets.cpu.kernels.conv_shape import ConvShape
from targets.cpu.kernels.products import together
from targets.cpu.kernels.winograd import is_winograd, winograd_knobs, winograd_legal
from targets.cpu.machine import Machine
from targets.cpu.schedules import (
    AttentionSchedule,
    BlockedMatmulSchedule,
    ConvSchedule,
    DepthwiseSchedule,
    MatmulSchedule,
    ProductSchedule,
    WinogradSchedule,
    attention_schedule,
    conv_schedule,
    depthwise_schedule,
    lanes_of,
    matmul_schedule,
    product_schedule,
)
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.options import Numerics
from tensorc.search.space import Algorithm, Space

_UNROLLS = (1, 2, 4, 8)
_MOST_VECTORS = 4
#: Tall tiles are for small images: each kind of border makes the code longer.
_TALL = (1, 2, 3, 4)
_MOST_BORDERS = 9
#: Steps of the reduction that a block of weights may have; every unrolling divides them.
_DEPTHS = (128, 192, 256, 384, 512, 768)
_OUTER = ("weights", "pixels")


def space_of(body: Graph, machine: Machine, numerics: Numerics = "strict") -> Space | None:
    """The schedules of a fused group's body; None where there is nothing to choose."""
    node = head(body)
    match node.op if node is not None else "":
        case "conv_blocked":
            assert node is not None
            return _depthwise(node, machine) if node.attrs["depthwise"] else _conv(node, machine, numerics)
        case "matmul_packed":
            assert node is not None
            return _matmul(node, machine)
        case "matmul_coded":
            assert node is not None
            return coded_space(node, machine, numerics)
        case "matmul":
            assert node is not None
            return _product(node, machine)
        case "attention":
            assert node is not None
            return _attention(node, machine)
    return None


def _fits(machine: Machine, pixels: int, vectors: int) -> bool:
    """Accumulators, a row of weights and a broadcast, all in registers."""
    return pixels * vectors + vectors + 1 <= machine.vector_registers


def _conv(node: Node, machine: Machine, numerics: Numerics) -> Space:
    shape = ConvShape(node, machine)
    tall = tuple(r for r in _TALL if r <= shape.out_h) if shape.out_h > 1 and shape.kh * shape.kw <= 9 else (1,)
    borders = {rows: len(shape.row_runs(rows)) for rows in tall}
    extent = shape.in_lanes
    unrolls = {math.gcd(unroll, extent) for unroll in _UNROLLS} | ({extent} if shape.plain else set())
    most = machine.vector_registers - 2
    columns = tuple(range(1, min(shape.out_w, most) + 1))
    runs = {width: len(shape.column_runs(width)) for width in columns}
    default = conv_schedule(shape.out_w, shape.blocks_per_group, shape.channels * shape.kh * shape.kw, machine)

    def legal(knobs: Mapping[str, Any]) -> bool:
        rows = knobs["rows"]
        if knobs["order"] == "taps" and (knobs["unroll"] > 1 or rows > 1):
            return False
        if rows > 1 and borders[rows] * runs[knobs["columns"]] > _MOST_BORDERS:
            return False
        return _fits(machine, rows * knobs["columns"], knobs["vectors"])

    algorithms = [
        Algorithm(
            ConvSchedule.kind,
            {
                "rows": tall,
                "columns": columns,
                "vectors": tuple(range(1, min(_MOST_VECTORS, shape.blocks_per_group) + 1)),
                # 1x1: both orders are one.
                "order": ("channels",) if shape.kh * shape.kw == 1 else ("taps", "channels"),
                "unroll": tuple(sorted(unrolls)),
                "outer": _OUTER,
            },
            legal,
        )
    ]
    if is_winograd(node, machine):
        knobs = winograd_knobs(node, machine)
        # F(4x4,3x3) rounds several times worse than a direct convolution, F(2x2,3x3) better: see kernels.winograd.
        tiles = knobs["tile"] if numerics == "fast" else (2,)
        algorithms.append(Algorithm(
            WinogradSchedule.kind, {**knobs, "tile": tiles}, lambda knobs: winograd_legal(node, machine, knobs)
        ))  # fmt: skip
    chosen = default.to_json()
    return Space(tuple(algorithms), chosen | {"unroll": math.gcd(chosen["unroll"], extent)})


def _depthwise(node: Node, machine: Machine) -> Space:
    shape = ConvShape(node, machine)
    columns = tuple(range(1, min(shape.out_w, machine.vector_registers - 2) + 1))
    algorithm = Algorithm(DepthwiseSchedule.kind, {"columns": columns}, lambda _: True)
    return Space((algorithm,), depthwise_schedule(shape.out_w, machine).to_json())


def _matmul(node: Node, machine: Machine) -> Space:
    b = node.inputs[1]
    lanes = lanes_of(machine, node.output.dtype)
    *lead, columns = static_shape(node.output.shape)
    rows, depth = math.prod(lead), b.shape[1] // together(node.inputs[0], b, machine)
    vectors = -(-columns // lanes)
    default = matmul_schedule(rows, depth, columns, lanes, machine)
    tiles = tuple(range(1, min(rows, machine.vector_registers - 2) + 1))
    plain = Algorithm(
        MatmulSchedule.kind,
        {
            "rows": tiles,
            "vectors": tuple(range(1, min(_MOST_VECTORS if rows > 3 else 2 * _MOST_VECTORS, vectors) + 1)),
            "unroll": tuple(sorted({u for u in _UNROLLS if u <= depth} | {default.unroll})),
            "outer": ("weights", "rows"),
        },
        lambda knobs: _fits(machine, knobs["rows"], knobs["vectors"]),
    )
    depths = tuple(d for d in _DEPTHS if d < depth)
    if rows < 2 or not depths:
        return Space((plain,), default.to_json())

    def legal(knobs: Mapping[str, Any]) -> bool:
        width = knobs["vectors"] * lanes
        sums = -(-rows // knobs["rows"]) * knobs["rows"] * knobs["panels"] * width * 4
        few = knobs["panels"] == 1 or (knobs["panels"] - 1) * width < columns
        return few and 2 * sums <= machine.l2 and _fits(machine, knobs["rows"], knobs["vectors"])

    blocked = Algorithm(
        BlockedMatmulSchedule.kind,
        {
            "rows": tuple(r for r in tiles if r > 2) or tiles,
            "vectors": tuple(range(1, min(_MOST_VECTORS, vectors) + 1)),
            "unroll": (2, 4, 8),
            "depth": depths,
            "panels": (1, 2, 4, 8),
        },
        legal,
    )
    return Space((plain, blocked), default.to_json())


def _product(node: Node, machine: Machine) -> Space:
    a, _ = node.inputs
    lanes = lanes_of(machine, node.output.dtype)
    rows, columns = static_shape(node.output.shape)[-2:]
    vectors = -(-columns // lanes)
    algorithm = Algorithm(
        ProductSchedule.kind,
        {
            "rows": tuple(range(1, min(rows, machine.vector_registers - 2) + 1)),
            "vectors": tuple(range(1, min(_MOST_VECTORS, vectors) + 1)),
        },
        lambda knobs: _fits(machine, knobs["rows"], knobs["vectors"]),
    )
    return Space((algorithm,), product_schedule(rows, static_shape(a.shape)[-1], columns, lanes, machine).to_json())


def _attention(node: Node, machine: Machine) -> Space:
    q, _, v = node.inputs[:3]
    lanes = lanes_of(machine, node.output.dtype)
    (_, queries, _, depth), (_, keys, _, width) = static_shape(q.shape), static_shape(v.shape)

    def legal(knobs: Mapping[str, Any]) -> bool:
        return all(_fits(machine, knobs["rows"], knobs[vectors]) for vectors in ("vectors", "values"))

    algorithm = Algorithm(
        AttentionSchedule.kind,
        {
            "rows": tuple(range(1, min(queries, machine.vector_registers - 2) + 1)),
            "vectors": tuple(range(1, min(_MOST_VECTORS, -(-keys // lanes)) + 1)),
            "values": tuple(range(1, min(_MOST_VECTORS, -(-width // lanes)) + 1)),
        },
        legal,
    )
    return Space((algorithm,), attention_schedule(queries, depth, keys, width, lanes, machine).to_json())
