"""Rounding that knows what weights are multiplied with: the error of one is made up for by those not yet rounded.

Of a product's result not the error of the weights matters but that of x @ w, in squares sum of e H e^T with the second
moments H = E[x x^T] of the inputs. Weights are rounded along the reduction axis one after the other; after each, the
best change of all later ones takes up what its rounding did to the result. A kernel sees the same format as ever.

Source: Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (2022), algorithm 1: the Cholesky factor of H's inverse holds the changes for every step. Scales are those
of the weights as they were, so that elements of any group can be rounded in falling order of H's diagonal. Few samples
make H uncertain, hence the larger damping.
"""

from __future__ import annotations

import numpy as np

from tensorc.errors import UserError
from tensorc.formats.base import Encoded, as_rows
from tensorc.formats.integers import Integers

#: Of the mean of H's diagonal, what is added to each of its elements: 0.01 in the paper, for 250 000 tokens.
DAMPING = 0.1
#: Elements whose later ones are changed together, by one product of matrices.
_TOGETHER = 64


def compensated(format: Integers, array: np.ndarray, moments: np.ndarray, axis: int = -1) -> Encoded:
    """As `format.quantize`, for symmetric integers; `moments` [length, length] are those of what the array's `axis` is
    multiplied with, up to a factor. Where they say nothing (all inputs alike and independent), it is the same."""
    if not format.symmetric:
        raise UserError(f"{format.name} has zero points: rounding is compensated for symmetric integers")
    array = np.asarray(array)
    rows, axis = as_rows(array, axis)
    length = rows.shape[1]
    if moments.shape != (length, length) or not np.isfinite(moments).all():
        raise UserError(f"moments of {length} inputs are finite numbers of shape {[length, length]}")
    if not length:
        return format.quantize(array, axis)
    scales = format.scales(rows)
    order = np.argsort(-np.diag(moments), kind="stable")
    changes = _changes(moments[np.ix_(order, order)].astype(np.float64))
    # Elements of all rows that are rounded together lie together.
    each = np.repeat(scales, format.group or length, axis=1).T[order].astype(np.float64)
    left = rows.T[order].astype(np.float64)
    codes = np.empty((length, len(rows)), np.int16)
    for start in range(0, length, _TOGETHER):
        end = min(start + _TOGETHER, length)
        errors = np.empty((end - start, len(rows)))
        for at in range(start, end):
            rounded = format.nearest(left[at] / np.where(each[at] == 0, 1, each[at])) * (each[at] != 0)
            codes[order[at]] = rounded
            errors[at - start] = (left[at] - rounded * each[at]) / changes[at, at]
            left[at + 1 : end] -= np.outer(changes[at, at + 1 : end], errors[at - start])
        left[end:] -= changes[start:end, end:].T @ errors
    return Encoded(format, array.shape, axis, format.parts(codes.T, scales))


def _changes(moments: np.ndarray) -> np.ndarray:
    """Row i: what an error of element i, over the diagonal, changes in those behind it. An upper triangle."""
    mean = np.trace(moments) / max(len(moments), 1)
    damped = moments + (DAMPING * mean if mean > 0 else 1) * np.eye(len(moments))
    return np.linalg.cholesky(np.linalg.inv(damped)).T
