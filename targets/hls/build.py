"""A fixed-point graph as a project for an FPGA: files by their paths in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from targets.hls import project
from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import Network, network_of, program_of
from targets.hls.names import identifier
from targets.hls.parts import Part
from targets.hls.printing import cpp
from targets.hls.program import Process, Program, Repeat, Step
from targets.hls.vectors import golden, write_rows
from tensorc.ir.graph import Graph
from tensorc.options import CompileOptions
from tensorc.quantization.data import Samples
from tensorc.quantization.scheme import Quantization, is_ranges
from tensorc.target import Program as Built
from tensorc.target import Progress

#: Golden vectors in a project.
VECTORS = 100


def build(graph: Graph, part: Part, options: CompileOptions, progress: Progress) -> Built:
    network = network_of(graph)
    unrolls = {layer.name: layer.choices()[0] for layer in network.layers}
    program = program_of(network, unrolls, identifier(graph.name))
    progress(0, 0, "golden vectors")
    vectors = golden(graph, program, _feeds(graph, options.quantize), VECTORS)
    files: dict[str, bytes] = {f"firmware/{name}": text.encode() for name, text in cpp.files(program)}
    for kind, arrays, ports in (
        ("input", vectors.inputs, program.inputs),
        ("output", vectors.outputs, program.outputs),
    ):
        for number in range(len(ports)):
            files[f"tb_data/{kind}_{number}.dat"] = write_rows(arrays[number])
    files["hls_config.cfg"] = _config(program, part).encode()
    files["build_prj.tcl"] = _script(program, part).encode()
    files[project.SCHEDULE] = json.dumps(_schedule(network, unrolls, program), indent=1).encode()
    files |= dict(project.graph_files(graph))
    summary = [("part", part.number), ("layers", str(len(network.layers)))]
    return Built({name: [data] for name, data in files.items()}, {"top": program.name}, summary, graph=graph)


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


def _schedule(network: Network, unrolls: dict[str, Unroll], program: Program) -> dict[str, Any]:
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
