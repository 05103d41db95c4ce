"""What the vendor's tools are told of a project: `hls_config.cfg` for v++, `build_prj.tcl` for vitis_hls."""

from __future__ import annotations

from targets.hls.parts import CLOCK, Part
from targets.hls.program import Program


def config(program: Program, part: Part) -> str:
    sources = [f"firmware/{program.name}.cpp"]
    lines = [f"part={part.number}", "", "[hls]", "flow_target=vivado", f"clock={CLOCK:g}ns", f"syn.top={program.name}"]
    lines += [f"syn.file={name}" for name in sources]
    lines += [f"tb.file={program.name}_test.cpp", "tb.file=tb_data", "package.output.format=ip_catalog"]
    return "\n".join(lines) + "\n"


def script(program: Program, part: Part) -> str:
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
