from pathlib import Path

import pytest

from targets.hls.hardware.resources import Resources
from targets.hls.simulation.synthesis import resources_of, synthesize
from tensorc.errors import UserError

_TOP = """
module top(input clk, input [9:0] r, input signed [9:0] b, output reg signed [21:0] p, q);
  reg signed [11:0] w;
  table_of_weights weights(clk, r, w);
  always @(posedge clk) begin p <= w * b; q <= {p[0], p[21:1]}; end
endmodule
"""
_TABLE = """
(* keep_hierarchy *)
module table_of_weights(input clk, input [9:0] r, output reg signed [11:0] w);
  (* ram_style = "block" *) reg [11:0] words [0:1023];
  initial $readmemh("words.hex", words);
  always @(posedge clk) w <= words[r];
endmodule
"""


@pytest.fixture
def design(tmp_path: Path) -> Path:
    (tmp_path / "top.v").write_text(_TOP)
    (tmp_path / "table.sv").write_text(_TABLE)
    (tmp_path / "words.hex").write_text("".join(f"{i * 1237 % 4096:x}\n" for i in range(1024)))
    return tmp_path


@pytest.mark.compiler
def test_a_folder_of_verilog_is_synthesized_where_it_is(design: Path) -> None:
    before = sorted(design.iterdir())
    result = synthesize(design, "top", "xcup")
    assert result.used == Resources(ff=44, bram18=1, dsp=1)
    assert result.lutram == 0
    assert result.modules["table_of_weights"] == {"RAMB18E2": 1}
    assert result.modules["top"] == {"DSP48E2": 1, "FDRE": 44}
    assert result.seconds > 0
    assert sorted(design.iterdir()) == before


@pytest.mark.compiler
def test_faults_of_verilog_are_reported_in_one_line(design: Path) -> None:
    with pytest.raises(RuntimeError, match=r"yosys rejects nowhere: .*Module `nowhere' not found"):
        synthesize(design, "nowhere", "xc7")


@pytest.mark.compiler
def test_the_limit_of_time_holds(design: Path) -> None:
    with pytest.raises(UserError, match=r"yosys did not finish top within 0\.01 s"):
        synthesize(design, "top", "xc7", limit=0.01)


def test_a_missing_yosys_names_the_package(design: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"FPGA synthesis needs yosys.* \(on Debian and Ubuntu: apt install yosys\)"):
        synthesize(design, "top", "xc7")


def test_primitives_are_accounted_for() -> None:
    cells = {"LUT6": 3, "INV": 1, "RAM64M": 2, "SRL16E": 8, "FDRE": 5, "RAMB36E1": 2, "RAMB18E1": 1, "CARRY4": 9}
    assert resources_of(cells) == Resources(lut=20, ff=5, bram18=5)
    with pytest.raises(RuntimeError, match="not accounted for: GTXE2"):
        resources_of({"LUT6": 3, "GTXE2": 1})
