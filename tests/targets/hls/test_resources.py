"""Predicted resources against what yosys makes of the same Verilog: one run holds many modules, counted apart."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from targets.hls.hardware.resources import (
    Family,
    Resources,
    adder,
    bram18,
    comparator,
    delay,
    dsp_of_product,
    lutram,
    memory,
    memory_kind,
    multiplexer,
    product,
    register,
    rom_luts,
    uram,
)
from targets.hls.simulation.synthesis import resources_of, synthesize

Product = tuple[int, bool, int, bool]
Memory = tuple[int, int, bool, str]

# Around every limit of a DSP block: its least operands and result, both ports, one slice and two on either side.
_EDGES: dict[Family, list[Product]] = {
    "xc7": [
        *((a, True, b, True) for a, b in [(1, 16), (2, 6), (7, 2), (4, 4), (5, 4), (25, 18), (26, 18), (27, 18)]),
        *((a, True, b, True) for a, b in [(25, 19), (25, 25), (27, 27), (32, 32), (44, 19)]),
        *((a, False, b, False) for a, b in [(2, 7), (4, 4), (5, 4), (17, 17), (18, 17), (18, 18), (24, 17)]),
        *((a, False, b, True) for a, b in [(1, 8), (1, 7), (4, 4), (17, 25), (18, 24), (24, 18), (25, 18)]),
    ],
    "xcup": [
        *((a, True, b, True) for a, b in [(4, 4), (18, 27), (28, 18), (27, 19), (27, 27)]),
        *((a, False, b, True) for a, b in [(26, 18), (27, 18), (17, 27), (18, 26)]),
        *((a, False, b, False) for a, b in [(26, 17), (26, 18), (27, 17)]),
    ],
}


def _products(family: Family) -> list[Product]:
    draw = random.Random(family)
    signs = (True, True, False)
    return _EDGES[family] + [
        (draw.randint(1, 40), draw.choice(signs), draw.randint(1, 40), draw.choice(signs)) for _ in range(6)
    ]


def _operand(name: str, signed: bool, both_unsigned: bool) -> str:
    return name if signed or both_unsigned else f"$signed({{1'b0, {name}}})"


def _product(name: str, case: Product) -> str:
    a, a_signed, b, b_signed = case
    unsigned = not (a_signed or b_signed)
    result = "" if unsigned else "signed "
    return f"""
        (* keep_hierarchy *) module {name}(
            input clk, input {"signed " * a_signed}[{a - 1}:0] a, input {"signed " * b_signed}[{b - 1}:0] b,
            output reg {result}[{a + b - 1}:0] p);
        always @(posedge clk) p <= {_operand("a", a_signed, unsigned)} * {_operand("b", b_signed, unsigned)};
        endmodule"""


def _memory(name: str, case: Memory, folder: Path) -> str:
    width, depth, writable, style = case
    if not writable:
        words = random.Random(width * depth)
        (folder / f"{name}.hex").write_text("".join(f"{words.getrandbits(width):x}\n" for _ in range(depth)))
    address = max(1, (depth - 1).bit_length())
    return f"""
        (* keep_hierarchy *) module {name}(
            input clk, we, input [{address - 1}:0] r, w, input [{width - 1}:0] d, output reg [{width - 1}:0] q);
        (* ram_style = "{style}" *) reg [{width - 1}:0] words [0:{depth - 1}];
        {"" if writable else f'initial $readmemh("{name}.hex", words);'}
        always @(posedge clk) begin
            {"if (we) words[w] <= d;" if writable else ""}
            q <= words[r];
        end
        endmodule"""


def _cells(
    folder: Path, modules: Iterable[str], instances: Iterable[str], bits: int, family: Family
) -> dict[str, dict]:
    """The primitives of each module; an instance connects its last port to a slice of the output `q` of `bits` bits."""
    top = f"""
        module top(input clk, we, input [1023:0] x, y, z, output [{bits - 1}:0] q);
        {"".join(instances)}
        endmodule"""
    (folder / "modules.v").write_text("".join(modules) + top)
    return dict(synthesize(folder, "top", family).modules)


def _product_cells(folder: Path, cases: list[Product], family: Family) -> list[Resources]:
    instances = [
        f"m{i} i{i}(clk, x[{a - 1}:0], y[{b - 1}:0], q[{128 * i + a + b - 1}:{128 * i}]);\n"
        for i, (a, _, b, _) in enumerate(cases)
    ]
    modules = [_product(f"m{i}", case) for i, case in enumerate(cases)]
    cells = _cells(folder, modules, instances, 128 * len(cases), family)
    return [resources_of(cells[f"m{i}"]) for i in range(len(cases))]


def _memory_cells(folder: Path, cases: list[Memory], family: Family) -> list[dict[str, int]]:
    instances = []
    end = 0
    for i, (width, depth, _, _) in enumerate(cases):
        address = max(1, (depth - 1).bit_length()) - 1
        instances.append(
            f"m{i} i{i}(clk, we, x[{address}:0], y[{address}:0], z[{width - 1}:0], q[{end + width - 1}:{end}]);\n"
        )
        end += width
    modules = [_memory(f"m{i}", case, folder) for i, case in enumerate(cases)]
    cells = _cells(folder, modules, instances, end, family)
    return [cells[f"m{i}"] for i in range(len(cases))]


@pytest.mark.compiler
@pytest.mark.parametrize("family", ["xc7", "xcup"])
def test_products_take_the_dsp_blocks_predicted(tmp_path: Path, family: Family) -> None:
    cases = _products(family)
    found = _product_cells(tmp_path, cases, family)
    assert [(case, used.dsp) for case, used in zip(cases, found, strict=True)] == [
        (case, dsp_of_product(*case, family)) for case in cases
    ]


def test_dsp_blocks_do_not_depend_on_the_order_of_operands() -> None:
    for a, a_signed, b, b_signed in _products("xc7"):
        assert dsp_of_product(a, a_signed, b, b_signed) == dsp_of_product(b, b_signed, a, a_signed)


@pytest.mark.compiler
def test_registers_and_sums_leave_the_number_of_dsp_blocks(tmp_path: Path) -> None:
    head = "(* keep_hierarchy *) module {}(input clk, we, input signed [11:0] x, y, z, output reg signed [31:0] s);\n"
    bodies = {
        "accumulator": "reg signed [23:0] p; always @(posedge clk) begin p <= x * y; if (we) s <= s + p; end",
        "sum": "reg signed [23:0] p, q; always @(posedge clk) begin p <= x * y; q <= y * z; s <= p + q; end",
        "presum": "reg signed [12:0] t; always @(posedge clk) begin t <= x + y; s <= t * z; end",
        "square": "always @(posedge clk) s <= x * x;",
        "twelvefold": "always @(posedge clk) s <= x * 12'sd12;",
        "eightfold": "always @(posedge clk) s <= x * 12'sd8;",
        "narrow": "wire signed [3:0] a = x[3:0], b = y[3:0]; always @(posedge clk) s <= a * b;",
    }
    modules = [head.format(name) + body + "\nendmodule\n" for name, body in bodies.items()]
    instances = [
        f"{name} i{i}(clk, we, x[11:0], y[11:0], z[11:0], q[{32 * i + 31}:{32 * i}]);\n"
        for i, name in enumerate(bodies)
    ]
    cells = _cells(tmp_path, modules, instances, 32 * len(bodies), "xc7")
    assert {name: resources_of(cells[name]).dsp for name in bodies} == {
        "accumulator": 1,
        "sum": 2,
        "presum": 1,
        "square": 1,
        "twelvefold": dsp_of_product(12, True, 5, True),
        "eightfold": 0,
        "narrow": 0,
    }


@pytest.mark.compiler
@pytest.mark.parametrize("family", ["xc7", "xcup"])
def test_memories_take_the_blocks_and_luts_predicted(tmp_path: Path, family: Family) -> None:
    draw = random.Random(family)
    shapes = [(width, depth) for width in (1, 3, 5, 8, 9, 16, 19, 27, 37, 73) for depth in (16, 512, 3000)]
    block = [*draw.sample(shapes, 3), (1, 65536), (2, 20000), (8, 2048), (19, 3000), (256, 100)]
    small = [(1, 33), (1, 129), (3, 65), (6, 32), (7, 129), (8, 100), (16, 64)]
    cases: list[Memory] = [
        *((width, depth, True, "block") for width, depth in block),
        *((width, depth, False, "block") for width, depth in block if width * depth <= 10_000),
        *((width, depth, True, "distributed") for width, depth in small),
        *((width, depth, False, "registers") for width, depth in [(4, 16), (8, 100), (4, 256)]),
    ]
    if family == "xcup":
        ultra = [(8, 4096), (36, 8192), (37, 8192), (64, 5000), (72, 4097), (73, 5000)]
        cases += [(width, depth, True, "ultra") for width, depth in ultra]
    expected, found = [], []
    for case, cells in zip(cases, _memory_cells(tmp_path, cases, family), strict=True):
        width, depth, writable, style = case
        used = resources_of(cells)
        tiles = resources_of({kind: count for kind, count in cells.items() if kind.startswith("RAM")})
        predicted = {
            "block": (bram18(width, depth, writable), 0, 0),
            "ultra": (0, 0, uram(width, depth)),
            "distributed": (0, lutram(width, depth, family), 0),
            "registers": (0, 0, 0),
        }
        expected.append((case, *predicted[style]))
        found.append((case, used.bram18, tiles.lut, used.uram))
        if style == "registers":
            assert used.lut == pytest.approx(rom_luts(width, depth), rel=0.3)
            assert used.ff == width
    assert found == expected


@pytest.mark.compiler
def test_a_memory_goes_where_its_kind_says(tmp_path: Path) -> None:
    shapes = [(8, 1), (4, 2), (8, 32), (72, 64), (8, 256), (16, 512), (8, 1024), (2, 8192)]
    cases = [(*shape, writable, memory_kind(*shape, writable)) for shape in shapes for writable in (True, False)]
    assert {case[3] for case in cases} == {"registers", "distributed", "block"}
    for case, cells in zip(cases, _memory_cells(tmp_path, cases, "xc7"), strict=True):
        width, depth, writable, kind = case
        used = resources_of(cells)
        assert (used.bram18 > 0) == (kind == "block"), case
        assert any(name.startswith("RAM") and name.endswith("M") for name in cells) == (kind == "distributed"), case
        predicted = memory(width, depth, writable)
        assert used.bram18 == predicted.bram18, case
        if depth > 1:
            assert used.lut == pytest.approx(predicted.lut, rel=0.3, abs=4), case
            assert used.ff == pytest.approx(predicted.ff, abs=4), case


def test_block_rams_of_common_shapes() -> None:
    """The vendor's tables, by the formula that everybody knows."""
    assert [bram18(width, 16384) for width in (1, 2, 4, 9, 18)] == [1, 2, 4, 8, 16]
    assert [bram18(width, 512) for width in (9, 18, 36, 72)] == [1, 1, 1, 2]
    # Beyond it: four blocks of 2,048 x 9 lie beside one another, or tiles share the columns of a wider one.
    assert [bram18(36, 1024), bram18(8, 2048), bram18(19, 3000)] == [2, 1, 5]


@pytest.mark.compiler
def test_estimates_of_logic(tmp_path: Path) -> None:
    expected: dict[str, Resources] = {}
    modules, instances = [], []

    def case(name: str, ports: str, arguments: str, body: str, predicted: Resources) -> None:
        start = 64 * len(instances)
        modules.append(f"(* keep_hierarchy *) module {name}(input clk, {ports}, output [63:0] q);\n{body}\nendmodule\n")
        instances.append(f"{name} i_{name}(clk, {arguments}, q[{start + 63}:{start}]);\n")
        expected[name] = predicted

    for bits in (8, 32):
        two = f"input signed [{bits - 1}:0] a, b"
        slices = f"x[{bits - 1}:0], y[{bits - 1}:0]"
        wide, same = f"reg signed [{bits}:0] s; assign q = s;", f"reg [{bits - 1}:0] s; assign q = s;"
        sums = adder(bits) + register(bits + 1)
        case(f"add{bits}", two, slices, f"{wide} always @(posedge clk) s <= a + b;", sums)
        case(f"sub{bits}", two, slices, f"{wide} always @(posedge clk) s <= a - b;", sums)
        less = comparator(bits)
        case(f"less{bits}", two, slices, "reg s; assign q = s; always @(posedge clk) s <= a < b;", less + register(1))
        larger = less + multiplexer(bits, 2) + register(bits)
        case(f"max{bits}", two, slices, f"{same} always @(posedge clk) s <= a < b ? b : a;", larger)
    for inputs in (2, 4, 16):
        select = (inputs - 1).bit_length() - 1
        ports = f"input [{select}:0] t, input [{8 * inputs - 1}:0] a"
        body = "reg [7:0] s; assign q = s; always @(posedge clk) s <= a[t * 8 +: 8];"
        choice = multiplexer(8, inputs) + register(8)
        case(f"choose{inputs}", ports, f"y[{select}:0], x[{8 * inputs - 1}:0]", body, choice)
    for cycles in (1, 2, 3, 17, 18, 33, 40, 70):
        body = f"""reg [7:0] d [0:{cycles - 1}]; integer i; assign q = d[{cycles - 1}];
            always @(posedge clk) begin d[0] <= a; for (i = 1; i < {cycles}; i = i + 1) d[i] <= d[i - 1]; end"""
        case(f"delay{cycles}", "input [7:0] a", "x[7:0]", body, delay(8, cycles))

    for a, b in [(2, 2), (3, 3), (5, 3), (2, 6)]:
        factors = f"input signed [{a - 1}:0] a, input signed [{b - 1}:0] b"
        body = f"reg signed [{a + b - 1}:0] s; assign q = s; always @(posedge clk) s <= a * b;"
        case(f"times{a}x{b}", factors, f"x[{a - 1}:0], y[{b - 1}:0]", body, product(a, True, b, True))

    cells = _cells(tmp_path, modules, instances, 64 * len(instances), "xc7")
    for name, predicted in expected.items():
        used = resources_of(cells[name])
        assert used.ff == predicted.ff, name
        assert used.lut == pytest.approx(predicted.lut, rel=0.3), name
