"""`report.html`: a design's schedule as a timeline, its layers, its use of the part, and what would make it faster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from targets.hls.hardware.resources import Resources
from targets.hls.hardware.timing import ProcessTiming, Timing
from targets.hls.layers.layer import Layer, Unroll
from targets.hls.parts import Part
from targets.hls.program import Program
from targets.hls.schedule import Schedule
from targets.hls.traffic import Traffic, gigabytes, traffic_of
from tensorc.options import format_bytes

_TEMPLATE = Path(__file__).with_suffix(".html")
_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 1000, 22, 190, 20, 24
#: A layer this near to the slowest holds the design back as much.
_NEARLY = 0.9


def render(
    program: Program,
    layers: Sequence[Layer],
    schedule: Schedule,
    timing: Timing,
    used: Resources,
    part: Part,
    clock: float,
) -> str:
    """The page; `clock` in nanoseconds."""
    slowest, unrolls = bottleneck(timing), schedule.unrolls
    facts = [
        ("part", f"{part.name} ({part.number})"),
        ("clock", f"{clock:g} ns"),
        ("latency", f"{timing.latency:,} cycles, {timing.latency * clock / 1e3:,.1f} us"),
        ("interval", f"{timing.interval:,} cycles, {1e9 / clock / timing.interval:,.0f} images a second"),
        ("slowest", f"{slowest}, {timing.processes[slowest].busy:,} cycles of work an image"),
    ]
    if schedule.plan is not None:
        facts.append(("layers take turns", str(schedule.plan)))
    moved = traffic_of(program)
    if moved:
        facts.append(("outside the chip", outside(moved, timing, clock)))
    titles = {process.name: process.title for process in program.processes}
    bits = {layer.name: layer.bits for layer in layers}
    cores = {process.name: [stage.name for stage in process.stages] for process in program.processes if process.stages}
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(program.name),
        part=escape(part.name),
        facts="\n".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in facts),
        width=_WIDTH,
        height=_TOP + _ROW * len(timing.processes) + 8,
        timeline="\n".join(_timeline(timing, slowest)),
        layers=_table(
            ("layer", "what", "bits", "unrolled", "starts", "ends", "works", "waits", "share of the interval"),
            [
                (
                    name,
                    titles[name],
                    _bits(bits.get(name)),
                    _unrolled(unrolls.get(name)),
                    f"{times.start:,}",
                    f"{times.end:,}",
                    f"{times.busy:,}",
                    f"{times.stalled:,}",
                    f"{times.busy / timing.interval:.0%}",
                )
                for name, times in timing.processes.items()
            ],
            slowest,
        ),
        advice="\n".join(f"<li>{escape(line)}</li>" for line in advice(layers, unrolls, timing, cores)),
        used=_table(
            ("resource", "used", "available", "share"),
            [(name, f"{mine:,}", f"{there:,}", f"{mine / there:.1%}") for name, mine, there in uses(used, part)],
        ),
        outside=_table(
            ("port", "what", "bytes there", "read an image", "written an image", "bytes a cycle at most"),
            [
                (one.port, one.what, f"{one.nbytes:,}", f"{one.read:,}", f"{one.written:,}", f"{one.rate:g}")
                for one in moved
            ],
        )
        if moved
        else "<tr><td>Nothing lies outside the chip.</td></tr>",
        channels=_table(
            ("channel", "bits", "words that fit", "greatest number in it", "reader waited", "writer waited"),
            [
                (
                    channel.name,
                    f"{channel.bits}",
                    f"{channel.depth:,}",
                    f"{timing.channels[channel.name].most:,}",
                    f"{timing.channels[channel.name].empty:,}",
                    f"{timing.channels[channel.name].full:,}",
                )
                for channel in program.channels
                if channel.name in timing.channels
            ],
        ),
    )


def outside(moved: Sequence[Traffic], timing: Timing, clock: float) -> str:
    """What passes to and from memory outside the chip."""
    total = sum(one.moved for one in moved)
    rate = gigabytes(total, timing.interval, clock)
    ports = f"{len(moved)} ports" if len(moved) > 1 else "a port"
    return f"{format_bytes(total)} an image by {ports}, {rate:.2g} GB/s where images follow each other"


def bottleneck(timing: Timing) -> str:
    """The process that works longest on an image: none can follow sooner."""
    return max(timing.processes, key=lambda name: timing.processes[name].busy)


def uses(used: Resources, part: Part) -> list[tuple[str, int, int]]:
    """Of each resource that the part has: what is used of it and what there is."""
    rows = [("LUT", used.lut, part.lut), ("FF", used.ff, part.ff), ("BRAM18", used.bram18, part.bram18),
            ("URAM", used.uram, part.uram), ("DSP", used.dsp, part.dsp)]  # fmt: skip
    return [row for row in rows if row[2]]


def advice(
    layers: Sequence[Layer], unrolls: Mapping[str, Unroll], timing: Timing, cores: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """What would make the design faster, layer by layer, the slowest first. `cores`: the stages of each."""
    by_name = {layer.name: layer for layer in layers}
    most = timing.processes[bottleneck(timing)].busy
    slow = {name: times for name, times in timing.processes.items() if times.busy >= _NEARLY * most}
    for name, times in sorted(slow.items(), key=lambda row: -row[1].busy):
        layer = by_name.get(name)
        now = unrolls.get(name)
        further = _further(layer, now) if layer is not None and now is not None else None
        share = f"{name} works {times.busy:,} of {timing.interval:,} cycles between images"
        if name in cores:
            turns = " and ".join(cores[name])
            yield f"{share}: {turns} take turns on it; a part with more DSP blocks would make it faster."
        elif now is None or layer is None:
            yield f"{share}: it passes a word a cycle; wider words on both of its sides would make it faster."
        elif further is None:
            yield f"{share}, and is unrolled as far as it can be: fewer numbers, or another layer, would help."
        else:
            yield (
                f"{share}: UNROLL {_unrolled(further)} instead of {_unrolled(now)} (schedule.json: outputs "
                f"{further.outputs}, inputs {further.inputs}, places {further.places}) would nearly halve that, if "
                "the part has room."
            )
    others = [name for name in timing.processes if name not in slow]
    if others:
        yield f"To unroll others ({len(others)} of {len(timing.processes)}) further changes the interval by nothing."


def _further(layer: Layer, now: Unroll) -> Unroll | None:
    """The next larger choice."""
    larger = [choice for choice in layer.choices() if choice.size > now.size]
    return min(larger, key=lambda choice: choice.size, default=None)


def _unrolled(unroll: Unroll | None) -> str:
    if unroll is None:
        return ""
    return f"{unroll.outputs} x {unroll.inputs}" + (f" x {unroll.places}" if unroll.places > 1 else "")


def _bits(found: Mapping[str, Any] | None) -> str:
    """`8 x 4 -> 6`: of inputs, weights and the output."""
    if found is None:
        return ""
    weights = f" x {found['weights']}" if found["weights"] is not None else ""
    return f"{', '.join(map(str, found['inputs']))}{weights} -> {found['output']}"


def _timeline(timing: Timing, slowest: str) -> Iterator[str]:
    end = max(times.end for times in timing.processes.values())
    unit = (_WIDTH - _LEFT - _RIGHT) / max(end, 1)
    for tenth in range(0, 11, 2):
        at = _LEFT + (_WIDTH - _LEFT - _RIGHT) * tenth / 10
        yield f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_TOP + _ROW * len(timing.processes)}"/>'
        yield f'<text x="{at:.1f}" y="{_TOP - 8}" text-anchor="middle">{end * tenth // 10:,}</text>'
    for number, (name, times) in enumerate(timing.processes.items()):
        yield from _bar(number, name, times, unit, name == slowest)


def _bar(number: int, name: str, times: ProcessTiming, unit: float, is_slowest: bool) -> Iterator[str]:
    y = _TOP + _ROW * number + 4
    x, width = _LEFT + times.start * unit, max((times.end - times.start) * unit, 1)
    worked = width * times.busy / max(times.busy + times.stalled, 1)
    label = f"{name}: cycles {times.start:,} to {times.end:,}, works {times.busy:,}, waits {times.stalled:,}"
    yield f'<text x="{_LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(_short(name))}</text>'
    yield f'<rect class="span" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 8}"/>'
    kind = "work slowest" if is_slowest else "work"
    yield (f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{worked:.1f}" height="{_ROW - 8}">'
           f"<title>{escape(label)}</title></rect>")  # fmt: skip


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:11]}...{name[-10:]}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], marked: str = "") -> str:
    names = ("layer", "what", "resource", "channel", "port")

    def cell(tag: str, column: str, text: str) -> str:
        kind = ' class="name"' if column in names else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    lines = [f"<tr>{''.join(cell('th', column, column) for column in columns)}</tr>"]
    for row in rows:
        cells = "".join(cell("td", column, text) for column, text in zip(columns, row, strict=True))
        kind = ' class="slowest"' if marked and row[0] == marked else ""
        lines.append(f"<tr{kind}>{cells}</tr>")
    return "\n".join(lines)
