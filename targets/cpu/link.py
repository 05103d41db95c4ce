"""From kernels in object files to one shared object: prints the steps as C and calls the system's C compiler.

C rather than a table that is interpreted, so that a step is a direct call with constant offsets, a profiler shows
its name, and a person can read what the model does.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from targets.control import Control, Loop, Repeat
from targets.cpu.program import (
    ARENA,
    FIRST_INPUT,
    SCRATCH,
    Argument,
    CpuProgram,
    Step,
    Stream,
    Transfer,
)
from tensorc.toolchain import find_compiler, first_error

_EXECUTOR, _RESIDENCY = (Path(__file__).with_name(name) for name in ("executor.c", "residency.c"))

_COMPILE_FLAGS = ("-O2", "-std=gnu11", "-fPIC", "-pthread", "-fvisibility=hidden", f"-I{_EXECUTOR.parent}")
#: Kernels call each other and libm, nothing else: an unknown symbol is an error here, not when the model is loaded.
#: -Bsymbolic keeps a kernel from being replaced by whatever else in the process bears its name.
_LINK_FLAGS = ("-shared", "-Wl,-Bsymbolic", "-Wl,-z,defs", "-Wl,-z,noexecstack")


def print_steps(program: CpuProgram) -> str:
    """The C source of a program's steps, to be compiled beside the executor."""
    prototypes = {step.kernel: _prototype(step) for step in program.steps if isinstance(step, Step)}
    rows = [f"    {{{_row(index, step)}}}," for index, step in enumerate(program.steps)]
    stream = program.stream
    changes, runs = _changes(stream)
    blocks = ", ".join(f"{{{first}, {count}}}" for first, count in runs or [(0, 0)])
    parts = [
        f"/* base: {ARENA} arena; from {FIRST_INPUT} inputs, from {program.first_output} outputs, from "
        f"{program.first_pointer} pointers of loops, from {program.first_constant} constants. */",
        '#include <string.h>\n#include "executor.h"\n',
        "\n".join(prototypes.values()) + "\n",
        *(_commented(step.label, _function(index, step)) for index, step in enumerate(program.steps)),
        "const step tensorc_steps[] = {\n" + "\n".join([*rows, "    {0}, /* the end */"]) + "\n};\n",
        f"const change tensorc_changes[] = {{{', '.join([*changes, '{-1, 0, 0, 0}'])}}};",
        f"const block_run tensorc_runs[] = {{{blocks}}};",
        f"const int32_t tensorc_budget = {int(stream is not None)};",
        f"const size_t tensorc_weights_bytes = {stream.weights_bytes if stream else 0};",
        f"const size_t tensorc_spill_bytes = {program.file_bytes};",
        f"const int32_t tensorc_step_count = {len(program.steps)};",
        f"const int32_t tensorc_input_count = {len(program.inputs)};",
        f"const int32_t tensorc_output_count = {len(program.outputs)};",
        f"const int32_t tensorc_pointer_count = {program.pointers};",
        f"const int32_t tensorc_constant_count = {program.constants};",
        f"const size_t tensorc_arena_bytes = {program.arena_bytes};",
        f"const size_t tensorc_scratch_bytes = {program.scratch_bytes};",
    ]
    return "\n".join(parts) + "\n"


def _row(index: int, step: Step | Control[Argument] | Transfer) -> str:
    if isinstance(step, Step):
        first, count = step.table
        return f"step_{index}, 0, 0, {step.tasks}, {int(step.serial)}, {step.slice}, {{{first}, {count}}}"
    if isinstance(step, Transfer):
        return f"0, 0, step_{index}, 1, 1, 0, {{0, 0}}"
    return f"0, step_{index}, 0, 1, 1, 0, {{0, 0}}"


def _changes(stream: Stream | None) -> tuple[list[str], list[tuple[int, int]]]:
    """The table of changes, and the one that it points into."""
    rows: list[str] = []
    runs: list[tuple[int, int]] = []
    for change in stream.changes if stream is not None else ():
        rows.append(f"{{{change.step}, {len(runs)}, {len(change.drops)}, {len(change.fetches)}}}")
        runs += [*change.drops, *change.fetches]
    return rows, runs


def _prototype(step: Step) -> str:
    return f"void {step.kernel}({'void *, ' * len(step.arguments)}int32_t begin, int32_t end);"


def _commented(label: str, text: str) -> str:
    # Labels are made of the model's own names, which may hold anything.
    return "/* " + " ".join(label.split()).replace("*/", "* /") + f" */\n{text}"


def _function(index: int, step: Step | Control[Argument] | Transfer) -> str:
    if isinstance(step, Step):
        arguments = "".join(_address(argument) + ", " for argument in step.arguments)
        begin, end = (f"{name} + {step.first}" if step.first else name for name in ("begin", "end"))
        return (
            f"static void step_{index}(char *const *base, char *scratch, int32_t begin, int32_t end) {{\n"
            f"    {step.kernel}({arguments}{begin}, {end});\n"
            "}\n"
        )
    if isinstance(step, Transfer):
        function = "tensorc_to_file" if step.out else "tensorc_from_file"
        return (
            f"static int step_{index}(char *const *base, int spill) {{\n"
            f"    return {function}(spill, {_address(step.memory)}, {step.nbytes}, {step.offset});\n"
            "}\n"
        )
    if isinstance(step, Loop):
        return _loop(index, step)
    if isinstance(step, Repeat):
        return _control(f"step_{index}", [f"return repeat_{step.begin}(base);"])
    next_step = str(step.target)
    if step.unless is not None:
        next_step = f"*({_address(step.unless)}) ? {index + 1} : {next_step}"
    return _control(f"step_{index}", ["(void)base;", f"return {next_step};"])


def _loop(begin: int, loop: Loop[Argument]) -> str:
    """Three functions: what opens an iteration or ends the loop, what leads to the first one, what to the next."""
    counter = f"(*(int64_t *)({_address(loop.counter)}))"
    test = f"{counter} < {loop.trips}"
    if loop.condition is not None:
        test += f" && *({_address(loop.condition)})"
    last = [f"if ({test}) return {begin + 1};"]
    for value in loop.carried if loop.condition is not None or not loop.trips else ():
        source, target = f"base[{value.read}]", _address(value.result)
        last.append(f"if ({source} != {target}) memcpy({target}, {source}, {value.nbytes});")
    last.append(f"return {loop.end + 1};")
    first = [f"{counter} = 0;"]
    after = [f"{counter}++;"]
    for value in loop.carried:
        slots = [_address(slot) for slot in value.slots]
        first += [f"base[{value.read}] = {_address(value.start)};", f"base[{value.write}] = {slots[0]};"]
        after.append(f"base[{value.read}] = base[{value.write}];")
        after.append(f"base[{value.write}] = {counter} & 1 ? {slots[1]} : {slots[0]};")
    for part in loop.slices:
        first.append(f"base[{part.pointer}] = {_address(part.start)};")
        after.append(f"base[{part.pointer}] += {part.stride};")
    open_next = f"return open_{begin}(base);"
    return "".join([
        _control(f"open_{begin}", last),
        _control(f"repeat_{begin}", [*after, open_next]),
        _control(f"step_{begin}", [*first, open_next]),
    ])  # fmt: skip


def _control(name: str, lines: Sequence[str]) -> str:
    return f"static int32_t {name}(char **base) {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n"


def _address(argument: Argument) -> str:
    base = "scratch" if argument.space == SCRATCH else f"base[{argument.space}]"
    return f"{base} + {argument.offset}" if argument.offset else base


def link(objects: Sequence[Path], steps_source: str, out: Path, executor: Path | None = None) -> None:
    """Compile `steps_source`, link it with `objects` and the executor, and write the shared object to `out`.

    `executor` is what `compile_object` made of another one than executor.c. Raises UserError if there is no C compiler,
    RuntimeError with its first error if it fails.
    """
    with tempfile.TemporaryDirectory(prefix="tensorc-") as folder:
        steps = Path(folder, "steps.c")
        steps.write_text(steps_source, encoding="utf-8")
        executor = executor or _compiled(_EXECUTOR, Path(folder))
        residency = _compiled(_RESIDENCY, Path(folder))
        _compile("link the model", *_LINK_FLAGS, "-o", out, executor, residency, steps, *objects, "-lm")


def _compiled(source: Path, folder: Path) -> Path:
    out = folder / f"{source.stem}.o"
    out.write_bytes(_compiled_once(source, tuple(find_compiler())))
    return out


@functools.cache
def _compiled_once(source: Path, _compiler: tuple[str, ...]) -> bytes:
    """Once for all models that this process builds: that takes longer than all the rest of linking."""
    with tempfile.TemporaryDirectory(prefix="tensorc-") as folder:
        out = Path(folder, source.stem + ".o")
        compile_object(source, out)
        return out.read_bytes()


def compile_object(source: Path, out: Path) -> None:
    """Compile C that goes into models. Raises as `link` does."""
    _compile(f"compile {source.name}", "-c", "-o", out, source)


def _compile(purpose: str, *arguments: str | Path) -> None:
    compiler = find_compiler()
    command = [*compiler, *_COMPILE_FLAGS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{compiler[0]} failed to {purpose}: {first_error(done.stderr)}")
