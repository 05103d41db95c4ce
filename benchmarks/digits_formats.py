"""What quantization costs the two networks of examples/digits, in accuracy and in bytes, on real data.

    python benchmarks/digits_formats.py [NAME]... [--json]

float32, int8 (calibrated on 128 images that the networks were trained with), int8-dynamic and every listed number
format of weights (or those named), measured on the 360 images that training never saw: how many are classified right,
the signal-to-noise ratio of the logits to float32's, the bytes of all weights, and the bits of one that is multiplied
with, scales included. `+calibrated` behind integers: their rounding is compensated for, with those 128 images. Weights
that `--quantize` has no kernel for (those of convolutions) are encoded and decoded before the model is compiled.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from encoded import CALIBRATED, bits, moments_of, quantized

from tensorc.formats import LISTED, measure
from tensorc.quantization.scheme import SCHEMES

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
NETWORKS = {"convolutional": "digits.onnx", "transformer": "digits_transformer.onnx"}
CALIBRATION = DIGITS / "calibration.npz"

Row = dict[str, Any]


def rows(network: str, names: list[str], images: np.ndarray, labels: np.ndarray) -> list[Row]:
    model = onnx.load(DIGITS / NETWORKS[network])
    moments = moments_of(model, np.load(CALIBRATION))
    reference = None
    made: list[Row] = []
    for name in ["float32", *names]:
        session, size = quantized(model, name, CALIBRATION, moments)
        with session:
            logits = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
        reference = logits if reference is None else reference
        made.append(
            {
                "network": network,
                "format": name,
                "bits": None if name == "float32" or name in SCHEMES else bits(model, name),
                "bytes": size,
                "right": int((logits.argmax(1) == labels).sum()),
                "accuracy": float((logits.argmax(1) == labels).mean()),
                "snr_db": measure(reference, logits).snr_db,
            }
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="NAME")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    listed = [name for name in LISTED if name != "int8"]
    compensated = [f"{name}{CALIBRATED}" for name in listed if name.startswith("int") and not name.endswith("-asym")]
    names = given.formats or ["int8", "int8-dynamic", *listed, *compensated]
    heldout = np.load(DIGITS / "heldout.npz")
    images, labels = (heldout["images"] / 16).astype(np.float32), heldout["labels"]
    found = {network: rows(network, names, images, labels) for network in NETWORKS}
    if given.json:
        every = [row for rows in found.values() for row in rows]
        print(json.dumps({"images": len(images), "rows": [_finite(row) for row in every]}))
        return
    print("| weights | bits |" + "".join(f" {network}, right % | kB | dB |" for network in NETWORKS))
    print("|---" * (2 + 3 * len(NETWORKS)) + "|")
    for lines in zip(*found.values(), strict=True):
        cells = [
            lines[0]["format"],
            "" if lines[0]["bits"] is None else " / ".join(f"{line['bits']:.2f}" for line in lines),
        ]
        for line in lines:
            cells += [f"{line['accuracy']:.2%}"[:-1], f"{line['bytes'] / 1000:.1f}", f"{line['snr_db']:.1f}"]
        print("| " + " | ".join(cells) + " |")


def _finite(row: Row) -> Row:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


if __name__ == "__main__":
    main()
