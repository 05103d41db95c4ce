"""Kernels of groups around one reduction along the last axes: sums and maxima, softmax, layer and RMS normalisation.

A row is a team's: some threads of a warp, or all of a block. As many as find work, until the GPU is full of them: rows
are read from memory once, all of their vectors at once, and stay in the threads' registers. What is too long for that
is read again. Few long rows of a plain reduction are shared by several blocks, of which the last adds up what all have
found, in a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from targets.cpu.kernels.reduction import COMBINE, Axes, finished, gathered_in, gathering, identity
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from targets.cuda.kernels.team import WARP, Team, power_of_two, team_size
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.types import is_float, numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Buffer, Expr, KernelBuilder, const
from tensorc.lowering.wide import WIDEST
from tensorc.search.schedule import Schedule

#: Threads of a block that has several rows, and of one that has one row at most.
_THREADS, _MOST_THREADS = 128, 1024
#: Elements of a row that a thread keeps.
_KEPT = 32
#: Elements of a normalisation's parameters that a thread reads ahead, each.
_AHEAD = 8
#: A row of so many elements is worth several blocks; each has so many of them at least.
_LONG, _PIECE = 1 << 16, 1 << 14


class Rows:
    """The threads of all rows: `outer` are the extents of what a row is one of, `inner` those of its elements. `read`
    makes a number of type `dtype` of an element; without it, that is the element itself."""

    def __init__(self, body: Graph, gpu: Gpu, node: Node, outer: Sequence[int], inner: Sequence[int], dtype: str,
                 pieces: int = 1, read: Callable[[KernelBuilder, Expr], Expr] | None = None):  # fmt: skip
        self.node, self.outer, self.inner, self.dtype = node, list(outer), list(inner), dtype
        self.x, self.pieces = node.inputs[0], pieces
        self.read = read or (lambda _, element: tir.cast(element, dtype))
        self.rows, self.extent = math.prod(outer), math.prod(inner)
        self.lanes = self._lanes(body)
        self.chunks = -(-(self.extent // self.lanes) // pieces)
        size = self._team(gpu) if pieces == 1 else _MOST_THREADS // 2
        rows = self.rows * pieces
        threads = size if size > WARP else max(min(power_of_two(rows * size), _THREADS), WARP)
        self.group = CudaGroup(body, gpu, threads)
        self.builder = self.group.builder
        self.team = Team(self.builder, size)
        self.blocks = max(-(-rows * size // threads), 1)
        self.is_kept = self._vectors(size) * self.lanes <= _KEPT and pieces == 1
        number = self.builder.bind(self.builder.block * (threads // size) + self.team.number, "row")
        self.piece: Expr = 0
        if pieces > 1:
            self.piece = self.builder.bind(tir.floor_mod(number, pieces), "piece")
            number = self.builder.bind(tir.floor_div(number, pieces), "row")
        self.is_one: Expr = True if rows * size == self.blocks * threads else number < self.rows
        self.row = number if self.is_one is True else self.builder.bind(tir.minimum(number, self.rows - 1), "row")
        self.kept: Buffer | None = None

    def _lanes(self, body: Graph) -> int:
        """As many as are one move of the narrowest operand, and divide the last of the row's axes."""
        last = next((extent for extent in reversed(self.inner) if extent != 1), 1)
        large = [v for v in (*body.inputs, *body.outputs) if v.type.size >= self.extent]
        size = min((numpy_dtype(value.dtype).itemsize for value in large), default=4)
        return max(math.gcd(last, WIDEST // size), 1)

    def _vectors(self, size: int) -> int:
        return -(-self.chunks // size)

    def _team(self, gpu: Gpu) -> int:
        """Threads of a row: one for each of its vectors, fewer where more would not run at once."""
        size = team_size(self.chunks, _MOST_THREADS)
        full = gpu.multiprocessors * gpu.threads // 2
        while size > 1 and self.rows * size > full:
            fewer = team_size(size // 2, _MOST_THREADS)
            if fewer == size or self._vectors(fewer) * self.lanes > _KEPT:
                break
            size = fewer
        return size

    # Elements -------------------------------------------------------------------------------------------

    def each(self, write: Callable[[Expr, Expr], None]) -> None:
        """Calls write(j, k) for this thread's vectors: `j` is the first one's place in the row, `k` in what the thread
        keeps."""
        builder, size = self.builder, self.team.size
        if self.pieces > 1:
            begin = self.piece * self.chunks
            left = tir.minimum(self.extent // self.lanes - begin, self.chunks)
            with builder.serial(tir.floor_div(left - self.team.rank + size - 1, size), name="chunk") as i:
                write((begin + i * size + self.team.rank) * self.lanes, 0)
            return
        whole, rest = divmod(self.chunks, size)
        if whole:
            with (builder.unrolled if self.is_kept else builder.serial)(whole, name="chunk") as i:
                write((i * size + self.team.rank) * self.lanes, i * self.lanes)
        if rest:
            last = (whole * size + self.team.rank) * self.lanes
            builder.when(self.team.rank < rest, lambda: write(last, whole * self.lanes))

    def index(self, j: Expr) -> list[Expr]:
        return [*unravel(self.row, self.outer), *unravel(j, self.inner)]

    def element(self, index: Sequence[Expr]) -> Expr:
        return self.builder.keep(self.read(self.builder, self.group.elements.evaluate(self.x, index)))

    def keep_row(self) -> None:
        """Read all elements, where there is room for them."""
        if not self.is_kept or not self.chunks:
            return
        self.kept = kept = self.own()

        def read(j: Expr, k: Expr) -> None:
            with self.builder.vector(self.lanes) as lane:
                self.builder.store(kept, self.element(self.index(j + lane)), k + lane)

        self.each(read)

    def own(self) -> Buffer:
        """A register for each of this thread's elements."""
        return self.builder.registers(self.dtype, self._vectors(self.team.size) * self.lanes, "row")

    def at(self, j: Expr, k: Expr) -> Expr:
        return self.element(self.index(j)) if self.kept is None else self.builder.load(self.kept, k)

    def fold(self, how: str, element: Callable[[Expr, Expr], Expr], dtype: str = "") -> Expr:
        """What the row's elements come to; element(j, k) gives them in type `dtype`, the row's if none is named."""
        builder, combine, dtype = self.builder, COMBINE[how], dtype or self.dtype
        partial = builder.registers(dtype, self.lanes, "partial")
        with builder.vector(self.lanes) as lane:
            builder.store(partial, identity(how, dtype), lane)

        def add(j: Expr, k: Expr) -> None:
            with builder.vector(self.lanes) as lane:
                old = builder.load(partial, lane)
                builder.store(partial, combine(builder, old, element(j + lane, k + lane)), lane)

        self.each(add)
        total = builder.load(partial, 0)
        for lane in range(1, self.lanes):
            total = combine(builder, total, builder.load(partial, lane))
        return self.team.all(total, lambda a, b: combine(builder, a, b))

    def write(self, value: Callable[[Expr, Expr], Expr]) -> None:
        """Store the group's outputs, the element of the head at j being value(j, k)."""

        def one(j: Expr, k: Expr) -> None:
            with self.builder.vector(self.lanes) as lane:
                self.group.elements.define(self.node.output, tir.cast(value(j + lane, k + lane), self.x.dtype))
                self.group.store_outputs(self.index(j + lane))

        self.where_real(lambda: self.each(one))

    def where_real(self, write: Callable[[], None]) -> None:
        """Where the thread has a row: those behind the last one go through all with it, and write nothing."""
        if self.is_one is True:
            write()
        else:
            self.builder.when(self.is_one, write)


# Plain reductions ------------------------------------------------------------------------------------------


def lower_reduce_rows(body: Graph, node: Node, gpu: Gpu) -> Kernel:
    axes = Axes.of(node)
    how, dtype = gathering(node), gathered_in(gathering(node), node.inputs[0].dtype)
    outer, inner = axes.extents(axes.kept), axes.extents(axes.reduced)
    count, extent = math.prod(outer), math.prod(inner)
    if not count:
        return CudaGroup(body, gpu, WARP).launched(1)
    pieces = 1
    if extent >= _LONG and 2 * count <= gpu.multiprocessors:
        pieces = min(extent // _PIECE, 2 * gpu.multiprocessors // count)
    rows = Rows(body, gpu, node, outer, inner, dtype, pieces)
    builder, elements = rows.builder, rows.group.elements

    def element(j: Expr, _: Expr) -> Expr:
        return rows.element(axes.index(unravel(rows.row, outer), unravel(j, inner)))

    def store(total: Expr, row: Expr) -> None:
        elements.define(node.output, finished(how, total, extent, dtype, node.inputs[0].dtype))
        rows.group.store_outputs(axes.output_index(unravel(row, outer)))

    if pieces > 1:
        return _by_pieces(rows, how, element, pieces, store)
    total = rows.fold(how, element)
    builder.when(rows.team.rank < 1, lambda: rows.where_real(lambda: store(total, rows.row)))
    return rows.group.launched(rows.blocks)


def _by_pieces(rows: Rows, how: str, element: Callable[[Expr, Expr], Expr], pieces: int,
               store: Callable[[Expr, Expr], None]) -> Kernel:  # fmt: skip
    """A block for each piece of a row. The last block of all combines what they found."""
    builder, group, team = rows.builder, rows.group, rows.team
    found = group.scratch(rows.dtype, rows.rows * pieces)
    counter = builder.parameter("counters", "int32", 1)
    group.counters = 1
    total = rows.fold(how, element)
    builder.when(team.rank < 1, lambda: builder.store(found, total, builder.block))
    last = builder.value("int32", "tc_is_last", builder.address(counter), rows.blocks)

    def combine() -> None:
        with builder.serial(rows.rows, name="row") as row:
            one = builder.registers(rows.dtype, 1, "one")
            builder.store(one, identity(how, rows.dtype), 0)
            with builder.serial(-(-pieces // team.size), name="step") as step:
                place = builder.bind(step * team.size + team.rank)
                join = COMBINE[how]

                def add() -> None:
                    builder.store(
                        one, join(builder, builder.load(one, 0), builder.load(found, row * pieces + place)), 0
                    )

                builder.when(place < pieces, add)
            total = team.all(builder.load(one, 0), lambda a, b: COMBINE[how](builder, a, b))
            builder.when(team.rank < 1, lambda: store(total, row))
            builder.sync()  # the next row's numbers go where this one's are read

    builder.when(last > 0, combine)
    return group.launched(rows.blocks)


# Softmax and norms -----------------------------------------------------------------------------------------


def _checked(node: Node) -> None:
    if not is_float(node.output.dtype) or node.output.dtype == "float64":
        raise UnsupportedError(f"{node.op} of {node.output.dtype} is not lowered")


def _normalized(body: Graph, node: Node, gpu: Gpu) -> Rows:
    axis, shape = node.attrs["axis"], static_shape(node.inputs[0].shape)
    return Rows(body, gpu, node, shape[:axis], shape[axis:], "float32")


def lower_softmax(body: Graph, node: Node, gpu: Gpu, schedule: Schedule | None) -> Kernel:  # noqa: ARG001
    _checked(node)
    if any(extent != 1 for extent in static_shape(node.output.shape)[node.attrs["axis"] + 1 :]):
        raise UnsupportedError("softmax along an axis that is not the last is not lowered")
    if not node.output.type.size:
        return CudaGroup(body, gpu, WARP).launched(1)
    rows = _normalized(body, node, gpu)
    builder, exp, log = rows.builder, rows.group.elements.math.exp, rows.group.elements.math.log
    rows.keep_row()
    top = rows.fold("max", rows.at)

    def power(j: Expr, k: Expr) -> Expr:
        value = builder.keep(exp(rows.at(j, k) - top))
        if node.op == "softmax" and rows.kept is not None:
            builder.store(rows.kept, value, k)
        return value

    total = rows.fold("sum", power)
    if node.op == "log_softmax":
        # One after the other: their sum has the roundings of the maximum, which may be much the greater.
        logarithm = builder.keep(log(total))
        rows.write(lambda j, k: rows.at(j, k) - top - logarithm)
    else:
        scale = builder.keep(const(1, "float32") / total)
        rows.write(lambda j, k: (exp(rows.at(j, k) - top) if rows.kept is None else rows.at(j, k)) * scale)
    return rows.group.launched(rows.blocks)


def lower_norm(body: Graph, node: Node, gpu: Gpu, schedule: Schedule | None) -> Kernel:  # noqa: ARG001
    """Layer norm in two passes over the row (the variance of centred values: exact), RMS norm in one."""
    _checked(node)
    if not node.output.type.size:
        return CudaGroup(body, gpu, WARP).launched(1)
    rows = _normalized(body, node, gpu)
    builder, elements = rows.builder, rows.group.elements
    _, *parameters = node.inputs
    share, epsilon = const(1 / rows.extent, "float32"), const(node.attrs["epsilon"], "float32")
    rows.keep_row()
    ahead = [rows.own() for _ in parameters] if rows.kept is not None and _is_short(rows) else []

    def parameter(number: int, j: Expr) -> Expr:
        return tir.cast(elements.evaluate(parameters[number], unravel(j, rows.inner)), "float32")

    for number, buffer in enumerate(ahead):

        def read(j: Expr, k: Expr, number: int = number, buffer: Buffer = buffer) -> None:
            with builder.vector(rows.lanes) as lane:
                builder.store(buffer, parameter(number, j + lane), k + lane)

        rows.each(read)

    mean: Expr = const(0, "float32")
    if node.op == "layer_norm":
        mean = builder.keep(rows.fold("sum", rows.at) * share)

    def square(j: Expr, k: Expr) -> Expr:
        centred = builder.keep(rows.at(j, k) - mean)
        return centred * centred

    total = rows.fold("sum", square)
    factor = builder.keep(const(1, "float32") / tir.intrinsic("sqrt", total * share + epsilon))

    def normal(j: Expr, k: Expr) -> Expr:
        value = (rows.at(j, k) - mean) * factor
        for number in range(len(parameters)):
            other = builder.load(ahead[number], k) if ahead else parameter(number, j)
            value = value + other if number else value * other
        return value

    rows.write(normal)
    return rows.group.launched(rows.blocks)


def _is_short(rows: Rows) -> bool:
    return -(-rows.chunks // rows.team.size) * rows.lanes <= _AHEAD
