"""Products by weights in few bits by looking up: no multiplication, and work that is linear in the bits.

Codes are taken apart bit by bit. Bit b of four neighbouring codes says which of them it counts as +2**b / 2 and for
which as -2**b / 2, so that the sum over the four is one of 16 sums +-x0 +-x1 +-x2 +-x3, whatever the column: those are
a table, made once for all columns. What this leaves of the codes, their middle, is taken off with the zero point.

Tables of float32 are 16 lanes of a register, and four bits name the lane: sums of products in another order, exactly as
good. Tables of int8, with a scale for each span, are 64 bytes for four groups of four: a permute looks up 64 sums at
once, and one instruction adds four of them, times 2**b, to each column's sum in int32. What is rounded to bytes are
sums of x: see `--numerics`.

Source: Wei et al., "T-MAC: CPU Renaissance via Table Lookup for Low-Bit LLM Deployment on Edge" (2024), whose tables
are 16 bytes that are looked up 16 at a time and summed in int16.
"""

from __future__ import annotations

import abc

from targets.cpu.kernels.coded import load_words
from targets.cpu.kernels.coded_dot import scale_and_inverse
from targets.cpu.kernels.coded_prepared import CHUNK, Prepared
from targets.cpu.kernels.group import Kernel, vector_blocks
from targets.cpu.machine import Machine
from targets.cpu.schedules import CodedLookupSchedule
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.lowering import tir
from tensorc.lowering.tir import Buffer, Expr, const

#: Elements of a table's sums, sums of a table, tables of a chunk.
_QUAD = 4
_SUMS = 1 << _QUAD
_QUADS = CHUNK // _QUAD


class _Lookup(Prepared):
    def __init__(self, body: Graph, node: Node, machine: Machine, schedule: CodedLookupSchedule):
        if not can_look_up(machine, schedule.tables):
            raise UnsupportedError(f"{machine.name} has no instruction to look up {schedule.tables}")
        self.table = _QUADS * _SUMS
        bits = node.attrs["width"]
        self.offset = ((1 << bits) - 1) / 2
        super().__init__(body, node, machine, schedule, [(b, 1) for b in range(bits)])

    def elements(self, row: Expr, element: Expr, count: int) -> Buffer:
        """Registers with the elements of a chunk, 0 where there is none, and their sum."""
        builder, lanes = self.builder, self.lanes
        held = builder.registers("float32", CHUNK, "x")
        if count < CHUNK:
            with builder.unrolled(CHUNK // lanes) as j, builder.vector(lanes) as lane:
                builder.store(held, const(0.0, "float32"), j * lanes + lane)
        for first, width in vector_blocks(builder, count, lanes):
            with builder.vector(width) as lane:
                builder.store(held, self.x(row, element + first + lane), first + lane)
        return held

    def sums(self, held: Buffer, quad: int, lane: Expr) -> Expr:
        """The sum of a quad that belongs to the bits of `lane`."""
        total = None
        for number in range(_QUAD):
            x = self.builder.load(held, quad * _QUAD + number)
            bit = tir.bitwise_and(tir.shift_right(lane, number), 1)
            signed = x * tir.cast(bit * 2 - 1, "float32")
            total = signed if total is None else total + signed
        return total

    def prepare_span(self, row: Expr, element: Expr, chunk: Expr, span: Expr, count: int) -> Expr:
        builder = self.builder
        total = builder.registers("float32", 1, "sum")
        builder.store(total, const(0.0, "float32"), 0)
        inverse = self.prepare_scale(row, element, span, count)

        def one(number: Expr, size: int) -> None:
            held = self.elements(row, element + number * CHUNK, size)
            for quad in range(_QUADS):
                self.store_table(held, quad, self.table_at(row, chunk + number), inverse)
                for place in range(quad * _QUAD, (quad + 1) * _QUAD):
                    builder.store(total, builder.load(total, 0) + builder.load(held, place), 0)

        if count // CHUNK:
            with builder.serial(count // CHUNK, name="c") as number:
                one(number, CHUNK)
        if count % CHUNK:
            one(count // CHUNK, count % CHUNK)
        return builder.load(total, 0)

    @abc.abstractmethod
    def prepare_scale(self, row: Expr, element: Expr, span: Expr, count: int) -> Expr:
        """The inverse of a span's scale, which is stored; None where there is none."""

    @abc.abstractmethod
    def store_table(self, held: Buffer, quad: int, at: Expr, inverse: Expr) -> None:
        """The sums of a quad, in the chunk's tables, which begin at `at`."""

    def begin(self, rows: int) -> None:
        self.rows = rows
        self.held = self.builder.registers("int32", self.width, "words")
        self.numbers = self.builder.registers("int32", self.width, "numbers")

    def load_words(self, words: Expr, plane: int) -> None:
        builder, lanes, codes = self.builder, self.lanes, self.group.buffers[self.shape.codes]
        with builder.unrolled(self.vectors) as j:
            at = 4 * (words + plane * self.width + j * lanes)
            builder.store_lanes(self.held, load_words(builder, codes, at, lanes), j * lanes, lanes)


class _FloatLookup(_Lookup):
    dtype = "float32"
    number = 1

    def prepare_scale(self, row: Expr, element: Expr, span: Expr, count: int) -> Expr:  # noqa: ARG002
        return None

    def store_table(self, held: Buffer, quad: int, at: Expr, inverse: Expr) -> None:  # noqa: ARG002
        with self.builder.vector(_SUMS) as lane:
            self.builder.store(self.scratch, self.sums(held, quad, lane), at + quad * _SUMS + lane)

    def begin(self, rows: int) -> None:
        super().begin(rows)
        self.planes = [self.builder.registers("float32", rows * self.width, "plane") for _ in self.parts]

    def clear(self) -> None:
        builder, lanes = self.builder, self.lanes
        for plane in self.planes:
            with builder.unrolled(self.rows * self.vectors) as j, builder.vector(lanes) as lane:
                builder.store(plane, const(0.0, "float32"), j * lanes + lane)

    def step(self, words: Expr, row: Expr, chunk: Expr) -> None:
        builder, lanes = self.builder, self.lanes
        for number, plane in enumerate(self.planes):
            self.load_words(words, number)
            for quad in range(_QUADS):
                with builder.unrolled(self.vectors) as j, builder.vector(lanes) as lane:
                    word = builder.load(self.held, j * lanes + lane)
                    builder.store(self.numbers, tir.shift_right(word, quad * _QUAD) if quad else word, j * lanes + lane)
                with builder.unrolled(self.rows) as i:
                    table = builder.load_lanes(self.scratch, self.table_at(row + i, chunk) + quad * _SUMS, _SUMS)
                    with builder.unrolled(self.vectors) as j:
                        at = (i * self.vectors + j) * lanes
                        found = tir.permute_floats(table, builder.load_lanes(self.numbers, j * lanes, lanes))
                        builder.store_lanes(plane, builder.load_lanes(plane, at, lanes) + found, at, lanes)

    def settle(self, part: Buffer, row: Expr, span: Expr) -> None:  # noqa: ARG002
        builder, lanes = self.builder, self.lanes
        with builder.unrolled(self.rows * self.vectors) as j, builder.vector(lanes) as lane:
            at = j * lanes + lane
            total = builder.load(part, at)
            for number, plane in enumerate(self.planes):
                total = total + builder.load(plane, at) * const(2.0 ** (number - 1), "float32")
            builder.store(part, total, at)


class _ByteLookup(_Lookup):
    """Tables of quads 0, 2, 4, 6 are one register, those of 1, 3, 5, 7 another: a word has their numbers in the lower
    and in the upper halves of its bytes."""

    dtype = "int8"
    number = 4

    def prepare_scale(self, row: Expr, element: Expr, span: Expr, count: int) -> Expr:
        builder = self.builder
        most = builder.registers("float32", 1, "most")
        builder.store(most, const(0.0, "float32"), 0)

        def one(number: Expr, size: int) -> None:
            held = self.elements(row, element + number * CHUNK, size)
            for quad in range(_QUADS):
                total = sum(tir.intrinsic("abs", builder.load(held, quad * _QUAD + i)) for i in range(1, _QUAD))
                total = total + tir.intrinsic("abs", builder.load(held, quad * _QUAD))
                builder.store(most, tir.maximum(builder.load(most, 0), total), 0)

        if count // CHUNK:
            with builder.serial(count // CHUNK, name="c") as number:
                one(number, CHUNK)
        if count % CHUNK:
            one(count // CHUNK, count % CHUNK)
        scale, inverse = scale_and_inverse(self, builder.load(most, 0))
        self.store_number(scale * const(0.5, "float32"), self.scale_at(row, span))
        return inverse

    def store_table(self, held: Buffer, quad: int, at: Expr, inverse: Expr) -> None:
        place = (quad % 2) * 64 + quad // 2 * _SUMS
        with self.builder.vector(_SUMS) as lane:
            whole = tir.cast(tir.intrinsic("nearbyint", self.sums(held, quad, lane) * inverse), "int32")
            self.builder.store(self.scratch, tir.cast(whole, "int8"), at + place + lane)

    def begin(self, rows: int) -> None:
        super().begin(rows)
        self.total = self.builder.registers("int32", rows * self.width, "found")

    def clear(self) -> None:
        builder, lanes = self.builder, self.lanes
        with builder.unrolled(self.rows * self.vectors) as j, builder.vector(lanes) as lane:
            builder.store(self.total, const(0, "int32"), j * lanes + lane)

    def step(self, words: Expr, row: Expr, chunk: Expr) -> None:
        builder, lanes = self.builder, self.lanes
        for plane in range(len(self.parts)):
            self.load_words(words, plane)
            times = tir.spread(const(sum(1 << plane + 8 * i for i in range(4)), "int32"), lanes)
            for half in range(2):
                with builder.unrolled(self.vectors) as j, builder.vector(lanes) as lane:
                    word = builder.load(self.held, j * lanes + lane)
                    low = tir.bitwise_and(tir.shift_right(word, _QUAD * half) if half else word, 0x0F0F0F0F)
                    builder.store(self.numbers, tir.bitwise_or(low, 0x30201000), j * lanes + lane)
                with builder.unrolled(self.rows) as i:
                    table = builder.load_lanes(self.scratch, self.table_at(row + i, chunk) + half * 64, 64)
                    with builder.unrolled(self.vectors) as j:
                        at = (i * self.vectors + j) * lanes
                        numbers = tir.reinterpret(builder.load_lanes(self.numbers, j * lanes, lanes), "int8x64")
                        found = tir.permute_bytes(table, numbers)
                        total = tir.dot_bytes(builder.load_lanes(self.total, at, lanes), times, found, lanes)
                        builder.store_lanes(self.total, total, at, lanes)

    def settle(self, part: Buffer, row: Expr, span: Expr) -> None:
        builder, lanes = self.builder, self.lanes
        with builder.unrolled(self.rows) as i:
            scale = builder.keep(self.load_number(self.scale_at(row + i, span)))
            with builder.unrolled(self.vectors) as j, builder.vector(lanes) as lane:
                at = (i * self.vectors + j) * lanes + lane
                total = tir.cast(builder.load(self.total, at), "float32") * scale
                builder.store(part, builder.load(part, at) + total, at)


def can_look_up(machine: Machine, tables: str) -> bool:
    if machine.vector_bits != 512:
        return False
    return tables == "float32" or machine.features >= {"avx512vbmi", "avx512_vnni"}


def lower_lookup(body: Graph, node: Node, machine: Machine, schedule: CodedLookupSchedule) -> Kernel:
    kind = _FloatLookup if schedule.tables == "float32" else _ByteLookup
    return kind(body, node, machine, schedule).lower()
