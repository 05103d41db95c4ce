"""Matrix products: packed weights, and products of two computed matrices.

The tile of results stays in registers over the whole reduction: each step broadcasts one element of every row of A
against the panel's vectors. Tasks walk down a panel of weights before the next panel, so that the panel stays in the
second-level cache, and each task prefetches its share of the panel to come, which would otherwise be waited for
when its first tile starts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from targets.cpu.kernels.group import GroupKernel, Kernel, accumulator, vector_blocks
from targets.cpu.kernels.products import Products, in_steps, together
from targets.cpu.machine import Machine
from targets.cpu.schedules import (
    BlockedMatmulSchedule,
    MatmulSchedule,
    ProductSchedule,
    lanes_of,
    matmul_schedule,
    product_schedule,
)
from targets.packing import Packing
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.ops.layout import pack_matmul_weight
from tensorc.ir.types import numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Buffer, Expr, const
from tensorc.search.schedule import Schedule, checked

_CACHE_LINE = 64
#: How far ahead a kernel asks for weights that it reads once. Of 512 to 4096 the best for a row by 4096x4096, in any
#: type (an AVX-512 server core, 21 November 2026): a tenth less time in float32, a fifth in 16 bits.
_AHEAD_BYTES = 4096
#: Up to so many bytes a computed matrix is read as it lies, by one task; of a larger one a task takes strips of so many
#: bytes, which stay in the second-level cache while all rows meet them, and so few that there are so many tasks.
_NEAR_BYTES = 64 << 10
_STRIP_BYTES = 256 << 10
_TASKS = 16


class _Tile:
    """Accumulates one register tile and stores it through the group's epilogue. The sums begin with nothing, or where
    there is an `index` (row, column) of the result, which must lie in it for all of the tile, with what is added."""

    def __init__(self, group: GroupKernel, node: Node, lanes: int, rows: int, vectors: int,
                 index: Callable[[Expr, Expr], list[Expr]] | None = None):  # fmt: skip
        self.group = group
        self.node = node
        self.lanes = lanes
        self.rows = rows
        self.vectors = vectors
        self.dtype = accumulator(node.output.dtype)
        self.acc: Buffer = group.builder.registers(self.dtype, rows * vectors * lanes)
        self.sums, first = group.sums_of(node)
        if index is None:
            self.sums, first = node.output, lambda _: const(0, self.dtype)
        self.first: Callable[[Expr, Expr], Expr] = lambda i, column: first(index(i, column) if index else [])

    def at(self, row: Expr, vector: Expr, lane: Expr) -> Expr:
        return (row * self.vectors + vector) * self.lanes + lane

    def each(self, write: Callable[[Expr, Expr, Expr], None]) -> None:
        """write(row, vector, lane) for each vector of the tile."""
        builder = self.group.builder
        with builder.unrolled(self.rows) as i, builder.unrolled(self.vectors) as j, builder.vector(self.lanes) as lane:
            write(i, j, lane)

    def clear(self) -> None:
        builder = self.group.builder
        self.each(lambda i, j, lane: builder.store(self.acc, self.first(i, j * self.lanes + lane),
                                                   self.at(i, j, lane)))  # fmt: skip

    def multiply(self, products: Products, step: Callable[[Expr], list[Expr]], weight: Expr) -> None:
        """One step by packed weights: `step(row)` is its index in A, the panel's row of weights begins at `weight`."""
        builder = self.group.builder
        with builder.unrolled(self.rows) as i:
            scalar = builder.keep(products.step(step(i)))
            with builder.unrolled(self.vectors) as j:
                at = functools.partial(self.at, i, j)
                products.add(self.acc, at, scalar, weight + j * (self.lanes * products.together), self.lanes)

    def step(self, a: Callable[[Expr], Expr], b: Callable[[Expr, Expr], Expr]) -> None:
        """One step: a(row) is a scalar, b(vector, lane) an element of a row of B."""
        builder = self.group.builder
        with builder.unrolled(self.rows) as i:
            scalar = builder.keep(tir.cast(a(i), self.dtype))
            with builder.unrolled(self.vectors) as j, builder.vector(self.lanes) as lane:
                at = self.at(i, j, lane)
                builder.store(self.acc, builder.load(self.acc, at) + scalar * tir.cast(b(j, lane), self.dtype), at)

    def store(self, columns: int, index: Callable[[Expr, Expr], list[Expr]]) -> None:
        """Store the first `columns` columns of the tile; index(row, column) is the result's index."""
        builder, elements = self.group.builder, self.group.elements
        acc, loop = self.group.epilogue(self.acc, self.rows * self.vectors, self.lanes)
        whole, tail = divmod(columns, self.lanes)
        for first, count, lanes in ((0, whole, self.lanes), (whole, 1 if tail else 0, tail)):
            if not count:
                continue
            with loop(self.rows) as i, loop(count) as j, builder.vector(lanes) as lane:
                element = builder.load(acc, self.at(i, first + j, lane))
                elements.define(self.sums, tir.cast(element, self.sums.dtype))
                self.group.store_outputs(index(i, (first + j) * self.lanes + lane))


def pack_panels(shape: tuple[int, ...], columns: int, width: int, count: int = 1) -> Packing | None:
    """Panels [panels, K, block] of a product with `columns` columns repacked to panels of `width`, `count` steps of the
    reduction together; None if they are."""
    _, depth, block = shape
    if block == width and count == 1:
        return None

    def apply(data: np.ndarray) -> np.ndarray:
        plain = data.transpose(1, 0, 2).reshape(depth, -1)[:, :columns]
        return pack_matmul_weight(in_steps(plain, count), width * count)

    packed = (-(-columns // width), depth // count, width * count)
    return Packing(f"panels of {width} in {columns}", packed, apply)


def lower_matmul_packed(body: Graph, node: Node, machine: Machine, given: Schedule | None = None) -> Kernel:
    """A [.., K] times constant weights in panels, which the kernel has packed as wide as its tile."""
    if isinstance(given, BlockedMatmulSchedule):
        return _BlockedMatmul(body, node, machine, given).lower()
    a, b = node.inputs
    lanes = lanes_of(machine, node.output.dtype)
    *lead, columns = static_shape(node.output.shape)
    count = together(a, b, machine)
    rows, depth = math.prod(lead), b.shape[1] // count
    schedule = checked(given, MatmulSchedule) or matmul_schedule(rows, depth, columns, lanes, machine)
    if b not in body.inputs:
        raise UnsupportedError("the panels of a packed product must be an input of its group")
    tile_rows, vectors, unroll = schedule.rows, schedule.vectors, schedule.unroll
    width = vectors * lanes
    panels = -(-columns // width)
    group = GroupKernel(body, machine, {b: pack_panels(static_shape(b.shape), columns, width, count)})
    builder, panel = group.builder, group.buffers[b]
    products = Products(group, machine, a, b, accumulator(node.output.dtype))
    row_bytes = width * count * numpy_dtype(b.dtype).itemsize
    full, tail = divmod(rows, tile_rows)
    row_tiles = full + bool(tail)
    by_weights = schedule.outer == "weights"
    lines = -(-unroll * row_bytes // _CACHE_LINE // row_tiles) if row_tiles > 1 and by_weights else 0
    # Weights that are read once, and from far: what is near enough to be asked for early enough is in the same panel.
    far = row_tiles == 1 and math.prod(static_shape(b.shape)) * numpy_dtype(b.dtype).itemsize > machine.l2
    near = -(-unroll * row_bytes // _CACHE_LINE) if far else 0
    panel_elements = depth * width * count
    if by_weights and products.widens(row_tiles):
        products.hold_in(group.scratch("float32", panel_elements))

    with builder.tasks() as task:
        slow, fast = (
            (i if isinstance(i, int) else builder.bind(i))
            for i in unravel(task, [panels, row_tiles] if by_weights else [row_tiles, panels])
        )
        column_tile, row_tile = (slow, fast) if by_weights else (fast, slow)
        base = builder.bind(column_tile * panel_elements)
        weights = base
        if products.held is not None:  # the task before in this call has left them behind
            fresh = tir.logical("or", tir.compare("equal", row_tile, 0), tir.compare("equal", task, builder.begin))
            builder.when(fresh, lambda: products.widen(base, panel_elements, lanes))
            weights = 0

        def write(height: int) -> None:
            first = row_tile * tile_rows

            def place(i: Expr, column: Expr) -> list[Expr]:
                return [*unravel(first + i, lead), column_tile * width + column]

            tile = _Tile(group, node, lanes, height, vectors, None if columns % width else place)
            tile.clear()

            def step(k: Expr) -> None:
                tile.multiply(products, lambda i: [*unravel(first + i, lead), k], weights + k * (width * count))

            with builder.serial(depth // unroll, name="k") as outer:
                for line in range(near):
                    begin = base + outer * (unroll * width * count)
                    builder.prefetch(panel, begin + (_AHEAD_BYTES + line * _CACHE_LINE) * width * count // row_bytes)
                for line in range(lines):
                    ahead = (row_tile * (depth // unroll) + outer) * lines + line
                    next_panel = base + depth * width * count
                    builder.prefetch(panel, next_panel + ahead * (_CACHE_LINE * width * count // row_bytes))
                with builder.unrolled(unroll) as inner:
                    step(outer * unroll + inner)
            if depth % unroll:
                with builder.unrolled(depth % unroll) as inner:
                    step(depth // unroll * unroll + inner)

            def save(limit: int) -> None:
                tile.store(limit, place)

            last = columns - (panels - 1) * width
            if last == width:
                save(width)
            elif panels == 1:
                save(last)
            else:
                builder.when(column_tile < panels - 1, lambda: save(width), lambda: save(last))

        if not tail:
            write(tile_rows)
        elif not full:
            write(tail)
        else:
            builder.when(row_tile < full, lambda: write(tile_rows), lambda: write(tail))
    return group.finish(panels * row_tiles, schedule, {b: panels} if by_weights else None)


def pack_blocks(shape: tuple[int, ...], columns: int, width: int, panels: int, depth: int, count: int = 1) -> Packing:
    """Panels repacked in the order of `_BlockedMatmul`: for each `panels` of `width`, blocks of `depth` steps of the
    reduction (of `count` elements), in each of those the panels. The last panels are filled up with zeros."""
    blocks, elements, block = shape
    steps, wide_row = elements // count, width * count
    groups = -(-columns // (width * panels))

    def apply(data: np.ndarray) -> np.ndarray:
        plain = data.transpose(1, 0, 2).reshape(elements, blocks * block)[:, :columns]
        if missing := groups * panels * width - columns:
            plain = np.pad(plain, [(0, 0), (0, missing)])
        wide = in_steps(plain, count).reshape(steps, groups, panels, wide_row).transpose(1, 2, 0, 3)
        # Filled block by block: weights may be large, and each copy that lives at the same time counts.
        packed = np.empty((groups, panels * steps * wide_row), data.dtype)
        for k in range(0, steps, depth):
            part = wide[:, :, k : k + depth]
            start = panels * wide_row * k
            packed[:, start : start + panels * wide_row * part.shape[2]].reshape(part.shape)[...] = part
        return packed

    return Packing(f"{panels} panels of {width} in {columns} by {depth}", (groups, panels * steps * wide_row), apply)


class _BlockedMatmul:
    """A task is a few panels by all rows. Their weights are taken a block of the reduction at a time, small enough to
    stay in a near cache while all rows meet it; sums so far wait in scratch memory. Each block is followed in memory by
    the one that is needed next, which the row tiles ask for while they compute."""

    def __init__(self, body: Graph, node: Node, machine: Machine, schedule: BlockedMatmulSchedule):
        a, b = node.inputs
        if b not in body.inputs:
            raise UnsupportedError("the panels of a packed product must be an input of its group")
        self.node = node
        self.a = a
        self.schedule = schedule
        self.lanes = lanes_of(machine, node.output.dtype)
        self.width = schedule.vectors * self.lanes
        *self.lead, self.columns = static_shape(node.output.shape)
        count = together(a, b, machine)
        self.rows, self.depth = math.prod(self.lead), int(b.shape[1]) // count
        self.panels = -(-self.columns // self.width)
        self.tasks = -(-self.panels // schedule.panels)
        self.blocks = -(-self.depth // schedule.depth)
        packing = pack_blocks(static_shape(b.shape), self.columns, self.width, schedule.panels, schedule.depth, count)
        self.group = GroupKernel(body, machine, {b: packing})
        self.builder = self.group.builder
        self.weights = self.group.buffers[b]
        self.products = Products(self.group, machine, a, b, accumulator(node.output.dtype))
        #: Elements of a panel's weights for one step, and in a cache line.
        self.wide = self.width * count
        self.line = _CACHE_LINE // numpy_dtype(b.dtype).itemsize
        self.row_tiles = -(-self.rows // schedule.rows)
        sums = self.row_tiles * schedule.rows * schedule.panels * self.width
        held = schedule.depth * self.wide if self.products.widens(self.row_tiles) else 0
        self.sums = self.group.scratch(accumulator(node.output.dtype), sums + held)
        if held:
            self.products.hold_in(self.sums, sums)

    def lower(self) -> Kernel:
        builder, schedule = self.builder, self.schedule
        full, tail = divmod(self.rows, schedule.rows)
        with builder.tasks() as task:
            first = builder.bind(task * schedule.panels)
            here = builder.bind(tir.minimum(self.panels - first, schedule.panels))
            with builder.serial(self.blocks, name="kb") as kb:
                extent = builder.bind(tir.minimum(self.depth - kb * schedule.depth, schedule.depth))
                start = (task * self.depth + kb * schedule.depth) * (schedule.panels * self.wide)
                with builder.serial(here, name="p") as p:
                    base = builder.bind(start + p * (extent * self.wide))
                    if self.products.held is not None:
                        self.products.widen(base, extent * self.wide, self.lanes)
                    with builder.serial(self.row_tiles, name="row_tile") as row_tile:

                        def write(rows: int) -> None:
                            self._tile(rows, row_tile, first + p, p, kb, extent, base)

                        if not tail:
                            write(schedule.rows)
                        elif not full:
                            write(tail)
                        else:
                            builder.when(row_tile < full, lambda: write(schedule.rows), lambda: write(tail))
        return self.group.finish(self.tasks, schedule, {self.node.inputs[1]: self.tasks})

    def _tile(self, rows: int, row_tile: Expr, panel: Expr, p: Expr, kb: Expr, extent: Expr, base: Expr) -> None:
        builder, schedule, lanes = self.builder, self.schedule, self.lanes
        first_row = row_tile * schedule.rows

        def place(i: Expr, column: Expr) -> list[Expr]:
            return [*unravel(first_row + i, self.lead), panel * self.width + column]

        whole = self.columns % self.width == 0
        tile = _Tile(self.group, self.node, lanes, rows, schedule.vectors, place if whole else None)
        row_stride = schedule.panels * self.width

        def sums(i: Expr, j: Expr, lane: Expr) -> Expr:
            return (first_row + i) * row_stride + p * self.width + j * lanes + lane

        def resume() -> None:
            tile.each(lambda i, j, lane: builder.store(tile.acc, builder.load(self.sums, sums(i, j, lane)),
                                                       tile.at(i, j, lane)))  # fmt: skip

        def suspend() -> None:
            tile.each(lambda i, j, lane: builder.store(self.sums, builder.load(tile.acc, tile.at(i, j, lane)),
                                                       sums(i, j, lane)))  # fmt: skip

        if self.blocks == 1:
            tile.clear()
        else:
            builder.when(kb > 0, resume, tile.clear)
        first_step = kb * schedule.depth
        weights = base if self.products.held is None else 0

        def step(k: Expr) -> None:
            tile.multiply(
                self.products, lambda i: [*unravel(first_row + i, self.lead), first_step + k], weights + k * self.wide
            )

        unroll = schedule.unroll
        steps = schedule.depth // unroll
        line = self.line
        lines = -(-schedule.depth * self.wide // (line * self.row_tiles * steps)) if self.row_tiles > 1 else 0
        with builder.serial(tir.floor_div(extent, unroll), name="k") as outer:
            for number in range(lines):
                ahead = ((row_tile * steps + outer) * lines + number) * line
                builder.prefetch(self.weights, base + extent * self.wide + ahead)
            with builder.unrolled(unroll) as inner:
                step(outer * unroll + inner)

        def finish() -> None:
            rest = self.depth % schedule.depth % unroll
            if rest:
                with builder.unrolled(rest) as inner:
                    step((self.depth % schedule.depth) // unroll * unroll + inner)
            last = self.columns - (self.panels - 1) * self.width

            def save(limit: int) -> None:
                tile.store(limit, place)

            if last == self.width:
                save(self.width)
            elif self.panels == 1:
                save(last)
            else:
                builder.when(panel < self.panels - 1, lambda: save(self.width), lambda: save(last))

        if self.blocks == 1:
            finish()
        else:
            builder.when(kb < self.blocks - 1, suspend, finish)


def lower_matmul(body: Graph, node: Node, machine: Machine, given: Schedule | None = None) -> Kernel:
    """A product of two computed matrices; a task is a strip of columns of one matrix of the batch.

    Where B is transposed, or large and met by many rows, the strip is laid into rows of scratch memory first.
    """
    group = GroupKernel(body, machine)
    builder, elements = group.builder, group.elements
    a, b = node.inputs
    transposed = bool(node.attrs["transpose_b"])
    lanes = lanes_of(machine, node.output.dtype)
    *batch, rows, columns = static_shape(node.output.shape)
    depth = static_shape(a.shape)[-1]
    schedule = checked(given, ProductSchedule) or product_schedule(rows, depth, columns, lanes, machine)
    step = schedule.vectors * lanes
    column_bytes = depth * numpy_dtype(b.dtype).itemsize
    strip = _strip(-(-columns // step), step * column_bytes, math.prod(batch)) * step
    far = columns * column_bytes > _NEAR_BYTES and rows > 2 * schedule.rows
    padded = -(-min(strip, columns) // lanes) * lanes
    packed = group.scratch(b.dtype, depth * padded) if transposed or far else None

    def write_strip(where: list[Expr], start: Expr, width: int) -> None:
        def element(k: Expr, column: Expr) -> Expr:
            tail = [start + column, k] if transposed else [k, start + column]
            return elements.evaluate(b, [*_broadcast_batch(where, static_shape(b.shape)), *tail])

        if packed is not None and transposed:
            with builder.serial(width, name="n") as n, builder.serial(depth, name="k") as k:
                builder.store(packed, element(k, n), k * padded + n)
        elif packed is not None:
            with builder.serial(depth, name="k") as k:
                for first, count in vector_blocks(builder, width, lanes):
                    with builder.vector(count) as lane:
                        builder.store(packed, element(k, first + lane), k * padded + first + lane)

        def read(k: Expr, column: Expr) -> Expr:
            return element(k, column) if packed is None else builder.load(packed, k * padded + column)

        def write(row_tile: Expr, count: int, first: Expr, columns_here: int, lanes_here: int) -> None:
            """The tile of `count` rows by the columns from `first` on."""
            block = _Tile(group, node, lanes_here, count, -(-columns_here // lanes_here))
            block.clear()
            row = row_tile * schedule.rows
            with builder.serial(depth, name="k") as k:
                block.step(
                    lambda i: elements.evaluate(a, [*_broadcast_batch(where, static_shape(a.shape)), row + i, k]),
                    lambda j, lane: read(k, first + j * lanes_here + lane),
                )
            block.store(columns_here, lambda i, column: [*where, row + i, start + first + column])

        for first, count in ((0, rows // schedule.rows), (rows // schedule.rows, 1 if rows % schedule.rows else 0)):
            if not count:
                continue
            height = schedule.rows if first == 0 and rows >= schedule.rows else rows % schedule.rows
            with builder.serial(count, name="m") as m:
                with builder.serial(width // step, name="n") as n:
                    if width // step:
                        write(first + m, height, n * step, step, lanes)
                done = width // step * step
                for part, lanes_here in _parts(width - done, lanes, packed is not None):
                    write(first + m, height, done, part, lanes_here)
                    done += part

    full, rest = divmod(columns, strip)
    strips = full + bool(rest)
    with builder.tasks() as task:
        index = [i if isinstance(i, int) else builder.bind(i) for i in unravel(task, [*batch, strips])]
        where, number = index[:-1], index[-1]
        if not rest or not full:
            write_strip(where, number * strip, strip if full else rest)
        else:
            builder.when(
                number < full,
                lambda: write_strip(where, number * strip, strip), lambda: write_strip(where, full * strip, rest),
            )  # fmt: skip
    return group.finish(math.prod(batch) * strips, schedule)


def _strip(tiles: int, tile_bytes: int, batch: int) -> int:
    """Of the tiles that a matrix of B has side by side, each so many bytes, as many as a task takes."""
    shared = tiles // min(tiles, max(1, _TASKS // batch))
    return max(1, min(shared, _STRIP_BYTES // tile_bytes)) if tiles * tile_bytes > _NEAR_BYTES else tiles


def _parts(width: int, lanes: int, padded: bool) -> list[tuple[int, int]]:
    """(columns, lanes) of the parts that the last `width` columns are computed in: the rest of a vector must not be
    read from B itself, which may end there."""
    if padded:
        return [(width, lanes)] if width else []
    whole = width // lanes * lanes
    return [part for part in ((whole, lanes), (width - whole, width - whole)) if part[0]]


def _broadcast_batch(where: list[Expr], shape: tuple[int, ...]) -> list[Expr]:
    own = shape[:-2]
    tail = where[len(where) - len(own) :]
    return [0 if extent == 1 else i for i, extent in zip(tail, own, strict=True)]
