"""Rounding errors of the convolution algorithms that `--numerics` chooses between, against float64.

    python benchmarks/numerics.py

For 3x3 convolutions of several widths and distributions of inputs (He-scaled normal weights): the largest error and the
root of the mean square error, relative to the largest result, the worst of three seeds.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from targets.cpu.codegen import build_object
from targets.cpu.kernels import Kernel, lower
from targets.cpu.machine import detect
from targets.cpu.schedules import ConvSchedule, WinogradSchedule
from tensorc.ir import Graph, TensorType
from tensorc.search.schedule import Schedule
from tensorc.toolchain import find_compiler

#: Channels, height and width.
SHAPES = ((64, 28), (128, 28), (256, 14), (512, 7))
ALGORITHMS: dict[str, Schedule] = {
    "direct": ConvSchedule(1, 7, 2, "channels", 4, "weights"),
    "F(2x2,3x3)": WinogradSchedule(2, 4, 2, 1, 1),
    "F(4x4,3x3)": WinogradSchedule(4, 4, 2, 1, 1),
}
BLOCK = detect().vector_bits // 32


def inputs(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    match kind:
        case "normal":
            data = rng.standard_normal(shape)
        case "after a relu":
            data = np.maximum(rng.standard_normal(shape), 0)
        case "uniform in 1..2":
            data = rng.random(shape) + 1
        case _:  # an image with little contrast
            data = 3 + 0.05 * np.abs(rng.standard_normal(shape))
    return data.astype(np.float32)


def body(channels: int, size: int) -> Graph:
    graph = Graph("body")
    x = graph.add_input("x", TensorType("float32", (1, channels // BLOCK, size, size, BLOCK)))
    w = graph.add_input("w", TensorType("float32", (channels // BLOCK, channels, 3, 3, BLOCK)))
    graph.outputs = [graph.add("conv_blocked", [x, w], {"strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1)})]
    return graph


def exact(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The convolution of blocked x and w in float64, blocked."""
    image = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])[0]
    blocks, height, width, _ = image.shape
    filters = w.astype(np.float64).reshape(w.shape[0], blocks, BLOCK, 3, 3, BLOCK)
    result = np.zeros((w.shape[0], height - 2, width - 2, BLOCK))
    for i in range(3):
        for j in range(3):
            patch = image[:, i : i + height - 2, j : j + width - 2]
            result += np.einsum("bhwc,obcd->ohwd", patch, filters[:, :, :, i, j], optimize=True)
    return result[None]


def run(
    kernel: Kernel, function: ctypes._NamedFuncPointer, arrays: list[np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    packed = [
        np.ascontiguousarray(kernel.packings[n].apply(array) if n in kernel.packings else array)
        for n, array in enumerate(arrays)
    ]
    out, scratch = np.zeros(shape, np.float32), np.zeros(kernel.scratch_bytes, np.uint8)
    pointers = [array.ctypes.data for array in (*packed, out, *([scratch] if scratch.size else []))]
    function(*map(ctypes.c_void_p, pointers), 0, kernel.tasks)
    return out


def main() -> None:
    print(f"{'channels':>8s} {'inputs':18s}" + "".join(f"{name + ' max':>17s} {'rms':>8s}" for name in ALGORITHMS))
    for channels, size in SHAPES:
        graph = body(channels, size)
        kernels = [lower(graph, detect(), schedule.to_json()) for schedule in ALGORITHMS.values()]
        with tempfile.TemporaryDirectory() as folder:
            built, library = Path(folder, "k.o"), Path(folder, "k.so")
            build_object({f"k{n}": kernel.function for n, kernel in enumerate(kernels)}, detect(), built)
            subprocess.run([*find_compiler(), "-shared", "-o", library, built, "-lm"], check=True)
            loaded = ctypes.CDLL(str(library))
        x, w = graph.inputs
        for kind in ("normal", "after a relu", "uniform in 1..2", "little contrast"):
            worst = np.zeros((len(kernels), 2))
            for seed in range(3):
                rng = np.random.default_rng(seed)
                weights = rng.standard_normal(w.shape, np.float32) * np.float32((2 / (9 * channels)) ** 0.5)
                arrays = [inputs(kind, x.shape, rng), weights]
                wanted = exact(*arrays)
                for n, kernel in enumerate(kernels):
                    error = np.abs(run(kernel, loaded[f"k{n}"], arrays, wanted.shape) - wanted) / np.abs(wanted).max()
                    worst[n] = np.maximum(worst[n], (error.max(), np.sqrt(np.mean(error**2))))
            print(f"{channels:8d} {kind:18s}" + "".join(f"{peak:17.1e} {rms:8.1e}" for peak, rms in worst))


if __name__ == "__main__":
    main()
