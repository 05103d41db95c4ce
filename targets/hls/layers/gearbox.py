"""Between channels: words are cut or put together, a narrow word a cycle, or copied to several readers."""

from __future__ import annotations

from collections.abc import Sequence

from targets.hls.expressions import Const, Counter, Element, Expr, Register
from targets.hls.program import Channel, Lanes, Memory, Nest, Process, Put, Read, State, Statement, Update, When, Write


def gearbox(name: str, source: Channel, sink: Channel) -> Process:
    """The lanes of one are a multiple of the other's."""
    wide, narrow = max(source.lanes, sink.lanes), min(source.lanes, sink.lanes)
    kind = source.kind
    held = State("held", kind, wide)
    word = Counter.of("number", source.count * source.lanes // wide)
    piece = Counter.of("piece", wide // narrow)
    lane, every = Counter.of("lane", narrow, is_lane=True), Counter.of("each", wide, is_lane=True)
    rest = Counter.of("each", wide - narrow, is_lane=True)

    def element(lane: Expr) -> Expr:
        return Element(kind.low, kind.high, "word_in", lane)

    def kept(lane: Expr) -> Expr:
        return Register(kind.low, kind.high, held.name, lane)

    shift = Lanes(rest, (Update(held, rest, kept(rest + narrow)),))
    body: tuple[Statement, ...]
    if source.lanes > sink.lanes:
        take = When(piece.equals(0), (Read(source, "word_in"), Lanes(every, (Update(held, every, element(every)),))))
        body = (take, Lanes(lane, (Put("out", lane, kept(lane)),)), Write((sink,), "out"), shift)
    else:
        append = Lanes(lane, (Update(held, lane + (wide - narrow), element(lane)),))
        give = (Lanes(every, (Put("out", every, kept(every)),)), Write((sink,), "out"))
        body = (Read(source, "word_in"), shift, append, When(piece.equals(piece.high), give))
    title = f"words of {source.lanes} numbers to words of {sink.lanes}"
    return Process(name, title, (Nest("pass", (word, piece), body),), (source,), (sink,), (), (held,))


def fork(name: str, source: Channel, sinks: Sequence[Channel]) -> Process:
    """Every word to each of the sinks."""
    word = Counter.of("number", source.count)
    body = (Read(source, "word_in"), passed(source, "word_in"), Write(tuple(sinks), "out"))
    return Process(name, f"{len(sinks)} copies", (Nest("pass", (word,), body),), (source,), tuple(sinks))


def passed(holder: Channel | Memory, word: str) -> Statement:
    """A word that came from a channel or a memory becomes the word `out`."""
    lane = Counter.of("lane", holder.lanes, is_lane=True)
    at = lane if holder.lanes > 1 else Const.of(0)
    return Lanes(lane, (Put("out", at, Element(holder.kind.low, holder.kind.high, word, at)),))
