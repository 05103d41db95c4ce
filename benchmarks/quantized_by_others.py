"""Models as ONNX Runtime's quantizer makes them: QuantizeLinear and DequantizeLinear around operators.

    python benchmarks/quantized_by_others.py resnet50.onnx bert.onnx --out DIR

Unsigned bytes for activations, signed ones with a scale for each channel for weights, ranges from four seeded random
inputs (token ids below 1,000, masks of ones). What engines make of such files is a matter of speed here, not of
accuracy: `python benchmarks/models.py NAME... --models DIR --against onnxruntime,openvino` compares it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_SAMPLES = 4


class _RandomInputs(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, model: onnx.ModelProto):
        self.inputs = model.graph.input
        self.left = _SAMPLES

    def get_next(self) -> dict[str, np.ndarray] | None:
        self.left -= 1
        if self.left < 0:
            return None
        rng = np.random.default_rng(self.left)
        return {value.name: _random(value, rng) for value in self.inputs}


def _random(value: onnx.ValueInfoProto, rng: np.random.Generator) -> np.ndarray:
    shape = [axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return np.ones(shape, dtype) if "mask" in value.name else rng.integers(0, 1000, shape).astype(dtype)


@click.command(help=(__doc__ or "").replace("\n\n", "\n\n\b\n"))
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the results.")
def main(models: tuple[Path, ...], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in models:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder, "prepared.onnx")
            quant_pre_process(path, prepared, skip_symbolic_shape=True)
            inputs = _RandomInputs(onnx.load(path))
            quantize_static(prepared, out / path.name, inputs, quant_format=QuantFormat.QDQ, per_channel=True,
                            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
        click.echo(out / path.name)


if __name__ == "__main__":
    main()
