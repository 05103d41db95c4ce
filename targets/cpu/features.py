"""What the cost model is told of a candidate, computed from workload, schedule and machine: nothing is lowered.

One row of numbers for each candidate, the columns named by `FEATURES`. Amounts are given as log2, since trees cut them
anyway and the baseline adds to them. The baseline is the analytic estimate in seconds; its parts are features too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cost_models.analytic import FMA_LATENCY, step_cycles
from targets.cpu.kernels import head
from targets.cpu.kernels.conv_shape import ConvShape
from targets.cpu.kernels.group import LONG
from targets.cpu.machine import Machine
from targets.cpu.schedules import lanes_of
from tensorc.ir import Graph, Kind, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.ops import OPS

#: Cycles a second that the estimate supposes; the model learns the machine's own rate.
_HERTZ = 3e9
#: Bytes a cycle from the second-level cache, from beyond it.
_L2_RATE, _MEMORY_RATE = 32.0, 5.0
#: Cycles to enter a tile, and for each accumulator to clear and store it.
_TILE_CYCLES, _ACCUMULATOR_CYCLES = 30.0, 3.0

KINDS = ("conv", "depthwise", "matmul", "product", "winograd")
BASELINE = "log2_estimate"
_WORKLOAD = (
    "threads", "lanes", "registers", "log2_l1", "log2_l2", "log2_flops", "log2_pixels", "log2_channels", "log2_depth",
    "taps", "stride", "log2_groups", "plain", "valid", "log2_weight_bytes", "log2_input_bytes", "log2_output_bytes",
    "epilogue", "epilogue_long", "log2_epilogue_bytes", "log2_intensity",
)  # fmt: skip
_SCHEDULE = (
    *KINDS, "tile_rows", "tile_columns", "tile_pixels", "tile_vectors", "accumulators", "spare_registers",
    "taps_inside", "log2_unroll", "outer_pixels", "variant", "strip", "pixel_fill", "vector_fill", "last_columns",
    "last_vectors", "loads_per_fma", "latency_bound", "log2_code", "log2_tasks", "balance", "log2_strip_bytes",
    "strip_in_l1", "strip_in_l2", "log2_tile_input_bytes", "log2_weight_traffic", "log2_input_traffic",
    "log2_compute_cycles", "log2_memory_cycles", BASELINE,
)  # fmt: skip
FEATURES = (*_WORKLOAD, *_SCHEDULE)


@dataclass(frozen=True)
class _Problem:
    """A workload as a product: `rows` x `columns` pixels by `vectors` of channels in each of `groups`, each a sum over
    `channels` x `taps` products, a share `valid` of them not by padding. Bytes of what is read and written."""

    batch: int
    rows: int
    columns: int
    vectors: int
    groups: int
    channels: int
    kh: int
    kw: int
    stride: int
    plain: bool
    valid: float
    lanes: int
    weight_bytes: int
    input_bytes: int
    output_bytes: int

    @property
    def pixels(self) -> int:
        return self.batch * self.rows * self.columns

    @property
    def depth(self) -> int:
        return self.channels * self.kh * self.kw


def features(body: Graph, machine: Machine, threads: int, schedules: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """[schedules, features] in float32, for schedules from the body's space."""
    node = head(body)
    assert node is not None
    problem = _problem(node, machine)
    workload = _workload_features(body, node, problem, machine, threads)
    rows = np.empty((len(schedules), len(FEATURES)), np.float32)
    rows[:, : len(_WORKLOAD)] = [workload[name] for name in _WORKLOAD]
    columns = _schedule_features(problem, machine, threads, schedules)
    for number, name in enumerate(_SCHEDULE, start=len(_WORKLOAD)):
        rows[:, number] = columns[name]
    return rows


def _problem(node: Node, machine: Machine) -> _Problem:
    x, w = node.inputs
    inputs, outputs = x.type.nbytes, node.output.type.nbytes
    if node.op == "conv_blocked":
        shape = ConvShape(node)
        valid = _valid(shape.row_runs(1), shape.kh, shape.out_h) * _valid(shape.column_runs(1), shape.kw, shape.out_w)
        depthwise = bool(node.attrs["depthwise"])
        return _Problem(
            shape.batch, shape.out_h, shape.out_w, shape.blocks_per_group, shape.groups,
            1 if depthwise else shape.channels, shape.kh, shape.kw, shape.strides[1], shape.plain, valid, shape.lanes,
            w.type.nbytes, inputs, outputs,
        )  # fmt: skip
    lanes = lanes_of(machine, node.output.dtype)
    *lead, rows, columns = (1, *static_shape(node.output.shape))
    batch = 1 if node.op == "matmul_packed" else math.prod(lead)
    if node.op == "matmul_packed":
        rows *= math.prod(lead)
    depth = static_shape(x.shape)[-1]
    return _Problem(batch, 1, rows, -(-columns // lanes), 1, depth, 1, 1, 1, False, 1.0, lanes, w.type.nbytes, inputs,
                    outputs)  # fmt: skip


def _valid(runs: Sequence[Any], taps: int, extent: int) -> float:
    """The share of (position, tap) pairs that lie in the image."""
    inside: int = sum(run.count * (high - low) for run in runs for low, high in run.inside)
    return inside / (taps * extent)


def _workload_features(body: Graph, node: Node, p: _Problem, machine: Machine, threads: int) -> dict[str, float]:
    after = [n for n in body.nodes if n is not node and OPS[n.op].kind is Kind.ELEMENTWISE]
    others = sum(v.type.nbytes for v in body.inputs if v not in node.inputs)
    flops = 2 * p.pixels * p.vectors * p.groups * p.lanes * p.depth
    return {
        "threads": threads,
        "lanes": p.lanes,
        "registers": machine.vector_registers,
        "log2_l1": math.log2(machine.l1),
        "log2_l2": math.log2(machine.l2),
        "log2_flops": _log2(flops),
        "log2_pixels": _log2(p.pixels),
        "log2_channels": _log2(p.vectors * p.groups * p.lanes),
        "log2_depth": _log2(p.depth),
        "taps": p.kh * p.kw,
        "stride": p.stride,
        "log2_groups": _log2(p.groups),
        "plain": p.plain,
        "valid": p.valid,
        "log2_weight_bytes": _log2(p.weight_bytes),
        "log2_input_bytes": _log2(p.input_bytes),
        "log2_output_bytes": _log2(p.output_bytes),
        "epilogue": len(after),
        "epilogue_long": sum(n.op in LONG for n in after),
        "log2_epilogue_bytes": _log2(1 + others),
        "log2_intensity": _log2(flops / (p.weight_bytes + p.input_bytes + p.output_bytes)),
    }


def _log2(amount: float) -> float:
    return math.log2(max(amount, 1e-9))


def _schedule_features(p: _Problem, machine: Machine, threads: int,
                       schedules: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:  # fmt: skip
    def knob(name: str, default: float) -> np.ndarray:
        return np.array([s.get(name, default) for s in schedules], np.float64)

    def chosen(name: str, value: str) -> np.ndarray:
        return np.array([s.get(name) == value for s in schedules], np.float64)

    kinds = {kind: chosen("kind", kind) for kind in KINDS}
    # A product's rows are pixels in one line; they are the tile's columns here.
    lines = np.array([s["kind"] in ("matmul", "product") for s in schedules])
    rows = np.where(lines, 1, np.minimum(knob("rows", 1), p.rows))
    columns = np.minimum(np.where(lines, knob("rows", 1), knob("columns", 1)), p.columns)
    vectors = np.minimum(knob("vectors", 1), p.vectors)
    unroll = knob("unroll", 1)
    pixels = rows * columns
    by_pixels = np.maximum(chosen("outer", "pixels"), chosen("outer", "rows"))

    row_tiles, column_tiles = np.ceil(p.rows / rows), np.ceil(p.columns / columns)
    strips = np.ceil(p.vectors / vectors) * p.groups
    tiles = p.batch * row_tiles * column_tiles
    depth = p.depth * p.valid
    last_rows, last_columns = p.rows - (row_tiles - 1) * rows, p.columns - (column_tiles - 1) * columns
    last_vectors = p.vectors - (np.ceil(p.vectors / vectors) - 1) * vectors

    # Cycles over whole tiles and the three kinds of tails.
    compute = np.zeros(len(schedules))
    for r, r_count in ((rows, row_tiles - 1), (last_rows, 1)):
        for c, c_count in ((columns, column_tiles - 1), (last_columns, 1)):
            for v, v_count in ((vectors, strips / p.groups - 1), (last_vectors, 1)):
                count = p.batch * p.groups * r_count * c_count * v_count
                step = step_cycles(r * c, v) + 1 / unroll
                compute += count * (step * depth + _TILE_CYCLES + _ACCUMULATOR_CYCLES * r * c * v)
    # A depthwise tap is loaded as often as it is multiplied with.
    compute = np.where(kinds["depthwise"] > 0, compute * 1.5, compute)

    line = p.lanes * 4
    strip_bytes = p.depth * vectors * line
    tile_input = (rows - 1 + p.kh) * ((columns - 1) * p.stride + p.kw) * p.channels * 4
    weight_traffic = tiles * strips * strip_bytes
    input_traffic = strips * p.input_bytes
    shared = np.where(lines | (p.rows == 1), row_tiles * column_tiles, row_tiles)
    tasks = np.where(kinds["product"] > 0, p.batch, strips * p.batch * shared)
    balance = tasks / (np.ceil(tasks / threads) * threads)
    # Weights come from memory once, or for each row of tiles where they outgrow the cache and pixels go slowest.
    again = np.where((by_pixels > 0) & (p.weight_bytes > machine.l2), p.batch * row_tiles, 1)
    inputs_again = np.where((by_pixels == 0) & (p.input_bytes > machine.l2), strips, 1)
    memory = (p.weight_bytes * again + p.input_bytes * inputs_again + p.output_bytes) / _MEMORY_RATE
    memory = memory + (weight_traffic * (strip_bytes > machine.l1) + input_traffic) / _L2_RATE / 4
    cycles = np.maximum(compute, memory) + 0.3 * np.minimum(compute, memory)
    parallel = np.minimum(tasks, threads) * balance
    columns_of: dict[str, np.ndarray] = {
        **kinds,
        "tile_rows": rows,
        "tile_columns": columns,
        "tile_pixels": pixels,
        "tile_vectors": vectors,
        "accumulators": pixels * vectors,
        "spare_registers": machine.vector_registers - pixels * vectors - vectors - 1,
        "taps_inside": chosen("order", "taps"),
        "log2_unroll": np.log2(unroll),
        "outer_pixels": by_pixels,
        "variant": knob("tile", 0),
        "strip": knob("strip", 0),
        "pixel_fill": p.rows * p.columns / (row_tiles * column_tiles * pixels),
        "vector_fill": p.vectors * p.groups / (strips * vectors),
        "last_columns": last_columns,
        "last_vectors": last_vectors,
        "loads_per_fma": (pixels + vectors) / (pixels * vectors),
        "latency_bound": pixels * vectors / (2 * FMA_LATENCY),
        "log2_code": np.log2(pixels * vectors * unroll),
        "log2_tasks": np.log2(tasks),
        "balance": balance,
        "log2_strip_bytes": np.log2(strip_bytes),
        "strip_in_l1": np.log2(strip_bytes / machine.l1),
        "strip_in_l2": np.log2(strip_bytes / machine.l2),
        "log2_tile_input_bytes": np.log2(tile_input),
        "log2_weight_traffic": np.log2(weight_traffic),
        "log2_input_traffic": np.log2(input_traffic),
        "log2_compute_cycles": np.log2(compute),
        "log2_memory_cycles": np.log2(memory),
        BASELINE: np.log2(cycles / _HERTZ / np.maximum(parallel, 1)),
    }
    return columns_of
