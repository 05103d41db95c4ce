"""The passes that every target starts with, in an order that works."""

from __future__ import annotations

from passes.batch_norm import FoldBatchNorm
from passes.coded import MultiplyCodes
from passes.cse import EliminateCommonSubexpressions
from passes.encode import EncodeWeights
from passes.equalise import EqualiseChannels
from passes.fold import FoldConstants
from passes.integers import ComputeInIntegers
from passes.lower_precision import LowerPrecision
from passes.quantize import QuantizeProducts
from passes.recognize import Recognize
from passes.regions import SimplifyRegions
from passes.simplify import Simplify
from passes.smooth import SmoothActivations
from tensorc.options import Precision
from tensorc.pipeline import Pass
from tensorc.quantization.scheme import Quantization


def canonical_passes(multiplies_bytes: bool = False) -> list[Pass]:
    """From the frontend's graph to a small one in canonical form, with composite operators by name.

    Folding comes first (masks and shapes turn out to be constants, which go into regions), then the canonical form that
    batch norm and recognition look for. Batch norms fold before equal convolutions become one, whose weights could not
    take up two factors. What recognition leaves, transposes next to transposes, the last round cleans up.
    """
    prepare: list[Pass] = [
        FoldConstants(), SimplifyRegions(), MultiplyCodes(), ComputeInIntegers(multiplies_bytes), FoldConstants(),
        Simplify(), FoldConstants(), FoldBatchNorm(),
    ]  # fmt: skip
    clean: list[Pass] = [Simplify(), FoldConstants(), EliminateCommonSubexpressions()]
    return [*prepare, *clean, Recognize(), *clean]


def precision_passes(precision: Precision, multiplies_bfloat16: bool) -> list[Pass]:
    """What makes a canonical graph one of lower precision; nothing where weights stay in float32."""
    if precision not in ("bfloat16", "float16"):
        return []
    inputs = precision == "bfloat16" and multiplies_bfloat16
    return [LowerPrecision(precision, inputs), EliminateCommonSubexpressions()]


def quantizing_passes(how: Quantization | None, multiplies_bytes: bool) -> list[Pass]:
    """What makes a canonical graph a quantized one; nothing where that is not asked for."""
    if how is None:
        return []
    if how.format is not None:
        return [EncodeWeights(how.format.name, how.skipped, how.moments)]
    prepare: list[Pass] = [EqualiseChannels()] if how.equalises else []
    if how.is_static and how.smooth:
        prepare.append(SmoothActivations(how.largest, how.smooth, how.per_channel))
    means = how.means if how.correct_bias else {}
    return [
        *prepare,
        QuantizeProducts(how.params, how.skipped, not how.is_static, how.per_channel, means),
        ComputeInIntegers(multiplies_bytes), FoldConstants(), Simplify(), FoldConstants(),
        EliminateCommonSubexpressions(),
    ]  # fmt: skip
