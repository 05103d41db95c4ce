"""What `--precision` costs and gives: time, size and signal to noise of models in float32, bfloat16 and float16, beside
OpenVINO's float32 and bfloat16. One table; engines take turns, a run each, on one thread.

    python benchmarks/precision.py                    products of one row, as when a text is generated
    python benchmarks/precision.py --models DIR resnet50 mobilenetv2_100 bert_base_128 --seconds 20
    python benchmarks/precision.py --models DIR resnet50 --tune 60s --database tuning.db

`of peak` is the share of the machine's float32 arithmetic that float32 reaches (operations of the direct algorithm, so
that Winograd's convolutions may go beyond it): where there is no arithmetic in 16 bits, nothing can be faster than that
by more than its inverse. `rounded` is ONNX Runtime's float32 with each weight of the file rounded: what the format
itself costs. OpenVINO is told its precision; what it says that it runs in stands behind its times.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

import tensorc
from targets.cpu.ceilings import ceilings
from tensorc.benchmark import OtherLoad
from tensorc.driver import compile_model
from tensorc.ir.types import numpy_dtype
from tensorc.options import CompileOptions
from tensorc.sampling import Spec, index_limits, random_inputs
from tensorc.search.budget import Budget

PRECISIONS = ("float32", "bfloat16", "float16")
#: Name -> widths of the layers that one row goes through; how often.
PRODUCTS = {
    "4096 x 4096": ((4096, 4096), 4),
    "a decoder's layers, 768 wide": ((768, 2304, 768, 3072, 768), 12),
}
Outputs = list[np.ndarray]
Call = Callable[[], Outputs]


def chain(widths: tuple[int, ...], count: int, path: Path) -> None:
    """A model of `count` times the products from each width to the next, by different weights."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for number in range(count):
        for at, (before, after) in enumerate(itertools.pairwise(widths)):
            name = f"{number}.{at}"
            data = (rng.standard_normal((before, after), np.float32) / before**0.5).astype(np.float32)
            weights.append(numpy_helper.from_array(data, f"w{name}"))
            nodes.append(helper.make_node("MatMul", [value, f"w{name}"], [f"y{name}"]))
            value = f"y{name}"
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width])
        for name, width in (("x", widths[0]), (value, widths[-1]))
    )
    model = helper.make_model(
        helper.make_graph(nodes, "chain", [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    )
    onnx.save(model, path)


def rounded(path: Path, dtype: str) -> onnx.ModelProto:
    """The model with every weight of two axes or more rounded to `dtype`, and back, but for those of depthwise
    convolutions."""
    model = onnx.load(path)
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1 and weight.dims[1] > 1:
            data = numpy_helper.to_array(weight).astype(numpy_dtype(dtype)).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(data, weight.name))
    return model


def decibels(got: Outputs, want: Outputs) -> float:
    """Signal to noise of all outputs that are floats together."""
    pairs = [
        (a.astype(np.float64), b.astype(np.float64)) for a, b in zip(got, want, strict=True) if b.dtype.kind == "f"
    ]
    noise, signal = sum(((a - b) ** 2).sum() for a, b in pairs), sum((b**2).sum() for _, b in pairs)
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


def openvino_calls(path: Path, feed: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Call]]:
    if importlib.util.find_spec("openvino") is None:
        return
    openvino: Any = importlib.import_module("openvino")
    for hint in ("f32", "bf16"):
        core = openvino.Core()
        network = core.read_model(path)
        network.reshape({name: list(array.shape) for name, array in feed.items()})
        config = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        compiled = core.compile_model(network, "CPU", config)
        ran = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        can = hint.upper() in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") or hint == "f32"
        request = compiled.create_infer_request()

        def call(request: Any = request) -> Outputs:
            return [np.array(output) for output in request.infer(dict(feed), share_inputs=True).values()]

        yield f"OpenVINO {hint} (runs {ran}{'' if can else ', emulated'})", call


def in_turns(calls: Mapping[str, Call], seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    """Median milliseconds of a run by `clock`."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(1e3 * (clock() - start))
    return {name: float(np.median(runs[len(runs) // 10 :])) for name, runs in times.items()}


def flops(manifest: Mapping[str, Any]) -> int:
    kernels = manifest["program"]["kernels"]
    return sum(
        kernels[step["kernel"]]["flops"] * step["calls"] for step in manifest["program"]["steps"] if "kernel" in step
    )


def measure(
    label: str, path: Path, options: CompileOptions, seconds: float, clock: Callable[[], float], folder: Path
) -> list[dict[str, Any]]:
    calls: dict[str, Call] = {}
    sizes: dict[str, int] = {}
    work, feed = 0, {}
    for precision in PRECISIONS:
        report = compile_model(path, replace(options, precision=precision), folder / f"{precision}.tcm")
        model = tensorc.load(report.output, threads=1)
        if not feed:
            work = flops(report.manifest)
            feed = random_inputs(Spec.of_manifest(report.manifest["inputs"], {}), 0, index_limits(onnx.load(path)))
        calls[precision] = partial(model.run, None, feed)
        sizes[precision] = report.nbytes
    calls |= dict(openvino_calls(path, feed))
    first = {name: call() for name, call in calls.items()}
    reference = first["float32"]
    noise = {name: decibels(outputs, reference) for name, outputs in first.items()}
    for precision in PRECISIONS[1:]:
        session = onnxruntime.InferenceSession(rounded(path, precision).SerializeToString())
        noise[f"{precision}, rounded"] = decibels(session.run(None, feed), reference)
    median = in_turns(calls, seconds, clock)
    peak = ceilings(1).flops
    return [
        {
            "model": label,
            "engine": name,
            "ms": median[name],
            "speedup": median["float32"] / median[name],
            "mib": sizes[name] / 2**20 if name in sizes else None,
            "snr_db": noise[name] if name != "float32" else None,
            "rounded_db": noise.get(f"{name}, rounded"),
            "of_peak": work / (median[name] / 1e3) / peak if name == "float32" else None,
        }
        for name in calls
    ]


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--models", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of NAME.onnx.")
@click.option("--seconds", default=5.0, show_default=True, help="For each engine and model.")
@click.option("--tune", type=Budget.parse, help="Search first, as `tensorc compile --tune`, for each precision.")
@click.option("--database", type=click.Path(dir_okay=False, path_type=Path), help="Tuning records. Default: none.")
@click.option("--cpu", is_flag=True, help="Count processor time, which others' work disturbs less.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path))
def main(
    names: tuple[str, ...], models: Path | None, seconds: float, tune: Budget | None, database: Path | None,
    cpu: bool,
    out: Path | None,
) -> None:  # fmt: skip
    if names and models is None:
        raise click.UsageError("--models says where the models are")
    rows = []
    clock = time.process_time if cpu else time.perf_counter
    with tempfile.TemporaryDirectory() as text, OtherLoad() as others:
        folder = Path(text)
        options = CompileOptions(threads=1, tune=tune, database=database or folder / "tuning.db")
        if names:
            subjects = {name: Path(models or "", f"{name}.onnx") for name in names}
        else:
            subjects = {name: folder / f"{number}.onnx" for number, name in enumerate(PRODUCTS)}
            for name, path in subjects.items():
                chain(*PRODUCTS[name], path)
        for name, path in subjects.items():
            rows += measure(name, path, options, seconds, clock, folder)
    table = Table("model", "engine", "median ms", "speedup", "MiB", "SNR dB", "rounded", "of peak")
    for row in rows:
        numbers = zip(("ms", "speedup", "mib", "snr_db", "rounded_db", "of_peak"),
                      ("{:.3f}", "{:.2f}x", "{:.1f}", "{:.1f}", "{:.1f}", "{:.0%}"), strict=True)  # fmt: skip
        texts = ("-" if row[key] is None else form.format(row[key]) for key, form in numbers)
        table.add_row(row["model"], row["engine"], *texts)
    console = Console(width=160)
    console.print(table)
    console.print(f"float32 peak {ceilings(1).flops / 1e9:.0f} GFLOP/s; other processes kept {others.cores} cores busy")
    if out is not None:
        out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
