"""A fixed-point graph as a project for an FPGA: files by their paths in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from targets.hls import page, project, schedule, vendor
from targets.hls.exploration import pareto
from targets.hls.exploration.optimize import Optimum, optimum
from targets.hls.hardware.clock import CLOCK, period_of
from targets.hls.hardware.pipeline import Design, longest_stage
from targets.hls.layers.network import network_of
from targets.hls.names import own_name
from targets.hls.parts import Part
from targets.hls.printing import cpp, testbench, verilog
from targets.hls.report import report
from targets.hls.traffic import traffic_of
from targets.hls.vectors import golden, write_rows
from tensorc.ir.cost import flops
from tensorc.ir.graph import Graph
from tensorc.options import CompileOptions, Objective
from tensorc.quantization.data import Samples
from tensorc.quantization.scheme import Quantization, is_ranges
from tensorc.target import Program as Built
from tensorc.target import Progress

#: What a design is to be best in unless it is said.
OBJECTIVE: Objective = "latency"
#: Golden vectors in a project, and the operations that the reference takes for all of them, of which it does some
#: hundred millions a second; C simulation is as slow. One vector there always is.
VECTORS = 100
_OPERATIONS = 4_000_000_000


def build(graph: Graph, part: Part, options: CompileOptions, progress: Progress) -> Built:
    network = network_of(graph)
    clock = CLOCK if options.clock is None else options.clock
    progress(0, 0, "schedule")
    found = optimum(network, part, options.objective or OBJECTIVE, own_name(graph.name), clock, options.max_latency)
    program, designs, timing, used = found.program, found.designs, found.timing, found.used
    layers = found.schedule.arranged(network).layers
    longest = longest_stage(designs)
    needed = period_of(longest.pipeline.levels if longest is not None else 0)
    progress(0, 0, "golden vectors")
    vectors = golden(graph, program, _feeds(graph, options.quantize), _count(graph))
    files: dict[str, bytes] = {f"firmware/{name}": text.encode() for name, text in cpp.files(program)}
    files[f"{program.name}_test.cpp"] = testbench.bench(program).encode()
    files |= {f"rtl/{name}": text.encode() for name, text in verilog.files(program, designs)}
    for kind, arrays in (("input", vectors.inputs), ("output", vectors.outputs)):
        files |= {f"tb_data/{kind}_{number}.dat": write_rows(rows) for number, rows in enumerate(arrays)}
    files["hls_config.cfg"] = vendor.config(program, part).encode()
    files["build_prj.tcl"] = vendor.script(program, part).encode()
    files[project.SCHEDULE] = json.dumps(schedule.described(found.schedule, network), indent=1).encode()
    files[project.REPORT] = json.dumps(
        report(program, found.schedule.plan, part, timing, used, clock, needed), indent=1
    ).encode()
    files |= _front(part, found)
    files["report.html"] = page.render(program, layers, found.schedule, timing, used, part, clock).encode()
    files |= dict(project.graph_files(graph))
    summary = [
        ("part", part.number),
        ("layers", str(len(network.layers))),
        ("clock", _described(clock, designs)),
        ("latency", f"{timing.latency:,} cycles, {timing.latency * clock / 1e3:,.1f} us"),
        ("interval", f"{timing.interval:,} cycles, {1e9 / clock / timing.interval:,.0f} images a second"),
        ("used", ", ".join(f"{mine:,} {name} ({mine / there:.1%})" for name, mine, there in page.uses(used, part))),
    ]
    if found.schedule.plan is not None:
        summary.append(("layers take turns", str(found.schedule.plan)))
    if moved := traffic_of(program):
        summary.append(("outside the chip", page.outside(moved, timing, clock)))
    return Built({name: [data] for name, data in files.items()}, {"top": program.name}, summary, graph=graph)


def _described(clock: float, designs: Sequence[Design]) -> str:
    """With what may not keep up with it."""
    text = f"{clock:.4g} ns ({1e3 / clock:,.0f} MHz)"
    longest = longest_stage(designs)
    if longest is None or period_of(longest.pipeline.levels) <= clock:
        return text
    (layer,) = (design.process.name for design in designs if longest in design.places)
    return f"{text}; a stage of {layer} may need {period_of(longest.pipeline.levels):.4g} ns"


def _count(graph: Graph) -> int:
    """Of golden vectors."""
    return min(max(_OPERATIONS // max(sum(flops(node) for node in graph.nodes), 1), 1), VECTORS)


def _front(part: Part, found: Optimum) -> dict[str, bytes]:
    title = f"{found.program.name} on {part.name}: fronts of the search"
    picture = pareto.plot(part, found.front, (found.timing.interval, found.used), title)
    return {
        project.PARETO: json.dumps(pareto.rows(part, found.front), indent=1).encode(),
        "pareto.svg": picture.encode(),
    }


def _feeds(graph: Graph, how: Quantization | None) -> list[dict[str, Any]]:
    """The samples of the calibration."""
    if how is None or how.calibration is None or is_ranges(how.calibration) or graph.labels is None:
        return []
    rows = [
        {"name": name, "dtype": "float32" if value.dtype == "float64" else value.dtype, "shape": list(value.shape)}
        for name, value in zip(graph.labels[0], graph.inputs, strict=True)
    ]
    return list(Samples.read(how.calibration, rows).feeds)
