"""A profile as one HTML page that needs nothing beside it: the table of kernels, and the roofline as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from tensorc.cli.profile_text import milliseconds, percent, prediction, rate, schedule_text, summary
from tensorc.profiling import Ceilings, KernelRow, Profile

_TEMPLATE = Path(__file__).with_suffix(".html")

_WIDTH, _HEIGHT = 900, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 50
#: Radius of the circle of a kernel that takes all the time, and the least of any.
_LARGEST, _SMALLEST = 40.0, 3.0
#: Classes bound0 ... of the page's style.
_COLOURS = 6

_KERNEL_COLUMNS = (
    "kernel", "calls", "time", "share", "GFLOP", "MB", "GFLOP/s", "GB/s", "attainable", "attained", "bound by",
    "schedule", "origin", "predicted", "predicted/measured",
)  # fmt: skip
_TEXT_COLUMNS = frozenset({"kernel", "step", "bound by", "schedule", "origin"})


def render(model: str, target: str, profile: Profile) -> str:
    """The page."""
    rows = profile.rows()
    drawn = [row for row in rows if row.flops and row.nbytes and row.seconds > 0]
    facts = [("target", f"{target}, {profile.threads} thread{'s' * (profile.threads != 1)}"), *summary(profile)]
    left_out = len(rows) - len(drawn)
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(model),
        summary="\n".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in facts),
        width=_WIDTH,
        height=_HEIGHT,
        roofline="\n".join(_roofline(drawn, profile.ceilings)),
        left_out=f"{left_out} kernels that do no arithmetic are in the table only." if left_out else "",
        kernels=_table(_KERNEL_COLUMNS, map(_kernel_cells, rows)),
        step_count=len(profile.steps),
        steps=_table(
            ("step", "kernel", "time", "share"),
            (
                (step.label, step.kernel, milliseconds(step.seconds), percent(step.seconds / profile.kernel_seconds))
                for step in profile.steps
                if profile.kernel_seconds > 0
            ),
        ),
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def kind(column: str, cell: str) -> str:
        if column in ("kernel", "step"):
            return ' class="name"'
        if column == "share":
            return f' class="number share" style="--part: {escape(cell)}"'
        return "" if column in _TEXT_COLUMNS else ' class="number"'

    head = "".join(f"<th{kind(c, '') if c != 'share' else ''}>{escape(c)}</th>" for c in columns)
    lines = [f"<tr>{head}</tr>"]
    for row in rows:
        cells = (f"<td{kind(c, cell)}>{escape(cell)}</td>" for c, cell in zip(columns, row, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join(lines)


def _kernel_cells(row: KernelRow) -> tuple[str, ...]:
    predicted = row.to_json()["predicted_seconds"]
    return (
        row.kernel, str(row.calls), milliseconds(row.seconds), percent(row.share), f"{row.flops / 1e9:.3g}",
        f"{row.nbytes / 1e6:.3g}", rate(row.flops_rate), rate(row.bytes_rate), milliseconds(row.attainable_seconds),
        percent(row.attained), row.bound, schedule_text(row.facts.schedule), row.facts.origin,
        "-" if predicted is None else milliseconds(predicted), prediction(row),
    )  # fmt: skip


# The roofline --------------------------------------------------------------------------------------------


class _Axis:
    """Logarithmic, from a whole decade to a whole decade, drawn from `start` to `end`."""

    def __init__(self, values: Sequence[float], start: float, end: float):
        self.low = math.floor(math.log10(min(values)))
        self.high = max(math.ceil(math.log10(max(values))), self.low + 1)
        self.start = start
        self.unit = (end - start) / (self.high - self.low)

    def __call__(self, value: float) -> float:
        return self.start + (math.log10(value) - self.low) * self.unit

    def decades(self) -> Iterator[tuple[float, str]]:
        for power in range(self.low, self.high + 1):
            yield self(10.0**power), f"{10.0**power:g}"


def _roofline(rows: Sequence[KernelRow], ceilings: Ceilings) -> Iterator[str]:
    """SVG elements: operations per byte to the right, operations a second upwards, both logarithmic."""
    ridges = [ceilings.flops / level.bandwidth for level in ceilings.levels]
    intensities = [row.flops / row.nbytes for row in rows]
    x = _Axis([*intensities, *ridges, min(ridges) / 2, max(ridges) * 10], _LEFT, _WIDTH - _RIGHT)
    y = _Axis([*(row.flops_rate / 1e9 for row in rows), ceilings.flops / 1e9, ceilings.flops / 1e11],
              _HEIGHT - _BOTTOM, _TOP)  # fmt: skip
    yield from _grid(x, y)
    yield from _roofs(ceilings, x, y)
    bounds = ["compute", *(level.name for level in ceilings.levels)]
    for row, intensity in zip(rows, intensities, strict=True):
        radius = max(_LARGEST * math.sqrt(row.share), _SMALLEST)
        name = (
            f"{row.kernel}: {percent(row.share)} of the time, {rate(row.flops_rate)} GFLOP/s, "
            f"{percent(row.attained)} of what {row.bound} allows"
        )
        yield (
            f'<circle class="point bound{min(bounds.index(row.bound), _COLOURS - 1)}" cx="{x(intensity):.1f}" '
            f'cy="{y(row.flops_rate / 1e9):.1f}" r="{radius:.1f}"><title>{escape(name)}</title></circle>'
        )
    for index, bound in enumerate(bounds):
        at = _TOP + 16 * index + 10
        yield f'<circle class="point bound{min(index, _COLOURS - 1)}" cx="{_LEFT + 14}" cy="{at}" r="5"/>'
        yield f'<text x="{_LEFT + 24}" y="{at + 4}">{escape(bound)}</text>'


def _grid(x: _Axis, y: _Axis) -> Iterator[str]:
    floor = _HEIGHT - _BOTTOM
    for at, text in x.decades():
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{floor}"/>'
        yield f'<text x="{at:.1f}" y="{floor + 16}" text-anchor="middle">{text}</text>'
    for at, text in y.decades():
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>'
    yield f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 10}" text-anchor="middle">operations per byte</text>'
    middle = (_TOP + floor) / 2
    yield f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">GFLOP/s</text>'


def _roofs(ceilings: Ceilings, x: _Axis, y: _Axis) -> Iterator[str]:
    """One slope a level, from the frame's edge up to the one flat roof."""
    peak = ceilings.flops / 1e9
    low_x, low_y = 10.0**x.low, 10.0**y.low
    slope = math.degrees(math.atan2(y.unit, x.unit))  # y goes down as rates go up: negative is rising
    for level in ceilings.levels:
        bandwidth = level.bandwidth / 1e9
        begin = max(low_x, low_y / bandwidth)
        ridge = peak / bandwidth
        points = ((x(begin), y(begin * bandwidth)), (x(ridge), y(peak)))
        yield '<polyline class="roof" points="' + " ".join(f"{a:.1f},{b:.1f}" for a, b in points) + '"/>'
        (from_x, from_y), (to_x, to_y) = points
        at = f"translate({from_x + (to_x - from_x) * 0.72:.1f} {from_y + (to_y - from_y) * 0.72 - 4:.1f})"
        text = f"{level.name} {rate(level.bandwidth)} GB/s"
        yield f'<text class="roof-name" transform="{at} rotate({slope:.1f})" text-anchor="middle">{escape(text)}</text>'
    first = peak / (max(level.bandwidth for level in ceilings.levels) / 1e9)
    yield f'<line class="roof" x1="{x(first):.1f}" x2="{_WIDTH - _RIGHT}" y1="{y(peak):.1f}" y2="{y(peak):.1f}"/>'
    text = f"{rate(ceilings.flops)} GFLOP/s in float32"
    yield f'<text class="roof-name" x="{_WIDTH - _RIGHT}" y="{y(peak) - 5:.1f}" text-anchor="end">{text}</text>'
