"""Weights in few bits as an operand of the tile engine: codes wait in registers while a step is multiplied, and are
stored as numbers of the type that the products are of.

A thread decodes some codes of one column, or, where chunks lie along columns, of the columns of a chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

from targets.cuda.kernels.codes import BLOCK, PANEL, Codes, Piece
from targets.cuda.kernels.kernel import CudaGroup
from targets.cuda.kernels.operands import Operand
from targets.cuda.kernels.stages import Stage
from targets.cuda.schedules import GemmSchedule
from tensorc.lowering import tir
from tensorc.lowering.tir import Buffer, Expr

_PAIRS = {"float16": "half", "bfloat16": "uint16_t"}


class DecodedWeights(Operand):
    """[columns, depth] of `dtype`, for `DecodedStage` only."""

    def __init__(self, group: CudaGroup, codes: Codes, dtype: str, along_k: bool):
        super().__init__(group, dtype, along_k)
        self.codes = codes

    def row(self, batch: Expr, x: Expr) -> tuple[Expr, Expr]:
        """The panel, and the column in it: of columns beyond the last those of another panel, which are not stored."""
        del batch  # weights have none
        builder, codes = self.group.builder, self.codes
        column = builder.bind(x if self.along_k else x * self.elements)
        panel = tir.minimum(tir.floor_div(column, PANEL), codes.panels - 1)
        return builder.bind(panel), builder.bind(tir.floor_mod(column, PANEL))

    def is_inside(self, row: Any, k: Expr) -> Expr:  # noqa: ARG002
        """What is beyond an edge is multiplied by zeros, or not stored."""
        return True

    def place(self, row: Any, k: Expr) -> NoReturn:  # noqa: ARG002
        raise TypeError("codes lie nowhere as they are wanted")


class DecodedStage(Stage):
    """The columns' part of a step."""

    operand: DecodedWeights

    def __init__(self, operand: DecodedWeights, schedule: GemmSchedule, extent: int):
        super().__init__(operand, schedule, extent)
        self.depth = schedule.depth
        self.wide = 1 if operand.along_k else operand.elements
        self.across = extent // self.wide
        least = operand.elements if operand.along_k else 4
        counts = [count for count in (32, 16, 8, 4) if least <= count <= schedule.depth]
        #: Codes of a column that a thread decodes: as many as leave no thread without.
        self.each = next((c for c in counts if self.across * (schedule.depth // c) >= self.threads), counts[-1])
        self.total = self.across * (schedule.depth // self.each)

    def begin_copies(self, batch: Expr, tile: Expr) -> None:
        operand, builder = self.operand, self.builder
        self.pieces: list[tuple[Piece, Expr, Expr, Expr, Expr]] = []
        for number in range(-(-self.total // self.threads)):
            unit = builder.bind(builder.thread + number * self.threads)
            beside, k = (builder.bind(f(unit, self.across)) for f in (tir.floor_mod, tir.floor_div))
            piece = Piece(operand.codes, operand.group, self.wide, self.each)
            row = operand.row(batch, builder.bind(tile * self.across + beside))
            self.pieces.append((piece, beside, builder.bind(k * self.each), *row))
        self.waiting = [piece.words for piece, *_ in self.pieces]

    def _all(self, write: Callable[..., None]) -> None:
        for number, piece in enumerate(self.pieces):
            one = functools.partial(write, *piece)
            if (number + 1) * self.threads > self.total:
                self.builder.when(self.builder.thread + number * self.threads < self.total, one)
            else:
                one()

    def fetch(self, step: Expr, stage: Expr) -> None:
        """Ask for the codes of a step; they wait."""
        del stage
        builder, blocks = self.builder, self.operand.codes.blocks

        def one(piece: Piece, _: Expr, k: Expr, panel: Expr, column: Expr) -> None:
            at = builder.bind(step * self.depth + k)
            block = tir.floor_div(at, BLOCK)
            if self.depth > BLOCK:  # a step may go beyond the last block
                block = tir.minimum(block, blocks - 1)
            first = 0 if self.each == BLOCK else builder.bind(tir.floor_mod(at, BLOCK))
            piece.load(panel, column, builder.bind(block), first)

        self._all(one)

    def put(self, stage: Expr) -> None:
        """Decode and store what waits."""
        builder, operand = self.builder, self.operand

        def one(piece: Piece, beside: Expr, k: Expr, *_: Expr) -> None:
            piece.arrive()
            size = operand.elements if operand.along_k else 1
            several = max(piece.period, size)
            with builder.unrolled(self.each // several) as number:
                for first in range(0, several, size):
                    weights = builder.registers("float32", operand.elements, "weights")
                    at = number * several + first
                    if operand.along_k:
                        for lane in range(size):
                            builder.store(weights, self._weight(piece, number, first + lane, 0), lane)
                        place = self.address(stage, tir.floor_div(k, size) + tir.floor_div(at, size), beside)
                    else:
                        with builder.unrolled(self.wide) as column:
                            builder.store(weights, self._weight(piece, number, first, column), column)
                        place = self.address(stage, beside, k + at)
                    self._store(place, weights)

        self._all(one)

    def _weight(self, piece: Piece, number: Expr, element: int, column: Expr) -> Expr:
        """Of `number` times as many elements as are a period, or a chunk if that is more, and `element`."""
        period, several = piece.period, max(piece.period, self.operand.elements if self.operand.along_k else 1)
        level = piece.level(number * (several // period) + element // period, element % period, column)
        span = tir.floor_div(number * several + element, piece.span)
        if self.operand.codes.is_shifted:
            level = level - piece.zero(span, column)
        return level * piece.scale(span, column)

    def _store(self, place: Expr, weights: Buffer) -> None:
        builder, dtype = self.builder, self.operand.dtype
        if dtype not in _PAIRS:
            builder.call("tc_store<4>", place, builder.address(weights, 0))
            return
        pairs = builder.registers("uint32", 4, "pairs")
        for pair in range(4):
            two = (builder.load(weights, 2 * pair + i) for i in range(2))
            builder.store(pairs, builder.value("uint32", f"tc_two<{_PAIRS[dtype]}>", *two), pair)
        builder.call("tc_store<4>", place, builder.address(pairs, 0))
