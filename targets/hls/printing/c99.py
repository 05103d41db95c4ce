"""Portable C99: one file without dependencies, in which layers run one after the other on arrays.

What are channels in hardware are arrays here, in one arena whose offsets a memory planner has chosen; a process walks
through them with pointers.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from targets.hls.expressions import Expr
from targets.hls.names import own_name
from targets.hls.printing.expressions import Dialect, Printer
from targets.hls.program import Channel, Kind, Memory, Port, Process, Program


class C99(Dialect):
    grows = False

    def type(self, low: int, high: int) -> str:
        """Of what is computed: no narrower than int32_t, whatever an int is."""
        return "int32_t" if low >= -(1 << 31) and high < 1 << 31 else "int64_t"

    def read(self, channel: Channel, word: str) -> str:
        return f"const {stored_type(channel.kind)} *{word} = {channel.name}; {channel.name} += {channel.lanes};"

    def begin(self, holder: Channel | Memory, word: str) -> str:
        return f"{stored_type(holder.kind)} {word}[{holder.lanes}];"

    def write(self, channel: Channel, word: str) -> str:
        if channel.lanes == 1:
            return f"*{channel.name}++ = {word}[0];"
        return f"for (int i = 0; i < {channel.lanes}; i++) *{channel.name}++ = {word}[i];"

    def element(self, word: str, lane: str) -> str:
        return f"{word}[{lane}]"

    def extreme(self, name: str, low: int, high: int, a: str, b: str) -> str:
        return f"{name}{self.type(low, high)[3:5]}({a}, {b})"

    def convert(self, low: int, high: int, text: str) -> str:
        return f"({self.type(low, high)})({text})" if re.search(r"\W", text) else f"({self.type(low, high)}){text}"

    def shifted_left(self, x: Expr, text: str, count: int) -> str:
        """Negative numbers have no left shift in C."""
        return f"{self.convert(x.low, x.high, text)} * {1 << count}{'LL' if count > 30 else ''}"


def stored_type(kind: Kind) -> str:
    """Of what is kept."""
    for bits in (8, 16, 32):
        if kind.bits <= bits:
            return f"{'' if kind.signed else 'u'}int{bits}_t"
    return "int64_t"


def stored_bytes(channel: Channel) -> int:
    """Of all the words that pass."""
    width = int(re.sub(r"\D", "", stored_type(channel.kind)[:-2])) // 8
    return width * channel.lanes * channel.count


@dataclass(frozen=True)
class Arena:
    """Where the channels lie, in bytes from its start."""

    nbytes: int
    offsets: Mapping[str, int]


_HELPERS = """\
#if (-1 >> 1) != -1
#error "shifts of negative numbers to the right must keep the sign"
#endif

static inline int32_t smaller32(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int64_t smaller64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int32_t greater32(int32_t a, int32_t b) { return a < b ? b : a; }
static inline int64_t greater64(int64_t a, int64_t b) { return a < b ? b : a; }

/* The number of the highest bit that is set; 0 for 0. */
static inline int32_t leading_bit(int64_t x) {
    int32_t found = 0;
    while (x > 1) {
        x >>= 1;
        found++;
    }
    return found;
}
"""


def source(program: Program, arena: Arena, made_by: str) -> str:
    """The file. `made_by` stands in its first line."""
    body = [*_functions(program), *_run(program, arena), *_float_run(program)]
    helpers = _used_helpers("\n".join(body))
    lines = [f"/* {program.name}: {made_by}.", " *", *_description(program, arena), " */", "#include <stdint.h>", ""]
    return "\n".join([*lines, helpers, *body, ""])


def _used_helpers(body: str) -> str:
    """Of the helpers those that are called, so that no compiler warns of others."""
    parts = _HELPERS.split("\n\n")
    kept = [parts[0]]
    inline = [line for line in parts[1].splitlines() if re.search(rf"\b{line.split('(')[0].split()[-1]}\(", body)]
    kept += ["\n".join(inline)] if inline else []
    kept += [parts[2].rstrip()] if "leading_bit(" in body else []
    return "\n\n".join(kept) + "\n"


def _description(program: Program, arena: Arena) -> Iterator[str]:
    rom = sum(_rom_bytes(memory) for process in program.processes for memory in process.memories)
    yield f" * {rom} bytes of constants, {arena.nbytes} bytes of working memory, and what its layers keep."
    for what, ports in (("in", program.inputs), ("out", program.outputs)):
        for port in ports:
            shape = "x".join(map(str, port.shape)) or "a number"
            yield f" * {what}: {port.name} {shape}, of q / 2^{port.channel.kind.fraction} with whole q, row-major."


def _rom_bytes(memory: Memory) -> int:
    return 0 if memory.data is None else memory.data.size * int(re.sub(r"\D", "", stored_type(memory.kind)[:-2])) // 8


def _functions(program: Program) -> Iterator[str]:
    for process in program.processes:
        yield from _function(process)
        yield ""


def _function(process: Process) -> Iterator[str]:
    printer = Printer(C99(), process)
    parameters = [f"const {stored_type(c.kind)} *{c.name}" for c in process.inputs]
    parameters += [f"{stored_type(c.kind)} *{c.name}" for c in process.outputs]
    printer.line(f"/* {process.title} */")
    with printer.block(f"static void {process.name}({', '.join(parameters)})"):
        for memory in process.memories:
            for line in _declared(memory):
                printer.line(line)
        for state in process.registers:
            lanes = f"[{state.lanes}]" if state.lanes > 1 else ""
            printer.line(
                f"{C99().type(state.kind.low, state.kind.high)} {state.name}{lanes} = {'{0}' if lanes else 0};"
            )
        printer.steps(process.steps)
    yield from printer.lines


def _declared(memory: Memory) -> Iterator[str]:
    lanes = f"[{memory.lanes}]" if memory.lanes > 1 else ""
    head = f"{stored_type(memory.kind)} {memory.name}[{memory.depth}]{lanes}"
    if memory.data is None:
        yield f"static {head};"
        return
    yield f"static const {head} = {{"
    rows = memory.data.reshape(memory.depth, memory.lanes).tolist()
    if memory.lanes == 1:
        yield from _wrapped(", ".join(str(row[0]) for row in rows))
    else:
        for row in rows:
            yield from _wrapped(f"{{{', '.join(map(str, row))}}},")
    yield "};"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 108, initial_indent="    ", subsequent_indent="    ")


def _parameters(program: Program, number: str = "") -> str:
    """Of the functions that run the whole model, on raw integers or on numbers of another type."""
    inputs = [f"const {number or stored_type(port.channel.kind)} *{_name(port)}" for port in program.inputs]
    outputs = [f"{number or stored_type(port.channel.kind)} *{_name(port)}" for port in program.outputs]
    return ", ".join([*inputs, *outputs])


def _name(port: Port) -> str:
    return own_name(port.name)


def _run(program: Program, arena: Arena) -> Iterator[str]:
    orders = {port.channel.name: port for port in (*program.inputs, *program.outputs) if not _is_plain(port)}
    for name, port in orders.items():
        kind = "uint16_t" if len(port.order) < 1 << 16 else "uint32_t"
        yield f"/* Which element of {port.name} passes when. */"
        yield f"static const {kind} {name}_order[{len(port.order)}] = {{"
        yield from _wrapped(", ".join(map(str, port.order.tolist())))
        yield "};"
        yield ""
    printer = Printer(C99())
    with printer.block(f"void {program.name}({_parameters(program)})"):
        if arena.nbytes:
            printer.line(f"static int64_t arena[{-(-arena.nbytes // 8)}];")
        places = {port.channel.name: _name(port) for port in (*program.inputs, *program.outputs)}
        for channel in program.channels:
            if channel.name in arena.offsets:
                kind = stored_type(channel.kind)
                offset = arena.offsets[channel.name]
                printer.line(f"{kind} *const {channel.name} = ({kind} *)((char *)arena + {offset});")
                places[channel.name] = channel.name
        for port in program.inputs:
            if port.channel.name in orders:
                _copy(printer, port, f"{port.channel.name}[i] = {_name(port)}[{port.channel.name}_order[i]]")
        for process in program.processes:
            printer.line(f"{process.name}({', '.join(places[c.name] for c in (*process.inputs, *process.outputs))});")
        for port in program.outputs:
            if port.channel.name in orders:
                _copy(printer, port, f"{_name(port)}[{port.channel.name}_order[i]] = {port.channel.name}[i]")
    yield from printer.lines


def _copy(printer: Printer, port: Port, statement: str) -> None:
    printer.line(f"for (int32_t i = 0; i < {len(port.order)}; i++) {statement};")


def _is_plain(port: Port) -> bool:
    return np.array_equal(port.order, np.arange(len(port.order)))


def reordered(program: Program) -> list[Channel]:
    """The channels of ports that need memory of their own, since the model has their numbers in another order."""
    return [port.channel for port in (*program.inputs, *program.outputs) if not _is_plain(port)]


def _float_run(program: Program) -> Iterator[str]:
    """The same on floats, for those who have them: rounded on the way in as the hardware's user would."""
    printer = Printer(C99())
    printer.line("")
    printer.line(f"#ifdef {program.name.upper()}_FLOAT")
    printer.line("#include <math.h>")
    printer.line("")
    with printer.block(f"void {program.name}_float({_parameters(program, 'float')})"):
        for port in (*program.inputs, *program.outputs):
            printer.line(f"static {stored_type(port.channel.kind)} {_name(port)}_raw[{len(port.order)}];")
        for port in program.inputs:
            kind, name = port.channel.kind.full, _name(port)
            with printer.block(f"for (int32_t i = 0; i < {len(port.order)}; i++)"):
                printer.line(f"const float q = floorf({name}[i] * {_scale(kind.fraction)} + 0.5f);")
                limited = f"q > {kind.low}.0f ? (q < {kind.high}.0f ? q : {kind.high}.0f) : {kind.low}.0f"
                printer.line(f"{name}_raw[i] = ({stored_type(kind)})({limited});")
        names = [f"{_name(port)}_raw" for port in (*program.inputs, *program.outputs)]
        printer.line(f"{program.name}({', '.join(names)});")
        for port in program.outputs:
            name, scale = _name(port), _scale(-port.channel.kind.fraction)
            printer.line(f"for (int32_t i = 0; i < {len(port.order)}; i++) {name}[i] = {name}_raw[i] * {scale};")
    printer.line("#endif")
    yield from printer.lines


def _scale(fraction: int) -> str:
    return f"{2.0**fraction!r}f"


def lifetimes(program: Program) -> Sequence[tuple[Channel, int, int]]:
    """Of the channels that lie in the arena: from the process that writes one to behind the one that reads it."""
    writes = {c.name: number for number, process in enumerate(program.processes) for c in process.outputs}
    reads = {c.name: number for number, process in enumerate(program.processes) for c in process.inputs}
    own = {channel.name for channel in reordered(program)}
    ports = {port.channel.name for port in (*program.inputs, *program.outputs)} - own
    last = len(program.processes)
    return [
        (channel, writes.get(channel.name, -1), reads.get(channel.name, last) + 1)
        for channel in program.channels if channel.name not in ports
    ]  # fmt: skip
