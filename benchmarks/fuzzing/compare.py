"""Whether two engines agree.

A value that only moves, selects or compares elements, or computes in integers, has to be equal. Everything else may
differ by the roundings of its type, which engines make in different order and number. `EPSILONS` is what is allowed of
the expected element and of the largest finite element of the tensor together. Engines keep sums of 16-bit floats in
32 bits or round each term, fuse or do not, so that a few units in the last place of every operator add up:

    float64   2e-9   some of ONNX Runtime's and ours go through polynomials of float32's needs: not 1e-15
    float32   5e-5   2^-24 = 6e-8 for each rounding; products of some hundred terms, and exp or pow of inexact
                     arguments (an argument of 80 turns 6e-8 into 5e-6), a few of them in a row
    float16   2e-2   2^-11 = 5e-4 for each, in graphs of up to a dozen operators
    bfloat16  1e-1   2^-8 = 4e-3 for each
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

EPSILONS = {"float64": 2e-9, "float32": 5e-5, "float16": 2e-2, "bfloat16": 1e-1}


def difference(got: np.ndarray, want: np.ndarray, loose: float) -> str:
    """What is wrong with `got`, "" if it agrees with `want`."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"is {got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
    if not want.size:
        return ""
    if want.dtype.kind in "biu":
        bad = got != want
        if loose:  # quantized: a tie may be rounded either way
            bad = np.abs(got.astype(np.int64) - want.astype(np.int64)) > 1
    else:
        with np.errstate(all="ignore"):
            a, b = got.astype(np.float64), want.astype(np.float64)
            largest = np.max(np.abs(b), initial=0.0, where=np.isfinite(b))
            close = np.abs(a - b) <= loose * (np.abs(b) + largest)
            # Beyond the largest finite number of a type, a rounding more or less makes an infinity.
            edge = np.isinf(a) != np.isinf(b) if loose else np.zeros(b.shape, bool)
            huge = float(np.finfo(np.float32).max) / 4 if want.dtype.name != "float16" else 3e4
            edge &= np.minimum(np.abs(a), np.abs(b)) > huge
            bad = ~((a == b) | (np.isnan(a) & np.isnan(b)) | (close & np.isfinite(b)) | edge)
    if not bad.any():
        return ""
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{int(bad.sum())} of {want.size} elements differ, at {list(index)}: {got[index]} for {want[index]}"


def differences(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray], loose: Mapping[str, float]) -> str:
    """The first output that is wrong, and what is; "" if all agree."""
    for name, expected in want.items():
        if name not in got:
            return f"output {name!r} is missing"
        found = difference(got[name], expected, loose.get(name, 0.0))
        if found:
            return f"output {name!r}: {found}"
    return ""
