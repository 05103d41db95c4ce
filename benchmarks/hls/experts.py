"""Mixtures of experts as exporters write them, and what choosing saves on an FPGA.

    python -m benchmarks.hls.experts [--json]

For a mixture of 8 experts of which each of 16 rows takes 1, 2, 4 or all: products of a row by an expert's matrices,
and the smallest design's cycles between images and its DSP and LUT. Weights are random: only the work is looked at.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from targets.hls.layers.experts import evaluations
from tensorc.driver import compile_model
from tensorc.options import CompileOptions
from tensorc.quantization.scheme import Quantization

ROWS, DEPTH, HIDDEN, EXPERTS = 16, 16, 32, 8


class Model:
    """Nodes one behind the other; a node's result has its name."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, op: str, *inputs: str | np.ndarray, outputs: int = 1, **attrs: object) -> str:
        name = f"v{len(self.nodes)}"
        names = [name, *(f"{name}_{n}" for n in range(1, outputs))]
        operands = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(helper.make_node(op, operands, names, **attrs))
        return name

    def constant(self, data: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(data)
        return name

    def random(self, *shape: int) -> np.ndarray:
        """So that products are about as large as what is multiplied."""
        return (self.rng.standard_normal(shape) / shape[-2 if len(shape) > 1 else -1] ** 0.5).astype(np.float32)

    def model(self, result: str, rows: int, depth: int, task: bool = False) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, depth])]
        inputs += [helper.make_tensor_value_info("task", TensorProto.INT64, [])] if task else []
        self.nodes.append(helper.make_node("Identity", [result], ["y"]))
        graph = helper.make_graph(
            self.nodes, "experts", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, depth])],
            [numpy_helper.from_array(data, name) for name, data in self.constants.items()],
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made, full_check=True)
        return made


def every_expert(rows: int, depth: int, hidden: int, experts: int, each: int, tasks: int = 0) -> onnx.ModelProto:
    """The shares of the chosen scattered among zeros, and each expert computed for all rows and multiplied by its
    column of them, as trained code that masks is traced. With `tasks` the number of a task chooses the gate, as in
    M3ViT. Around it all goes a residual."""
    m = Model()
    gate = m.add("Gather", m.random(tasks, depth, experts), "task", axis=0) if tasks else m.constant(
        m.random(depth, experts)
    )  # fmt: skip
    top = m.add("TopK", m.add("MatMul", "x", gate), np.array([each]), outputs=2, axis=-1)
    shares = m.add("Softmax", top, axis=-1)
    zeros = np.zeros((rows, experts), np.float32)
    shares = m.add("ScatterElements", zeros, f"{top}_1", shares, axis=-1)
    total = "x"
    for number in range(experts):
        inner = m.add("Gemm", "x", m.random(depth, hidden).T.copy(), m.random(hidden), transB=1)
        inner = m.add("Relu", inner)
        result = m.add("Gemm", inner, m.random(hidden, depth).T.copy(), m.random(depth), transB=1)
        share = m.add("Slice", shares, *(np.array([n]) for n in (number, number + 1, 1)))
        total = m.add("Add", total, m.add("Mul", share, result))
    return m.model(total, rows, depth, bool(tasks))


def gathered_experts(rows: int, depth: int, hidden: int, experts: int, each: int) -> onnx.ModelProto:
    """The matrices of the chosen gathered, with shares that are made to add up to 1 (Mixtral's gate)."""
    m = Model()
    top = m.add("TopK", m.add("Softmax", m.add("MatMul", "x", m.random(depth, experts)), axis=-1), np.array([each]),
                outputs=2, axis=-1)  # fmt: skip
    shares = m.add("Div", top, m.add("ReduceSum", top, np.array([-1]), keepdims=1))
    which = f"{top}_1"
    value = m.add("Unsqueeze", "x", np.array([1, 2]))
    for source, width in ((depth, hidden), (hidden, depth)):
        value = m.add("MatMul", value, m.add("Gather", m.random(experts, source, width), which, axis=0))
        bias = m.add("Gather", m.random(experts, width), which, axis=0)
        value = m.add("Add", m.add("Squeeze", value, np.array([2])), bias)
        if width == hidden:
            value = m.add("Unsqueeze", m.add("Relu", value), np.array([2]))
    weighted = m.add("Mul", value, m.add("Unsqueeze", shares, np.array([2])))
    return m.model(m.add("ReduceSum", weighted, np.array([1]), keepdims=0), rows, depth)


@dataclass(frozen=True)
class Row:
    """`products` of a row by the two matrices of an expert; `cycles` between images."""

    each: int
    products: int
    cycles: int
    dsp: int
    lut: int


def measured(each: int, folder: Path) -> Row:
    path = folder / "model.onnx"
    onnx.save(every_expert(ROWS, DEPTH, HIDDEN, EXPERTS, each), path)
    options = CompileOptions(target="hls:xc7z020", quantize=Quantization("fixed8"), objective="resources")
    compile_model(path, options, folder / "project")
    found = json.loads((folder / "project" / "report.json").read_text())["CSynthesisReport"]
    return Row(each, evaluations(ROWS, each), found["IntervalMin"], found["DSP"], found["LUT"])


@click.command()
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    rows = []
    for each in (1, 2, 4, EXPERTS):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is no calibration
            rows.append(measured(each, Path(folder)))
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    table = Table(*(field.name for field in fields(Row)), title=f"{EXPERTS} experts, {ROWS} rows")
    for row in rows:
        table.add_row(*(f"{number:,}" for number in asdict(row).values()))
    Console().print(table)


if __name__ == "__main__":
    main()
