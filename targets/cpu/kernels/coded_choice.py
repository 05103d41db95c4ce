"""Which kernel multiplies by weights in few bits: see `coded`, `coded_dot` and `coded_lookup`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from targets.cpu.kernels.coded import PARTS, CodedShape, coded_schedule, lower_direct, lower_panel
from targets.cpu.kernels.coded_dot import lower_dot
from targets.cpu.kernels.coded_lookup import can_look_up, lower_lookup
from targets.cpu.kernels.coded_prepared import CHUNK
from targets.cpu.kernels.group import Kernel
from targets.cpu.machine import Machine
from targets.cpu.schedules import (
    CodedDotSchedule,
    CodedLookupSchedule,
    CodedPanelSchedule,
    CodedSchedule,
    matmul_schedule,
)
from tensorc.ir import Graph, Node
from tensorc.options import Numerics
from tensorc.search.schedule import Schedule, checked
from tensorc.search.space import Algorithm, Space

_Tiled = CodedSchedule | CodedDotSchedule | CodedLookupSchedule | CodedPanelSchedule
_ROWS = (1, 2, 3, 4, 6, 8, 12)
_VECTORS = (1, 2, 4, 8)
#: Codes of more bits are not worth being taken apart.
_MOST_PLANES = 4
#: Up to so many bits tables of float32 are faster than decoding.
_LOOKED_UP = 3
#: From so many rows on, a panel is decoded once for all of them.
_MANY_ROWS = 16
#: Bytes of float32 tables for each element.
_TABLE_BYTES = 16


def lower_coded(body: Graph, node: Node, machine: Machine, given: Schedule | None = None) -> Kernel:
    """`x` times weights in few bits."""
    if isinstance(given, CodedDotSchedule):
        return lower_dot(body, node, machine, given)
    if isinstance(given, CodedPanelSchedule):
        return lower_panel(body, node, machine, given)
    if isinstance(given, CodedLookupSchedule):
        return lower_lookup(body, node, machine, given)
    return lower_direct(body, node, machine, checked(given, CodedSchedule))


def coded_space(node: Node, machine: Machine, numerics: Numerics) -> Space:
    """Codes that are integers may be multiplied in other ways than by decoding them. Nothing is predicted of any."""
    shape = CodedShape(node, machine)
    default = _default(shape, machine, numerics)
    tile = {
        "rows": tuple(sorted({r for r in _ROWS if r <= shape.rows} | {default.rows})),
        "vectors": tuple(sorted({v for v in _VECTORS if v <= -(-shape.columns // shape.lanes)} | {default.vectors})),
    }

    def legal(knobs: Mapping[str, Any]) -> bool:
        return bool(knobs["vectors"] * (knobs["rows"] + 1) + 2 <= machine.vector_registers)

    def near(knobs: Mapping[str, Any]) -> bool:
        small = shape.rows * shape.depth * _TABLE_BYTES <= machine.l2 // 2
        return small and legal(knobs)

    algorithms = [Algorithm(CodedSchedule.kind, tile, legal)]
    if shape.rows > 1 and shape.depth:
        algorithms.append(Algorithm(CodedPanelSchedule.kind, tile, lambda knobs: legal(knobs) and _stays_near(
            shape, knobs["vectors"], machine)))  # fmt: skip
    if tables := _tables(shape, machine, numerics):
        algorithms.append(Algorithm(CodedLookupSchedule.kind, {**tile, "tables": tables}, near))
    if _rounds(shape, machine, numerics):
        algorithms.append(Algorithm(CodedDotSchedule.kind, tile, legal))
    return Space(tuple(algorithms), default.to_json(), predicted=False)


def _stays_near(shape: CodedShape, vectors: int, machine: Machine) -> bool:
    """Whether a decoded panel fits beside what else a core has near."""
    return shape.depth * vectors * shape.lanes * 4 <= machine.l2 // 2


def _in_chunks(shape: CodedShape) -> bool:
    """Shorter blocks leave gaps in the chunks that kernels prepare."""
    return shape.is_integer and shape.depth > 0 and (shape.group % CHUNK == 0 or shape.groups == 1)


def _tables(shape: CodedShape, machine: Machine, numerics: Numerics) -> tuple[str, ...]:
    if not _in_chunks(shape) or shape.width > _MOST_PLANES:
        return ()
    wanted = ("float32", "int8") if numerics == "fast" else ("float32",)
    return tuple(kind for kind in wanted if can_look_up(machine, kind))


def _rounds(shape: CodedShape, machine: Machine, numerics: Numerics) -> bool:
    return _in_chunks(shape) and numerics == "fast" and machine.multiplies_bytes


def _default(shape: CodedShape, machine: Machine, numerics: Numerics) -> _Tiled:
    """Of a vector, two bits are looked up in tables of float32 faster than decoded; bytes beat both."""
    plain = coded_schedule(shape, machine)
    many = shape.rows >= _MANY_ROWS
    # Codes in several parts are multiplied part by part, for each row.
    if _rounds(shape, machine, numerics) and (len(PARTS[shape.width]) == 1 or not many):
        return CodedDotSchedule(plain.rows, plain.vectors)
    few = shape.rows == 1 and shape.width <= _LOOKED_UP
    if few and shape.depth * _TABLE_BYTES <= machine.l2 // 2 and "float32" in _tables(shape, machine, numerics):
        return CodedLookupSchedule(plain.rows, plain.vectors, "float32")
    if many and shape.depth:
        tile = matmul_schedule(shape.rows, shape.depth, shape.columns, shape.lanes, machine)
        vectors = next((v for v in (tile.vectors, 2, 1) if _stays_near(shape, v, machine)), 0)
        if vectors:
            return CodedPanelSchedule(tile.rows if vectors == tile.vectors else plain.rows, vectors)
    return plain
