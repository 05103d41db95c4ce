"""What bias correction, equalised layers and SmoothQuant do to the error of int8 models, in decibels against float32.

    python benchmarks/quantization_accuracy.py [MODEL.onnx ...]

The digits network is measured on its held-out images; others on random inputs (of which a share calibrates and the rest
is measured). Two networks are built here: one of convolutions whose channels differ by a hundred times, as batch norms
leave them, and a block of a transformer a few of whose channels are outliers.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

import tensorc
from tensorc.frontend.importer import open_model
from tensorc.quantization.scheme import Quantization

ROOT = Path(__file__).resolve().parents[1]
#: What is switched on -> options.
WAYS: dict[str, dict[str, object]] = {
    "nothing": {"equalise": False, "smooth": 0.0, "correct_bias": False},
    "bias correction": {"equalise": False, "smooth": 0.0, "correct_bias": True},
    "equalised": {"equalise": True, "smooth": 0.0, "correct_bias": False},
    "smoothed": {"equalise": False, "smooth": 0.5, "correct_bias": False},
    "all": {"equalise": True, "smooth": 0.5, "correct_bias": True},
    "defaults": {},
}

CONVOLUTIONS = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1,3,32,32] x) => (float[1,10] scores) {
    a = Conv<pads = [1,1,1,1], strides = [2,2]>(x, w0, b0)
    a6 = Clip(a, zero, six)
    b = Conv<pads = [1,1,1,1], group = 32>(a6, w1, b1)
    b6 = Clip(b, zero, six)
    c = Conv(b6, w2, b2)
    c1 = Relu(c)
    d = Conv<pads = [1,1,1,1], strides = [2,2]>(c1, w3, b3)
    d1 = Relu(d)
    e = GlobalAveragePool(d1)
    f = Flatten(e)
    scores = MatMul(f, w4)
}
"""
TRANSFORMER = """
<ir_version: 10, opset_import: ["" : 20]>
block (float[1,64,128] x) => (float[1,64,128] y) {
    n = LayerNormalization<axis = -1>(x, s0, t0)
    q = MatMul(n, wq)
    k = MatMul(n, wk)
    v = MatMul(n, wv)
    kt = Transpose<perm = [0,2,1]>(k)
    scores = MatMul(q, kt)
    weights = Softmax<axis = -1>(scores)
    mixed = MatMul(weights, v)
    o = MatMul(mixed, wo)
    h = Add(x, o)
    m = LayerNormalization<axis = -1>(h, s1, t1)
    u = MatMul(m, w1)
    r = Relu(u)
    d = MatMul(r, w2)
    y = Add(h, d)
}
"""


@dataclass(frozen=True)
class Case:
    name: str
    model: Path
    calibration: Path
    evaluation: Path


def saved(text: str, arrays: dict[str, np.ndarray], path: Path) -> Path:
    model = parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in arrays.items()
    )
    onnx.save(model, path)
    return path


def convolutions(folder: Path, rng: np.random.Generator) -> Path:
    """Each output channel has a scale of its own, which the next layer's weights take back."""
    shapes = {0: (32, 3, 3, 3), 1: (32, 1, 3, 3), 2: (64, 32, 1, 1), 3: (64, 64, 3, 3)}
    arrays: dict[str, np.ndarray] = {"zero": np.array(0), "six": np.array(6)}
    before = np.ones(3)
    for number, shape in shapes.items():
        scales = 10 ** rng.uniform(-1, 0, shape[0]) if number else 10 ** rng.uniform(-1, 0, 32)
        weights = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        taken = before.reshape(-1, 1, 1, 1) if shape[1] == 1 else before.reshape(1, -1, 1, 1)
        arrays[f"w{number}"] = weights * scales.reshape(-1, 1, 1, 1) / taken
        arrays[f"b{number}"] = rng.standard_normal(shape[0]) * 0.2 * scales
        before = scales
    arrays["w4"] = rng.standard_normal((64, 10)) / before.reshape(-1, 1)
    return saved(CONVOLUTIONS, arrays, folder / "convolutions.onnx")


def transformer(folder: Path, rng: np.random.Generator) -> Path:
    """Five of 128 channels behind each norm are 20 to 100 times as large as the others."""
    arrays: dict[str, np.ndarray] = {}
    for number in (0, 1):
        scale = np.abs(rng.standard_normal(128)) * 0.3 + 0.5
        scale[rng.choice(128, 5, replace=False)] *= rng.uniform(20, 100, 5)
        arrays[f"s{number}"], arrays[f"t{number}"] = scale, rng.standard_normal(128) * 0.1
        reading = {"wq": 128, "wk": 128, "wv": 128} if number == 0 else {"w1": 512}
        for name, columns in reading.items():
            weights = rng.standard_normal((128, columns)) / np.sqrt(128)
            # Trained weights read outliers with care.
            arrays[name] = weights / np.maximum(scale, 1)[:, None] ** 0.7
    arrays["wo"] = rng.standard_normal((128, 128)) / np.sqrt(128)
    arrays["w2"] = rng.standard_normal((512, 128)) / np.sqrt(512)
    return saved(TRANSFORMER, arrays, folder / "transformer.onnx")


def random_case(model: Path, folder: Path, rng: np.random.Generator, samples: int) -> Case:
    graph = open_model(model, {}, False).static()
    paths = []
    for part in ("calibration", "evaluation"):
        arrays = {}
        for name, value in zip(graph.input_names, graph.graph.inputs, strict=True):
            shape = (samples, *value.shape)
            integers = value.dtype.startswith("int")
            data = rng.integers(0, 2, shape) if integers else rng.standard_normal(shape)
            arrays[name] = data.astype(value.dtype)
        path = folder / f"{model.stem}-{part}.npz"
        np.savez(path, **arrays)
        paths.append(path)
    return Case(model.stem, model, *paths)


def digits(folder: Path) -> Case:
    heldout = np.load(ROOT / "examples/digits/heldout.npz")
    images, labels = (heldout["images"] / 16).astype(np.float32)[:, None], heldout["labels"]
    np.savez(folder / "digits-calibration.npz", image=images[:60])
    np.savez(folder / "digits-evaluation.npz", image=images[60:], labels=labels[60:])
    return Case("digits", ROOT / "examples/digits/digits.onnx", folder / "digits-calibration.npz",
                folder / "digits-evaluation.npz")  # fmt: skip


def cases(models: list[Path], folder: Path, only: bool) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    if not only:
        yield digits(folder)
        yield random_case(convolutions(folder, rng), folder, rng, 40)
        yield random_case(transformer(folder, rng), folder, rng, 40)
    for model in models:
        yield random_case(model, folder, rng, 16)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    options.add_argument("models", nargs="*", type=Path)
    options.add_argument("--method", default="mse", help="how ranges are chosen")
    options.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="which of them")
    options.add_argument("--only", action="store_true", help="only the models that are named")
    arguments = options.parse_args()
    warnings.simplefilter("ignore")
    print(
        "| model | weights | with | outputs, dB | worst layer, dB | cosine | accuracy |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as name:
        for case in cases(arguments.models, Path(name), arguments.only):
            for per_channel in (True, False):
                for way in arguments.ways:
                    how = Quantization("int8", case.calibration, arguments.method, per_channel,
                                       evaluate=case.evaluation, **WAYS[way])  # type: ignore[arg-type]  # fmt: skip
                    with tensorc.compile(case.model, threads=1, quantize=how) as model:
                        found = model.manifest["quantized"]["accuracy"]
                    worst = min(row["snr_db"] for row in found["layers"] if row["snr_db"] is not None)
                    quality = found["quality"]
                    outputs = found["outputs"]
                    print(
                        f"| {case.name} | {'per channel' if per_channel else 'per tensor'} | {way} "
                        f"| {outputs['snr_db']:.2f} | {worst:.2f} | {outputs['cosine']:.6f} "
                        f"| {'-' if quality is None else format(quality['quantized'], '.2%')} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
