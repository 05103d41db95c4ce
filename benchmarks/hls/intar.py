"""Sequential, dataflow and InTAR's mix of both on networks with large intermediates, under caps of DSP and block RAM.

    python benchmarks/hls/intar.py --dsp 32 --bram18 32

Two networks are made here with random weights: inverted residuals as in MobileNetV2, whose expansions are six times as
large as what they begin with, and gated feed-forward layers as in transformers. For each way to run them the table has
the exact cycles of the program (of one image, and between images), what its Verilog takes, and the bytes that pass
beyond the chip for an image. Exit code 1: the mix takes longer than one of the others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from passes.canonical import canonical_passes
from passes.exact import ComputeExactly
from passes.fixed_point import FixedPoint
from passes.fusion import FuseGroups
from targets.hls.exploration.intar import Built, Choice, Mode
from targets.hls.layers.network import network_of
from targets.hls.parts import find_part
from tensorc.ir import Graph, TensorType, evaluate
from tensorc.ir.graph import Value, clone
from tensorc.pipeline import run_passes
from tensorc.quantization.params import Range

MODES: tuple[Mode, ...] = ("sequential", "dataflow", "mix")


def inverted_residuals(size: int = 32) -> Graph:
    """Two blocks: 8 channels to 16 with half as many rows and columns, and 16 to 16 with a bypass."""
    graph, rng = Graph("inverted"), np.random.default_rng(0)

    def conv(x: Value, name: str, shape: tuple[int, ...], stride: int = 1, active: bool = True) -> Value:
        weights = graph.constant(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), name=f"{name}.weights")
        groups = shape[0] if shape[1] == 1 else 1
        attrs = {"strides": (stride,) * 2, "pads": (shape[2] // 2,) * 4, "dilations": (1, 1), "groups": groups}
        found = graph.add("conv", [x, weights], attrs, name=name if not active else f"{name}.conv")
        return graph.add("relu", [found], name=name) if active else found

    x = graph.add_input("x", TensorType("float64", (1, 8, size, size)))
    for number, (inside, outside, stride) in enumerate([(8, 16, 2), (16, 16, 1)]):
        wide = conv(x, f"expand{number}", (6 * inside, inside, 1, 1))
        deep = conv(wide, f"depth{number}", (6 * inside, 1, 3, 3), stride)
        y = conv(deep, f"project{number}", (outside, 6 * inside, 1, 1), active=False)
        x = graph.add("add", [y, x], name=f"joined{number}") if inside == outside else y
    graph.outputs = [x]
    return graph


def feed_forward(tokens: int = 64, width: int = 32) -> Graph:
    """Two feed-forward layers with four times as many numbers inside and a bypass, the second for a quarter of them."""
    graph, rng = Graph("feed_forward"), np.random.default_rng(1)

    def product(x: Value, name: str, outputs: int) -> Value:
        inputs = int(x.shape[-1])
        weights = graph.constant(rng.standard_normal((inputs, outputs)) / np.sqrt(inputs), name=f"{name}.weights")
        return graph.add("matmul", [x, weights], {"transpose_b": 0}, name=name)

    x = graph.add_input("x", TensorType("float64", (1, tokens, width)))
    for number, inside in enumerate((4 * width, width)):
        up = graph.add("relu", [product(x, f"up{number}", inside)], name=f"active{number}")
        x = graph.add("add", [product(up, f"down{number}", width), x], name=f"joined{number}")
    graph.outputs = [product(x, "last", width // 4)]
    return graph


def fixed(graph: Graph, bits: int = 8) -> None:
    """In fixed point, calibrated with random inputs, and fused."""
    run_passes(graph, [*canonical_passes(), ComputeExactly()])
    watched = clone(graph)
    watched.outputs = list(watched.values())
    rng = np.random.default_rng(2)
    feeds = {value.name: rng.standard_normal([int(n) for n in value.shape]) for value in watched.inputs}
    arrays = evaluate(watched, feeds)
    ranges = {
        value.name: Range(min(float(array.min()), 0.0), max(float(array.max()), 0.0))
        for value, array in zip(watched.outputs, arrays, strict=True)
    }
    run_passes(graph, [FixedPoint(bits, bits, ranges), FuseGroups(moves=False)])


def shape_of(built: Built) -> str:
    """Segments, each with the cores that its layers have."""
    return " | ".join(" ".join(str(stage.count) for stage in segment) for segment in built.plan.segments)


@click.command()
@click.option("--dsp", default=32, show_default=True, help="DSP blocks at most.")
@click.option("--bram18", default=32, show_default=True, help="Block RAMs of 18 Kbit at most.")
@click.option("--bandwidth", default=2, show_default=True, help="Bytes a cycle of a tensor beyond the chip, each way.")
@click.option("--tries", default=2, show_default=True, help="Plans of a mode that are built.")
def main(dsp: int, bram18: int, bandwidth: int, tries: int) -> None:
    console = Console(width=150)
    makers: tuple[Callable[[], Graph], ...] = (inverted_residuals, feed_forward)
    wrong = False
    for make in makers:
        graph = make()
        fixed(graph)
        choice = Choice(network_of(graph), find_part("xc7z020"), dsp, bram18, bandwidth)
        table = Table(title=f"{graph.name}: {len(choice.layers)} layers that multiply, {dsp} DSP, {bram18} BRAM18")
        for column in ("", "latency", "interval", "DSP", "BRAM18", "bytes beyond", "cores of each layer", "seconds"):
            table.add_column(column, justify="left" if column in ("", "cores of each layer") else "right")
        latencies: dict[Mode, int] = {}
        for mode in MODES:
            start = time.perf_counter()
            built = choice.best(mode, graph.name, tries)
            seconds = f"{time.perf_counter() - start:.1f}"
            if built is None:
                table.add_row(mode, "none found", "", "", "", "", "", seconds)
                continue
            latencies[mode] = built.timing.latency
            table.add_row(mode, f"{built.timing.latency:,}", f"{built.timing.interval:,}", str(built.used.dsp),
                          str(built.used.bram18), f"{built.bytes_beyond:,}", shape_of(built), seconds)  # fmt: skip
        console.print(table)
        wrong |= any(latencies["mix"] > cycles for cycles in latencies.values())
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
