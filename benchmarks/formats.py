"""What number formats cost in accuracy and in memory.

    python benchmarks/formats.py [NAME]... [--rows 1024] [--columns 1024] [--weights FILE.npy --axis 0] [--json]

For each format, the listed ones without names: bits per element with scales, and the signal-to-noise ratio in decibels
on seeded normal numbers and on the same with one column in fifty 20 times as large, as activations and caches of keys
have them. There the outliers are most of the signal, so the ratio over the other columns alone stands beside. With
`--weights` also on that array.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import numpy as np

from tensorc.formats import LISTED, Format, find_format, measure

OUTLIERS, LARGER = 50, 20


def row(format: Format, normal: np.ndarray, weights: np.ndarray | None, axis: int) -> dict[str, Any]:
    channels = np.random.default_rng(1).permutation(normal.shape[1])
    chosen, others = np.split(channels, [max(1, len(channels) // OUTLIERS)])
    spread = normal.copy()
    spread[:, chosen] *= LARGER
    start = time.perf_counter()
    encoded = format.quantize(normal)
    seconds = time.perf_counter() - start
    approximation = format.quantize(spread).dequantize()
    result = {
        "format": format.name,
        "bits": format.bits_per_element(normal.shape),
        "normal_db": measure(normal, encoded.dequantize()).snr_db,
        "outliers_db": measure(spread, approximation).snr_db,
        "others_db": measure(spread[:, others], approximation[:, others]).snr_db,
        "quantize_ns": seconds / normal.size * 1e9,
    }
    if weights is not None:
        result["weights_db"] = format.error(weights, axis).snr_db
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", default=LISTED, metavar="NAME")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--weights", metavar="FILE.npy")
    parser.add_argument("--axis", type=int, default=-1, help="the reduction axis of the weights")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    normal = np.random.default_rng(0).standard_normal((given.rows, given.columns), np.float32)
    weights = np.load(given.weights, allow_pickle=False) if given.weights else None
    rows = [row(find_format(name), normal, weights, given.axis) for name in given.formats]
    if given.json:
        finite = [{k: v if isinstance(v, str) or math.isfinite(v) else None for k, v in line.items()} for line in rows]
        print(json.dumps({"formats": finite}))
        return
    print(
        "| format | bits | normal dB | outlier columns dB | the other columns dB | ns to quantize |"
        + (" weights dB |" if weights is not None else "")
    )
    print("|---" * len(rows[0]) + "|")
    for line in rows:
        numbers = [f"{line['bits']:.2f}", *(f"{line[key]:.1f}" for key in line if key not in ("format", "bits"))]
        print("| " + " | ".join([line["format"], *numbers]) + " |")


if __name__ == "__main__":
    main()
