"""Attention on an FPGA: rows of keys that are read, counted while the generated C++ runs, and what its buffers hold.

    python benchmarks/hls/attention.py [--slots 8] [--depth 16] [--json]

One head of N queries to N keys, N from 64 to 1,024; each sweep over the keys serves `slots` queries, so that the
formula says ceil(N / slots) * N rows. Cycles are those of the timing model. `keys and values`, `scores` and `all` are
bits of buffers (known tables left out): what grows with N grows as N, and all else not at all.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from passes.canonical import canonical_passes
from passes.exact import ComputeExactly
from passes.fixed_point import FixedPoint
from passes.fusion import FuseGroups
from targets.hls.hardware.timing import timing_of
from targets.hls.layers.attention import key_rows_read
from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import network_of, program_of
from targets.hls.printing import cpp
from targets.hls.program import Program
from targets.hls.simulation import csim
from tensorc.ir.graph import Graph
from tensorc.ir.types import TensorType
from tensorc.pipeline import run_passes
from tensorc.quantization.params import Range

_LOAD = re.compile(r"(queries0\[\w+\]\[lane\] \* )(keys\[\w+\]\[lane\])")
POSITIONS = (64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Row:
    positions: int
    slots: int
    key_rows: int
    formula: int
    latency: int
    keys_and_values: int
    scores: int
    all: int


def attention(positions: int, slots: int, depth: int) -> Program:
    """In 8 bits; a row of keys is one word."""
    graph = Graph(f"attention{positions}")
    shape = (1, positions, 1, depth)
    operands = [graph.add_input(name, TensorType("float64", shape)) for name in "qkv"]
    graph.outputs = [graph.add("attention", operands, {"scale": depth**-0.5}, name="heads")]
    run_passes(graph, [*canonical_passes(), ComputeExactly()])
    ranges = {value.name: Range(-4.0, 4.0) for value in graph.values()}
    run_passes(graph, [FixedPoint(8, 8, ranges), FuseGroups(moves=False)])
    network = network_of(graph)
    (layer,) = network.layers
    return program_of(network, {layer.name: Unroll(slots, depth)}, graph.name)


def counted(program: Program, folder: Path) -> int:
    """Words of keys that are loaded in a run of the C++: all slots share the one that is loaded for the first."""
    seen = 0
    for name, text in cpp.files(program):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        counting, found = _LOAD.subn(r"\1(loaded += lane == 0, \2)", text)
        seen += found
        (folder / name).write_text(counting)
    if seen != 1:
        raise RuntimeError(f"keys are loaded in {seen} places of the C++, not in one")
    *given, taken = [port.channel for port in (*program.inputs, *program.outputs)]
    body = [f"    {cpp.stream_type(c)} {c.name};" for c in (*given, taken)]
    body += [f"    for (int i = 0; i < {c.count}; i++) {c.name}.write({cpp.word_type(c)}());" for c in given]
    body += [f"    {program.name}({', '.join(c.name for c in (*given, taken))});"]
    body += [f"    while (!{taken.name}.empty()) {taken.name}.read();", '    std::printf("%ld", loaded);']
    head = ["#include <cstdio>", "static long loaded = 0;", f'#include "{program.name}.cpp"', "int main() {"]
    (folder / "main.cpp").write_text("\n".join([*head, *body, "}", ""]))
    csim.compile_cpp([folder / "main.cpp"], folder / "main", [*csim.FLAGS, f"-I{csim.headers()}"], 300)
    return int(subprocess.run([str(folder / "main")], capture_output=True, text=True, check=True).stdout)


def measure(positions: int, slots: int, depth: int) -> Row:
    program = attention(positions, slots, depth)
    bits = {memory.name: memory.bits * memory.depth for process in program.processes for memory in process.memories
            if not memory.is_constant}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        rows = counted(program, Path(folder))
    return Row(
        positions, slots, rows, key_rows_read(positions, positions, slots), timing_of(program).latency,
        bits["keys"] + bits["values"], bits["scores"], sum(bits.values()),
    )  # fmt: skip


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--slots", default=8)
@click.option("--depth", default=16)
@click.option("--json", "as_json", is_flag=True)
def main(slots: int, depth: int, as_json: bool) -> None:
    rows = [measure(positions, slots, depth) for positions in POSITIONS]
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    table = Table("N", "slots", "rows of keys read", "formula", "rows a query", "cycles", "keys and values, bits",
                  "scores, bits", "all, bits", "all / N")  # fmt: skip
    for row in rows:
        table.add_row(
            f"{row.positions:,}", str(row.slots), f"{row.key_rows:,}", f"{row.formula:,}",
            f"{row.key_rows / row.positions:g}", f"{row.latency:,}", f"{row.keys_and_values:,}", f"{row.scores:,}",
            f"{row.all:,}", f"{row.all / row.positions:.0f}",
        )  # fmt: skip
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
