"""Small fixed-point networks as scheduled programs, with the graph's interpreter as the reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from passes.canonical import canonical_passes
from passes.exact import ComputeExactly
from passes.fixed_point import FixedPoint
from passes.fusion import FuseGroups
from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import Network, network_of, program_of
from targets.hls.printing import cpp, testbench
from targets.hls.program import Program
from tensorc.frontend.importer import open_model
from tensorc.ir import Graph, evaluate
from tensorc.ir.graph import clone
from tensorc.pipeline import run_passes
from tensorc.quantization.params import Range

DIGITS = Path(__file__).parents[3] / "examples" / "digits"


@dataclass(frozen=True)
class Fixed:
    """A graph of fixed-point numbers, with inputs [images, ...] that it was calibrated with."""

    graph: Graph
    network: Network
    samples: Sequence[np.ndarray]

    def program(self, name: str, unrolls: Mapping[str, Unroll] | None = None) -> Program:
        return program_of(self.network, unrolls or {}, name)

    def vectors(self, program: Program, images: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Raw inputs, and what the interpreter makes of them."""
        given, wanted = [], []
        for n in range(images):
            image = {value.name: array[n] for value, array in zip(self.graph.inputs, self.samples, strict=True)}
            found = evaluate(self.graph, image)
            given.append(
                [_raw(image[port.name], port.channel.kind.fraction, port.channel.kind.full) for port in program.inputs]
            )
            wanted.append([np.rint(a * 2.0**p.channel.kind.fraction).reshape(-1).astype(np.int64)
                           for a, p in zip(found, program.outputs, strict=True)])  # fmt: skip
        return [np.stack(arrays) for arrays in zip(*given, strict=True)], [
            np.stack(a) for a in zip(*wanted, strict=True)
        ]


def _raw(numbers: np.ndarray, fraction: int, kind) -> np.ndarray:
    return np.clip(np.floor(numbers * 2.0**fraction + 0.5), kind.low, kind.high).astype(np.int64)


def fix(graph: Graph, samples: Sequence[np.ndarray], bits: int = 8, lmul: bool = False) -> Fixed:
    """`graph` with all tensors of so many bits; `samples` [images, ...] calibrate it."""
    run_passes(graph, [*canonical_passes(), ComputeExactly()])
    watched = clone(graph)
    values = list(watched.values())
    watched.outputs = values
    ranges: dict[str, Range] = {}
    for image in zip(*samples, strict=True):
        names = [value.name for value in watched.inputs]
        for value, array in zip(values, evaluate(watched, dict(zip(names, image, strict=True))), strict=True):
            before = ranges.get(value.name, Range(0.0, 0.0))
            low, high = array.min(initial=before.low), array.max(initial=before.high)
            ranges[value.name] = Range(float(low), float(high))
    run_passes(graph, [FixedPoint(bits, bits, ranges, lmul=lmul), FuseGroups(moves=False)])
    return Fixed(graph, network_of(graph), samples)


@functools.cache
def _digits() -> Fixed:
    graph = open_model(str(DIGITS / "digits.onnx"), {}, False).static().graph
    images = np.load(DIGITS / "heldout.npz")["images"][:100].reshape(-1, 1, 1, 8, 8) / 16.0
    return fix(graph, [images.astype(np.float64)])


@pytest.fixture(scope="session")
def digits() -> Fixed:
    return _digits()


@pytest.fixture(scope="session")
def fixed() -> Callable[..., Fixed]:
    return fix


def residual_graph() -> tuple[Graph, list[np.ndarray]]:
    """Two convolutions and a bypass."""
    rng = np.random.default_rng(0)
    graph = Graph("residual")
    from tensorc.ir import TensorType

    x = graph.add_input("x", TensorType("float64", (1, 2, 6, 5)))
    attrs = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 1}

    def conv(value, name):
        weights = graph.constant(rng.standard_normal((2, 2, 3, 3)), name=f"{name}.weights")
        return graph.add("relu", [graph.add("conv", [value, weights], attrs)], name=name)

    start = conv(x, "start")
    graph.outputs = [graph.add("add", [conv(conv(start, "first"), "second"), start], name="joined")]
    return graph, [rng.standard_normal((4, 1, 2, 6, 5))]


@pytest.fixture(scope="session")
def residual() -> Fixed:
    return fix(*residual_graph())


def write(program: Program, folder: Path) -> Path:
    (folder / "firmware" / "weights").mkdir(parents=True, exist_ok=True)
    for name, text in cpp.files(program):
        (folder / "firmware" / name).write_text(text)
    (folder / f"{program.name}_test.cpp").write_text(testbench.bench(program))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Callable[[Program], Path]:
    """Writes the sources of a program, and gives the folder."""
    return lambda program: write(program, tmp_path / program.name)
