"""Products by weights in few bits where `x` is rounded to bytes, with a scale for each span: codes are unpacked to
bytes, and one instruction adds four products. What is rounded decides the result's last digits: see `--numerics`.
"""

from __future__ import annotations

from targets.cpu.kernels.coded import PARTS, WORD, load_words
from targets.cpu.kernels.coded_prepared import CHUNK, Prepared
from targets.cpu.kernels.group import Kernel, vector_blocks
from targets.cpu.machine import Machine
from targets.cpu.schedules import CodedDotSchedule
from tensorc.ir import Graph, Node
from tensorc.lowering import tir
from tensorc.lowering.tir import Buffer, Expr, const

_BYTE = 8
_LARGEST = 127.0


class _Dot(Prepared):
    """A table holds, for each part of the codes, the chunk's elements in the order in which shifted words have them."""

    dtype = "int8"
    number = 4

    def __init__(self, body: Graph, node: Node, machine: Machine, schedule: CodedDotSchedule):
        parts = PARTS[node.attrs["width"]]
        self.table = CHUNK * len(parts)
        super().__init__(body, node, machine, schedule, parts)

    def prepare_span(self, row: Expr, element: Expr, chunk: Expr, span: Expr, count: int) -> Expr:
        builder, lanes = self.builder, self.lanes
        scale, inverse = largest_scale(self, row, element, count)
        self.store_number(scale, self.scale_at(row, span))
        rounded = builder.registers("int8", CHUNK, "rounded")
        total = builder.registers("int32", lanes, "sum")
        with builder.vector(lanes) as lane:
            builder.store(total, const(0, "int32"), lane)

        def one(number: Expr, size: int) -> None:
            for first, width in vector_blocks(builder, CHUNK, lanes):
                with builder.vector(width) as lane:
                    builder.store(rounded, const(0, "int8"), first + lane)
            for first, width in vector_blocks(builder, size, lanes):
                with builder.vector(width) as lane:
                    x = self.x(row, element + number * CHUNK + first + lane)
                    whole = builder.keep(tir.cast(tir.intrinsic("nearbyint", x * inverse), "int32"))
                    builder.store(total, builder.load(total, lane) + whole, lane)
                    builder.store(rounded, tir.cast(whole, "int8"), first + lane)
            at = self.table_at(row, chunk + number)
            for part, (_, size_of_part) in enumerate(self.parts):
                for place, source in enumerate(_order(size_of_part)):
                    builder.store(self.scratch, builder.load(rounded, source), at + part * CHUNK + place)

        with builder.serial(count // CHUNK, name="c") as number:
            if count // CHUNK:
                one(number, CHUNK)
        if count % CHUNK:
            one(count // CHUNK, count % CHUNK)
        whole = sum((builder.load(total, lane) for lane in range(1, lanes)), builder.load(total, 0))
        return tir.cast(whole, "float32") * scale

    def begin(self, rows: int) -> None:
        self.rows = rows
        size = rows * self.width
        self.sums = [self.builder.registers("int32", size, "dots") for _ in self.parts]
        self.numbers = self.builder.registers("int32", self.width, "codes")
        self.held = self.builder.registers("int32", self.width, "words")

    def clear(self) -> None:
        builder, lanes = self.builder, self.lanes
        for sums in self.sums:
            with builder.unrolled(self.rows * self.vectors) as j, builder.vector(lanes) as lane:
                builder.store(sums, const(0, "int32"), j * lanes + lane)

    def step(self, words: Expr, row: Expr, chunk: Expr) -> None:
        builder, lanes, codes = self.builder, self.lanes, self.group.buffers[self.shape.codes]
        word = 0
        for part, ((_, size), sums) in enumerate(zip(self.parts, self.sums, strict=True)):
            phases = _BYTE // size
            mask = sum(((1 << size) - 1) << _BYTE * i for i in range(4))
            for number in range(size):
                with builder.unrolled(self.vectors) as j:
                    at = 4 * (words + word * self.width + j * lanes)
                    builder.store_lanes(self.held, load_words(builder, codes, at, lanes), j * lanes, lanes)
                for phase in range(phases):
                    with builder.unrolled(self.vectors) as j, builder.vector(lanes) as lane:
                        code = builder.load(self.held, j * lanes + lane)
                        if phase:
                            code = tir.shift_right(code, phase * size)
                        if size < _BYTE:
                            code = tir.bitwise_and(code, mask)
                        builder.store(self.numbers, code, j * lanes + lane)
                    place = part * CHUNK + 4 * (number * phases + phase)
                    with builder.unrolled(self.rows) as i:
                        x = builder.keep(builder.word(self.scratch, self.table_at(row + i, chunk) + place))
                        with builder.unrolled(self.vectors) as j:
                            at = (i * self.vectors + j) * lanes
                            total = tir.dot_bytes(
                                builder.load_lanes(sums, at, lanes),
                                builder.load_lanes(self.numbers, j * lanes, lanes), tir.spread(x, lanes), lanes,
                            )  # fmt: skip
                            builder.store_lanes(sums, total, at, lanes)
                word += 1

    def settle(self, part: Buffer, row: Expr, span: Expr) -> None:
        builder, lanes = self.builder, self.lanes
        with builder.unrolled(self.rows) as i:
            scale = builder.keep(self.load_number(self.scale_at(row + i, span)))
            with builder.unrolled(self.vectors) as j, builder.vector(lanes) as lane:
                at = (i * self.vectors + j) * lanes + lane
                whole = builder.load(self.sums[0], at)
                for (low, _), sums in zip(self.parts[1:], self.sums[1:], strict=True):
                    whole = whole + tir.shift_left(builder.load(sums, at), low)
                builder.store(part, builder.load(part, at) + tir.cast(whole, "float32") * scale, at)


def largest_scale(frame: Prepared, row: Expr, element: Expr, count: int) -> tuple[Expr, Expr]:
    """The scale with which elements are bytes, and its inverse; 0 and 0 of nothing but zeros."""
    builder, lanes = frame.builder, frame.lanes
    most = builder.registers("float32", lanes, "most")
    with builder.vector(lanes) as lane:
        builder.store(most, const(0.0, "float32"), lane)
    for first, width in vector_blocks(builder, count, lanes):
        with builder.vector(width) as lane:
            size = tir.intrinsic("abs", frame.x(row, element + first + lane))
            builder.store(most, tir.maximum(builder.load(most, lane), size), lane)
    for lane in range(1, lanes):
        builder.store(most, tir.maximum(builder.load(most, 0), builder.load(most, lane)), 0)
    return scale_and_inverse(frame, builder.load(most, 0))


def scale_and_inverse(frame: Prepared, most: Expr) -> tuple[Expr, Expr]:
    keep = frame.builder.keep
    scale = keep(most * const(1 / _LARGEST, "float32"))
    # Of the smallest numbers the inverse is infinite: they count as 0, as their products nearly are.
    normal = tir.compare("greater", scale, const(1e-37, "float32"))
    inverse = keep(const(1.0, "float32") / scale)
    return scale, keep(tir.select(normal, inverse, const(0.0, "float32")))


def _order(size: int) -> list[int]:
    """The chunk's elements as words of codes of `size` bits have them: by word, shift and byte."""
    phases = _BYTE // size
    return [
        word * (WORD // size) + phase + byte * phases
        for word in range(size)
        for phase in range(phases)
        for byte in range(4)
    ]


def lower_dot(body: Graph, node: Node, machine: Machine, schedule: CodedDotSchedule) -> Kernel:
    return _Dot(body, node, machine, schedule).lower()
