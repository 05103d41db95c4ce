"""What the cost model is told of a candidate, computed from workload, schedule and machine: nothing is lowered.

One row of numbers for each candidate, the columns named by `FEATURES`. Amounts are given as log2, since trees cut them
anyway and the baseline adds to them. The baseline is the analytic estimate in seconds; its parts are features too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from cost_models.analytic import FMA_LATENCY, step_cycles
from targets.cpu.kernels import head
from targets.cpu.kernels.conv_shape import ConvShape
from targets.cpu.kernels.group import LONG
from targets.cpu.kernels.products import together
from targets.cpu.machine import Machine
from targets.cpu.schedules import lanes_of
from tensorc.ir import Graph, Kind, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.ops import OPS

#: Cycles a second that the estimate supposes; the model learns the machine's own rate.
_HERTZ = 3e9
#: Bytes a cycle from the second-level cache, from the third, from memory.
_L2_RATE, _L3_RATE, _MEMORY_RATE = 32.0, 10.0, 5.0
#: Cycles to enter a tile, and for each accumulator to clear and store it.
_TILE_CYCLES, _ACCUMULATOR_CYCLES = 30.0, 3.0
#: Cycles to transform one vector of one point of an image tile for Winograd's products, and back.
_TRANSFORM_IN, _TRANSFORM_OUT = 5.0, 3.0

KINDS = ("attention", "blocked_matmul", "conv", "depthwise", "matmul", "product", "winograd")
BASELINE = "log2_estimate"
_WORKLOAD = (
    "threads", "lanes", "registers", "log2_l1", "log2_l2", "log2_flops", "log2_pixels", "log2_channels", "log2_depth",
    "taps", "stride", "log2_groups", "plain", "valid", "log2_weight_bytes", "log2_input_bytes", "log2_output_bytes",
    "epilogue", "epilogue_long", "log2_epilogue_bytes", "log2_intensity", "moves",
)  # fmt: skip
_SCHEDULE = (
    *KINDS, "tile_rows", "tile_columns", "tile_pixels", "tile_vectors", "accumulators", "spare_registers",
    "taps_inside", "log2_unroll", "outer_pixels", "variant", "log2_block_depth", "panels", "strip", "pixel_fill",
    "vector_fill", "last_columns", "last_vectors", "loads_per_fma", "latency_bound", "log2_code", "log2_tasks",
    "balance", "log2_strip_bytes", "strip_in_l1", "strip_in_l2", "log2_tile_input_bytes", "log2_weight_traffic",
    "log2_input_traffic", "log2_compute_cycles", "log2_memory_cycles", BASELINE,
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
    x, w = node.inputs[:2]
    inputs, outputs = x.type.nbytes, node.output.type.nbytes
    if node.op == "conv_blocked":
        shape = ConvShape(node, machine)
        valid = _valid(shape.row_runs(1), shape.kh, shape.out_h) * _valid(shape.column_runs(1), shape.kw, shape.out_w)
        depthwise = bool(node.attrs["depthwise"])
        return _Problem(
            shape.batch, shape.out_h, shape.out_w, shape.blocks_per_group, shape.groups,
            1 if depthwise else shape.channels, shape.kh, shape.kw, shape.strides[1], shape.plain, valid, shape.lanes,
            w.type.nbytes, inputs, outputs,
        )  # fmt: skip
    lanes = lanes_of(machine, node.output.dtype)
    if node.op == "attention":
        return _attention(node, lanes)
    *lead, rows, columns = (1, *static_shape(node.output.shape))
    by_weights = node.op in ("matmul_packed", "matmul_coded")
    batch = 1 if by_weights else math.prod(lead)
    if by_weights:
        rows *= math.prod(lead)
    depth = static_shape(x.shape)[-1] // (together(x, w, machine) if node.op == "matmul_packed" else 1)
    return _Problem(batch, 1, rows, -(-columns // lanes), 1, depth, 1, 1, 1, False, 1.0, lanes, w.type.nbytes, inputs,
                    outputs)  # fmt: skip


def _attention(node: Node, lanes: int) -> _Problem:
    """Both products as one of queries by keys, whose sums are as long as theirs together."""
    q, k, v = node.inputs[:3]
    (batch, queries, heads, depth), (_, keys, _, width) = static_shape(q.shape), static_shape(v.shape)
    return _Problem(batch * heads, 1, queries, -(-keys // lanes), 1, depth + width, 1, 1, 1, False, 1.0, lanes,
                    k.type.nbytes + v.type.nbytes, q.type.nbytes, node.output.type.nbytes)  # fmt: skip


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
        "moves": sum(OPS[n.op].kind in (Kind.INJECTIVE, Kind.VIEW) for n in body.nodes),
        "log2_intensity": _log2(flops / (p.weight_bytes + p.input_bytes + p.output_bytes)),
    }


def _log2(amount: float) -> float:
    return math.log2(max(amount, 1e-9))


@dataclass(frozen=True)
class _Loops:
    """What candidates' loops amount to, an element for each candidate. A register tile is `pixels` (in `lines` rows)
    by `vectors`; `tiles` of them cover the pixels once. Bytes and cycles are of one run on one thread."""

    lines: np.ndarray
    pixels: np.ndarray
    last_pixels: np.ndarray
    vectors: np.ndarray
    tiles: np.ndarray
    tasks: np.ndarray
    compute: np.ndarray
    pixel_fill: np.ndarray
    strip_bytes: np.ndarray
    tile_input_bytes: np.ndarray
    weight_bytes: np.ndarray
    weight_traffic: np.ndarray
    input_traffic: np.ndarray
    memory: np.ndarray


def _schedule_features(p: _Problem, machine: Machine, threads: int,
                       schedules: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:  # fmt: skip
    knobs = _Knobs(schedules)
    kinds = {kind: knobs.chosen("kind", kind) for kind in KINDS}
    winograd = kinds["winograd"] > 0
    direct, turned = _direct(p, machine, knobs), _winograd(p, machine, knobs)
    loops = _Loops(*(np.where(winograd, b, a) for a, b in zip(astuple(direct), astuple(turned), strict=True)))
    vectors, pixels = loops.vectors, loops.pixels
    strips = np.ceil(p.vectors / vectors)
    balance = loops.tasks / (np.ceil(loops.tasks / threads) * threads)
    slower, faster = np.maximum(loops.compute, loops.memory), np.minimum(loops.compute, loops.memory)
    parallel = np.maximum(np.minimum(loops.tasks, threads) * balance, 1)
    return {
        **kinds,
        "tile_rows": loops.lines,
        "tile_columns": pixels / loops.lines,
        "tile_pixels": pixels,
        "tile_vectors": vectors,
        "accumulators": pixels * vectors,
        "spare_registers": machine.vector_registers - pixels * vectors - vectors - 1,
        "taps_inside": knobs.chosen("order", "taps"),
        "log2_unroll": np.log2(knobs.number("unroll", 1)),
        "outer_pixels": knobs.by_pixels,
        "variant": knobs.number("tile", 0) + knobs.number("values", 0),
        "log2_block_depth": np.log2(np.minimum(knobs.number("depth", p.depth), p.depth)),
        "panels": knobs.number("panels", 1),
        "strip": knobs.number("strip", 0),
        "pixel_fill": loops.pixel_fill,
        "vector_fill": p.vectors / (strips * vectors),
        "last_columns": loops.last_pixels,
        "last_vectors": p.vectors - (strips - 1) * vectors,
        "loads_per_fma": (pixels + vectors) / (pixels * vectors),
        "latency_bound": pixels * vectors / (2 * FMA_LATENCY),
        "log2_code": np.log2(pixels * vectors * knobs.number("unroll", 1)),
        "log2_tasks": np.log2(loops.tasks),
        "balance": balance,
        "log2_strip_bytes": np.log2(loops.strip_bytes),
        "strip_in_l1": np.log2(loops.strip_bytes / machine.l1),
        "strip_in_l2": np.log2(loops.strip_bytes / machine.l2),
        "log2_tile_input_bytes": np.log2(loops.tile_input_bytes),
        "log2_weight_traffic": np.log2(loops.weight_traffic),
        "log2_input_traffic": np.log2(loops.input_traffic),
        "log2_compute_cycles": np.log2(loops.compute),
        "log2_memory_cycles": np.log2(loops.memory),
        BASELINE: np.log2((slower + 0.3 * faster) / _HERTZ / parallel),
    }


class _Knobs:
    """The knobs of many schedules, as arrays."""

    def __init__(self, schedules: Sequence[Mapping[str, Any]]):
        self.schedules = schedules
        self.by_pixels = np.maximum(self.chosen("outer", "pixels"), self.chosen("outer", "rows"))
        #: A task is one matrix of a batch.
        self.by_images = self.chosen("kind", "product") + self.chosen("kind", "attention") > 0

    def number(self, name: str, default: float) -> np.ndarray:
        return np.array([s.get(name, default) for s in self.schedules], np.float64)

    def chosen(self, name: str, value: str) -> np.ndarray:
        return np.array([s.get(name) == value for s in self.schedules], np.float64)


def _tile_cycles(pixels: np.ndarray, vectors: np.ndarray, depth: float, unroll: np.ndarray | float) -> np.ndarray:
    total: np.ndarray = (step_cycles(pixels, vectors) + 1 / unroll) * depth
    total += _TILE_CYCLES + _ACCUMULATOR_CYCLES * pixels * vectors
    return total


def _direct(p: _Problem, machine: Machine, knobs: _Knobs) -> _Loops:
    """Every kind but Winograd's. A product's rows are pixels in one line; they are the tile's columns here."""
    blocked = knobs.chosen("kind", "blocked_matmul") > 0
    line = blocked | (knobs.chosen("kind", "matmul") > 0) | knobs.by_images
    rows = np.where(line, 1, np.minimum(knobs.number("rows", 1), p.rows))
    columns = np.minimum(np.where(line, knobs.number("rows", 1), knobs.number("columns", 1)), p.columns)
    vectors = np.minimum(knobs.number("vectors", 1), p.vectors)
    row_tiles, column_tiles = np.ceil(p.rows / rows), np.ceil(p.columns / columns)
    strips = np.ceil(p.vectors / vectors)
    last_rows, last_columns = p.rows - (row_tiles - 1) * rows, p.columns - (column_tiles - 1) * columns
    last_vectors = p.vectors - (strips - 1) * vectors

    # Whole tiles and the three kinds of tails.
    compute = np.zeros(len(rows))
    for r, r_count in ((rows, row_tiles - 1), (last_rows, 1)):
        for c, c_count in ((columns, column_tiles - 1), (last_columns, 1)):
            for v, v_count in ((vectors, strips - 1), (last_vectors, 1)):
                count = p.batch * p.groups * r_count * c_count * v_count
                compute += count * _tile_cycles(r * c, v, p.depth * p.valid, knobs.number("unroll", 1))
    # A depthwise tap is loaded as often as it is multiplied with.
    compute *= 1 + 0.5 * knobs.chosen("kind", "depthwise")

    tiles = p.batch * row_tiles * column_tiles
    # A product's blocks cost sums that wait, and save reading the other operand from far for each panel.
    panels, block = knobs.number("panels", 1), np.minimum(knobs.number("depth", p.depth), p.depth)
    blocks = np.ceil(p.depth / block)
    compute += blocked * (blocks - 1) * p.pixels * strips * vectors * _ACCUMULATOR_CYCLES / 2
    strip_bytes = block * vectors * p.lanes * 4
    weight_traffic = tiles * strips * p.groups * strip_bytes * blocks
    input_traffic = strips * p.input_bytes
    far = line & (p.input_bytes + panels * p.depth * vectors * p.lanes * 4 > 0.75 * machine.l2)
    shared = np.where(line | (p.rows == 1), row_tiles * column_tiles, row_tiles)
    tasks = np.where(knobs.by_images, p.batch, strips * p.groups * p.batch * shared)
    tasks = np.where(blocked, np.ceil(strips / panels), tasks)
    # Weights come from memory once, or for each row of tiles where they outgrow the cache and pixels go slowest.
    again = np.where((knobs.by_pixels > 0) & (p.weight_bytes > machine.l2), p.batch * row_tiles, 1)
    inputs_again = np.where((knobs.by_pixels == 0) & (p.input_bytes > machine.l2), strips, 1)
    memory = (p.weight_bytes * again + p.input_bytes * inputs_again + p.output_bytes) / _MEMORY_RATE
    memory += (weight_traffic * (strip_bytes > machine.l1) + input_traffic) / _L2_RATE / 4
    memory += far * input_traffic / panels / _L3_RATE
    return _Loops(
        lines=rows,
        pixels=rows * columns,
        last_pixels=last_columns,
        vectors=vectors,
        tiles=tiles,
        tasks=tasks,
        compute=compute,
        pixel_fill=p.rows * p.columns / (row_tiles * column_tiles * rows * columns),
        strip_bytes=strip_bytes,
        tile_input_bytes=(rows - 1 + p.kh) * ((columns - 1) * p.stride + p.kw) * p.channels * 4,
        weight_bytes=np.full(len(rows), p.weight_bytes),
        weight_traffic=weight_traffic,
        input_traffic=input_traffic,
        memory=memory,
    )


def _winograd(p: _Problem, machine: Machine, knobs: _Knobs) -> _Loops:
    """Products of image tiles by channels, one for each of a tile's points, and the transforms around them."""
    size = np.maximum(knobs.number("tile", 2), 1)
    points = (size + 2) ** 2
    images = p.batch * np.ceil(p.rows / size) * np.ceil(p.columns / size)
    rows = np.minimum(knobs.number("rows", 1), images)
    vectors = np.minimum(knobs.number("vectors", 1), p.vectors)
    tiles, strips = np.ceil(images / rows), np.ceil(p.vectors / vectors)
    last, last_vectors = images - (tiles - 1) * rows, p.vectors - (strips - 1) * vectors
    compute = np.zeros(len(rows))
    for r, r_count in ((rows, tiles - 1), (last, 1)):
        for v, v_count in ((vectors, strips - 1), (last_vectors, 1)):
            compute += points * r_count * v_count * _tile_cycles(r, v, p.channels, 4.0)
    shares = knobs.number("shares", 1)
    in_blocks = p.channels / p.lanes
    compute += images * points * (_TRANSFORM_IN * in_blocks * shares + _TRANSFORM_OUT * p.vectors)

    together = np.minimum(knobs.number("strip", 1) * rows, images)
    passes = np.ceil(images / together)
    width = vectors * p.lanes
    weight_bytes = 4 * points * p.channels * p.vectors * p.lanes
    scratch = 4 * points * together * (p.channels + width)
    weight_traffic = tiles * weight_bytes
    again = np.where(weight_bytes > machine.l2, passes, 1)
    memory = (weight_bytes * again + p.input_bytes * shares + p.output_bytes) / _MEMORY_RATE
    memory += (weight_traffic + passes * scratch * np.where(scratch > machine.l2, 8, 2)) / _L2_RATE / 4
    return _Loops(
        lines=np.ones(len(rows)),
        pixels=rows,
        last_pixels=last,
        vectors=vectors,
        tiles=tiles,
        tasks=passes * shares,
        compute=compute,
        pixel_fill=p.batch * p.rows * p.columns / (images * size**2),
        strip_bytes=4 * p.channels * width,
        tile_input_bytes=scratch,
        weight_bytes=weight_bytes,
        weight_traffic=weight_traffic,
        input_traffic=p.input_bytes * shares,
        memory=memory,
    )
