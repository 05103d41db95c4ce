"""The front of a search: intervals between images against the shares of the part that they take, as JSON and as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from targets.hls.exploration.search import Point
from targets.hls.hardware.resources import Resources
from targets.hls.parts import Part

#: What is drawn, by the names of `Resources`.
_LINES = {
    "dsp": ("DSP", "#1b6ca8"),
    "bram18": ("BRAM18", "#c0392b"),
    "lut": ("LUT", "#2e8b57"),
    "ff": ("FF", "#8e6bb0"),
}
_WIDTH, _HEIGHT, _LEFT, _TOP = 560, 300, 60, 40


def share(part: Part, used: Resources, name: str) -> float:
    there = getattr(part, name)
    return getattr(used, name) / there if there else 0.0


def rows(part: Part, front: Sequence[Point]) -> list[dict[str, Any]]:
    """Cycles, amounts and, as `share`, the part of what there is."""
    return [
        {
            "interval": point.interval,
            "latency": point.latency,
            **{name: getattr(point.used, name) for name in (*_LINES, "uram")},
            "share": {name: round(share(part, point.used, name), 4) for name in _LINES},
        }
        for point in front
    ]


def plot(part: Part, front: Sequence[Point], chosen: tuple[int, Resources], title: str) -> str:
    """`chosen`: the interval of the design, and what it takes."""
    return "\n".join(_drawing(part, front, chosen, title)) + "\n"


def _drawing(part: Part, front: Sequence[Point], chosen: tuple[int, Resources], title: str) -> Iterator[str]:
    intervals = [*(point.interval for point in front), chosen[0]]
    low, high = math.log10(min(intervals)), math.log10(max(intervals))
    shares = [share(part, used, name) for used in (*(p.used for p in front), chosen[1]) for name in _LINES]
    top = max(*shares, 0.01)

    def x(interval: int) -> float:
        return round(_LEFT + _WIDTH * (math.log10(interval) - low) / ((high - low) or 1), 1)

    def y(value: float) -> float:
        return round(_TOP + _HEIGHT * (1 - value / top), 1)

    bottom = _TOP + _HEIGHT
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 90} {bottom + 60}" '
           'font-family="sans-serif" font-size="12" fill="#333">')  # fmt: skip
    yield '<rect width="100%" height="100%" fill="white"/>'
    yield f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>'
    for step in range(5):
        value = top * step / 4
        yield f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y(value)}" y2="{y(value)}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 8}" y="{y(value) + 4}" text-anchor="end">{value:.0%}</text>'
    for number, power in enumerate(range(math.ceil(low), math.floor(high) + 1)):
        if number % max((math.floor(high) - math.ceil(low)) // 6, 1) == 0:
            place = x(10**power)
            yield f'<line x1="{place}" x2="{place}" y1="{_TOP}" y2="{bottom}" stroke="#eee"/>'
            yield f'<text x="{place}" y="{bottom + 18}" text-anchor="middle">{10**power:,}</text>'
    yield f'<text x="{_LEFT + _WIDTH / 2}" y="{bottom + 42}" text-anchor="middle">cycles between images</text>'
    place = x(chosen[0])
    yield f'<line x1="{place}" x2="{place}" y1="{_TOP}" y2="{bottom}" stroke="#999" stroke-dasharray="4 3"/>'
    for number, (name, (label, colour)) in enumerate(_LINES.items()):
        points = [(x(point.interval), y(share(part, point.used, name))) for point in front]
        yield (f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="'
               f'{" ".join(f"{a},{b}" for a, b in points)}"/>')  # fmt: skip
        yield from (f'<circle cx="{a}" cy="{b}" r="2.5" fill="{colour}"/>' for a, b in points)
        yield f'<circle cx="{place}" cy="{y(share(part, chosen[1], name))}" r="5" fill="none" stroke="{colour}"/>'
        yield f'<text x="{_LEFT + _WIDTH + 12}" y="{_TOP + 16 * number + 12}" fill="{colour}">{label}</text>'
    yield f'<text x="{_LEFT + _WIDTH + 12}" y="{_TOP + 84}">ring: this one</text>'
    yield "</svg>"
