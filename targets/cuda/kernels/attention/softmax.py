"""What a thread keeps of its queries while it goes over the keys: softmax and the sum that it weighs, in one pass."""

from __future__ import annotations

from collections.abc import Callable

from targets.cuda.kernels.attention.tiles import Fragment
from tensorc.lowering import tir
from tensorc.lowering.gpu import BlockBuilder
from tensorc.lowering.tir import Buffer, Expr, const

_INFINITY = float("inf")


class OnlineSoftmax:
    """For each query the largest score so far, the sum of the exponentials under it and the values that these weigh:
    2^(factor (score - largest)) each.

    Scores that have a mask are scaled (`is_scaled`) before they are compared; others where their exponential is
    computed: the factor has the scale, too.
    """

    def __init__(self, builder: BlockBuilder, scores: Fragment, sums: Fragment, factor: float, is_scaled: bool):
        self.builder = builder
        self.scores, self.sums = scores, sums
        self.factor, self.is_scaled = factor, is_scaled
        self.largest = builder.registers("float32", sums.rows, "largest")
        self.total = builder.registers("float32", sums.rows, "total")
        self.weighed = builder.registers("float32", sums.size, "weighed")
        with builder.unrolled(sums.rows) as i:
            builder.store(self.largest, const(-_INFINITY, "float32"), i)
            builder.store(self.total, const(0, "float32"), i)
        with builder.unrolled(sums.size) as i:
            builder.store(self.weighed, const(0, "float32"), i)

    def soften(self, scores: Buffer, score_at: Callable[[int, Expr, Expr, Expr], Expr]) -> None:
        """Scores to weights, exponentials under the largest score so far; what was weighed under another is put
        right. `score_at` (row, block, neighbour, product) is a score."""
        builder, fragment = self.builder, self.scores
        for i in range(fragment.rows):
            top = builder.registers("float32", 1, "top")
            builder.store(top, builder.load(self.largest, i), 0)
            with builder.unrolled(fragment.blocks) as j, builder.unrolled(fragment.width) as v:
                at = fragment.at(j, i, v)
                builder.store(scores, score_at(i, j, v, builder.load(scores, at)), at)
                builder.store(top, tir.maximum(builder.load(top, 0), builder.load(scores, at)), 0)
            largest = builder.value("float32", f"tc_lanes_max<{fragment.lanes}>", builder.load(top, 0))
            under = self._finite(largest)
            ratio = self._exponential(builder.load(self.largest, i), under)
            builder.store(self.largest, largest, i)
            builder.store(self.total, builder.load(self.total, i) * ratio, i)
            with builder.unrolled(fragment.blocks) as j, builder.unrolled(fragment.width) as v:
                at = fragment.at(j, i, v)
                builder.store(scores, self._exponential(builder.load(scores, at), under), at)
                builder.store(self.total, builder.load(self.total, i) + builder.load(scores, at), i)
            with builder.unrolled(self.sums.blocks) as j, builder.unrolled(self.sums.width) as v:
                at = self.sums.at(j, i, v)
                builder.store(self.weighed, builder.load(self.weighed, at) * ratio, at)

    def _finite(self, largest: Expr) -> Expr:
        """Where all is masked by -inf so far, nothing is to be added, not nan."""
        none = tir.compare("equal", largest, const(-_INFINITY, "float32"))
        return self.builder.keep(tir.select(none, const(0, "float32"), largest))

    def _exponential(self, score: Expr, under: Expr) -> Expr:
        """Under a score. Where scores have a mask their difference is taken first: the mask may be as large as float32
        can be, and the difference is then exact."""
        factor = const(self.factor, "float32")
        exponent = (score - under) * factor if self.is_scaled else score * factor - under * factor
        return self.builder.value("float32", "tc_exp2", exponent)

    def add_lanes(self) -> None:
        """Of all lanes that have a query, the sums."""
        for i in range(self.sums.rows):
            total = self.builder.value("float32", f"tc_lanes_sum<{self.sums.lanes}>", self.builder.load(self.total, i))
            self.builder.store(self.total, total, i)

    @property
    def quads(self) -> int:
        """Of four numbers: what `leave` writes."""
        return self.sums.size // 4 + self.sums.rows // 2

    def leave(self, place: Callable[[Expr], Expr]) -> None:
        """What this thread has found, in quads: weighted sums, then the largest scores and the sums."""
        builder, rows, size = self.builder, self.sums.rows, self.sums.size
        found = builder.registers("float32", 2 * rows, "found")
        with builder.unrolled(rows) as i:
            builder.store(found, builder.load(self.largest, i), i)
            builder.store(found, builder.load(self.total, i), rows + i)
        with builder.unrolled(size // 4) as quad:
            builder.call("tc_store<4>", place(quad), builder.address(self.weighed, quad * 4))
        with builder.unrolled(rows // 2) as quad:
            builder.call("tc_store<4>", place(size // 4 + quad), builder.address(found, quad * 4))

    def join(self, parts: int, load: Callable[[Expr, Expr, Expr], None]) -> None:
        """All that was left of `parts` parts; `load` (to, part, quad) reads four numbers."""
        builder, rows, size = self.builder, self.sums.rows, self.sums.size
        found = builder.registers("float32", 2 * rows, "found")

        def read(part: Expr) -> None:
            with builder.unrolled(rows // 2) as quad:
                load(builder.address(found, quad * 4), part, size // 4 + quad)

        with builder.serial(parts, name="part") as part:
            read(part)
            with builder.unrolled(rows) as i:
                larger = tir.maximum(builder.load(self.largest, i), builder.load(found, i))
                builder.store(self.largest, larger, i)
        with builder.unrolled(rows) as i:
            builder.store(self.total, const(0, "float32"), i)
        with builder.unrolled(size) as i:
            builder.store(self.weighed, const(0, "float32"), i)
        quarter = builder.registers("float32", 4, "quarter")
        ratios = builder.registers("float32", rows, "ratios")
        with builder.serial(parts, name="part") as part:
            read(part)
            with builder.unrolled(rows) as i:
                under = self._finite(builder.load(self.largest, i))
                builder.store(ratios, self._exponential(builder.load(found, i), under), i)
                total = builder.load(self.total, i) + builder.load(found, rows + i) * builder.load(ratios, i)
                builder.store(self.total, total, i)
            with builder.unrolled(size // 4) as quad:
                load(builder.address(quarter, 0), part, quad)
                with builder.unrolled(4) as v:
                    at = quad * 4 + v
                    row = tir.floor_mod(tir.floor_div(at, self.sums.width), rows)
                    more = builder.load(quarter, v) * builder.load(ratios, row)
                    builder.store(self.weighed, builder.load(self.weighed, at) + more, at)
