"""A program in which every process is a fiber and every channel has an end: what finds deadlocks.

The processes are printed as they are in the project, but before an iteration begins it asks for all words that it will
read and for room for all that it will write, as hardware does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from targets.hls.exploration.cores import leaves
from targets.hls.expressions import Expr, replaced
from targets.hls.printing.cpp import (
    Cpp,
    call,
    function,
    include_contents,
    include_weights,
    outside_arrays,
    stream_type,
)
from targets.hls.printing.expressions import Printer
from targets.hls.program import Let, Nest, Program, Read, Statement, When, Write


class Fibers(Cpp):
    """HLS C++ whose iterations ask first."""

    def iteration(self, nest: Nest, printer: Printer) -> None:
        """All words before any room, which nobody else can use while it is kept."""
        for kind in (Read, Write):
            self._ask(printer, nest.body, kind, {})

    def _ask(self, printer: Printer, body: Sequence[Statement], kind: type, names: dict[str, Expr]) -> None:
        for statement in body:
            match statement:
                case Let(name, value):
                    names = {**names, name: value}
                case Read(channel) if kind is Read:
                    printer.line(f"{channel.name}.need();")
                case Write(channels) if kind is Write:
                    for channel in channels:
                        printer.line(f"{channel.name}.reserve();")
                case When(condition, inner) if _has(inner, kind):
                    with printer.block(f"if ({printer.top(replaced(condition, names))})"):
                        self._ask(printer, inner, kind, names)


def _has(body: Sequence[Statement], kind: type) -> bool:
    return any(isinstance(one, kind) or (isinstance(one, When) and _has(one.body, kind)) for one in body)


def source(program: Program) -> str:
    """The program's text. Its arguments are the number of images and the depth of each channel, 0 for one without an
    end; it reads the numbers of each input, image by image in the order in which they pass, and writes
    `fill CHANNEL WORDS` for every channel, and `result NUMBERS` for each output of each image. In a deadlock it writes
    `deadlock PROCESS full|empty CHANNEL` for each process that waits and ends with 3."""
    lines = [f'#include "{program.name}.h"', "#include <cstdio>", "#include <cstdlib>"]
    lines += [*include_weights(program), *include_contents(program)]
    for process in leaves(program):
        lines += ["", *function(process, Fibers())]
    return "\n".join([*lines, "", *_main(program), ""])


def _main(program: Program) -> Iterator[str]:
    printer = Printer(Fibers())
    line = printer.line
    outside = {port.channel.name for port in (*program.inputs, *program.outputs)}
    line("// 0 for a channel without an end.")
    with printer.block("static std::size_t depth(const char *text)"):
        line("const long words = std::atol(text);")
        line("return words ? words : hls::endless;")
    line("")
    with printer.block("int main(int, char **arguments)"):
        line("const int images = std::atoi(arguments[1]);")
        outside_arrays(printer, program)
        for number, channel in enumerate(program.channels):
            end = "hls::endless" if channel.name in outside else f"depth(arguments[{number + 2}])"
            line(f'{stream_type(channel)} {channel.name}("{channel.name}", {end});')
        for port in program.inputs:
            channel = port.channel
            with printer.block(f"for (long n = 0; n < {channel.count}L * images; n++)"):
                line(f"decltype({channel.name}.read()) numbers;")
                with printer.block("for (auto &number : numbers.lane)"):
                    line("long long given;")
                    line('if (std::scanf("%lld", &given) != 1) return 2;')
                    line("number = given;")
                line(f"{channel.name}.write(numbers);")
        line("hls::fibers &fibers = hls::fibers::all();")
        for process in program.processes:
            with printer.block(f'fibers.add("{process.name}", [&]'), printer.block("for (int n = 0; n < images; n++)"):
                for stage in process.stages or (process,):
                    line(f"::{call(stage)}")
            printer.lines[-1] += ");"
        line("const bool done = fibers.run();")
        for channel in program.channels:
            line(f'std::printf("fill {channel.name} %zu\\n", {channel.name}.largest);')
        with printer.block("if (!done)"):
            line("fibers.report(stdout);")
            line("return 3;")
        with printer.block("for (int n = 0; n < images; n++)"):
            for port in program.outputs:
                line('std::printf("result");')
                with printer.block(f"for (long word = 0; word < {port.channel.count}; word++)"):
                    line(f"const auto numbers = {port.channel.name}.read();")
                    line('for (auto &number : numbers.lane) std::printf(" %lld", (long long)number.to_int64());')
                line('std::printf("\\n");')
    yield from printer.lines
