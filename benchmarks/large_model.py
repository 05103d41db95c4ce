"""How much memory `tensorc compile` takes for a model larger than protobuf's 2 GiB, whose weights are beside it.

    python benchmarks/large_model.py --gib 3

The model is made in a temporary folder, with its weights as external data, and compiled in a process of its own, whose
memory is sampled: anonymous memory is what the compiler holds itself; resident memory counts the mapped pages of the
model's files, too, which the system may take back at any time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

GIB = 1 << 30


@dataclass(frozen=True)
class Sample:
    """Seconds, and the most bytes at one time."""

    code: int
    seconds: float
    anonymous: int
    resident: int
    said: str


def write_chain(folder: Path, nbytes: int, width: int) -> Path:
    """A chain of products by matrices of `width` x `width`, of about `nbytes` in all, in one external file."""
    each = 4 * width * width
    count = max(round(nbytes / each), 1)
    # One block of random numbers again and again: what they are does not matter, that they take space does.
    block = (np.random.default_rng(0).standard_normal(min(width * width, 1 << 22)) / width**0.5).astype(np.float32)
    nodes, weights = [], []
    with (folder / "weights.bin").open("wb") as file:
        for number in range(count):
            name = f"w{number}"
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": "weights.bin", "offset": file.tell(), "length": each}.items():
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"x{number}", name], [f"x{number + 1}"]))
            for start in range(0, width * width, block.size):
                np.roll(block, number)[: width * width - start].tofile(file)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = folder / "chain.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def compile_sampled(model: Path) -> Sample:
    """`tensorc compile` on it, in a process whose memory is looked at a hundred times a second."""
    out = model.with_suffix(".tcm")
    command = [sys.executable, "-m", "tensorc", "compile", str(model), "-o", str(out)]
    start = time.perf_counter()
    anonymous = resident = 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            rows = dict(line.split(":", 1) for line in status.splitlines())
            if "RssAnon" in rows:  # a process that has ended, but was not yet waited for, has none
                anonymous = max(anonymous, 1024 * int(rows["RssAnon"].split()[0]))
                resident = max(resident, 1024 * int(rows["VmHWM"].split()[0]))
            time.sleep(0.01)
        code = process.wait()
        said.seek(0)
        return Sample(code, time.perf_counter() - start, anonymous, resident, said.read().decode(errors="replace"))


@click.command()
@click.option("--gib", default=3.0, show_default=True, help="Size of the weights.")
@click.option("--width", default=8192, show_default=True, help="Of the matrices.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Where there is room for twice as much; default: the system's for temporary files.")  # fmt: skip
def main(gib: float, width: int, folder: Path | None) -> None:
    """Compile a large model; print how long it took, and how much memory."""
    with tempfile.TemporaryDirectory(prefix="tensorc-", dir=folder) as place:
        path = write_chain(Path(place), round(gib * GIB), width)
        weights = (path.parent / "weights.bin").stat().st_size
        sample = compile_sampled(path)
        written = path.with_suffix(".tcm")
        size = written.stat().st_size if written.exists() else 0
    if sample.code:
        raise click.ClickException(f"exit code {sample.code}: {sample.said.strip()}")
    table = Table("weights", "largest", "artifact", "seconds", "anonymous memory", "resident, with mapped files")
    numbers = [weights, 4 * width * width, size, sample.anonymous, sample.resident]
    texts = [f"{number / GIB:.2f} GiB" for number in numbers]
    table.add_row(*texts[:3], f"{sample.seconds:.1f}", *texts[3:])
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
