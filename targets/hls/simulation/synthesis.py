"""Synthesis of Verilog by yosys: which primitives of a part a design takes, to hold against what was predicted.

It stops before placement: nothing here knows of wires or of clock rates. yosys takes three seconds to start and to read
its libraries; ROMs in block RAM cost it most beyond that, about a second for 300 Kbit.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from targets.hls.hardware.resources import Family, Resources
from tensorc.errors import UserError
from tensorc.toolchain import find_tool, first_error

#: Primitives by what they occupy. LUTs that yosys counts alone may still share one on the part. An inverter that stands
#: before a carry chain or a block becomes a LUT.
_LUTS = {f"LUT{inputs}": 1 for inputs in range(1, 7)} | {"INV": 1}
_LUT_MEMORIES = {
    "RAM32X1S": 1,
    "RAM32X1D": 2,
    "RAM64X1S": 1,
    "RAM64X1D": 2,
    "RAM128X1S": 2,
    "RAM128X1D": 4,
    "RAM256X1S": 4,
    "RAM256X1D": 8,
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32M16": 8,
    "RAM64M8": 8,
    "SRL16E": 1,
    "SRLC32E": 1,
}
_FLIP_FLOPS = dict.fromkeys(("FDRE", "FDSE", "FDCE", "FDPE", "LDCE", "LDPE"), 1)
_BLOCK_RAMS = {"RAMB18E1": 1, "RAMB36E1": 2, "RAMB18E2": 1, "RAMB36E2": 2}
_ULTRA_RAMS = {"URAM288": 1}
_DSPS = {"DSP48E1": 1, "DSP48E2": 1}
#: Part of the logic slices and in no account of ours.
_FREE = {"CARRY4", "CARRY8", "MUXF7", "MUXF8", "MUXF9", "BUFG"}


@dataclass(frozen=True)
class Synthesis:
    """What a design takes: `lutram` of its LUTs hold memories or shift registers; `seconds` is how long yosys ran.

    `modules` are those that keep their hierarchy, the top among them: the primitives of one of each, without those of
    its submodules, by their types.
    """

    used: Resources
    lutram: int
    modules: Mapping[str, Mapping[str, int]]
    seconds: float


def synthesize(folder: Path, top: str, family: Family, limit: float = 600) -> Synthesis:
    """Synthesise all Verilog files (`*.v`, `*.sv`) of a folder; files for $readmemh are found from there, too.

    Nothing is written to the folder. Raises UserError without yosys and past the limit in seconds, RuntimeError where
    yosys rejects the Verilog or makes a primitive that we do not know.
    """
    yosys = find_tool("yosys", "FPGA synthesis")
    sources = sorted(path.name for path in folder.iterdir() if path.suffix in (".v", ".sv"))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "stat.json"
        script = [
            f"read_verilog -sv {' '.join(sources)}",
            # Out of context: no pads or clock buffers, which belong to the design around this one.
            f"synth_xilinx -family {family} -flatten -noiopad -noclkbuf{' -uram' * (family == 'xcup')} -top {top}",
            f"tee -q -o {result} stat -json",
        ]
        try:
            run = subprocess.run(
                [yosys, "-q", "-p", "; ".join(script)], cwd=folder, capture_output=True, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"yosys did not finish {top} within {limit:g} s") from None
        if run.returncode:
            raise RuntimeError(f"yosys rejects {top}: {first_error(run.stderr.replace('ERROR', 'error'))}")
        report = json.loads(result.read_text())
    kept = report["modules"]
    design = report["design"]["num_cells_by_type"]
    return Synthesis(
        used=resources_of(design),
        lutram=_count(design, _LUT_MEMORIES),
        modules={
            name.removeprefix("\\"): {
                kind: count for kind, count in module["num_cells_by_type"].items() if f"\\{kind}" not in kept
            }
            for name, module in kept.items()
        },
        seconds=time.monotonic() - start,
    )


def resources_of(cells: Mapping[str, int]) -> Resources:
    """What primitives take, given as type -> number of them. Raises RuntimeError for a type that we do not know."""
    tables = (_LUTS, _LUT_MEMORIES, _FLIP_FLOPS, _BLOCK_RAMS, _ULTRA_RAMS, _DSPS)
    unknown = set(cells).difference(_FREE, *tables)
    if unknown:
        raise RuntimeError(f"yosys made primitives that are not accounted for: {', '.join(sorted(unknown))}")
    return Resources(
        lut=_count(cells, _LUTS) + _count(cells, _LUT_MEMORIES),
        ff=_count(cells, _FLIP_FLOPS),
        bram18=_count(cells, _BLOCK_RAMS),
        uram=_count(cells, _ULTRA_RAMS),
        dsp=_count(cells, _DSPS),
    )


def _count(cells: Mapping[str, int], table: Mapping[str, int]) -> int:
    return sum(table.get(kind, 0) * count for kind, count in cells.items())
