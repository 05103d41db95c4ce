"""Encoded weights as a kernel takes them that serves every format: codes of few bits times the scales of their blocks.

A weight is (level - zero) * scale * factor, with the level of its code, the zero point and the scale of its block and
one factor for the whole array: see `tensorc.ir.ops.coded`. A format says so where that is what it is; pairs that share
their bits (OliVe) are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from tensorc.formats import bits
from tensorc.formats.base import Encoded, Format, Parts
from tensorc.formats.bipolar import Bipolar, codes_of
from tensorc.formats.block_float import BlockFloat
from tensorc.formats.elements import E2M1, E4M3
from tensorc.formats.integers import Integers
from tensorc.formats.microscaling import Microscaling
from tensorc.formats.nvfp4 import NvFp4
from tensorc.formats.rearranged import Rearranged
from tensorc.formats.ternary import Ternary, unpack_digits

#: A digit -1, 0 or 1 as a code.
_TERNARY_WIDTH = 2


@dataclass(frozen=True, eq=False)
class Coded:
    """Rows of weights: `codes` packed [rows, bytes], `scales` [rows, groups], `zeros` as those or None for `zero`.

    `element` is "integer" or the name of a small float. `group` of 0 is the whole row. `factor` multiplies everything.
    Element i of the sum's axis is element permutation[i] of the array that was encoded.
    """

    width: int
    group: int
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None = None
    zero: float = 0.0
    element: str = "integer"
    factor: float = 1.0
    permutation: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.codes, self.scales, self.zeros, self.permutation) if part is not None)


def is_coded(format: Format) -> bool:
    """Whether `coded` knows the format."""
    inner = format.inner if isinstance(format, Rearranged) else format
    return isinstance(inner, Bipolar | BlockFloat | Integers | Microscaling | NvFp4 | Ternary)


def coded(encoded: Encoded) -> Coded:
    """Raises TypeError for a format that is not codes times scales."""
    format, parts, length = encoded.format, encoded.parts, encoded.shape[encoded.axis]
    if isinstance(format, Rearranged):
        made = _coded(format.inner, parts, length)
        order = parts["permutation"]
        plain = np.array_equal(order, np.arange(length))
        return made if plain else Coded(**vars(made) | {"permutation": order})
    return _coded(format, parts, length)


def _coded(format: Format, parts: Parts, length: int) -> Coded:
    codes, group = parts["codes"], format.block or 0
    match format:
        case Integers(width=width):
            scales = parts["scales"]
            if format.symmetric:
                return Coded(width, group, codes, scales, zero=float(1 << (width - 1)))
            zeros = bits.unpack(parts["zeros"], width, scales.shape[1]).astype(ml_dtypes.bfloat16)  # exact
            return Coded(width, group, codes, scales, zeros)
        case Ternary():
            packed = bits.pack(unpack_digits(codes, length), _TERNARY_WIDTH)
            return Coded(_TERNARY_WIDTH, group, packed, parts["scales"], zero=1.0)
        case BlockFloat(width=width):
            powers = parts["scales"].view(ml_dtypes.float8_e8m0fnu)
            return Coded(width, group, codes, powers, zero=float(1 << (width - 1)))
        case Microscaling(element=element):
            powers = parts["scales"].view(ml_dtypes.float8_e8m0fnu)
            return Coded(element.width, group, codes, powers, element=element.name)
        case NvFp4():
            scales = E4M3.decode(parts["scales"]).astype(ml_dtypes.bfloat16)  # exact
            factor = float(parts["tensor_scale"][0])
            return Coded(E2M1.width, group, codes, scales, element=E2M1.name, factor=factor)
        case Bipolar(width=width):
            # 2c - top, as (c - top / 2) times twice the scale.
            packed = bits.pack(codes_of(codes, length), width)
            return Coded(width, group, packed, 2 * parts["scales"], zero=((1 << width) - 1) / 2)
    raise TypeError(f"{format.name} is not codes times scales")
