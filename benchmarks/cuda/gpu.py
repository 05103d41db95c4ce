"""Everything that needs a GPU, in one go: right results, latency beside PyTorch, a large product beside cuBLAS, and
compute-sanitizer over every kernel.

    python benchmarks/cuda/gpu.py prepare DIR --models MODELS     where the compiler is: artifacts for one architecture
    python benchmarks/cuda/gpu.py run DIR [--minutes 9]           where a GPU is: measures, and prints one table

`run` needs this tree, numpy, ml_dtypes, cuda-bindings, PyTorch, onnx and onnxruntime, and no TVM. Every measurement is
a process of its own with a time limit; what it says goes to DIR/results.json at once. Run again, it goes on with what
has no answer there yet, so what did not fit into the time is measured by another run.

All of them compute alike: float32 is strict (no TF32), float16 sums in float32. Latency is the median time of single
runs from the call until the GPU is idle, inputs and outputs on the GPU. Ours are bound to them once (`Run.again`);
results.json also has the latency of `run_async`, which is given them anew. PyTorch's networks are `twin.py`'s, with the
weights and fused operators of the ONNX models; those of images have their channels last.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorc.options import Precision

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import networks  # noqa: E402
import numpy as np  # noqa: E402

PRECISIONS: tuple[Precision, ...] = ("float16", "float32")
BATCHES = (1, 32)
MATMUL = "matmul4096"
#: What differs more than this from ONNX Runtime, relative to its largest output, is wrong.
TOLERANCE = {"float32": 1e-3, "float16": 3e-2}
#: Seconds: of timing, and that a kind of process may take.
_SECONDS = 1.0
_LIMITS = {"network": 120, "tuned": 150, "product": 90, "sanitizer": 120}

Row = dict[str, Any]


# Here ------------------------------------------------------------------------------------------------------


def prepare(folder: Path, models: Path, names: Sequence[str], architecture: str) -> None:
    """Write the models' graphs, and artifacts of every precision and batch, compressed."""
    import onnx

    from tensorc.driver import compile_model
    from tensorc.options import CompileOptions

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "model.tcm")

        def build(label: str, model: onnx.ModelProto, precision: Precision) -> None:
            begin = time.perf_counter()
            options = CompileOptions(target=f"cuda:{architecture}", precision=precision)
            try:
                compile_model(model, options, out)
            except Exception as error:  # the others are made all the same
                print(f"{label}: {type(error).__name__}: {str(error).splitlines()[-1]}", flush=True)
                return
            networks.pack(out, folder / f"{label}.tcm.xz")
            packed = (folder / f"{label}.tcm.xz").stat().st_size
            seconds = time.perf_counter() - begin
            print(f"{label}: {out.stat().st_size / 2**20:.1f} MiB, sent as {packed / 2**20:.1f}, {seconds:.0f} s",
                  flush=True)  # fmt: skip

        for name in names:
            if name == MATMUL:
                build(label(name, "float16", 1), networks.matmul(4096), "float16")
                continue
            model = networks.filled(models / f"{name}.onnx")
            onnx.save(model, Path(scratch, "model.onnx"))
            networks.pack(Path(scratch, "model.onnx"), folder / f"{name}.onnx.xz")
            for batch in BATCHES:
                for precision in PRECISIONS:
                    build(label(name, precision, batch), networks.with_batch(model, batch), precision)
    total = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {total / 2**20:.1f} MiB")


def label(name: str, precision: str, batch: int) -> str:
    return f"{name}-{precision}-{batch}"


# There: one process for each measurement ---------------------------------------------------------------------


def graph_of(folder: Path, name: str, batch: int) -> Any:
    import onnx

    path = folder / f"{name}.onnx"
    networks.unpack(folder / f"{name}.onnx.xz", path)
    return networks.with_batch(onnx.load(path), batch)


def opened(folder: Path, name: str) -> Any:
    """The artifact, by the target itself: nothing is installed here, so no entry point leads to it."""
    from targets.cuda.target import CudaTarget
    from tensorc.runtime.artifact import Artifact
    from tensorc.runtime.constants import SECTION, views
    from tensorc.runtime.model import Model

    path = folder / f"{name}.tcm"
    networks.unpack(folder / f"{name}.tcm.xz", path)
    artifact = Artifact.open(path)
    manifest = artifact.manifest
    sections = {section: artifact.section(section) for section in artifact.names}
    constants = views(sections[SECTION], manifest[SECTION])
    return Model(artifact, CudaTarget().load(manifest["program"], sections, constants, 0))


def latency(call: Callable[[], object]) -> Row:
    """Milliseconds of single runs."""
    import torch

    for _ in range(5):
        call()
    torch.cuda.synchronize()
    times: list[float] = []
    until = time.perf_counter() + _SECONDS
    while len(times) < 10 or time.perf_counter() < until:
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begin))
    return {"ms": statistics.median(times), "best_ms": min(times), "runs": len(times)}


def ours(model: Any, feed: dict[str, np.ndarray]) -> Row:
    """Latency of runs on PyTorch's stream, from its tensors to its tensors."""
    import torch

    inputs = {name: torch.from_numpy(array).cuda() for name, array in feed.items()}
    outputs = {
        info.name: torch.empty(info.shape, dtype=getattr(torch, info.dtype), device="cuda")
        for info in model.get_outputs()
    }
    stream = torch.cuda.current_stream().cuda_stream
    run = model.run_async(inputs, outputs, stream)
    return {"tensorc": latency(run.again), "run_async": latency(lambda: model.run_async(inputs, outputs, stream))}


def twin_of(model: Any, feed: dict[str, np.ndarray], precision: str) -> tuple[Any, list[Any]]:
    """PyTorch's network and its inputs on the GPU."""
    import torch
    from twin import twin

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    network = twin(model).eval().cuda()
    inputs = [torch.from_numpy(array).cuda() for array in feed.values()]
    if precision == "float16":
        network = network.half()
        inputs = [x.half() if x.is_floating_point() else x for x in inputs]
    if all(x.dim() == 4 for x in inputs):
        network = network.to(memory_format=torch.channels_last)
        inputs = [x.to(memory_format=torch.channels_last) for x in inputs]
    return network, inputs


def error_of(got: np.ndarray, wanted: np.ndarray) -> float:
    """Relative to the largest output; infinity for what is not a number."""
    off = float(np.abs(got.astype(np.float64) - wanted).max() / np.abs(wanted).max())
    return off if np.isfinite(off) else float("inf")


def measure_network(folder: Path, name: str, batch: int) -> Row:
    """Errors and latency of ours, and PyTorch's eager latency, in each precision. What fails says so, and leaves the
    rest to be measured."""
    import onnxruntime

    graph = graph_of(folder, name, batch)
    feed = networks.sample(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, feed)
    del session
    found: Row = {}
    for precision in PRECISIONS:
        row = found[label(name, precision, batch)] = {}
        for measured in (measure_ours, measure_eager):
            try:
                row.update(measured(folder, graph, feed, wanted, label(name, precision, batch), precision))
            except Exception as error:  # the others are measured all the same
                row["failure"] = f"{row.get('failure', '')} {type(error).__name__}: {error}".strip()
    return found


def measure_ours(folder: Path, graph: Any, feed: dict[str, np.ndarray], wanted: np.ndarray, artifact: str,
                 precision: str) -> Row:  # fmt: skip
    del graph, precision
    if not (folder / f"{artifact}.tcm.xz").exists():
        return {"failure": "was not compiled"}
    with opened(folder, artifact) as model:
        return {"error": error_of(model.run(None, feed)[0], wanted), **ours(model, feed)}


def measure_eager(folder: Path, graph: Any, feed: dict[str, np.ndarray], wanted: np.ndarray, artifact: str,
                  precision: str) -> Row:  # fmt: skip
    import torch

    del folder, artifact
    network, inputs = twin_of(graph, feed, precision)
    with torch.inference_mode():
        error = error_of(network(*inputs)[0].float().cpu().numpy(), wanted)
        return {"torch_error": error, "eager": latency(lambda: network(*inputs))}


def measure_tuned(folder: Path, name: str, precision: str, batch: int) -> Row:
    """PyTorch's latency once it is compiled."""
    import torch

    graph = graph_of(folder, name, batch)
    network, inputs = twin_of(graph, networks.sample(graph), precision)
    begin = time.perf_counter()
    compiled = torch.compile(network, mode="max-autotune")
    with torch.inference_mode():
        for _ in range(3):
            compiled(*inputs)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        return {"compile_seconds": seconds, **latency(lambda: compiled(*inputs))}


def measure_product(folder: Path) -> Row:
    """A product of float16 matrices of 4096 by 4096, beside cuBLAS."""
    import torch
    from onnx import numpy_helper

    graph = networks.matmul(4096)
    feed = networks.sample(graph)
    x = torch.from_numpy(feed["x"]).cuda()
    w = torch.from_numpy(np.array(numpy_helper.to_array(graph.graph.initializer[0]))).cuda()
    wanted = (x.float() @ w.float()).cpu().numpy()
    found: Row = {"cublas": latency(lambda: torch.matmul(x, w))}
    with opened(folder, label(MATMUL, "float16", 1)) as model:
        found["error"] = error_of(model.run(None, feed)[0], wanted)
        found.update(ours(model, feed))
    return found


def run_once(folder: Path, artifact: str) -> Row:
    """For compute-sanitizer: every kernel once, without PyTorch."""
    with opened(folder, artifact) as model:
        rng = np.random.default_rng(0)
        model.run(None, {
            info.name: rng.integers(0, 1000, info.shape) if info.dtype == "int64"
            else rng.standard_normal(info.shape).astype(info.dtype)
            for info in model.get_inputs()
        })  # fmt: skip
    return {}


_KINDS: dict[str, Callable[..., Row]] = {
    "network": measure_network, "tuned": measure_tuned, "product": measure_product, "once": run_once,
}  # fmt: skip


# There: all of them ------------------------------------------------------------------------------------------


def run(folder: Path, minutes: float) -> int:
    """Measure until the time is over, and print what is known then."""
    until = time.monotonic() + 60 * minutes
    path = folder / "results.json"
    results: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}
    for key, kind, arguments in _plan(folder):
        if key in results:
            continue
        left = until - time.monotonic()
        if left < 20:
            break
        print(f"{key} ...", file=sys.stderr, flush=True)
        results[key] = _child(folder, kind, arguments, min(_LIMITS[kind], left))
        if results[key].get("failure") == "out of time" and left < _LIMITS[kind]:
            del results[key]  # it was not given the time that it may take
        path.write_text(json.dumps(results, indent=1))
    _print(results)
    return 0


def _plan(folder: Path) -> list[tuple[str, str, list[Any]]]:
    names = [name for name in networks.NAMES if (folder / f"{name}.onnx.xz").exists()]
    rows: list[tuple[str, str, list[Any]]] = [
        (f"network {name}-{batch}", "network", [name, batch]) for batch in BATCHES for name in names
    ]
    if (folder / f"{label(MATMUL, 'float16', 1)}.tcm.xz").exists():
        rows.append(("product", "product", []))
    artifacts = sorted(path.name.removesuffix(".tcm.xz") for path in folder.glob("*-1.tcm.xz"))
    rows += [(f"sanitizer {artifact}", "sanitizer", [artifact]) for artifact in artifacts]
    for batch in BATCHES:
        for precision in PRECISIONS:
            rows += [(f"tuned {label(name, precision, batch)}", "tuned", [name, precision, batch]) for name in names]
    return rows


def _child(folder: Path, kind: str, arguments: list[Any], limit: float) -> Row:
    command = [sys.executable, str(Path(__file__).resolve()), "one", str(folder)]
    if kind == "sanitizer":
        tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if tool is None:
            return {"failure": "compute-sanitizer is not installed"}
        command = [tool, "--tool", "memcheck", "--error-exitcode", "9", *command, "once"]
    else:
        command.append(kind)
    try:
        done = subprocess.run([*command, json.dumps(arguments)], capture_output=True, text=True, timeout=limit,
                              check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"failure": "out of time"}
    if kind == "sanitizer":
        errors = [line for line in done.stdout.splitlines() if line.startswith("=========")]
        return {"ok": True} if done.returncode == 0 else {"failure": " ".join(errors[:6]) or done.stderr[-500:]}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"failure": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    row: Row = json.loads(lines[-1])
    return row


def _print(results: dict[str, Row]) -> None:
    def ms(row: Row | None) -> str:
        return "-" if row is None else f"{row['ms']:.3f}" if "ms" in row else row.get("failure", "-")[:24]

    print(f"{'':28} {'error':>9} {'tensorc':>9} {'eager':>9} {'max-auto':>9} {'/eager':>7} {'/max':>6}   ms")
    for name in networks.NAMES:
        for batch in BATCHES:
            whole = results.get(f"network {name}-{batch}", {})
            if "failure" in whole:
                print(f"{f'{name}-{batch}':28} {whole['failure'][:100]}")
                continue
            for precision in PRECISIONS:
                key = label(name, precision, batch)
                row = whole.get(key)
                if row is None:
                    continue
                tuned, mine, eager = results.get(f"tuned {key}"), row.get("tensorc"), row.get("eager")
                error = row.get("error")
                verdict = "-" if error is None else f"{error:.1e}" + ("" if error <= TOLERANCE[precision] else "!")
                ratios = [
                    f"{other['ms'] / mine['ms']:.2f}" if mine and other and "ms" in other else "-"
                    for other in (eager, tuned)
                ]
                print(f"{key:28} {verdict:>9} {ms(mine):>9} {ms(eager):>9} {ms(tuned):>9} {ratios[0]:>7} "
                      f"{ratios[1]:>6}   {row.get('failure', '')[:80]}")  # fmt: skip
    product = results.get("product", {})
    if "tensorc" in product:
        mine, theirs = product["tensorc"]["ms"], product["cublas"]["ms"]
        print(f"matmul 4096^3 float16: error {product['error']:.1e}, {mine:.3f} ms, cuBLAS {theirs:.3f} ms: "
              f"{theirs / mine:.0%} of its speed")  # fmt: skip
    elif product:
        print(f"matmul 4096^3 float16: {product['failure']}")
    for key, row in results.items():
        if key.startswith("sanitizer"):
            print(f"{key}: {row.get('failure', 'clean')}")
    failed = [
        f"{key}: {row['failure']}" for key, row in results.items() if "failure" in row and key.startswith("tuned")
    ]
    print("\n".join(failed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("prepare")
    made.add_argument("folder", type=Path)
    made.add_argument("names", nargs="*", default=[*networks.NAMES, MATMUL])
    made.add_argument("--models", type=Path, required=True, help="Where the ONNX models are.")
    made.add_argument("--architecture", default="sm_90")
    measured = commands.add_parser("run")
    measured.add_argument("folder", type=Path)
    measured.add_argument("--minutes", type=float, default=9.0)
    one = commands.add_parser("one")
    one.add_argument("folder", type=Path)
    one.add_argument("kind")
    one.add_argument("arguments", type=json.loads)
    given = parser.parse_args()
    if given.command == "prepare":
        prepare(given.folder, given.models, given.names, given.architecture)
    elif given.command == "run":
        return run(given.folder, given.minutes)
    else:
        print(json.dumps(_KINDS[given.kind](given.folder, *given.arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
