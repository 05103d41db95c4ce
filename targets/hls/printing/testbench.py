"""The test bench of a project: what a user starts in C simulation and in co-simulation.

It reads tb_data/input_0.dat, input_1.dat and so on, an image a line: raw integers (q stands for q / 2^fraction) in the
model's row-major order. What comes out is compared with tb_data/output_*.dat, which look alike, and written to
tb_data/csim_results.log: a line for each output of each image. The test bench returns 0 if all is equal, 1 where
something differs, 2 where inputs are missing or wrong, 3 where there is nothing to compare with.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import numpy as np

from targets.hls.layers.rearrange import linear
from targets.hls.printing.cpp import Cpp, include_contents, outside_arrays, stream_type
from targets.hls.printing.expressions import Printer
from targets.hls.program import Port, Program

_HELPERS = """\
typedef std::vector<long long> Numbers;

static int wrong(const std::string &what) {
    std::cerr << "ERROR: " << what << std::endl;
    return 2;
}

// The next line of a file. An empty one is none.
static bool next(std::ifstream &file, Numbers &numbers) {
    std::string line;
    numbers.clear();
    if (!std::getline(file, line)) return false;
    std::istringstream words(line);
    for (long long number; words >> number;) numbers.push_back(number);
    return !numbers.empty();
}

// Whether all numbers are such as the stream holds.
template <class T, int N>
static bool send(hls::stream<word<T, N> > &stream, const Numbers &image, int (*place)(int)) {
    bool fit = true;
    for (size_t first = 0; first < image.size(); first += N) {
        word<T, N> numbers;
        for (int lane = 0; lane < N; lane++) {
            const long long number = image[place(first + lane)];
            numbers.lane[lane] = number;
            fit = fit && numbers.lane[lane].to_int64() == number;
        }
        stream.write(numbers);
    }
    return fit;
}

template <class T, int N>
static void receive(hls::stream<word<T, N> > &stream, Numbers &image, int (*place)(int)) {
    for (size_t first = 0; first < image.size(); first += N) {
        const word<T, N> numbers = stream.read();
        for (int lane = 0; lane < N; lane++) image[place(first + lane)] = numbers.lane[lane].to_int64();
    }
}

static void write(std::ofstream &file, const Numbers &image) {
    for (size_t i = 0; i < image.size(); i++) file << (i ? " " : "") << image[i];
    file << std::endl;
}

// How many numbers differ; the first of them is told.
static long compare(const char *name, int number, const Numbers &found, const Numbers &wanted) {
    long differ = 0;
    for (size_t i = 0; i < found.size(); i++) {
        if (found[i] == wanted[i]) continue;
        if (!differ) {
            std::cout << "image " << number << ", " << name << ": number " << i << " is " << found[i] << ", not "
                      << wanted[i] << std::endl;
        }
        differ++;
    }
    return differ;
}
"""


def bench(program: Program) -> str:
    """The text of `NAME_test.cpp`."""
    printer = Printer(Cpp())
    printer.line(f"// Runs {program.name} on the images of tb_data/input_*.dat, one a line, and compares what it gives")
    printer.line("// with tb_data/output_*.dat: raw integers in the model's (row-major) order.")
    printer.line(f'#include "firmware/{program.name}.h"')
    for line in include_contents(program, "firmware/"):
        printer.line(line)
    printer.line("")
    for header in ("fstream", "iostream", "sstream", "string", "vector"):
        printer.line(f"#include <{header}>")
    printer.line("")
    printer.lines += _HELPERS.splitlines()
    for port, name in _named(program):
        printer.line("")
        _place(printer, port, name)
    printer.line("")
    with printer.block("int main()"):
        _main(printer, program)
    return "\n".join([*printer.lines, ""])


def _named(program: Program) -> Iterator[tuple[Port, str]]:
    for what, ports in (("input", program.inputs), ("output", program.outputs)):
        yield from ((port, f"{what}_{number}") for number, port in enumerate(ports))


def _place(printer: Printer, port: Port, name: str) -> None:
    """A function that tells where in the tensor a number is."""
    what = " ".join(port.name.split())
    printer.line(f"// {what}, {'x'.join(map(str, port.shape)) or 'a number'}: number i of those that pass is this one.")
    with printer.block(f"static int place_{name}(int i)"):
        loops = linear(port.order)
        if loops is None:
            printer.line("static const int places[] = {")
            numbers = ", ".join(map(str, np.asarray(port.order).tolist()))
            printer.lines += textwrap.wrap(numbers, 112, initial_indent=" " * 8, subsequent_indent=" " * 8)
            printer.line("};")
            printer.line("return places[i];")
            return
        first, extents = loops
        terms, inner = [str(first)] if first else [], 1
        for number, (extent, step) in enumerate(extents):
            digit = "i" if inner == 1 else f"i / {inner}"
            digit += f" % {extent}" if number < len(extents) - 1 else ""
            terms.append(digit if step == 1 else f"{digit} * {step}" if digit == "i" else f"({digit}) * {step}")
            inner *= extent
        printer.line(f"return {' + '.join(reversed(terms)) or '0 * i'};")


def _main(printer: Printer, program: Program) -> None:
    line = printer.line
    inputs = [(port, name) for port, name in _named(program) if name.startswith("input")]
    outputs = [(port, name) for port, name in _named(program) if name.startswith("output")]
    for port, name in _named(program):
        line(f'std::ifstream file_{name}("tb_data/{name}.dat");')
        line(f"Numbers {name}({_size(port)});")
    outside_arrays(printer, program)
    line("Numbers wanted;")
    line('std::ofstream log("tb_data/csim_results.log");')
    line("int images = 0;")
    line("long differ = 0;")
    line("bool missing = false;")
    with printer.block("for (; next(file_input_0, input_0); images++)"):
        for port, name in inputs:
            if name != "input_0":
                line(
                    f'if (!next(file_{name}, {name})) return wrong("tb_data/{name}.dat has fewer images than input_0");'
                )
            line(_checked(name, name, port))
        for port, _ in (*inputs, *outputs):
            line(f'{stream_type(port.channel)} {port.channel.name}("{port.channel.name}");')
        for port, name in inputs:
            kind = f"{'signed' if port.channel.kind.signed else 'unsigned'} number of {port.channel.kind.bits} bits"
            line(f"if (!send({port.channel.name}, {name}, place_{name}))")
            line(f'    return wrong("tb_data/{name}.dat holds what is no {kind}");')
        names = [port.channel.name for port, _ in (*inputs, *outputs)] + [name for name, _, _ in program.outside]
        line(f"{program.name}({', '.join(names)});")
        for port, name in outputs:
            line(f"receive({port.channel.name}, {name}, place_{name});")
            line(f"write(log, {name});")
            with printer.block(f"if (next(file_{name}, wanted))"):
                line(_checked("wanted", name, port))
                line(f'differ += compare("{name}", images, {name}, wanted);')
            line("else missing = true;")
    line('if (!images) return wrong("tb_data/input_0.dat is missing, or has no image");')
    line(
        'if (missing) wrong("tb_data/output_*.dat: fewer images than results, which are in tb_data/csim_results.log");'
    )
    line('std::cout << images << " images, " << differ << " mismatches" << std::endl;')
    line("return differ ? 1 : missing ? 3 : 0;")


def _checked(variable: str, file: str, port: Port) -> str:
    told = f'"tb_data/{file}.dat: an image has {_size(port)} numbers"'
    return f"if ({variable}.size() != {_size(port)}) return wrong({told});"


def _size(port: Port) -> int:
    return port.channel.count * port.channel.lanes
