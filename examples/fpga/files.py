"""The three files of each network here: NAME.onnx, NAME_calibration.npz and NAME_heldout.npz.

Both archives have samples under the name of the model's input, each of its shape, as `tensorc compile --calibration`
takes them; the held-out ones, which training never saw, come with what the network should say of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from examples.training import CALIBRATION, Array, by_onnxruntime

HERE = Path(__file__).parent


def write(model: onnx.ModelProto, trained: Array, heldout: Array, found: Array, **wanted: Array) -> None:
    """Samples as [n, ...] without the batch's axis; the first of `trained` are those to calibrate with. `found` is what
    the network gives for the held-out ones in numpy: ONNX Runtime must give the same."""
    samples = heldout[:, None]
    theirs = by_onnxruntime(model, samples)
    error, size = float(np.abs(theirs - found).max()), float(np.abs(found).max())
    print(f"largest difference from ONNX Runtime: {error:.1e}, of values up to {size:.2f}")
    if error > 1e-4 * size:
        raise ValueError(f"{model.graph.name}: the model is not the network that was trained")
    name, entry = model.graph.name, model.graph.input[0].name
    onnx.save(model, HERE / f"{name}.onnx")
    np.savez_compressed(HERE / f"{name}_calibration.npz", **{entry: trained[:CALIBRATION, None]})
    np.savez_compressed(HERE / f"{name}_heldout.npz", **{entry: samples}, **wanted)
    print(f"wrote {name}.onnx, {name}_calibration.npz and {name}_heldout.npz ({len(samples)} samples) to {HERE}")
