"""Fused attention: scores, softmax and the weighted sum of values, a few queries at a time, nothing written between.

A task is one head of one image. The keys are gathered once into panels of scratch memory, as packed weights are; then
for each tile of queries the scores fill a strip of scratch memory (never the whole square), are normalised there, and
weigh the rows of the values, which are read where they lie.
"""

from __future__ import annotations

from targets.cpu.kernels.group import GroupKernel, Kernel
from targets.cpu.kernels.matmul import _Tile
from targets.cpu.kernels.reduction import fold
from targets.cpu.machine import Machine
from targets.cpu.schedules import AttentionSchedule, attention_schedule, lanes_of
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.lowering import tir
from tensorc.lowering.tir import Expr, const
from tensorc.search.schedule import Schedule, checked


def lower_attention(body: Graph, node: Node, machine: Machine, given: Schedule | None = None) -> Kernel:
    if node.output.dtype not in ("float16", "float32"):
        raise UnsupportedError(f"attention of {node.output.dtype} is not lowered")
    group = GroupKernel(body, machine)
    builder, elements = group.builder, group.elements
    q, k, v, *masks = node.inputs
    batch, queries, heads, depth = static_shape(q.shape)
    _, keys, key_heads, value_depth = static_shape(v.shape)
    lanes = lanes_of(machine, "float32")
    shared = heads // key_heads
    padded = -(-keys // lanes) * lanes
    schedule = checked(given, AttentionSchedule) or attention_schedule(
        queries, depth, keys, value_depth, lanes, machine
    )
    rows = schedule.rows
    panels = depth * padded
    scratch = group.scratch("float32", panels + rows * padded + rows)
    scale = const(node.attrs["scale"], "float32")

    def key_at(s: Expr, d: Expr) -> Expr:
        return d * padded + s

    def score_at(i: Expr, s: Expr) -> Expr:
        return panels + i * padded + s

    with builder.tasks() as task:
        image, head = builder.bind(tir.floor_div(task, heads)), builder.bind(tir.floor_mod(task, heads))
        key_head = builder.bind(tir.floor_div(head, shared)) if shared > 1 else head
        with builder.serial(keys, name="s") as s, builder.serial(depth, name="d") as d:
            key = elements.evaluate(k, [image, s, key_head, d])
            builder.store(scratch, tir.cast(key, "float32"), key_at(s, d))
        if padded > keys:
            with builder.serial(depth, name="d") as d, builder.serial(padded - keys, keys, name="s") as s:
                builder.store(scratch, const(0, "float32"), key_at(s, d))

        def score_strip(first: Expr, count: int, column: Expr, vectors: int) -> None:
            tile = _Tile(group, node, lanes, count, vectors)
            tile.clear()
            with builder.serial(depth, name="d") as d:
                tile.step(
                    lambda i: elements.evaluate(q, [image, first + i, head, d]),
                    lambda j, lane: builder.load(scratch, key_at(column + j * lanes + lane, d)),
                )
            with builder.unrolled(count) as i, builder.unrolled(vectors) as j, builder.vector(lanes) as lane:
                value = builder.load(tile.acc, (i * vectors + j) * lanes + lane) * scale
                builder.store(scratch, value, score_at(i, column + j * lanes + lane))

        def scores(first: Expr, count: int) -> None:
            whole, rest = divmod(padded // lanes, schedule.vectors)
            if whole:
                with builder.serial(whole, name="panel") as panel:
                    score_strip(first, count, panel * (schedule.vectors * lanes), schedule.vectors)
            if rest:
                score_strip(first, count, whole * schedule.vectors * lanes, rest)

        def normalise(first: Expr, count: int) -> None:
            with builder.serial(count, name="row") as i:

                def masked(s: Expr) -> Expr:
                    value = builder.load(scratch, score_at(i, s))
                    if masks:
                        mask = static_shape(masks[0].shape)
                        index = [image, head, first + i, s][4 - len(mask) :]
                        places = [0 if extent == 1 else p for extent, p in zip(mask, index, strict=True)]
                        value = builder.keep(value + tir.cast(elements.evaluate(masks[0], places), "float32"))
                        builder.store(scratch, value, score_at(i, s))
                    return value

                top = fold(builder, "max", "float32", keys, lanes, masked)

                def power(s: Expr) -> Expr:
                    value = builder.keep(elements.math.exp(builder.load(scratch, score_at(i, s)) - top))
                    builder.store(scratch, value, score_at(i, s))
                    return value

                total = fold(builder, "sum", "float32", keys, lanes, power)
                builder.store(scratch, const(1, "float32") / total, panels + rows * padded + i)

        def weigh_columns(first: Expr, count: int, column: int, vectors: int, width: int) -> None:
            """`vectors` of `width` columns of the result from `column` on."""
            tile = _Tile(group, node, width, count, vectors)
            tile.clear()
            with builder.serial(keys, name="s") as s:
                tile.step(
                    lambda i: builder.load(scratch, score_at(i, s)),
                    lambda j, lane: elements.evaluate(v, [image, s, key_head, column + j * width + lane]),
                )
            acc, loop = group.epilogue(tile.acc, count * vectors, width)
            with loop(count) as i:
                share = builder.keep(builder.load(scratch, panels + rows * padded + i))
                with loop(vectors) as j, builder.vector(width) as lane:
                    element = builder.load(acc, (i * vectors + j) * width + lane) * share
                    elements.define(node.output, tir.cast(element, node.output.dtype))
                    group.store_outputs([image, first + i, head, column + j * width + lane])

        def weigh(first: Expr, count: int) -> None:
            column = 0
            while column < value_depth:
                left = value_depth - column
                vectors, width = (min(schedule.values, left // lanes), lanes) if left >= lanes else (1, left)
                weigh_columns(first, count, column, vectors, width)
                column += vectors * width

        def strip(first: Expr, count: int) -> None:
            scores(first, count)
            normalise(first, count)
            weigh(first, count)

        full, tail = divmod(queries, rows)
        if full:
            with builder.serial(full, name="q") as tile_number:
                strip(tile_number * rows, rows)
        if tail:
            strip(full * rows, tail)
    return group.finish(batch * heads, schedule)
