"""Threads that share a row: who has which of its elements, and how what they found becomes one number."""

from __future__ import annotations

from collections.abc import Callable

from tensorc.lowering import tir
from tensorc.lowering.gpu import BlockBuilder
from tensorc.lowering.tir import Expr

WARP = 32
#: So many warps need not be a power of two: each thread reads what all of them have found, which is quicker than for
#: lanes to tell each other.
FEW_WARPS = 8


def power_of_two(number: int) -> int:
    """The least that is not smaller."""
    return 1 << max(number - 1, 0).bit_length()


def team_size(wanted: int, most: int) -> int:
    """The least size of a team that is not smaller, or the largest."""
    if WARP < wanted <= FEW_WARPS * WARP:
        return -(-wanted // WARP) * WARP
    return min(power_of_two(wanted), most)


class Team:
    """`size` neighbouring threads, a `team_size`: a part of a warp, or all warps of the block. `rank` is a thread's
    place in its team, `number` the team's in the block."""

    def __init__(self, builder: BlockBuilder, size: int):
        assert size <= WARP or size == builder.threads
        self.builder, self.size = builder, size
        self.rank: Expr = 0 if size == 1 else builder.bind(tir.floor_mod(builder.thread, size), "rank")
        self.number = builder.bind(tir.floor_div(builder.thread, size), "team")

    def all(self, value: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
        """What `value` of all threads of the team combine to, which each of them gets. All threads of the block come
        here; the order in which values meet is always the same."""
        builder = self.builder
        value = self._warp(builder.keep(value), min(self.size, WARP), combine)
        if self.size <= WARP:
            return value
        warps = self.size // WARP
        found = builder.shared(tir.dtype_of(value), warps, "found")
        lane = tir.floor_mod(builder.thread, WARP)
        builder.when(lane < 1, lambda: builder.store(found, value, tir.floor_div(builder.thread, WARP)))
        builder.sync()
        if warps <= FEW_WARPS:
            value = builder.keep(builder.load(found, 0))
            for warp in range(1, warps):
                value = builder.keep(combine(value, builder.keep(builder.load(found, warp))))
            return value
        return self._warp(builder.keep(builder.load(found, tir.floor_mod(builder.thread, warps))), warps, combine)

    def _warp(self, value: Expr, lanes: int, combine: Callable[[Expr, Expr], Expr]) -> Expr:
        mask = 1
        while mask < lanes:
            other = self.builder.value(tir.dtype_of(value), "tc_shuffle_xor", value, mask)
            value = self.builder.keep(combine(value, other))
            mask *= 2
        return value
