"""The lint of generated C++: every rule has a text that breaks it."""

from __future__ import annotations

import pytest

from targets.hls.layers.layer import Unroll
from targets.hls.printing import cpp
from targets.hls.simulation import pragmas

SOURCE = """\
#include "net.h"

// a layer
static void layer(hls::stream<word<ap_uint<8>, 4> > &in, hls::stream<word<ap_uint<8>, 4> > &between) {
    ap_uint<8> rows[8][4];
#pragma HLS ARRAY_RESHAPE variable=rows complete dim=2
#pragma HLS BIND_STORAGE variable=rows type=ram_s2p impl=bram
    const ap_int<8> (&held)[9000][4] = weights;
#pragma HLS BIND_STORAGE variable=weights type=rom_1p impl=bram
    static const ap_int<8> table[2][2] = {
        {1, 2},
        {3, 4},
    };
    fill: for (int row = 0; row < 8; row++) {
#pragma HLS PIPELINE II=1
        const word<ap_uint<8>, 4> word_in = in.read();
        for (int lane = 0; lane < 4; lane++) {
#pragma HLS UNROLL
            rows[row][lane] = word_in.lane[lane];
        }
    }
    give: for (int row = 0; row < 8; row++) {
#pragma HLS PIPELINE II=1
        word<ap_uint<8>, 4> result;
        for (int lane = 0; lane < 4; lane++) {
#pragma HLS UNROLL
            result.lane[lane] = rows[row][lane] + table[1][0] * held[row][lane];
        }
        between.write(result);
    }
}

static void copy(hls::stream<word<ap_uint<8>, 4> > &between, hls::stream<word<ap_uint<8>, 4> > &out) {
    for (int row = 0; row < 8; row++) {
#pragma HLS PIPELINE II=1
        out.write(between.read());
    }
}

void net(hls::stream<word<ap_uint<8>, 4> > &in, hls::stream<word<ap_uint<8>, 4> > &out) {
#pragma HLS INTERFACE axis port=in
#pragma HLS INTERFACE axis port=out
#pragma HLS INTERFACE s_axilite port=return
#pragma HLS DATAFLOW
    hls::stream<word<ap_uint<8>, 4> > between("between");
#pragma HLS STREAM variable=between depth=2
    layer(in, between);
    copy(between, out);
}
"""
WEIGHTS = "static const ap_int<8> weights[9000][4] = {\n    {1, 2, 3, 4},\n};\n"
RESHAPE = "ARRAY_RESHAPE variable=rows complete dim=2"
BIND = "BIND_STORAGE variable=rows type=ram_s2p impl=bram"
LOOP = "    for (int row = 0; row < 8; row++) {\n    }\n"
FIRST = "    layer(in, between);\n"
UNROLLED = "lane = 0; lane < 4; lane++) {\n#pragma HLS UNROLL\n            rows"

#: What is replaced, by what, the line that the finding is for, and words of it.
BROKEN = {
    "no such array": (RESHAPE, "ARRAY_RESHAPE variable=columns complete dim=2", 6, "no variable 'columns'"),
    "no array": (RESHAPE, "ARRAY_PARTITION variable=in", 6, "in is no array"),
    "no such dimension": (RESHAPE, "ARRAY_RESHAPE variable=rows complete dim=3", 6, "dimensions 1 to 2"),
    "no such kind": (RESHAPE, "ARRAY_PARTITION variable=rows type=all dim=1", 6, "'all' is none of complete, block"),
    "no factor": (RESHAPE, "ARRAY_PARTITION variable=rows cyclic dim=1", 6, "needs factor=N"),
    "factor": (RESHAPE, "ARRAY_PARTITION variable=rows cyclic factor=9 dim=1", 6, "more than the 8 elements"),
    "parts": ("variable=weights type=rom_1p impl=bram", "variable=weights type=rom_1p impl=bram\n"
              "#pragma HLS ARRAY_PARTITION variable=weights complete dim=1", 10, "9000 parts; no more than 4096"),
    "all parts": (RESHAPE, "ARRAY_PARTITION variable=held complete dim=0", 6, "36000 parts"),
    "copies": (UNROLLED, UNROLLED.replace("4", "5000"), 18, "5000 copies of the loop's body"),
    "unrolled function": (BIND, "UNROLL", 7, "not stand in a loop's body"),
    "count": (UNROLLED, UNROLLED.replace("4", "count"), 18, "factor=N is needed"),
    "loop in a pipeline": (UNROLLED, UNROLLED.replace("#pragma HLS UNROLL", ""), 17, "unrolls this loop"),
    "interval": ("#pragma HLS PIPELINE II=1", "#pragma HLS PIPELINE II=0", 15, "II=0 is no whole number from 1 on"),
    "style": ("#pragma HLS PIPELINE II=1", "#pragma HLS PIPELINE style=fast", 15, "none of stp, flp, frp"),
    "no such stream": ("STREAM variable=between", "STREAM variable=beyond", 46, "no variable 'beyond'"),
    "no stream": (BIND, "STREAM variable=rows depth=2", 7, "rows is no hls::stream"),
    "depth": ("depth=2", "depth=0", 46, "depth=0 is no whole number from 1 on"),
    "no such port": ("axis port=in", "axis port=input", 41, "net has no port 'input'"),
    "mode": ("axis port=in", "axi port=in", 41, "'axi' is none of axis"),
    "return": ("s_axilite port=return", "axis port=return", 43, "'axis' is none of s_axilite"),
    "memory port": ("axis port=in", "m_axi port=in", 41, "a stream, which has axis"),
    "storage": (BIND, "BIND_STORAGE variable=rows type=ram_s2p impl=srl", 7, "not made of impl=srl, but of one of"),
    "kind of storage": (BIND, "BIND_STORAGE variable=rows type=ram impl=bram", 7, "type=ram is none of"),
    "written rom": (BIND, "BIND_STORAGE variable=rows type=rom_1p impl=bram", 7, "an array that is written"),
    "ultra rom": ("type=rom_1p impl=bram", "type=rom_1p impl=uram", 9, "rom_1p is not made of impl=uram"),
    "fifo": (BIND, "BIND_STORAGE variable=rows type=fifo impl=bram", 7, "type=fifo of what is no stream"),
    "label": ("give:", "fill:", 22, "the label fill is that of line 14 too"),
    "keyword": ("copy(between, out);", "copy(between, out);\n    int new = 3;", 49, "'new' is a keyword"),
    "counter": (UNROLLED, "union = 0; union" + UNROLLED[13:], 17, "'union' is a keyword"),
    "reserved": ("copy(between, out);", "copy(between, out);\n    int a__b;", 49, "'a__b' is reserved"),
    "taken": ("copy(between, out);", "copy(between, out);\n    int word;", 49, "'word' is the name of something else"),
    "twice": ("copy(between, out);", "copy(between, out);\n    int in;", 49, "'in' is declared twice"),
    "two writers": (FIRST, FIRST + FIRST.strip(), 45, "written by layer and layer"),
    "two readers": ("copy(between, out);", "copy(between, out);\n    copy(between, out);", 45, "read by copy and copy"),
    "no reader": ("    copy(between, out);\n", "", 45, "between is read by none"),
    "no writer": (FIRST, "", 45, "between is written by none"),
    "unused port": ("    copy(between, out);\n", "", 40, "the port out is used by none"),
    "loop between": (FIRST, LOOP + FIRST, 47, "more than declarations and calls"),
    "statement between": (FIRST, "    between.write(in.read());\n" + FIRST, 47, "is no call of a function"),
    "no such pragma": (BIND, "UNROL", 7, "there is no pragma UNROL"),
    "inline": (UNROLLED, UNROLLED.replace("UNROLL", "UNROLL\n#pragma HLS INLINE"), 19, "not stand in a function"),
    "brace": ("    copy(between, out);\n}\n", "    copy(between, out);\n", 40, "a brace is not closed"),
}  # fmt: skip


def findings(source: str) -> list[pragmas.Finding]:
    return pragmas.lint({"net.cpp": source, "defines.h": cpp.DEFINES, "weights/weights.h": WEIGHTS})


def test_good_text_has_no_finding():
    assert findings(SOURCE) == []


@pytest.mark.parametrize(("before", "after", "line", "words"), BROKEN.values(), ids=BROKEN)
def test_each_rule_finds_what_breaks_it(before, after, line, words):
    assert before in SOURCE
    found = [one for one in findings(SOURCE.replace(before, after, 1)) if words in one.text]
    assert found, list(map(str, findings(SOURCE.replace(before, after, 1))))
    assert str(found[0]).startswith(f"net.cpp:{line}: ")


def test_what_is_printed_is_clean(digits, residual):
    unrolls = {"relu0": Unroll(4, 1), "relu1": Unroll(8, 4), "relu2": Unroll(4, 8), "logits_1": Unroll(2, 4)}
    for program in (digits.program("digits", unrolls), digits.program("digits"), residual.program("residual")):
        assert pragmas.lint(dict(cpp.files(program))) == []


def test_a_project_is_read_from_its_folder(residual, project):
    folder = project(residual.program("residual"))
    assert pragmas.lint_project(folder) == []
    source = folder / "firmware" / "residual.cpp"
    source.write_text(source.read_text().replace("#pragma HLS DATAFLOW", "#pragma HLS DATAFLOWS"))
    (found,) = pragmas.lint_project(folder)
    assert str(found).startswith("residual.cpp:")
    assert "there is no pragma DATAFLOWS" in found.text
