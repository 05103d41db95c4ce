"""Words that are kept: a channel's in a memory, numbers in registers."""

from __future__ import annotations

from targets.hls.expressions import Counter, Element, Expr, Load, Register, whole
from targets.hls.program import Channel, Lanes, Memory, Nest, Read, State, Statement, Store


def load(memory: Memory, address: Expr, lane: Expr | int = 0) -> Expr:
    return Load(memory.kind.low, memory.kind.high, memory.name, whole(address), whole(lane))


def now(state: State, lane: Expr | int = 0) -> Expr:
    return Register(state.kind.low, state.kind.high, state.name, whole(lane))


def keep(memory: Memory, channel: Channel) -> Nest:
    """As many words as the memory has, in the order in which they come."""
    word = Counter.of("number", memory.depth)
    return Nest(f"keep_{memory.name}", (word,), kept(memory, channel, word))


def kept(memory: Memory, channel: Channel, at: Expr) -> tuple[Statement, ...]:
    """One word."""
    name = f"{memory.name}_in"
    lane = Counter.of("lane", memory.lanes, is_lane=True)
    element = Element(channel.kind.low, channel.kind.high, name, lane)
    return Read(channel, name), Lanes(lane, (Store(memory, whole(at), lane, element),))
