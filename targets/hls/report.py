"""`report.json`: what a design is promised to take, in the field names of Vitis's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from targets.hls.hardware.resources import Resources
from targets.hls.hardware.timing import Timing
from targets.hls.parts import Part
from targets.hls.plan import Plan
from targets.hls.program import OUTSIDE_LATENCY, Program
from targets.hls.traffic import gigabytes, traffic_of


@dataclass(frozen=True)
class Promise:
    """Cycles by a design's schedule, DSP and BRAM18 by its Verilog."""

    latency: int
    interval: int
    dsp: int
    bram18: int

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Promise:
        """Out of `report.json`."""
        found = report["CSynthesisReport"]
        return cls(found["BestLatency"], found["IntervalMin"], found["DSP"], found["BRAM_18K"])


def report(program: Program, plan: Plan | None, part: Part, timing: Timing, used: Resources,
           clock: float, estimated: float) -> dict[str, Any]:  # fmt: skip
    """`clock`, and what the longest stage of a pipeline is taken to need, in nanoseconds. `Segments`, where layers take
    turns on cores: those of each, and how many cores work on them."""
    moved = traffic_of(program)
    total = sum(one.moved for one in moved)
    return {
        "part": part.name,
        "CSynthesisReport": {
            "TargetClockPeriod": clock,
            "EstimatedClockPeriod": estimated,
            "BestLatency": timing.latency,
            "WorstLatency": timing.latency,
            "IntervalMin": timing.interval,
            "IntervalMax": timing.interval,
            "BRAM_18K": used.bram18,
            "DSP": used.dsp,
            "FF": used.ff,
            "LUT": used.lut,
            "URAM": used.uram,
            "AvailableBRAM_18K": part.bram18,
            "AvailableDSP": part.dsp,
            "AvailableFF": part.ff,
            "AvailableLUT": part.lut,
            "AvailableURAM": part.uram,
        },
        "Segments": [{stage.layer: stage.count for stage in segment} for segment in plan.segments] if plan else [],
        "MemoryOutside": {
            "BytesPerImage": total,
            "GBPerSecond": round(gigabytes(total, timing.interval, clock), 3),
            "AvailableGBPerSecond": part.memory,
            "LatencyCycles": OUTSIDE_LATENCY,
            "Ports": {
                one.port: {
                    "What": one.what,
                    "Bytes": one.nbytes,
                    "ReadPerImage": one.read,
                    "WrittenPerImage": one.written,
                    "BytesPerCycle": one.rate,
                }
                for one in moved
            },
        },
        "layers": {name: asdict(times) for name, times in timing.processes.items()},
        "channels": {name: asdict(times) for name, times in timing.channels.items()},
    }
