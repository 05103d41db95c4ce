"""A profile's numbers as a person reads them: in the terminal's table and in the HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tensorc.benchmark import TOLERABLE
from tensorc.cli.console import duration
from tensorc.options import format_bytes
from tensorc.profiling import Ceilings, KernelRow, Profile, totals


def percent(part: float) -> str:
    return f"{part:.1%}"


def rate(per_second: float) -> str:
    """In units of 1e9 a second; "-" for none at all."""
    return f"{per_second / 1e9:.3g}" if per_second else "-"


def prediction(row: KernelRow) -> str:
    """Predicted over measured time, and by how much the cost model thinks itself off: 0.93 ± 12%."""
    value, deviation = row.predicted_ratio, row.facts.predicted_deviation
    if value is None:
        return "-"
    return f"{value:.2f}" if deviation is None else f"{value:.2f} ± {2.0**deviation - 1:.0%}"


def schedule_text(schedule: Mapping[str, Any]) -> str:
    """Knobs as `kind: name=value, ...`; "-" where there was nothing to choose."""
    knobs = ", ".join(f"{name}={_plain(value)}" for name, value in schedule.items() if name != "kind")
    kind = str(schedule.get("kind", ""))
    return f"{kind}: {knobs}" if kind and knobs else kind or knobs or "-"


def resources_text(resources: Mapping[str, Any]) -> tuple[str, str, str]:
    """Registers of a thread, bytes that it keeps elsewhere for want of them, and the part of a multiprocessor's warps
    that can be at work at once, with what there is no more of."""
    if not resources:
        return "-", "-", "-"
    occupancy = resources["occupancy"]
    return (str(resources["registers"]), str(resources["spill_stores"] or "-"),
            f"{occupancy['share']:.0%} ({occupancy['limit']})")  # fmt: skip


def _plain(value: Any) -> str:
    return "x".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"


def summary(profile: Profile) -> list[tuple[str, str]]:
    """Rows (label, value) about the run as a whole."""
    whole, kernels = profile.whole_seconds, profile.kernel_seconds
    attainable = sum(row.attainable_seconds for row in profile.rows())
    rows = [("whole run", f"{milliseconds(whole)}, median of {profile.runs}; kernels {milliseconds(kernels)}, "
             f"outside kernels {duration(profile.overhead_seconds)}")]  # fmt: skip
    if whole > 0:
        rates = totals(profile.rows())
        rows.append(("attainable", f"{milliseconds(attainable)}, {percent(attainable / whole)} of the whole run; "
                     f"{rate(rates.flops_rate)} GFLOP/s, {rate(rates.bytes_rate)} GB/s attained"))  # fmt: skip
    return [*rows, ("ceilings", _ceilings(profile.ceilings))]


def _ceilings(ceilings: Ceilings) -> str:
    levels = ", ".join(
        f"{level.name} {rate(level.bandwidth)}"
        + ("" if math.isinf(level.capacity) else f" ({format_bytes(level.capacity)})")
        for level in ceilings.levels
    )
    busy = ceilings.other_load is not None and ceilings.other_load > TOLERABLE
    doubt = "; measured on a busy machine, they may be too low" if busy else ""
    of_bytes = "" if ceilings.byte_ops is None else f", {rate(ceilings.byte_ops)} in products of bytes"
    return f"{rate(ceilings.flops)} GFLOP/s in {ceilings.products}{of_bytes}; reading, in GB/s: {levels}{doubt}"
