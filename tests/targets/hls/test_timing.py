"""The timing model by itself: what can be said of it without running Verilog."""

from __future__ import annotations

import numpy as np
import pytest

from targets.hls.expressions import Const, Counter, Element
from targets.hls.hardware.pipeline import designs_of
from targets.hls.hardware.timing import DeadlockError, depths, timing_of, with_depths
from targets.hls.program import Channel, Kind, Nest, Port, Process, Program, Put, Read, When, Write
from tensorc.errors import TensorcWarning

pytestmark = pytest.mark.compiler

BYTE = Kind(0, 255)
ZERO = Const.of(0)
X = Element(0, 255, "x", ZERO)


def copied(name: str, source: Channel, *sinks: Channel, ii: int = 1) -> Process:
    loop = Counter.of("n", source.count)
    body = (Read(source, "x"), Put("w", ZERO, X), Write(sinks, "w"))
    return Process(name, name, (Nest("pass", (loop,), body, ii),), (source,), sinks)


def program(count: int = 20, late: int = 12, slow: int = 1, depth: int = 2) -> Program:
    """A fork; one way goes through a process that gives its first word after `late`; then both are joined."""
    names = ("in", "way", "bypass", "back", "out")
    source, way, bypass, back, out = (Channel(name, BYTE, 1, count, depth) for name in names)
    at = Counter.of("n", count + late)
    body = (
        When(at < count, (Read(way, "x"),)),
        When(Const.of(late) <= at, (Put("w", ZERO, Const.of(7)), Write((back,), "w"))),
    )
    delayed = Process("delay", "delay", (Nest("pass", (at,), body, slow),), (way,), (back,))
    joined = Nest("pass", (Counter.of("n", count),), (
        Read(back, "a"), Read(bypass, "x"), Put("w", ZERO, Element(0, 255, "a", ZERO) * X), Write((out,), "w"),
    ))  # fmt: skip
    join = Process("join", "join", (joined,), (back, bypass), (out,))
    processes = (copied("fork", source, way, bypass), delayed, join)

    def port(channel: Channel) -> Port:
        return Port(channel.name, channel, (count,), np.arange(count))

    return Program("net", processes, (source, way, bypass, back, out), (port(source),), (port(out),))


def test_a_bypass_that_is_too_short_is_named():
    with pytest.raises(DeadlockError) as error:
        timing_of(program())
    assert error.value.full == ("bypass",)
    assert "way" in error.value.empty
    assert "net comes to a stop: it waits for words in " in str(error.value)
    assert "and for room in bypass, which need more depth" in str(error.value)


def test_the_least_depths():
    split = program()
    found = depths(split)
    timing = timing_of(with_depths(split, found))
    # Twelve words pass before the first comes back, then it takes a cycle for each channel on the way.
    assert found["bypass"] == 12 + 3
    best = timing_of(split, depths=dict.fromkeys(found, 1000))
    assert timing.ends == best.ends
    assert timing.channels["bypass"].most == found["bypass"]
    for name, depth in found.items():
        if depth > 1:
            try:
                slower = timing_of(split, depths={**found, name: depth - 1}).ends
            except DeadlockError:
                continue
            assert slower > timing.ends


def test_what_waits_is_told():
    split = program(slow=3)
    found = timing_of(with_depths(split, depths(split)))
    designs = {design.process.name: design for design in designs_of(split)}
    assert found.interval == designs["delay"].cycles() == 31 * 3 + 1
    for name, times in found.processes.items():
        assert times.end - times.start == times.busy + times.stalled
        assert times.busy == designs[name].cycles()
    assert found.processes["delay"].stalled == 0
    assert found.processes["fork"].stalled > 0
    assert found.channels["back"].empty > 0
    assert found.channels["bypass"].most > 12


def test_an_image_alone():
    one = Program("one", (copied("pass", a := Channel("a", BYTE, 1, 5), b := Channel("b", BYTE, 1, 5)),), (a, b),
                  (Port("a", a, (5,), np.arange(5)),), (Port("b", b, (5,), np.arange(5)),))  # fmt: skip
    assert timing_of(one, images=1).latency == timing_of(one, images=1).interval == 6
    assert timing_of(one, images=3).ends == (6, 11, 16)
    assert timing_of(one, depths={"b": 1}).latency == 10  # a word a time: written, seen, taken


@pytest.mark.parametrize("runs", [1, 4, 8])
def test_depths_that_take_too_long_to_find_are_enough(residual, monkeypatch, runs):
    """The first channels, which hold the most bits, have the least depth all the same."""
    program = residual.program("residual", {})
    least = depths(program)
    each = 4 * sum(channel.count for channel in program.channels)
    monkeypatch.setattr("targets.hls.hardware.timing._MOST_WORDS", runs * each)
    with pytest.warns(TensorcWarning, match=r"residual: \d of \d FIFOs may be deeper than they must be"):
        found = depths(program)
    unbounded = {channel.name: 4 * channel.count for channel in program.channels}
    assert timing_of(program, depths=found).ends == timing_of(program, depths=unbounded).ends
    assert all(found[name] >= depth for name, depth in least.items())
    assert found != least
