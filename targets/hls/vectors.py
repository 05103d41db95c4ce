"""Golden vectors: raw integers that go into a design, and those that must come out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from targets.hls.program import Port, Program
from tensorc.errors import UserError
from tensorc.ir.graph import Graph
from tensorc.ir.interpreter import evaluate
from tensorc.ir.types import numpy_dtype

_SEED = 2026


@dataclass(frozen=True)
class Vectors:
    """For each port an int64 array [images, elements], row-major as the model has them."""

    inputs: Sequence[np.ndarray]
    outputs: Sequence[np.ndarray]

    @property
    def count(self) -> int:
        return len(self.inputs[0])


def raw_of(port: Port, numbers: np.ndarray) -> np.ndarray:
    """What a user sends for real numbers: rounded, half a step up, to the nearest that there is."""
    kind = port.channel.kind
    scaled = np.floor(np.asarray(numbers, np.float64) * 2.0**kind.fraction + 0.5)
    return np.asarray(np.clip(scaled, kind.full.low, kind.full.high).astype(np.int64).reshape(-1))


def golden(graph: Graph, program: Program, feeds: Sequence[Mapping[str, np.ndarray]], count: int) -> Vectors:
    """`count` images: those of `feeds`, by the inputs' names, and then random ones, in which all integers are as
    likely; of numbers that say which, those of `feeds` are."""
    assert graph.labels is not None
    rng = np.random.default_rng(_SEED)
    dtypes = {name: value.dtype for name, value in zip(graph.labels[0], graph.inputs, strict=True)}
    inputs = []
    for port in program.inputs:
        given = [raw_of(port, feed[port.name]) for feed in feeds[:count]]
        kind = port.channel.kind.full
        shape = count - len(given), len(port.order)
        if dtypes[port.name] == "float64":
            drawn = rng.integers(kind.low, kind.high + 1, shape)
        else:
            drawn = rng.choice(np.unique([0, *(number for row in given for number in row)]), shape)
        inputs.append(np.concatenate([np.asarray(given, np.int64).reshape(len(given), len(port.order)), drawn]))
    outputs: list[list[np.ndarray]] = [[] for _ in program.outputs]
    for image in range(count):
        for made, raw in zip(outputs, reference(graph, program, [rows[image] for rows in inputs]), strict=True):
            made.append(raw)
    return Vectors(inputs, [np.stack(rows) for rows in outputs])


def reference(graph: Graph, program: Program, raw: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the graph makes of one image's raw integers, as raw integers."""
    assert graph.labels is not None
    by_name = {port.name: (port, numbers) for port, numbers in zip(program.inputs, raw, strict=True)}
    feed = {}
    for name, value in zip(graph.labels[0], graph.inputs, strict=True):
        port, numbers = by_name[name]
        real = (numbers * 2.0**-port.channel.kind.fraction).reshape(port.shape)
        feed[value.name] = real.astype(numpy_dtype(value.dtype))
    results = evaluate(graph, feed)
    return [
        np.rint(result.reshape(-1) * 2.0**port.channel.kind.fraction).astype(np.int64)
        for port, result in zip(program.outputs, results, strict=True)
    ]


def write_rows(rows: np.ndarray) -> bytes:
    """An image a line."""
    return "".join(" ".join(map(str, row)) + "\n" for row in rows.tolist()).encode()


def read_rows(path: Path) -> np.ndarray:
    """What `write_rows` wrote. Raises UserError."""
    try:
        return np.loadtxt(path, dtype=np.int64, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"golden vectors cannot be read: {path}: {error}") from error
