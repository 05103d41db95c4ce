"""What attention leaves: the weighted sums over the sums of the weights, and the group's elements of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from targets.cuda.kernels.attention.softmax import OnlineSoftmax
from targets.cuda.kernels.attention.tiles import QueryRows, Tile
from targets.cuda.kernels.attention.units import Unit
from targets.cuda.kernels.kernel import CudaGroup
from tensorc.ir import Node
from tensorc.ir.dims import static_shape
from tensorc.lowering import tir
from tensorc.lowering.indexing import ravel
from tensorc.lowering.tir import Buffer, Expr, const


class Results:
    """Of a block's queries; `positions` are those of this thread's rows. They have passed through `memory`."""

    def __init__(self, group: CudaGroup, memory: Buffer, node: Node, dtype: str, unit: Unit, queries: QueryRows,
                 positions: Sequence[tuple[Expr, Expr, Expr]]):  # fmt: skip
        self.group, self.builder, self.memory = group, group.builder, memory
        self.node, self.dtype = node, dtype
        self.unit, self.queries, self.positions = unit, queries, positions
        self.extents, self.schedule = unit.extents, unit.schedule

    def store(self, seen: OnlineSoftmax) -> None:
        builder, fragment = self.builder, self.unit.sums
        shares = builder.registers("float32", fragment.rows, "shares")
        with builder.unrolled(fragment.rows) as i:
            builder.store(shares, const(1, "float32") / builder.load(seen.total, i), i)
        (self._store_chunks if self._leaves_in_chunks() else self._store_pieces)(seen.weighed, shares)

    def _store_pieces(self, weighed: Buffer, shares: Buffer) -> None:
        """Each thread what it has."""
        builder, fragment, values = self.builder, self.unit.sums, self.extents.values
        width = math.gcd(fragment.width, values)
        for i, (head, query, inside) in enumerate(self.positions):
            with builder.unrolled(fragment.blocks) as j, builder.unrolled(fragment.width // width) as piece:
                column = builder.bind(fragment.column(self.unit.thread.lane, j) + piece * width)
                at = fragment.at(j, i, piece * width)
                wanted = tir.logical("and", inside, self._stores())
                if values < self.extents.elements * self.extents.value_chunks:
                    wanted = tir.logical("and", wanted, column < values)

                def write(
                    i: int = i, at: Expr = at, index: tuple[Expr, ...] = (self.queries.image, query, head, column)
                ) -> None:
                    self._store_elements(weighed, at, width, builder.load(shares, i), index)

                builder.when(wanted, write)

    def _stores(self) -> Expr:
        """Whether this warp is the one of those with its queries that stores them."""
        return True if self.schedule.warps == 1 else tir.compare("equal", self.unit.thread.part, const(0, "int32"))

    def _store_elements(self, weighed: Buffer, at: Expr, width: int, share: Expr, index: tuple[Expr, ...]) -> None:
        builder, group = self.builder, self.group
        results = [
            builder.registers("int8" if value.dtype == "bool" else value.dtype, width, "result")
            for value in group.body.outputs
        ]
        with builder.vector(width) as v:
            element = builder.load(weighed, at + v) * share
            group.elements.define(self.node.output, tir.cast(builder.keep(element), self.node.output.dtype))
            for value, result in zip(group.body.outputs, results, strict=True):
                element = group.elements.evaluate(value, [*index[:3], index[3] + v])
                builder.store(result, tir.cast(element, "int8") if value.dtype == "bool" else element, v)
        for value, buffer, result in zip(group.body.outputs, group.outputs, results, strict=True):
            place = builder.address(buffer, ravel(index, static_shape(value.shape)))
            builder.call(f"tc_store<{width}>", place, builder.address(result, 0))

    def _leaves_in_chunks(self) -> bool:
        """Whether the results are what attention gives, in the type of its operands, of 16 bits."""
        (output, *others) = self.group.body.outputs
        if self.extents.size != 2 or others or output.dtype != self.dtype:
            return False
        if self.extents.values % self.extents.elements:
            return False
        made = output.producer
        return output is self.node.output or (
            made is not None and made.op == "cast" and made.inputs[0] is self.node.output
        )

    def _store_chunks(self, weighed: Buffer, shares: Buffer) -> None:
        """Through shared memory, so that threads beside each other write what lies beside each other."""
        builder, fragment = self.builder, self.unit.sums
        kind = "half" if self.dtype == "float16" else "uint16_t"
        tile = Tile.below(0, self.schedule.rows, self.extents.value_chunks)
        builder.sync()  # all have read the last tile
        words = builder.registers("uint32", 1, "words")
        for i, row in enumerate(self.unit.rows):
            with builder.unrolled(fragment.blocks) as j:
                low, high = (builder.load(weighed, fragment.at(j, i, v)) * builder.load(shares, i) for v in range(2))
                builder.store(words, builder.value("uint32", f"tc_two<{kind}>", low, high), 0)
                to = self._address(tile.place(row, j) + tir.floor_mod(self.unit.thread.lane, 4) * 4)

                def write_words(to: Expr = to) -> None:
                    builder.call("tc_store<1>", to, builder.address(words, 0))

                builder.when(self._stores(), write_words)
        builder.sync()
        chunks, threads = self.extents.values // self.extents.elements, builder.threads
        total = tile.rows * chunks
        held = builder.registers("uint32", 4, "chunk")
        shape = static_shape(self.node.output.shape)

        def write(number: Expr) -> None:
            row, chunk = builder.bind(tir.floor_div(number, chunks)), builder.bind(tir.floor_mod(number, chunks))
            head, query, inside = self.queries.position(row)

            def one() -> None:
                builder.call("tc_load<4>", builder.address(held, 0), self._address(tile.place(row, chunk)))
                place = ravel([self.queries.image, query, head, chunk * self.extents.elements], shape)
                to = builder.address(self.group.outputs[0], place)
                builder.call("tc_store<4>", to, builder.address(held, 0))

            builder.when(inside, one)

        with builder.serial(-(-total // threads)) as step:
            number = builder.bind(step * threads + builder.thread)
            builder.when(True if total % threads == 0 else number < total, lambda: write(number))

    def _address(self, place: Expr) -> Expr:
        return self.builder.address(self.memory, place)
