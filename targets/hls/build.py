"""A fixed-point graph as a project for an FPGA: files by their paths in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from targets.hls import page, pareto, project
from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import Network, network_of, program_of
from targets.hls.names import identifier
from targets.hls.optimize import Optimum, optimum
from targets.hls.parts import Part
from targets.hls.printing import cpp, testbench, verilog
from targets.hls.program import Process, Program, Repeat, Step
from targets.hls.resources import Resources
from targets.hls.timing import Timing, with_depths
from targets.hls.vectors import golden, write_rows
from tensorc.ir.graph import Graph
from tensorc.options import CompileOptions, Objective
from tensorc.quantization.data import Samples
from tensorc.quantization.scheme import Quantization, is_ranges
from tensorc.target import Program as Built
from tensorc.target import Progress

#: What a design is to be best in unless it is said.
OBJECTIVE: Objective = "latency"
#: Golden vectors in a project.
VECTORS = 100


@dataclass(frozen=True)
class Report:
    """What a design is promised to take: cycles by its schedule, DSP and BRAM18 by its Verilog."""

    latency: int
    interval: int
    dsp: int
    bram18: int

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Report:
        """Out of `report.json`."""
        found = report["CSynthesisReport"]
        return cls(found["BestLatency"], found["IntervalMin"], found["DSP"], found["BRAM_18K"])


def scheduled(network: Network, unrolls: Mapping[str, Unroll], name: str, depths: Mapping[str, int]) -> Program:
    """The program of a choice; channels that `depths` does not name are as deep as they are by themselves."""
    return with_depths(program_of(network, unrolls, name), depths)


def build(graph: Graph, part: Part, options: CompileOptions, progress: Progress) -> Built:
    network = network_of(graph)
    progress(0, 0, "schedule")
    found = optimum(network, part, options.objective or OBJECTIVE, identifier(graph.name))
    unrolls, program, designs, timing, used = found.unrolls, found.program, found.designs, found.timing, found.used
    progress(0, 0, "golden vectors")
    vectors = golden(graph, program, _feeds(graph, options.quantize), VECTORS)
    files: dict[str, bytes] = {f"firmware/{name}": text.encode() for name, text in cpp.files(program)}
    files[f"{program.name}_test.cpp"] = testbench.bench(program).encode()
    files |= {f"rtl/{name}": text.encode() for name, text in verilog.files(program, designs)}
    for kind, arrays in (("input", vectors.inputs), ("output", vectors.outputs)):
        files |= {f"tb_data/{kind}_{number}.dat": write_rows(rows) for number, rows in enumerate(arrays)}
    files["hls_config.cfg"] = _config(program, part).encode()
    files["build_prj.tcl"] = _script(program, part).encode()
    files[project.SCHEDULE] = json.dumps(_schedule(network, unrolls, program), indent=1).encode()
    files[project.REPORT] = json.dumps(_report(part, timing, used), indent=1).encode()
    files |= _front(part, found)
    files["report.html"] = page.render(program, network.layers, unrolls, timing, used, part, CLOCK).encode()
    files |= dict(project.graph_files(graph))
    summary = [
        ("part", part.number),
        ("layers", str(len(network.layers))),
        ("latency", f"{timing.latency:,} cycles, {_microseconds(timing.latency)} at {CLOCK:g} ns"),
        ("interval", f"{timing.interval:,} cycles, {1e9 / CLOCK / timing.interval:,.0f} images a second"),
        ("used", ", ".join(f"{mine:,} {name} ({mine / there:.1%})" for name, mine, there in page.uses(used, part))),
    ]
    return Built({name: [data] for name, data in files.items()}, {"top": program.name}, summary, graph=graph)


def _front(part: Part, found: Optimum) -> dict[str, bytes]:
    title = f"{found.program.name} on {part.name}: fronts of the search"
    picture = pareto.plot(part, found.front, (found.timing.interval, found.used), title)
    return {
        project.PARETO: json.dumps(pareto.rows(part, found.front), indent=1).encode(),
        "pareto.svg": picture.encode(),
    }


def _microseconds(cycles: int) -> str:
    return f"{cycles * CLOCK / 1e3:,.1f} us"


def _report(part: Part, timing: Timing, used: Resources) -> dict[str, Any]:
    return {
        "part": part.name,
        "CSynthesisReport": {
            "TargetClockPeriod": CLOCK,
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


def _feeds(graph: Graph, how: Quantization | None) -> list[dict[str, Any]]:
    """The samples of the calibration."""
    if how is None or how.calibration is None or is_ranges(how.calibration) or graph.labels is None:
        return []
    rows = [
        {"name": name, "dtype": "float32", "shape": list(value.shape)}
        for name, value in zip(graph.labels[0], graph.inputs, strict=True)
    ]
    return list(Samples.read(how.calibration, rows).feeds)


#: Nanoseconds.
CLOCK = 5.0


def _config(program: Program, part: Part) -> str:
    sources = [f"firmware/{program.name}.cpp"]
    lines = [f"part={part.number}", "", "[hls]", "flow_target=vivado", f"clock={CLOCK:g}ns", f"syn.top={program.name}"]
    lines += [f"syn.file={name}" for name in sources]
    lines += [f"tb.file={program.name}_test.cpp", "tb.file=tb_data", "package.output.format=ip_catalog"]
    return "\n".join(lines) + "\n"


def _script(program: Program, part: Part) -> str:
    return f"""\
# vitis_hls -f build_prj.tcl
open_project -reset {program.name}_prj
set_top {program.name}
add_files firmware/{program.name}.cpp -cflags "-std=c++14"
add_files -tb {program.name}_test.cpp -cflags "-std=c++14"
add_files -tb tb_data
open_solution -reset solution1 -flow_target vivado
set_part {{{part.number}}}
create_clock -period {CLOCK:g} -name default
csim_design
csynth_design
cosim_design
export_design -format ip_catalog
exit
"""


def _schedule(network: Network, unrolls: Mapping[str, Unroll], program: Program) -> dict[str, Any]:
    return {
        "top": program.name,
        "layers": {
            layer.name: {"title": layer.title, **asdict(unrolls[layer.name])} for layer in network.layers
        },
        "processes": [_process(process) for process in program.processes],
        "channels": {
            channel.name: {"bits": channel.kind.bits, "signed": channel.kind.signed, "fraction": channel.kind.fraction,
                           "lanes": channel.lanes, "words": channel.count, "depth": channel.depth}
            for channel in program.channels
        },
    }  # fmt: skip


def _process(process: Process) -> dict[str, Any]:
    return {
        "name": process.name,
        "title": process.title,
        "reads": [channel.name for channel in process.inputs],
        "writes": [channel.name for channel in process.outputs],
        "memories": {
            memory.name: {"words": memory.depth, "bits": memory.bits, "constant": memory.is_constant,
                          "storage": memory.storage}
            for memory in process.memories
        },
        "steps": list(_steps(process.steps)),
    }  # fmt: skip


def _steps(steps: tuple[Step, ...]) -> Iterator[dict[str, Any]]:
    for step in steps:
        if isinstance(step, Repeat):
            yield {"repeat": step.counter.high + 1, "counter": step.counter.name, "steps": list(_steps(step.steps))}
        else:
            loops = {counter.name: counter.high + 1 for counter in step.loops}
            yield {"nest": step.name, "loops": loops, "trip": step.trip, "ii": step.ii}


def unrolls_of(schedule: dict[str, Any]) -> dict[str, Unroll]:
    """What a project's schedule says of how its layers are unrolled."""
    return {name: Unroll(row["outputs"], row["inputs"], row["constants"]) for name, row in schedule["layers"].items()}
