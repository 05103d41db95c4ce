"""HLS C++: a function for each layer, a top function in which they run side by side, weights in headers.

A memory outside the chip is an array that the top function gets, by an `m_axi` port of its own; headers with the
contents of such memories are for those who call it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass

import numpy as np

from targets.hls.exploration.cores import leaves
from targets.hls.expressions import Load
from targets.hls.hardware.sharing import multipliers_needed
from targets.hls.printing.expressions import Dialect, Printer
from targets.hls.program import (
    OUTSIDE_LATENCY,
    Channel,
    Kind,
    Lanes,
    Memory,
    Nest,
    Process,
    Program,
    Statement,
    Store,
    When,
    port_of,
)
from tensorc.fixed_point import bits_for

#: Memories of so many numbers are written into the function, others into headers.
_INLINE = 64


class Cpp(Dialect):
    grows = True

    def type(self, low: int, high: int) -> str:
        return _int(low, high)

    def read(self, channel: Channel, word: str) -> str:
        return f"const {word_type(channel)} {word} = {channel.name}.read();"

    def begin(self, holder: Channel | Memory, word: str) -> str:
        return f"{word_type(holder)} {word};"

    def write(self, channel: Channel, word: str) -> str:
        return f"{channel.name}.write({word});"

    def fetch(self, memory: Memory, address: str, word: str) -> str:
        return f"const {word_type(memory)} {word} = {memory.name}[{address}];"

    def element(self, word: str, lane: str) -> str:
        return f"{word}.lane[{lane}]"

    def extreme(self, name: str, low: int, high: int, a: str, b: str) -> str:
        return f"{name}<{_int(low, high)}>({a}, {b})"

    def unroll(self) -> list[str]:
        return ["#pragma HLS UNROLL"]

    def pipeline(self, ii: int) -> list[str]:
        return [f"#pragma HLS PIPELINE II={ii}"]

    def iteration(self, nest: Nest, printer: Printer) -> None:
        """What a nest stores it never loads again (a rule of programs), which Vitis cannot know."""
        if nest.trip > 1:
            for name in sorted(_loaded(nest.body) & _stored(nest.body)):
                printer.line(f"#pragma HLS DEPENDENCE variable={name} type=inter direction=RAW dependent=false")


def _loaded(part: object) -> set[str]:
    """Memories that statements or expressions load from."""
    if isinstance(part, tuple):
        return set().union(*map(_loaded, part))
    if not is_dataclass(part):
        return set()
    inner = (_loaded(getattr(part, field.name)) for field in fields(part))
    return set().union(*inner, {part.memory} if isinstance(part, Load) else set())


def _stored(body: Sequence[Statement]) -> set[str]:
    found: set[str] = set()
    for statement in body:
        if isinstance(statement, Store):
            found.add(statement.memory.name)
        elif isinstance(statement, (When, Lanes)):
            found |= _stored(statement.body)
    return found


def _int(low: int, high: int) -> str:
    return f"ap_{'' if low < 0 else 'u'}int<{bits_for(low, high)}>"


def kind_type(kind: Kind) -> str:
    return _int(kind.low, kind.high)


def _known_type(kind: Kind) -> str:
    """Of numbers in a header."""
    plain = next(bits for bits in (8, 16, 32, 64) if kind.bits <= bits)
    return f"known<{kind_type(kind)}, {'' if kind.signed else 'u'}int{plain}_t>"


def word_type(holder: Channel | Memory) -> str:
    return f"word<{kind_type(holder.kind)}, {holder.lanes}>"


def stream_type(channel: Channel) -> str:
    return f"hls::stream<{word_type(channel)} >"


DEFINES = """\
#ifndef DEFINES_H_
#define DEFINES_H_

#include <stdint.h>

#include "ap_int.h"
#include "hls_stream.h"

// The type of known numbers. In simulation they are plain integers: compilers take very long over millions of others.
#ifdef __SYNTHESIS__
template <class T, class Plain> using known = T;
#else
template <class T, class Plain> using known = Plain;
#endif

// What passes through a stream at once.
template <class T, int N> struct word {
    T lane[N];
};

template <class T> inline T smaller(T a, T b) {
#pragma HLS INLINE
    return a < b ? a : b;
}

template <class T> inline T greater(T a, T b) {
#pragma HLS INLINE
    return a < b ? b : a;
}

// The number of the highest bit that is set; 0 for 0.
template <int W> inline ap_uint<8> leading_bit(ap_uint<W> x) {
#pragma HLS INLINE
    ap_uint<8> found = 0;
    for (int bit = 0; bit < W; bit++) {
#pragma HLS UNROLL
        if (x[bit]) found = bit;
    }
    return found;
}

#endif
"""


def files(program: Program) -> Iterator[tuple[str, str]]:
    """The sources of `firmware/`, by name."""
    yield "defines.h", DEFINES
    yield f"{program.name}.h", _header(program)
    yield f"{program.name}.cpp", _source(program)
    for process in leaves(program):
        for name, memory in {**_headers(process), **_contents(process)}.items():
            yield f"weights/{name}.h", _weights(process, memory)


def _headers(process: Process) -> dict[str, Memory]:
    """The memories of a process that have headers of their own, by the names that they bear there."""
    held = [memory for memory in process.memories if not memory.is_outside]
    large = [memory for memory in held if memory.data is not None and memory.data.size > _INLINE]
    return {f"{process.name}_{memory.name}": memory for memory in large}


def _contents(process: Process) -> dict[str, Memory]:
    """The same for those whose contents are known and lie outside the chip."""
    return {content_name(port_of(process, memory)): memory for memory in process.outside if memory.is_constant}


def content_name(port: str) -> str:
    """What an array is called that holds what is to lie in the memory at a port."""
    return f"{port}_contents"


def _signature(program: Program) -> str:
    ports = [port.channel for port in (*program.inputs, *program.outputs)]
    parameters = [f"{stream_type(c)} &{c.name}" for c in ports]
    parameters += [f"{_pointer(memory)}{name}" for name, _, memory in program.outside]
    return f"void {program.name}({', '.join(parameters)})"


def _pointer(memory: Memory) -> str:
    """To the words of a memory outside the chip."""
    return f"{'const ' if memory.is_constant else ''}{word_type(memory)} *"


def _header(program: Program) -> str:
    guard = f"{program.name.upper()}_H_"
    ports = [
        f"// {what}: {port.name}, {'x'.join(map(str, port.shape)) or 'a number'}; "
        f"a number q stands for q / 2^{port.channel.kind.fraction}"
        for what, several in (("in", program.inputs), ("out", program.outputs))
        for port in several
    ]
    ports += [
        f"// {name}: {memory.nbytes} bytes of memory outside the chip, "
        + (f"which hold what is in weights/{content_name(name)}.h" if memory.is_constant else "to work with")
        for name, _, memory in program.outside
    ]
    return "\n".join([
        f"#ifndef {guard}", f"#define {guard}", "", '#include "defines.h"', "", *ports, f"{_signature(program)};", "",
        "#endif", "",
    ])  # fmt: skip


def _source(program: Program) -> str:
    lines = [f'#include "{program.name}.h"', "", *include_weights(program)]
    for process in leaves(program):
        lines += ["", *function(process, Cpp())]
    for process in program.processes:
        if process.stages:
            lines += ["", *_core(process, program)]
    lines += ["", *_top(program), ""]
    return "\n".join(lines)


def include_weights(program: Program) -> list[str]:
    return [f'#include "weights/{name}.h"' for process in leaves(program) for name in _headers(process)]


def include_contents(program: Program, folder: str = "") -> list[str]:
    """What lies in memories outside the chip."""
    return [f'#include "{folder}weights/{name}.h"' for process in leaves(program) for name in _contents(process)]


def outside_arrays(printer: Printer, program: Program) -> None:
    """Declares the memories outside the chip, and fills those whose contents are known."""
    for name, _, memory in program.outside:
        printer.line(f"static {word_type(memory)} {name}[{memory.depth}];")
        if memory.is_constant:
            with printer.block(f"for (int i = 0; i < {memory.depth}; i++)"):
                element = f"{content_name(name)}[i]"
                element += "[lane]" if memory.lanes > 1 else ""
                fill = f"{name}[i].lane[lane] = {element};"
                printer.line(f"for (int lane = 0; lane < {memory.lanes}; lane++) {fill}")


def _weights(process: Process, memory: Memory) -> str:
    name = f"{process.name}_{memory.name}"
    name = content_name(name) if memory.is_outside else name
    guard = f"{name}_H_".upper()
    return "\n".join([
        f"// {process.title}", f"#ifndef {guard}", f"#define {guard}", "", '#include "../defines.h"', "",
        f"static const {_known_type(memory.kind)} {name}[{memory.depth}]"
        f"{_lanes(memory.lanes)} = {{",
        *_rows(memory), "};", "", "#endif", "",
    ])  # fmt: skip


def _rows(memory: Memory) -> Iterator[str]:
    assert memory.data is not None
    data: np.ndarray = memory.data.reshape(memory.depth, memory.lanes)
    if memory.lanes == 1:
        yield from textwrap.wrap(", ".join(map(str, data.reshape(-1).tolist())), 116, initial_indent="    ",
                                 subsequent_indent="    ")  # fmt: skip
        return
    for row in data.tolist():
        yield f"    {{{', '.join(map(str, row))}}},"


def _lanes(lanes: int) -> str:
    """The index of a memory or a register for its lanes, if it has more than one."""
    return f"[{lanes}]" if lanes > 1 else ""


def function(process: Process, dialect: Cpp) -> Iterator[str]:
    channels = (*process.inputs, *process.outputs)
    yield f"// {process.title}"
    printer = Printer(dialect, process)
    printer.converted = {memory.name for memory in _headers(process).values()}
    with printer.block(_head(process, channels)):
        _allocate(printer, process)
        for memory in process.memories:
            if not memory.is_outside:
                _declare(printer, process, memory)
        for state in process.registers:
            printer.line(f"{kind_type(state.kind)} {state.name}{_lanes(state.lanes)};")
            if state.lanes > 1:
                printer.line(f"#pragma HLS ARRAY_PARTITION variable={state.name} complete")
        printer.steps(process.steps)
    yield from printer.lines


def _head(process: Process, channels: Sequence[Channel]) -> str:
    parameters = [f"{stream_type(c)} &{c.name}" for c in channels]
    parameters += [f"{_pointer(memory)}{memory.name}" for memory in process.outside]
    return f"static void {process.name}({', '.join(parameters)})"


def _allocate(printer: Printer, process: Process) -> None:
    """Loops of a function that follow each other use the same multipliers."""
    limit = multipliers_needed(process)
    if limit:
        printer.line(f"#pragma HLS ALLOCATION operation instances=mul limit={limit}")


def _core(process: Process, program: Program) -> Iterator[str]:
    """What is made of a core: its stages one after the other, with the multipliers of the greatest."""
    yield "// A core: its stages use the same multipliers, one after the other."
    printer = Printer(Cpp())
    with printer.block(_head(process, _passed(process))):
        _allocate(printer, process)
        _streams(printer, program, {channel.name for channel in process.own})
        for stage in process.stages:
            printer.line(call(stage))
    yield from printer.lines


def _passed(process: Process) -> list[Channel]:
    """Those of a process that are not within it."""
    return [channel for channel in (*process.inputs, *process.outputs) if channel not in process.own]


def call(process: Process) -> str:
    """A statement that runs it."""
    channels = (*process.inputs, *process.outputs) if not process.stages else _passed(process)
    names = [channel.name for channel in channels] + [port_of(process, memory) for memory in process.outside]
    return f"{process.name}({', '.join(names)});"


def _streams(printer: Printer, program: Program, names: set[str]) -> None:
    """Declares channels."""
    for channel in program.channels:
        if channel.name in names:
            printer.line(f'{stream_type(channel)} {channel.name}("{channel.name}");')
            printer.line(f"#pragma HLS STREAM variable={channel.name} depth={channel.depth}")


def _declare(printer: Printer, process: Process, memory: Memory) -> None:
    shape = f"[{memory.depth}]{_lanes(memory.lanes)}"
    if memory.data is None:
        printer.line(f"{kind_type(memory.kind)} {memory.name}{shape};")
    elif memory.data.size > _INLINE:
        printer.line(f"const {_known_type(memory.kind)} (&{memory.name}){shape} = {process.name}_{memory.name};")
    else:
        printer.line(f"static const {kind_type(memory.kind)} {memory.name}{shape} = {{")
        for row in _rows(memory):
            printer.line(row)
        printer.line("};")
    name = f"{process.name}_{memory.name}" if memory.data is not None and memory.data.size > _INLINE else memory.name
    if memory.lanes > 1:
        printer.line(f"#pragma HLS ARRAY_RESHAPE variable={name} complete dim=2")
    if memory.storage:
        what = "rom_1p" if memory.data is not None else "ram_s2p"
        kind = {"block": "bram", "distributed": "lutram", "ultra": "uram"}[memory.storage]
        printer.line(f"#pragma HLS BIND_STORAGE variable={name} type={what} impl={kind}")


def _top(program: Program) -> Iterator[str]:
    printer = Printer(Cpp())
    outside = {port.channel.name for port in (*program.inputs, *program.outputs)}
    with printer.block(_signature(program)):
        for name in sorted(outside):
            printer.line(f"#pragma HLS INTERFACE axis port={name}")
        for name, _, memory in program.outside:
            options = f"bundle={name} offset=slave depth={memory.depth} latency={OUTSIDE_LATENCY}"
            printer.line(f"#pragma HLS INTERFACE m_axi port={name} {options}")
        printer.line("#pragma HLS INTERFACE s_axilite port=return")
        printer.line("#pragma HLS DATAFLOW")
        within = {channel.name for process in program.processes for channel in process.own}
        between = {channel.name for channel in program.channels} - outside
        if not any(process.stages for process in program.processes):
            _streams(printer, program, between)
            for process in program.processes:
                printer.line(call(process))
        else:
            _streams(printer, program, between - within)
            # Cores wait for each other: where functions run one after the other, stages have an order that works.
            printer.line("#ifdef __SYNTHESIS__")
            for process in program.processes:
                printer.line(call(process))
            printer.line("#else")
            _streams(printer, program, within)
            for process in leaves(program):
                printer.line(call(process))
            printer.line("#endif")
    yield from printer.lines
