"""Runs the Verilog of a program: raw integers in, raw integers out, and the cycles that it took.

Icarus Verilog begins at once and does some thousand cycles a second; Verilator compiles for a quarter of a minute and
does a million. So long runs are Verilator's, where it is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from targets.hls.hardware.pipeline import Design, designs_of
from targets.hls.hardware.timing import DeadlockError, timing_of
from targets.hls.printing import verilog
from targets.hls.program import OUTSIDE_LATENCY, Kind, Memory, Program
from tensorc.fixed_point import bits_for
from tensorc.toolchain import find_tool, first_error

#: Cycles from which on Verilator's compilation pays.
_LONG = 150_000
_VERILATOR = ("--binary", "-O3", "--top-module", "bench", "-Wno-fatal", "-Wno-lint", "-Wno-style")


@dataclass(frozen=True)
class Run:
    """`outputs`: of each output port [images, elements], in the model's order. Cycles are counted from the first word
    that is taken; `ends[i]` are those until the last word of image i was given, that cycle included."""

    outputs: tuple[np.ndarray, ...]
    ends: tuple[int, ...]

    @property
    def latency(self) -> int:
        return self.ends[0]

    @property
    def interval(self) -> int:
        """Cycles between the last two images."""
        return self.ends[-1] - self.ends[-2]


def simulate(
    program: Program,
    inputs: Sequence[np.ndarray],
    designs: Sequence[Design] | None = None,
    hesitant: bool = False,
    quiet: int = 1_000_000,
    tool: str = "",
) -> Run:
    """Images follow each other without a break. `inputs`: of each input port the raw integers [images, ...], in
    the model's order.

    `hesitant` lets words wait at random, at both ends. `tool`: iverilog or verilator; by default what is faster. Raises
    UserError where it is not installed, RuntimeError with what it says if it fails or nothing comes out of the design
    for `quiet` cycles.
    """
    designs = designs or designs_of(program)
    images = len(inputs[0])
    tool = tool or _faster(program, designs, images)
    compiler = find_tool(tool, "running Verilog")
    with tempfile.TemporaryDirectory(prefix="tensorc-") as name:
        folder = Path(name)
        for file, text in verilog.files(program, designs):
            (folder / file).write_text(text, encoding="utf-8")
        for port, numbers in zip(program.inputs, inputs, strict=True):
            channel = port.channel
            (folder / f"{channel.name}.in").write_text(
                _words(numbers.reshape(images, -1)[:, port.order], channel.lanes, channel.kind.bits)
            )
        (folder / "bench.v").write_text("\n".join(_bench(program, images, hesitant, quiet)), encoding="utf-8")
        sources = ["bench.v", f"{program.name}.v"]
        if tool == "verilator":
            _run([compiler, *_VERILATOR, "-o", "bench", *sources], folder)
            said = _run(["obj_dir/bench"], folder)
        else:
            _run([compiler, "-g2012", "-o", "bench.vvp", *sources], folder)
            said = _run(["vvp", "-n", "bench.vvp"], folder)
        words: Mapping[str, list[tuple[int, int]]] = {port.channel.name: [] for port in program.outputs}
        first = None
        for line in said.splitlines():
            kind, *rest = line.split() or [""]
            if kind == "first":
                first = int(rest[0])
            elif kind == "word":
                if "x" in rest[2]:
                    raise RuntimeError(f"{program.name}: the word of {rest[0]} at cycle {rest[1]} is not known")
                words[rest[0]].append((int(rest[1]), int(rest[2], 16)))
            elif kind == "hasty":
                raise RuntimeError(f"{program.name}: {rest[0]} is asked for more than a word in {rest[2]} cycles, at "
                                   f"cycle {rest[1]}")  # fmt: skip
            elif kind == "quiet":
                raise RuntimeError(f"{program.name}: nothing comes out any more at cycle {rest[0]}")
    assert first is not None
    outputs, ends = [], np.zeros(images, np.int64)
    for port in program.outputs:
        channel, given = port.channel, words[port.channel.name]
        passed = _numbers([word for _, word in given], channel.lanes, channel.kind).reshape(images, -1)
        outputs.append(np.empty_like(passed))
        outputs[-1][:, port.order] = passed
        last = np.array([cycle for cycle, _ in given]).reshape(images, -1)[:, -1]
        ends = np.maximum(ends, last - first + 1)
    return Run(tuple(outputs), tuple(ends.tolist()))


def _faster(program: Program, designs: Sequence[Design], images: int) -> str:
    """Verilator for long runs, if there is one that runs test benches in Verilog (from version 5 on)."""
    try:
        cycles = timing_of(program, designs, images=images).ends[-1]
    except DeadlockError:  # which the run will show
        return "iverilog"
    if cycles < _LONG or shutil.which("verilator") is None:
        return "iverilog"
    version = _run(["verilator", "--version"], Path()).split()[1]
    return "verilator" if int(version.split(".")[0]) >= 5 else "iverilog"


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {first_error(done.stderr + done.stdout)}")
    return done.stdout


def _words(numbers: np.ndarray, lanes: int, bits: int) -> str:
    digits = -(-lanes * bits // 4)
    return "".join(f"{verilog.word_of(word, bits):0{digits}x}\n" for word in numbers.reshape(-1, lanes).tolist())


def _numbers(words: Sequence[int], lanes: int, kind: Kind) -> np.ndarray:
    mask, sign = (1 << kind.bits) - 1, 1 << kind.bits - 1
    found = [
        ((number ^ sign) - sign) if kind.signed else number
        for word in words
        for number in ((word >> lane * kind.bits) & mask for lane in range(lanes))
    ]
    return np.array(found, np.int64)


def _bench(program: Program, images: int, hesitant: bool, quiet: int) -> Iterator[str]:
    """Takes words from files, and says when words are taken and given."""
    lanes = {channel.name: channel for channel in program.channels}
    yield "`timescale 1ns / 1ps"
    yield "module bench;"
    yield "    reg clk = 0, rst = 1;"
    yield "    integer cycle = 0, heard = 0, started = 0;"
    yield "    always #1 clk = !clk;"
    given, taken = [port.channel for port in program.inputs], [port.channel for port in program.outputs]
    for channel in given:
        words = channel.count * images
        yield f"    reg [{channel.bits - 1}:0] {channel.name}_words [0:{words - 1}];"
        yield f'    initial $readmemh("{channel.name}.in", {channel.name}_words);'
        yield f"    integer {channel.name}_number = 0;"
        yield f"    reg {channel.name}_willing = 1;"
        yield f"    wire {channel.name}_ready;"
        yield f"    wire {channel.name}_valid = !rst && {channel.name}_willing && {channel.name}_number < {words};"
    for channel in taken:
        yield f"    integer {channel.name}_number = 0;"
        yield f"    reg {channel.name}_willing = 1;"
        yield f"    wire {channel.name}_valid;"
        yield f"    wire [{channel.bits - 1}:0] {channel.name}_word;"
    for name, process, memory in program.outside:
        yield from _memory(name, memory, f"{process.name}_{memory.name}.hex")
    yield f"    {program.name} dut ("
    ports = ["        .clk(clk), .rst(rst)"]
    ports += [
        f"        .{c.name}_tvalid({c.name}_valid), .{c.name}_tready({c.name}_ready), "
        f".{c.name}_tdata({c.name}_words[{c.name}_number])"
        for c in given
    ]
    ports += [
        f"        .{c.name}_tvalid({c.name}_valid), .{c.name}_tready({c.name}_willing), .{c.name}_tdata({c.name}_word)"
        for c in taken
    ]
    ports += [
        f"        .{name}_{signal}({name}_{signal})"
        for name, _, memory in program.outside
        for signal, _, _ in verilog.memory_signals(memory)
    ]
    yield ",\n".join(ports)
    yield "    );"
    yield "    always @(posedge clk) begin"
    yield "        cycle <= cycle + 1;"
    yield "        rst <= cycle < 3;"
    for channel in given:
        name = channel.name
        yield f"        if ({name}_valid && {name}_ready) begin"
        yield f"            {name}_number <= {name}_number + 1;"
        yield "            started <= 1;"
        yield '            if (!started) $display("first %0d", cycle);'
        yield "        end"
        if hesitant:  # a word that was offered stays
            yield f"        if ({name}_ready || !{name}_willing) {name}_willing <= $urandom % 3 != 0;"
    for channel in taken:
        name = channel.name
        yield f"        if ({name}_valid && {name}_willing) begin"
        yield f'            $display("word {name} %0d %h", cycle, {name}_word);'
        yield f"            {name}_number <= {name}_number + 1;"
        yield "            heard <= cycle;"
        yield "        end"
        if hesitant:
            yield f"        {name}_willing <= $urandom % 3 != 0;"
    done = " && ".join(f"{channel.name}_number == {lanes[channel.name].count * images}" for channel in taken)
    yield f"        if ({done}) $finish;"
    yield f"        if (cycle > heard + {quiet}) begin"
    yield '            $display("quiet %0d", cycle);'
    yield "            $finish;"
    yield "        end"
    yield "    end"
    yield "endmodule"
    yield ""


def _memory(name: str, memory: Memory, contents: str) -> Iterator[str]:
    """A memory outside the chip: words are read when they are asked for and come late, what is written is there late.
    Two requests in less than its pace are told."""
    bits, ring, last = memory.bits, OUTSIDE_LATENCY - 1, OUTSIDE_LATENCY - 2
    signals = list(verilog.memory_signals(memory))
    for signal, _, width in signals:
        yield f"    wire [{width - 1}:0] {name}_{signal};"
    yield f"    reg [{bits - 1}:0] {name}_words [0:{memory.depth - 1}];"
    if memory.is_constant:
        yield f'    initial $readmemh("{contents}", {name}_words);'
    yield f"    reg [{bits - 1}:0] {name}_coming [0:{ring - 1}];"
    yield f"    reg [{bits - 1}:0] {name}_come;"
    yield f"    integer {name}_turn = 0;"
    yield f"    assign {name}_out = {name}_come;"
    yield "    always @(posedge clk) begin"
    yield f"        {name}_turn <= {name}_turn == {last} ? 0 : {name}_turn + 1;"
    yield f"        {name}_coming[{name}_turn] <= {name}_words[{name}_at];"
    yield f"        {name}_come <= {name}_coming[{name}_turn];"
    yield "    end"
    for request in ("read", "write"):
        if memory.pace > 1 and request in [signal for signal, _, _ in signals]:
            yield f"    integer {name}_{request}_rest = 0;"
            yield "    always @(posedge clk) if (!rst) begin"
            yield f"        if ({name}_{request}_rest != 0) {name}_{request}_rest <= {name}_{request}_rest - 1;"
            yield f"        if ({name}_{request}) begin"
            yield f"            {name}_{request}_rest <= {memory.pace - 1};"
            yield f'            if ({name}_{request}_rest != 0) $display("hasty {name} %0d {memory.pace}", cycle);'
            yield "        end"
            yield "    end"
    if not memory.is_constant:
        address = bits_for(0, memory.depth - 1)
        yield f"    reg [{bits + address}:0] {name}_going [0:{ring - 1}];"
        yield f"    integer {name}_place;"
        yield "    initial"
        yield f"        for ({name}_place = 0; {name}_place < {ring}; {name}_place = {name}_place + 1)"
        yield f"            {name}_going[{name}_place] = 0;"
        yield "    always @(posedge clk) begin"
        yield f"        {name}_going[{name}_turn] <= {{{name}_write, {name}_to, {name}_in}};"
        yield f"        if ({name}_going[{name}_turn][{bits + address}])"
        yield f"            {name}_words[{name}_going[{name}_turn][{bits + address - 1}:{bits}]]"
        yield f"                <= {name}_going[{name}_turn][{bits - 1}:0];"
        yield "    end"
