"""What products by weights in few bits cost: every format by every kernel, against our own float32.

    python benchmarks/low_bit.py [FORMAT]... [--rows 1] [--depth 4096] [--columns 4096] [--rounds 15] [--json]

One thread, seeded normal numbers. The kernels take turns, and the fastest schedule of each (by a first round) stands
for it; times are medians. GB/s counts what the kernel reads of weights, as they are packed. The error is that of the
result against the product by the float32 weights, relative to it in squares and in decibels, beside that of the format
alone: the difference is what a kernel rounds that rounds x. Such kernels are for `--numerics fast`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passes.encode import encoded_product
from passes.layout import PackMatmulWeights
from targets.cpu.codegen import build_object
from targets.cpu.kernels import lower
from targets.cpu.machine import Machine, detect
from targets.cpu.spaces import space_of
from tensorc.formats import find_format, measure
from tensorc.ir import Graph, TensorType
from tensorc.toolchain import find_compiler

FORMATS = (
    "int8", "int4", "int4-g32", "int4-g128", "int4-g32-asym", "int3-g64", "int2-g64", "ternary-g64", "mxfp8", "mxfp6",
    "mxfp4", "nvfp4", "bfp4-b32", "bipolar1", "bipolar2", "bipolar4",
)  # fmt: skip
_MILLISECOND = 1e-3


@dataclass
class Contender:
    """A kernel on its own data; `weight_bytes` of which it reads each time."""

    format: str
    kernel: str
    call: Any
    arguments: list[Any]
    tasks: int
    result: np.ndarray
    weight_bytes: int
    kept: list[np.ndarray]

    def seconds(self) -> float:
        start = time.perf_counter()
        self.call(*self.arguments, 0, self.tasks)
        return time.perf_counter() - start


def contenders(name: str, body: Graph, data: Mapping[str, np.ndarray], machine: Machine,
               folder: Path) -> list[Contender]:  # fmt: skip
    """One for each algorithm that there is, with the schedule that is fastest at first sight."""
    space = space_of(body, machine, "fast")
    assert space is not None
    made: dict[str, list[Contender]] = {}
    for number, values in enumerate(space.enumerate()):
        if _worth_a_try(values):
            contender = _built(name, body, data, machine, folder / f"{name}-{number}", space.schedule(values))
            schedule = space.schedule(values)
            made.setdefault(f"{schedule['kind']} {schedule.get('tables', '')}", []).append(contender)
    for several in made.values():
        for contender in several:
            contender.seconds()
    return [min(several, key=lambda c: min(c.seconds() for _ in range(5))) for several in made.values()]


def _worth_a_try(values: tuple[Any, ...]) -> bool:
    """Float32 has the largest space: of it what is known to be good."""
    if values[0] == "matmul":
        _, _, vectors, unroll, outer = values
        return vectors in (4, 8) and unroll in (4, 8) and outer == "weights"
    return values[0] != "blocked_matmul"


def _built(name: str, body: Graph, data: Mapping[str, np.ndarray], machine: Machine, path: Path,
           schedule: Mapping[str, Any]) -> Contender:  # fmt: skip
    kernel = lower(body, machine, schedule)
    build_object({"kernel": kernel.function}, machine, path.with_suffix(".o"))
    library = path.with_suffix(".so")
    subprocess.run([*find_compiler(), "-shared", "-o", library, path.with_suffix(".o"), "-lm"], check=True)
    arrays = []
    for number, value in enumerate(body.inputs):
        packing = kernel.packings.get(number)
        arrays.append(np.ascontiguousarray(data[value.name] if packing is None else packing.apply(data[value.name])))
    result = np.empty(body.outputs[0].shape, np.float32)
    scratch = [np.empty(kernel.scratch_bytes, np.uint8)] if kernel.scratch_bytes else []
    kept = [*arrays, result, *scratch]
    arguments = [ctypes.c_void_p(array.ctypes.data) for array in kept]
    call = ctypes.CDLL(str(library))["kernel"]
    return Contender(
        name, str(schedule), call, arguments, kernel.tasks, result, sum(array.nbytes for array in arrays[1:]), kept
    )


def float_body(w: np.ndarray, rows: int, machine: Machine) -> tuple[Graph, dict[str, np.ndarray]]:
    graph = Graph("body")
    x = graph.add_input("x", TensorType("float32", (rows, w.shape[1])))
    graph.outputs = [graph.add("matmul", [x, graph.constant(np.ascontiguousarray(w.T))], {})]
    PackMatmulWeights(machine.vector_bits // 32).run(graph)
    return _constants_as_inputs(graph)


def encoded_body(name: str, w: np.ndarray, rows: int) -> tuple[Graph, dict[str, np.ndarray]]:
    graph = Graph("body")
    x = graph.add_input("x", TensorType("float32", (rows, w.shape[1])))
    graph.outputs = [encoded_product(graph, x, find_format(name).quantize(w))]
    return _constants_as_inputs(graph)


def _constants_as_inputs(graph: Graph) -> tuple[Graph, dict[str, np.ndarray]]:
    """Numbers stay in the body."""
    body = Graph("body")
    known = {graph.inputs[0]: body.add_input("x", graph.inputs[0].type)}
    data = {}
    for value in graph.constants():
        assert value.constant is not None
        if value.constant.splat is not None and value.type.size == 1:
            known[value] = body.add_constant(value.constant, value.name)
        else:
            known[value] = body.add_input(value.name, value.type)
            data[known[value].name] = value.constant.numpy()
    for node in graph.nodes:
        known[node.output] = body.add(node.op, [known[value] for value in node.inputs], node.attrs)
    body.outputs = [known[graph.outputs[0]]]
    return body, data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", default=FORMATS, metavar="FORMAT")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--depth", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    w = rng.standard_normal((given.columns, given.depth), np.float32)
    x = rng.standard_normal((given.rows, given.depth), np.float32)
    machine = detect()
    alone: dict[str, float] = {"float32": math.inf}
    with tempfile.TemporaryDirectory() as place:
        body, data = float_body(w, given.rows, machine)
        all_of = contenders("float32", body, data | {"x": x}, machine, Path(place))
        for name in given.formats:
            alone[name] = find_format(name).error(w).snr_db
            body, data = encoded_body(name, w, given.rows)
            all_of += contenders(name, body, data | {"x": x}, machine, Path(place))
        taken: list[list[float]] = [[] for _ in all_of]
        for _ in range(given.rounds):
            for contender, seconds in zip(all_of, taken, strict=True):
                contender.seconds()  # its data come near
                seconds.append(contender.seconds())
    wanted = x.astype(np.float64) @ w.T.astype(np.float64)
    base = statistics.median(taken[0])
    rows = [
        {
            "format": c.format, "kernel": c.kernel, "ms": seconds / _MILLISECOND, "ratio": base / seconds,
            "gb_s": c.weight_bytes / seconds / 1e9, "bits": 8 * c.weight_bytes / w.size,
            "snr_db": measure(wanted, c.result).snr_db, "format_db": alone[c.format],
        }
        for c, seconds in zip(all_of, map(statistics.median, taken), strict=True)
    ]  # fmt: skip
    if given.json:
        print(json.dumps({"rows": given.rows, "depth": given.depth, "columns": given.columns, "kernels": rows}))
        return
    print(f"{given.rows} x {given.depth} x {given.columns}, one thread, {machine.name}\n")
    print("| format | schedule | ms | times float32 | GB/s | bits a weight | result dB | format dB |")
    print("|---" * 8 + "|")
    for row in rows:
        print(f"| {row['format']} | {row['kernel']} | {row['ms']:.3f} | {row['ratio']:.2f} | {row['gb_s']:.1f} | "
              f"{row['bits']:.2f} | {row['snr_db']:.1f} | {row['format_db']:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
