"""Two tasks with a common trunk: what it saves that one unit computes the products of all layers.

    python -m benchmarks.hls.tasks [--json]

A perceptron of 16-32-32 with two heads, 32-32-5 and 32-24-3, of 8 bits: the smallest designs within several latencies
(`--objective resources --max-latency CYCLES`) by the estimate, with layers apart and with a unit. Weights are random.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from unittest import mock

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from targets.hls.exploration import optimize
from tensorc.driver import compile_model
from tensorc.options import CompileOptions
from tensorc.quantization.scheme import Quantization

TRUNK, HEADS = (16, 32, 32), ((32, 5), (24, 3))
LIMITS = (None, 2000, 500, 250, 150)


def two_heads(trunk: tuple[int, ...] = TRUNK, heads: tuple[tuple[int, ...], ...] = HEADS) -> onnx.ModelProto:
    """A layer is a product, a bias and relu, the last of a head without relu."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}

    def layers(value: str, widths: tuple[int, ...], name: str, last: bool) -> str:
        for number, (source, width) in enumerate(itertools.pairwise(widths)):
            layer = f"{name}{number}"
            weights = rng.standard_normal((source, width)) / source**0.5
            constants[f"{layer}_w"] = weights.astype(np.float32)
            constants[f"{layer}_b"] = rng.standard_normal(width).astype(np.float32) / 4
            is_end = last and number == len(widths) - 2
            product = name if is_end else f"{layer}_sum"
            nodes.append(helper.make_node("Gemm", [value, f"{layer}_w", f"{layer}_b"], [product]))
            value = product
            if not is_end:
                nodes.append(helper.make_node("Relu", [value], [layer]))
                value = layer
        return value

    middle = layers("x", trunk, "trunk", False)
    outputs = []
    for number, head in enumerate(heads):
        name = layers(middle, (trunk[-1], *head), f"task{number}_", True)
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, head[-1]]))
    graph = helper.make_graph(
        nodes, "tasks", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, trunk[0]])], outputs,
        [numpy_helper.from_array(data, name) for name, data in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


@dataclass(frozen=True)
class Row:
    """`shared`: how many layers the unit computes."""

    limit: int | None
    shared: int
    latency: int
    interval: int
    dsp: int
    lut: int


def measured(limit: int | None, with_unit: bool, folder: Path) -> Row:
    path, project = folder / "model.onnx", folder / f"{limit}{with_unit}"
    rng = np.random.default_rng(1)
    onnx.save(two_heads(), path)
    np.savez(folder / "samples.npz", x=rng.standard_normal((64, 1, TRUNK[0])).astype(np.float32))
    how = Quantization("fixed8", folder / "samples.npz")
    options = CompileOptions(target="hls:xc7z020", quantize=how, objective="resources", max_latency=limit)
    with mock.patch.object(optimize, "shared", optimize.shared if with_unit else lambda *_: None):
        compile_model(path, options, project)
    found = json.loads((project / "report.json").read_text())["CSynthesisReport"]
    processes = json.loads((project / "schedule.json").read_text())["processes"]
    stages = sum(len(row.get("stages", ())) for row in processes)
    return Row(limit, stages, found["BestLatency"], found["IntervalMin"], found["DSP"], found["LUT"])


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for limit, with_unit in itertools.product(LIMITS, (False, True)):
            yield measured(limit, with_unit, Path(folder))


@click.command()
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(row) for row in rows()]))
        return
    table = Table(*(field.name for field in fields(Row)), title="two heads, 8 bits")
    for row in rows():
        table.add_row(*("" if number is None else f"{number:,}" for number in asdict(row).values()))
    Console().print(table)


if __name__ == "__main__":
    main()
