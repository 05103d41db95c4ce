"""C simulation of a generated project without vendor tools: g++ and the ap_types headers that hls4ml brings.

What is compiled lies in a temporary folder; the project itself is only read.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tensorc.errors import UserError
from tensorc.toolchain import first_error

#: Without early inlining g++ needs a third of the time for the same speed: it meets thousands of tiny functions.
FLAGS = ("-std=c++14", "-O1", "-fno-early-inlining", "-Wno-unknown-pragmas")
_SANITIZERS = ("-fsanitize=undefined,address", "-fno-omit-frame-pointer")
#: Vendor code that shifts negative numbers; we look for faults of our own.
_NOT_OURS = "ap_private.h"
_SECONDS = 600.0
#: What the test bench returns for data that are missing or wrong.
_WRONG_DATA = 2


@dataclass(frozen=True)
class Check:
    """What the test bench said of the project's own vectors."""

    images: int
    mismatches: int
    text: str


@dataclass(frozen=True)
class Simulation:
    """A compiled project. Its folder is gone when the `with` block of `compiled` ends."""

    program: Path
    data: Path
    seconds: float

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`inputs` [images, ...] are raw integers in the model's order, one array an input; so are the results
        [images, numbers], int64. Raises UserError for numbers that do not fit, or where time is up."""
        images = {len(array) for array in inputs}
        if len(images) != 1:
            raise UserError(f"C simulation: inputs of {sorted(images)} images; all have the same number")
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir()
        for number, array in enumerate(inputs):
            flat = np.asarray(array, np.int64).reshape(len(array), -1)
            np.savetxt(self.data / f"input_{number}.dat", flat, fmt="%d")
        done = self._run()
        log = self.data / "csim_results.log"
        lines = log.read_text().splitlines() if log.exists() else []
        (count,) = images
        if not lines or len(lines) % count:
            raise UserError(f"C simulation: {first_error(done.stderr)}")
        each = len(lines) // count
        rows = [np.array(line.split(), np.int64) for line in lines]
        return [np.stack(rows[number::each]) for number in range(each)]

    def check(self, vectors: Path) -> Check:
        """Runs the files of a `tb_data` folder and compares with what they say."""
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.copytree(vectors, self.data)
        done = self._run()
        last = done.stdout.strip().splitlines()[-1:] or [""]
        words = last[0].split()
        if done.returncode not in (0, 1) or words[1:2] != ["images,"]:
            raise UserError(f"C simulation: {first_error(done.stderr)}")
        return Check(int(words[0]), int(words[2]), done.stdout)

    def _run(self) -> subprocess.CompletedProcess[str]:
        suppressed = self.program.with_name("suppressed")
        options = {"UBSAN_OPTIONS": f"suppressions={suppressed}:print_stacktrace=1", "ASAN_OPTIONS": "detect_leaks=0"}
        done = execute([str(self.program)], self.data.parent, self.seconds, "the C simulation", options)
        said = done.stdout + done.stderr
        # What reads an empty stream, or leaves words in one, hangs in hardware.
        signs = ["runtime error", "ERROR: AddressSanitizer"]
        signs += ["WARNING: Hls::stream"] if done.returncode != _WRONG_DATA else []
        for sign in signs:
            if sign in said:
                raise RuntimeError(f"C simulation: {next(line for line in said.splitlines() if sign in line)}")
        if done.returncode < 0:
            raise RuntimeError(f"C simulation: the program ended with signal {-done.returncode}")
        return done


@contextmanager
def compiled(folder: Path | str, sanitize: bool = False, seconds: float = _SECONDS) -> Iterator[Simulation]:
    """The project in `folder` (`firmware/` and `NAME_test.cpp`), compiled. `seconds` is the limit of a compilation and
    of a run. Raises UserError without g++ or the headers, and for a folder that is no project."""
    folder = Path(folder).resolve()
    benches = sorted(folder.glob("*_test.cpp"))
    if len(benches) != 1:
        raise UserError(f"{folder}: it holds {len(benches)} files *_test.cpp; a generated project has one")
    name = benches[0].name.removesuffix("_test.cpp")
    source = folder / "firmware" / f"{name}.cpp"
    if not source.is_file():
        raise UserError(f"{source}: there is no such file; a generated project has it")
    with tempfile.TemporaryDirectory(prefix="tensorc-csim-") as made:
        program = Path(made, name)
        Path(made, "suppressed").write_text("".join(f"{kind}:{_NOT_OURS}\n" for kind in _CHECKS))
        flags = [*FLAGS, *(_SANITIZERS if sanitize else ())]
        compile_cpp([benches[0], source], program, [*flags, f"-I{folder}", f"-I{headers()}"], seconds)
        yield Simulation(program, Path(made, "tb_data"), seconds)


#: The names by which suppressions are made.
_CHECKS = ("undefined", "shift-base", "shift-exponent", "signed-integer-overflow", "alignment", "bool")


def run(
    folder: Path | str, inputs: Sequence[np.ndarray], sanitize: bool = False, seconds: float = _SECONDS
) -> list[np.ndarray]:
    """The results of a project for `inputs`, as `Simulation.run`."""
    with compiled(folder, sanitize, seconds) as simulation:
        return simulation.run(inputs)


def check(folder: Path | str, sanitize: bool = False, seconds: float = _SECONDS) -> Check:
    """Runs the test bench of a project on its `tb_data`."""
    with compiled(folder, sanitize, seconds) as simulation:
        return simulation.check(Path(folder, "tb_data"))


def headers() -> Path:
    """The folder of ap_int.h. hls4ml itself is not imported."""
    found = importlib.util.find_spec("hls4ml")
    for place in found.submodule_search_locations or () if found is not None else ():
        folder = Path(place, "templates", "vivado", "ap_types")
        if (folder / "ap_int.h").is_file():
            return folder
    raise UserError("C simulation needs the headers that hls4ml brings: pip install 'tensorc[hls]' (hls4ml==1.3.0)")


def compile_cpp(sources: Sequence[Path], program: Path, flags: Sequence[str], seconds: float) -> None:
    if shutil.which("g++") is None:
        raise UserError("C simulation needs g++, which is not on the path: install it (on Debian, the package g++)")
    command = ["g++", *flags, *map(str, sources), "-o", str(program)]
    done = execute(command, program.parent, seconds, "compiling the C simulation")
    if done.returncode:
        raise RuntimeError(f"C simulation: the generated code does not compile: {first_error(done.stderr)}")


def execute(
    command: Sequence[str], folder: Path, seconds: float, what: str, more: dict[str, str] | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """`more` is added to the environment, `text` is what it reads. Raises UserError where time is up."""
    environment = {**os.environ, **(more or {})}
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{what} took longer than the {seconds:g} s that it may take") from None
