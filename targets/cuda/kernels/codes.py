"""Weights in few bits as CUDA kernels read them, and their codes as numbers in a thread's registers.

A format is data here: bits, integers or small floats, blocks, types of scales and zero points (see
`tensorc.formats.coded`). Codes lie as words of 32 bits, [panel of 16 columns][block of 32 codes][words][column], as
many words as a code has bits: what 4 columns have of a block is read 16 bytes at once.

A code's bits are moved into a float32. Of an integer they go into the fraction of a power of two so large that the
number is that and the code, exactly; the power is taken off again, and with it what the zero point has of a whole
number. The fields of a small float are those of a float32 with another bias, subnormal numbers included: a product by
a power of two puts that right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from targets.cpu.kernels.coded import PARTS, WORD, CodedProduct, Run, Words, check_constants, pack_parameters
from targets.cuda.kernels.kernel import CudaGroup
from targets.packing import Packing
from tensorc.errors import UnsupportedError
from tensorc.formats.elements import ELEMENTS
from tensorc.ir import Graph, Node, Value
from tensorc.lowering import tir
from tensorc.lowering.conversion import convert
from tensorc.lowering.tir import Buffer, Expr, const

#: Columns whose words lie side by side.
PANEL = 16
#: Codes of a column that lie together, a word for each of their bits.
BLOCK = WORD
#: Of a float32.
_MANTISSA, _BIAS, _SIGN = 23, 127, 31
#: Bits of half a word: an integer is moved to one of so many places in a fraction, which leaves room for 8 bits.
_HALF = WORD // 2


class Codes(CodedProduct):
    """A `matmul_coded` whose weights lie so. Raises UnsupportedError where there are none."""

    def __init__(self, body: Graph, node: Node):
        super().__init__(node)
        check_constants(body, self)
        if not (self.rows and self.columns and self.depth):
            raise UnsupportedError("a product of nothing")
        if any(value.dtype == "float64" for value in node.inputs):
            raise UnsupportedError("no kernel decodes to float64")
        self.parts = PARTS[self.width]
        self.words = Words(self, PANEL, self.parts, BLOCK, [Run(0, 1, self.depth)])
        self.panels, self.blocks = self.words.panels, -(-self.depth // BLOCK)
        #: What is taken off each level as it is made; what the zero point has beyond that is taken off later.
        self.offset = 0.0
        if self.is_integer:
            near = self.zeros is None and 0 <= self.zero < 1 << self.width
            self.offset = math.floor(self.zero) if near else float(1 << (self.width - 1))
        self.is_shifted = self.zeros is not None or self.zero != self.offset

    @property
    def packings(self) -> dict[Value, Packing | None]:
        given = (self.scales, self.zeros)
        parameters = {value: pack_parameters(value, self.columns, PANEL) for value in given if value is not None}
        return {self.codes: self.words.packing(), **parameters}


class Piece:
    """In a thread's registers: `count` codes, a power of two, of each of `wide` neighbouring columns, and the scales
    and zero points of their spans. Codes are asked for by period and element in it, so that what decodes them is
    written for one period: others have theirs at the same places of other halves of words."""

    def __init__(self, codes: Codes, group: CudaGroup, wide: int, count: int = BLOCK):
        self.codes, self.group, self.builder = codes, group, group.builder
        self.wide, self.count = wide, count
        #: Neighbours along the sum that surely have one scale.
        self.span = count if codes.groups == 1 else math.gcd(codes.group, count)
        self.period = min(count, max(_HALF // min(size for _, size in codes.parts), 4))
        #: Words of each part.
        self.sizes = [-(-count * size // WORD) for _, size in codes.parts]
        self.words = self.builder.registers("uint32", sum(self.sizes) * wide, "words")
        self.scales = self._parameters(codes.scales)
        self.zeros = None if codes.zeros is None else self._parameters(codes.zeros)
        #: Where in words that hold more codes than these they begin.
        self.shares_words = any(count * size < WORD for _, size in codes.parts)
        self.first = self.builder.registers("uint32", 1, "first") if self.shares_words else None

    def _parameters(self, value: Value) -> Buffer:
        return self.builder.registers(value.dtype, self.count // self.span * self.wide, "parameters")

    def load(self, panel: Expr, column: Expr, block: Expr, first: Expr = 0) -> None:
        """Ask for those of a block from its code `first` on, a multiple of `count`; `column` is in the panel."""
        codes, builder, memory = self.codes, self.builder, self.group.buffers
        begin = builder.bind((panel * codes.blocks + block) * (codes.width * PANEL) + column)
        number = row = 0
        for (_, size), words in zip(codes.parts, self.sizes, strict=True):
            at = row if isinstance(first, int) and first == 0 else row + tir.floor_div(first * size, WORD)
            for word in range(words):
                place = builder.address(memory[codes.codes], (begin + (at + word) * PANEL) * (WORD // 8))
                builder.call(f"tc_stream<{self.wide}>", builder.address(self.words, number * self.wide), place)
                number += 1
            row += size
        if self.first is not None:
            builder.store(self.first, tir.cast(first, "uint32"), 0)
        given = [(codes.scales, self.scales)] + ([] if codes.zeros is None else [(codes.zeros, self.zeros)])
        move = "tc_load" if codes.groups == 1 else "tc_stream"  # what is the same for all blocks is read again
        for value, held in given:
            for span in range(self.count // self.span):
                k = block * BLOCK + first + span * self.span
                block_of = 0 if codes.groups == 1 else tir.minimum(tir.floor_div(k, codes.group), codes.groups - 1)
                place = builder.address(memory[value], (panel * codes.groups + block_of) * PANEL + column)
                builder.call(f"{move}<{self.wide}>", builder.address(held, span * self.wide), place)

    def arrive(self) -> None:
        """Before what was asked for is decoded: of words that others share, these codes are put in front."""
        if self.first is None:
            return
        number = 0
        for (_, size), words in zip(self.codes.parts, self.sizes, strict=True):
            if self.count * size < WORD:
                away = tir.bitwise_and(self.builder.load(self.first, 0) * const(size, "uint32"), WORD - 1)
                with self.builder.unrolled(self.wide) as column:
                    at = number * self.wide + column
                    self.builder.store(self.words, tir.shift(self.builder.load(self.words, at), away, left=False), at)
            number += words

    def level(self, period: Expr, element: int, column: Expr) -> Expr:
        """float32, without the offset that all have."""
        codes, builder = self.codes, self.builder
        base = element * codes.parts[0][1] % _HALF
        power = _MANTISSA - base
        bits = const((_BIAS + power) << _MANTISSA if codes.is_integer else 0, "uint32")
        number = 0
        for (low, size), words in zip(codes.parts, self.sizes, strict=True):
            half = period * (self.period * size // _HALF) + element * size // _HALF
            held = builder.load(self.words, (number + tir.floor_div(half, 2)) * self.wide + column)
            away = tir.floor_mod(half, 2) * _HALF
            if isinstance(away, int):
                held = _moved(held, -away)
            else:
                held = tir.shift(held, tir.cast(away, "uint32"), left=False)
            for bit, width, target in self._moves(low, size, base):
                mask = ((1 << width) - 1) << target
                moved = _moved(held, target - (element * size % _HALF + bit))
                bits = builder.value("uint32", f"tc_field<{mask}u>", moved, bits)
            number += words
        if not codes.is_integer:
            bias = (1 << (ELEMENTS[codes.element].exponents - 1)) - 1
            return tir.reinterpret(bits, "float32") * const(2.0 ** (_BIAS - bias), "float32")
        return tir.reinterpret(bits, "float32") - const(2.0**power + codes.offset, "float32")

    def _moves(self, low: int, size: int, base: int) -> Iterator[tuple[int, int, int]]:
        """Of a part of a code: from which of its bits on how many go where in the float32."""
        codes = self.codes
        if codes.is_integer:
            yield 0, size, base + low
            return
        sign = codes.width - 1
        magnitude = min(size, sign - low)
        if magnitude:
            yield 0, magnitude, _MANTISSA - ELEMENTS[codes.element].mantissas + low
        if magnitude < size:
            yield sign - low, 1, _SIGN

    def scale(self, span: Expr, column: Expr) -> Expr:
        """float32."""
        return self._parameter(self.scales, self.codes.scales, span, column)

    def zero(self, span: Expr, column: Expr) -> Expr:
        """The zero point without the offset, float32."""
        codes = self.codes
        if codes.zeros is None:
            return const(codes.zero - codes.offset, "float32")
        return self._parameter(self.zeros, codes.zeros, span, column) - const(codes.offset, "float32")

    def _parameter(self, held: Buffer, value: Value, span: Expr, column: Expr) -> Expr:
        return convert(self.builder.keep, self.builder.load(held, span * self.wide + column), value.dtype, "float32")


def _moved(word: Expr, left: int) -> Expr:
    if left == 0:
        return word
    return tir.shift_left(word, left) if left > 0 else tir.shift_right(word, -left)
