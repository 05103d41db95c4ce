"""Products by weights in few bits, `matmul_coded`: what its kernels share, and the two that decode on the fly.

A vector of output columns reads its codes together: each 32-bit lane is a word that holds the codes of several steps of
the sum for one column. Codes whose width does not divide a word are kept in parts that do, of 4, 2 and 1 bits, so that
no bit is lost. A word of codes becomes levels by a shift and, with AVX-512, a permute of the 16 levels that a register
holds; elsewhere, and of more bits, by arithmetic.
Sums of a block's products are multiplied by its scale once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from targets.cpu.kernels.group import GroupKernel, Kernel
from targets.cpu.kernels.matmul import _Tile
from targets.cpu.machine import Machine
from targets.cpu.schedules import CodedPanelSchedule, CodedSchedule, lanes_of
from targets.packing import Packing
from tensorc.errors import UnsupportedError
from tensorc.formats import bits
from tensorc.formats.elements import ELEMENTS
from tensorc.ir import Graph, Node, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.ops.coded import INTEGER, levels
from tensorc.lowering import tir
from tensorc.lowering.conversion import convert
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Buffer, Expr, KernelBuilder, const

WORD = 32
#: Bytes by which codes are asked for ahead. Measured: 4 KiB make a vector times a matrix take 0.6 to 0.8 of the time.
_AHEAD = 4096
#: The parts, lowest bits first, that a code is kept in: (first bit, bits).
PARTS = {1: ((0, 1),), 2: ((0, 2),), 3: ((0, 2), (2, 1)), 4: ((0, 4),), 5: ((0, 4), (4, 1)), 6: ((0, 4), (4, 2)),
          7: ((0, 4), (4, 2), (6, 1)), 8: ((0, 8),)}  # fmt: skip
#: Steps of the sum in a round where weights are decoded already.
_UNROLL = 4
#: Of a float32.
_MANTISSA, _BIAS = 23, 127
#: Levels that a register holds.
_REGISTER_LEVELS = 16


@dataclass(frozen=True)
class Run:
    """Blocks of one length, one after the other: `count` of `size` elements, the first of them number `first`."""

    first: int
    count: int
    size: int


class CodedProduct:
    """What a `matmul_coded` node is to its kernels."""

    def __init__(self, node: Node):
        self.node = node
        self.x, self.codes, self.scales = node.inputs[:3]
        self.zeros = node.inputs[3] if len(node.inputs) > 3 else None
        self.width: int = node.attrs["width"]
        self.element: str = node.attrs["element"]
        self.zero: float = node.attrs["zero"]
        *self.lead, self.columns = static_shape(node.output.shape)
        self.rows = math.prod(self.lead)
        self.depth = static_shape(self.x.shape)[-1]
        self.group: int = node.attrs["group"] or max(self.depth, 1)
        self.groups = static_shape(self.scales.shape)[1]
        full, rest = divmod(self.depth, self.group)
        #: The blocks, of which the last may be short.
        self.runs = [run for run in (Run(0, full, self.group), Run(full, 1, rest)) if run.count and run.size]

    @property
    def is_integer(self) -> bool:
        return self.element == INTEGER

    @property
    def weights(self) -> tuple[Value, ...]:
        """Codes, scales and zero points: a panel's lie together in each."""
        return self.node.inputs[1:]


class CodedShape(CodedProduct):
    """Of a machine with vectors."""

    def __init__(self, node: Node, machine: Machine):
        super().__init__(node)
        self.lanes = lanes_of(machine, "float32")


def check_constants(body: Graph, shape: CodedProduct) -> None:
    for value in shape.weights:
        if value not in body.inputs:
            raise UnsupportedError("encoded weights must be inputs of their group")


def pack_parameters(value: Value, columns: int, width: int) -> Packing:
    """[columns, groups] to [panels, groups, width], zeros at the end."""
    panels, groups = -(-columns // width), static_shape(value.shape)[1]

    def apply(data: np.ndarray) -> np.ndarray:
        wide = np.zeros((panels * width, groups), data.dtype)
        wide[:columns] = data
        return np.ascontiguousarray(wide.reshape(panels, width, groups).transpose(0, 2, 1))

    return Packing(f"parameters of {width} in {columns}", (panels, groups, width), apply)


class Words:
    """Codes as words, `width` columns together. Each block of `runs`, or else of the shape's, is cut into chunks of
    `chunk` elements (the last is filled up with zeros); of a chunk's codes each of `parts` (first bit, bits) fills
    words, one after the other."""

    def __init__(self, shape: CodedProduct, width: int, parts: Sequence[tuple[int, int]], chunk: int,
                 runs: Sequence[Run] | None = None):  # fmt: skip
        self.shape = shape
        self.runs = shape.runs if runs is None else runs
        self.width = width
        self.parts = tuple(parts)
        self.chunk = chunk
        self.panels = -(-shape.columns // width)
        #: Words of a chunk in all parts.
        self.per_chunk = sum(chunk * size // WORD for _, size in parts)
        chunks = [run.count * -(-run.size // chunk) for run in self.runs]
        #: Where each run's words begin in those of a panel, and how many those are.
        self.starts = [sum(chunks[:number]) * self.per_chunk * width for number in range(len(chunks))]
        self.panel = sum(chunks) * self.per_chunk * width

    def packing(self) -> Packing:
        shape = self.shape
        sizes = [run.size for run in self.runs]
        name = f"words of {self.parts} by {self.chunk} in {self.width} of {shape.columns}, blocks of {sizes}"
        return Packing(name, (self.panels, 4 * self.panel), self._pack)

    def _pack(self, data: np.ndarray) -> np.ndarray:
        packed = np.empty((self.panels, self.panel), "<u4")
        # A panel at a time: codes that are not packed are many bytes.
        for number, panel in enumerate(packed):
            rows = data[number * self.width : (number + 1) * self.width]
            codes = np.zeros((self.width, self.shape.depth), np.uint8)
            codes[: len(rows)] = bits.unpack(rows, self.shape.width, self.shape.depth)
            for run, start in zip(self.runs, self.starts, strict=True):
                first = run.first * self.shape.group
                blocks = codes[:, first : first + run.count * run.size].reshape(self.width, run.count, run.size)
                chunks = np.pad(blocks, [(0, 0), (0, 0), (0, -run.size % self.chunk)])
                words = self._words(chunks.reshape(self.width, -1, self.chunk))
                panel[start : start + words.size] = words.transpose(1, 2, 0).reshape(-1)
        return packed.view(np.uint8)

    def _words(self, chunks: np.ndarray) -> np.ndarray:
        """uint8 [width, chunks, chunk] to uint32 [width, chunks, words]."""
        made = []
        for low, size in self.parts:
            part = (chunks >> low & ((1 << size) - 1)).reshape(*chunks.shape[:2], -1, WORD // size).astype("<u4")
            made.append((part << np.arange(0, WORD, size, dtype="<u4")).sum(axis=-1, dtype="<u4"))
        return np.concatenate(made, axis=2)


def load_words(builder: KernelBuilder, codes: Buffer, at: Expr, lanes: int) -> Expr:
    """The words of a vector of columns, from byte `at` on. They are read once and in order, and asked for ahead: what
    the machine fetches by itself comes too late for so little work."""
    builder.prefetch(codes, at + _AHEAD)
    return builder.load_lanes(codes, at, lanes, "int32")


class Blocks:
    """What the blocks of the sum have of their own: scales and zero points, packed in panels of `width`."""

    def __init__(self, shape: CodedShape, width: int):
        self.shape = shape
        self.width = width

    def packings(self) -> dict[Value, Packing | None]:
        given = (self.shape.scales, self.shape.zeros)
        return {value: pack_parameters(value, self.shape.columns, self.width) for value in given if value is not None}

    def scale(self, group: GroupKernel, panel: Expr, block: Expr, column: Expr) -> Expr:
        """As float32, inside a vector loop over `column`."""
        return self._parameter(group, self.shape.scales, panel, block, column)

    def zero(self, group: GroupKernel, panel: Expr, block: Expr, column: Expr, less: float) -> Expr:
        """The zero point minus `less`."""
        if self.shape.zeros is None:
            return const(self.shape.zero - less, "float32")
        return self._parameter(group, self.shape.zeros, panel, block, column) - const(less, "float32")

    def _parameter(self, group: GroupKernel, value: Value, panel: Expr, block: Expr, column: Expr) -> Expr:
        builder = group.builder
        at = (panel * self.shape.groups + block) * self.width + column
        return convert(builder.keep, builder.load(group.buffers[value], at), value.dtype, "float32")


class _Decoder:
    """Levels, minus `offset`, of the codes of a vector of columns for each of `vectors`."""

    def __init__(self, shape: CodedShape, machine: Machine, vectors: int):
        self.shape = shape
        self.vectors = vectors
        self.parts = PARTS[shape.width]
        self.chunk = WORD // min(size for _, size in self.parts)
        self.permutes = shape.width <= 4 and machine.vector_bits == 512
        self.computes = shape.is_integer and not self.permutes
        #: What is taken off each level here; the rest of the zero point is taken off the sums.
        self.offset = 0.0
        if shape.zeros is None and not self.computes:
            self.offset = shape.zero
        elif shape.is_integer:
            self.offset = float(1 << (shape.width - 1))
        self.words = Words(shape, vectors * shape.lanes, self.parts, self.chunk)

    def begin(self, group: GroupKernel) -> None:
        """Registers, and the table of levels: once a task."""
        builder, lanes = group.builder, self.shape.lanes
        self.builder = builder
        self.buffer = group.buffers[self.shape.codes]
        self.held = [builder.registers("int32", self.vectors * lanes, "words") for _ in self.parts]
        self.numbers = builder.registers("int32", lanes, "codes")
        self.levels = builder.registers("float32", self.vectors * lanes, "levels")
        if self.permutes:
            values = (levels(self.shape.element, self.shape.width) - np.float32(self.offset)).astype(np.float32)
            # Repeated, so that bits above a narrow code do not matter.
            table = np.resize(values, _REGISTER_LEVELS)
            self.table = builder.registers("float32", len(table), "table")
            for number, level in enumerate(table.tolist()):
                builder.store(self.table, const(level, "float32"), number)

    def decode(self, first: Expr, step: int) -> None:
        """Fill `levels` for a step of the chunk whose words begin at `first`; steps come in order."""
        builder, lanes, width = self.builder, self.shape.lanes, self.vectors * self.shape.lanes
        row = 0
        for held, (_, size) in zip(self.held, self.parts, strict=True):
            word, place = divmod(step, WORD // size)
            if not place:
                with builder.unrolled(self.vectors) as j:
                    at = 4 * (first + (row + word) * width + j * lanes)
                    builder.store_lanes(held, load_words(builder, self.buffer, at, lanes), j * lanes, lanes)
            row += self.chunk * size // WORD
        with builder.unrolled(self.vectors) as j:
            if self.permutes:
                with builder.vector(lanes) as lane:
                    builder.store(self.numbers, self._code(j * lanes + lane, step), lane)
                table = builder.load_lanes(self.table, 0, _REGISTER_LEVELS)
                level = tir.permute_floats(table, builder.load_lanes(self.numbers, 0, lanes))
                builder.store_lanes(self.levels, level, j * lanes, lanes)
                return
            with builder.vector(lanes) as lane:
                code = self._code(j * lanes + lane, step)
                if self.computes:
                    level = tir.cast(code - const(int(self.offset), "int32"), "float32")
                else:
                    level = self._converted(code) - const(self.offset, "float32")
                builder.store(self.levels, level, j * lanes + lane)

    def _converted(self, code: Expr) -> Expr:
        """The number of a small float's code. Codes that are infinite or nan are numbers here: weights have none."""
        keep = self.builder.keep
        element, sign = ELEMENTS[self.shape.element], self.shape.width - 1
        bias = (1 << (element.exponents - 1)) - 1
        code = keep(code)
        magnitude = keep(tir.bitwise_and(code, (1 << sign) - 1))
        exponent = tir.shift_left(magnitude, _MANTISSA - element.mantissas) + const(
            (_BIAS - bias) << _MANTISSA, "int32"
        )
        small = tir.cast(magnitude, "float32") * const(2.0 ** (1 - bias - element.mantissas), "float32")
        is_small = tir.compare("less", magnitude, const(1 << element.mantissas, "int32"))
        size = tir.select(is_small, keep(small), keep(tir.reinterpret(exponent, "float32")))
        negative = tir.shift_left(tir.bitwise_and(code, 1 << sign), WORD - 1 - sign)
        return tir.reinterpret(tir.bitwise_or(tir.reinterpret(keep(size), "int32"), negative), "float32")

    def _code(self, lane: Expr, step: int) -> Expr:
        """In its lowest bits; what is above them is 0 unless a permute does not look at it."""
        code: Expr = None
        for held, (low, size) in zip(self.held, self.parts, strict=True):
            part = self.builder.load(held, lane)
            place = step % (WORD // size) * size
            if place:
                part = tir.shift_right(part, place)
            if not (self.permutes and len(self.parts) == 1):
                part = tir.bitwise_and(part, (1 << size) - 1)
            if low:
                part = tir.bitwise_or(code, tir.shift_left(part, low))
            code = part
        return code


def lower_direct(body: Graph, node: Node, machine: Machine, given: CodedSchedule | None) -> Kernel:
    """Weights are decoded once for a register tile, whose rows share them."""
    shape = CodedShape(node, machine)
    check_constants(body, shape)
    lanes = shape.lanes
    schedule = given or coded_schedule(shape, machine)
    vectors, tile_rows = schedule.vectors, schedule.rows
    width = vectors * lanes
    decoder, blocks = _Decoder(shape, machine, vectors), Blocks(shape, width)
    words = decoder.words
    group = GroupKernel(body, machine, {**blocks.packings(), shape.codes: words.packing()})
    builder = group.builder
    full, tail = divmod(shape.rows, tile_rows)
    row_tiles = full + bool(tail)
    #: Whether sums of `x` are needed, of which the zero points that levels still have are taken off.
    shifted = shape.zeros is not None or shape.zero != decoder.offset

    with builder.tasks() as task:
        panel, row_tile = (
            i if isinstance(i, int) else builder.bind(i) for i in unravel(task, [words.panels, row_tiles])
        )
        base = builder.bind(panel * words.panel)
        decoder.begin(group)

        def write(height: int) -> None:
            tile = _Tile(group, node, lanes, height, vectors)
            tile.clear()
            part = builder.registers("float32", height * width, "part")
            sums = builder.registers("float32", height * lanes, "sums") if shifted else None
            first = row_tile * tile_rows

            def steps(begin: Expr, element: Expr, count: int) -> None:
                """The first `count` elements of a chunk, `element` the first of them."""
                for number in range(count):
                    decoder.decode(begin, number)
                    with builder.unrolled(height) as i:
                        index = [*unravel(first + i, shape.lead), element + number]
                        scalar = builder.keep(group.elements.evaluate(shape.x, index))
                        with builder.unrolled(vectors) as j, builder.vector(lanes) as lane:
                            at = tile.at(i, j, lane)
                            product = scalar * builder.load(decoder.levels, j * lanes + lane)
                            builder.store(part, builder.load(part, at) + product, at)
                        if sums is not None:
                            with builder.vector(lanes) as lane:
                                builder.store(sums, builder.load(sums, i * lanes + lane) + scalar, i * lanes + lane)

            for run, start in zip(shape.runs, words.starts, strict=True):
                chunks, rest = divmod(run.size, words.chunk)
                size = words.per_chunk * width
                with builder.serial(run.count, name="b") as number:
                    block = run.first + number
                    begin = builder.bind(base + start + number * ((chunks + bool(rest)) * size))
                    element = builder.bind(block * shape.group)
                    tile.each(lambda i, j, lane: builder.store(part, const(0.0, "float32"), tile.at(i, j, lane)))
                    if sums is not None:
                        with builder.unrolled(height) as i, builder.vector(lanes) as lane:
                            builder.store(sums, const(0.0, "float32"), i * lanes + lane)
                    if chunks:
                        with builder.serial(chunks, name="c") as c:
                            steps(begin + c * size, element + c * words.chunk, words.chunk)
                    if rest:
                        steps(begin + chunks * size, element + chunks * words.chunk, rest)
                    scale_blocks(group, blocks, tile, part, sums, panel, block, decoder.offset)
            save_panel(builder, tile, shape, panel, width, words.panels, first)

        if not tail:
            write(tile_rows)
        elif not full:
            write(tail)
        else:
            builder.when(row_tile < full, lambda: write(tile_rows), lambda: write(tail))
    return group.finish(words.panels * row_tiles, schedule, dict.fromkeys(shape.weights, words.panels))


def lower_panel(body: Graph, node: Node, machine: Machine, schedule: CodedPanelSchedule) -> Kernel:
    """For many rows: a task decodes a panel to float32, which stays near while all rows meet it."""
    shape = CodedShape(node, machine)
    check_constants(body, shape)
    lanes, vectors = shape.lanes, schedule.vectors
    width = vectors * lanes
    decoder, blocks = _Decoder(shape, machine, vectors), Blocks(shape, width)
    words = decoder.words
    group = GroupKernel(body, machine, {**blocks.packings(), shape.codes: words.packing()})
    builder = group.builder
    weights = group.scratch("float32", max(shape.depth, 1) * width)

    def unpack(panel: Expr) -> None:
        base = builder.bind(panel * words.panel)
        decoder.begin(group)
        scales, offsets = (builder.registers("float32", width, name) for name in ("scales", "offsets"))

        def steps(begin: Expr, element: Expr, count: int) -> None:
            for number in range(count):
                decoder.decode(begin, number)
                with builder.unrolled(vectors) as j, builder.vector(lanes) as lane:
                    column = j * lanes + lane
                    level = builder.load(decoder.levels, column) - builder.load(offsets, column)
                    weight = level * builder.load(scales, column)
                    builder.store(weights, weight, (element + number) * width + column)

        size = words.per_chunk * width
        for run, start in zip(shape.runs, words.starts, strict=True):
            chunks, rest = divmod(run.size, words.chunk)
            with builder.serial(run.count, name="b") as number:
                block = run.first + number
                begin = builder.bind(base + start + number * ((chunks + bool(rest)) * size))
                element = builder.bind(block * shape.group)
                with builder.unrolled(vectors) as j, builder.vector(lanes) as lane:
                    column = j * lanes + lane
                    builder.store(scales, blocks.scale(group, panel, block, column), column)
                    builder.store(offsets, blocks.zero(group, panel, block, column, decoder.offset), column)
                if chunks:
                    with builder.serial(chunks, name="c") as c:
                        steps(begin + c * size, element + c * words.chunk, words.chunk)
                if rest:
                    steps(begin + chunks * size, element + chunks * words.chunk, rest)

    def multiply(panel: Expr, first: Expr, height: int) -> None:
        tile = _Tile(group, node, lanes, height, vectors)
        tile.clear()

        def step(k: Expr) -> None:
            tile.step(
                lambda i: group.elements.evaluate(shape.x, [*unravel(first + i, shape.lead), k]),
                lambda j, lane: builder.load(weights, k * width + j * lanes + lane),
            )

        whole, rest = divmod(shape.depth, _UNROLL)
        if whole:
            with builder.serial(whole, name="k") as outer, builder.unrolled(_UNROLL) as inner:
                step(outer * _UNROLL + inner)
        if rest:
            with builder.unrolled(rest) as inner:
                step(whole * _UNROLL + inner)
        save_panel(builder, tile, shape, panel, width, words.panels, first)

    full, tail = divmod(shape.rows, schedule.rows)
    with builder.tasks() as panel:
        unpack(panel)
        if full:
            with builder.serial(full, name="row_tile") as row_tile:
                multiply(panel, row_tile * schedule.rows, schedule.rows)
        if tail:
            multiply(panel, full * schedule.rows, tail)
    return group.finish(words.panels, schedule, dict.fromkeys(shape.weights, words.panels))


def scale_blocks(group: GroupKernel, blocks: Blocks, tile: _Tile, part: Buffer, sums: Buffer | None, panel: Expr,
                 block: Expr, offset: float) -> None:  # fmt: skip
    """Add a block's sums of products, times its scales, to the tile. `sums` are those of x alone, in all lanes."""
    builder, lanes = group.builder, tile.lanes
    with builder.unrolled(tile.vectors) as j, builder.vector(lanes) as lane:
        column = j * lanes + lane
        scale = builder.keep(blocks.scale(group, panel, block, column))
        zero = None if sums is None else builder.keep(blocks.zero(group, panel, block, column, offset))
        for i in range(tile.rows):
            at = tile.at(i, j, lane)
            total = builder.load(part, at)
            if sums is not None:
                total = total - builder.load(sums, i * lanes + lane) * zero
            builder.store(tile.acc, builder.load(tile.acc, at) + total * scale, at)


def save_panel(builder: KernelBuilder, tile: _Tile, shape: CodedShape, panel: Expr, width: int, panels: int,
               first: Expr) -> None:  # fmt: skip
    """Store the tile's rows from `first` on, as many columns as there are."""

    def save(limit: int) -> None:
        tile.store(limit, lambda i, column: [*unravel(first + i, shape.lead), panel * width + column])

    last = shape.columns - (panels - 1) * width
    if last == width:
        save(width)
    elif panels == 1:
        save(last)
    else:
        builder.when(panel < panels - 1, lambda: save(width), lambda: save(last))


def coded_schedule(shape: CodedShape, machine: Machine) -> CodedSchedule:
    """Few rows: as many columns as hide the latency of sums; many: tiles as large as registers allow."""
    across = -(-shape.columns // shape.lanes)
    vectors = min(4 if shape.rows < 3 else 2, across)
    limit = max((machine.vector_registers - 2 * vectors - 2) // vectors, 1)
    tiles = -(-shape.rows // min(shape.rows, limit)) if shape.rows else 1
    return CodedSchedule(max(-(-shape.rows // tiles), 1), vectors)
