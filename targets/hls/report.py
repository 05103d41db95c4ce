"""`report.json`: what a design is promised to take, in the field names of Vitis's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from targets.hls.hardware.resources import Resources
from targets.hls.hardware.timing import Timing
from targets.hls.parts import Part


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


def report(part: Part, timing: Timing, used: Resources, clock: float, estimated: float) -> dict[str, Any]:
    """`clock`, and what the longest stage of a pipeline is taken to need, in nanoseconds."""
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
        "layers": {name: asdict(times) for name, times in timing.processes.items()},
        "channels": {name: asdict(times) for name, times in timing.channels.items()},
    }
