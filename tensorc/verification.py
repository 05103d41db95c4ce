"""Is a compiled model right? Its outputs against ONNX Runtime's, with the errors as numbers.

An element is right when |got - want| <= atol * max|want| + rtol * |want|, the maximum taken over its output: float32
sums differ by rounding in proportion to what was summed, not to the result, so an absolute tolerance that ignores the
scale of an output says nothing. Integers and booleans have to be equal. Models that were compiled for a lower
precision may be off by some of its roundings.

A model that was quantized when it was compiled differs by what 8 bits cost. It is right when the signal-to-noise ratio
of each output is not far below what was measured on samples when it was compiled; integers, such as classes, are
counted and not judged.

A model that rounds to bytes itself (QuantizeLinear and its like) is judged by noise, too: a sum that is rounded
otherwise in its last place can be another byte, and all that is behind it changes. ONNX Runtime is 27 to 39 dB from
itself without its optimizations on ResNet-50, MobileNetV2 and BERT in bytes (random inputs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tensorc.errors import UserError
from tensorc.ir.types import is_float

RTOL = 1e-3
ATOL = 1e-4
#: Of each precision the relative error of one rounding; and how many of them outputs may be off by, relative to the
#: largest: errors of many roundings are of either sign.
_ROUNDINGS: Mapping[str, float] = {"tf32": 2.0**-11, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_MANY = 16
#: Decibels by which a quantized model's outputs may have more noise than it had on samples, since inputs differ; of
#: what few there are, at most a half.
MARGIN = 10.0
#: Decibels that are asked for where nothing was measured, and where both engines are to round alike.
UNMEASURED = 10.0
ROUNDED_ALIKE = 20.0
#: Operators that make bytes of floats while a model runs.
_ROUNDING = frozenset({
    "QuantizeLinear", "DynamicQuantizeLinear", "QLinearAdd", "QLinearConv", "QLinearMatMul", "QGemm",
})  # fmt: skip


def tolerance_of(precision: str) -> float:
    """The `atol` that a model is judged by where none is given."""
    return max(ATOL, _MANY * _ROUNDINGS.get(precision, 0.0))


@dataclass(frozen=True)
class OutputCheck:
    """One output against its reference. `max_rel_error` is the largest |got - want| over the largest |want|."""

    ok: bool
    max_abs_error: float
    max_rel_error: float
    cosine: float
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """All outputs of a model; the numbers are the worst of them."""

    outputs: Mapping[str, OutputCheck]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.outputs.values())

    @property
    def max_abs_error(self) -> float:
        return max((check.max_abs_error for check in self.outputs.values()), default=0.0)

    @property
    def max_rel_error(self) -> float:
        return max((check.max_rel_error for check in self.outputs.values()), default=0.0)

    @property
    def cosine(self) -> float:
        return min((check.cosine for check in self.outputs.values()), default=1.0)


def compare(got: np.ndarray, want: np.ndarray, rtol: float = RTOL, atol: float = ATOL) -> OutputCheck:
    """One array against its reference; infinities and NaNs must stand at the same places."""
    if got.shape != want.shape or got.dtype != want.dtype:
        note = f"{got.dtype}{list(got.shape)} where the reference has {want.dtype}{list(want.shape)}"
        return OutputCheck(False, np.inf, np.inf, 0.0, note)
    exact = not is_float(want.dtype.name)
    ours, theirs = got.astype(np.float64).reshape(-1), want.astype(np.float64).reshape(-1)
    finite = np.isfinite(theirs)
    if not np.array_equal(finite, np.isfinite(ours)) or not np.array_equal(
        ours[~finite], theirs[~finite], equal_nan=True
    ):
        return OutputCheck(False, np.inf, np.inf, 0.0, "NaN or infinity in different places")
    ours, theirs = ours[finite], theirs[finite]
    error = np.abs(ours - theirs)
    scale = float(np.abs(theirs).max(initial=0.0))
    worst = float(error.max(initial=0.0))
    ok = np.array_equal(got, want, equal_nan=not exact) or (
        not exact and bool((error <= atol * scale + rtol * np.abs(theirs)).all())
    )
    relative = worst / scale if scale else (0.0 if worst == 0 else np.inf)
    return OutputCheck(ok, worst, relative, _cosine(ours, theirs))


def check_outputs(
    got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray], rtol: float = RTOL, atol: float = ATOL
) -> Verdict:
    """Every output of the reference; one that is missing counts as wrong."""
    missing = OutputCheck(False, np.inf, np.inf, 0.0, "missing")
    return Verdict({
        name: compare(got[name], array, rtol, atol) if name in got else missing for name, array in want.items()
    })  # fmt: skip


def check_all(
    got: Sequence[Mapping[str, np.ndarray]], want: Sequence[Mapping[str, np.ndarray]], rtol: float, atol: float
) -> Verdict:
    """The worst of each output over the feeds for which something was got."""
    verdicts = [check_outputs(ours, theirs, rtol, atol) for ours, theirs in zip(got, want, strict=False)]
    return Verdict({
        name: min((verdict.outputs[name] for verdict in verdicts), key=lambda check: (check.ok, -check.max_rel_error))
        for name in verdicts[0].outputs
    })  # fmt: skip


def wanted_decibels(measured: float | None) -> float:
    """Of a quantized model with so many on samples; None where nothing was measured, or nothing differed."""
    return UNMEASURED if measured is None else max(measured - MARGIN, measured / 2)


def check_quantized(
    got: Sequence[Mapping[str, np.ndarray]], want: Sequence[Mapping[str, np.ndarray]], decibels: float
) -> Verdict:
    """Every output of the reference, over all feeds; its floats' noise is to be at least so many decibels below it."""
    checks = {}
    for name in want[0]:
        pairs = [(ours.get(name), theirs[name]) for ours, theirs in zip(got, want, strict=True)]
        checks[name] = _check_noise([(ours, theirs) for ours, theirs in pairs if ours is not None], decibels)
        if any(ours is None for ours, _ in pairs):
            checks[name] = OutputCheck(False, np.inf, np.inf, 0.0, "missing")
    return Verdict(checks)


def _check_noise(pairs: Sequence[tuple[np.ndarray, np.ndarray]], wanted: float) -> OutputCheck:
    from tensorc.quantization.accuracy import Noise, written

    noise = Noise()
    for ours, theirs in pairs:
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return compare(ours, theirs)
        noise.add(ours, theirs)
    if pairs and not is_float(pairs[0][1].dtype.name):
        wrong = sum(int((ours != theirs).sum()) for ours, theirs in pairs)
        note = f"{wrong} of {sum(theirs.size for _, theirs in pairs)} differ, which is not judged"
        return OutputCheck(True, noise.worst, noise.relative, noise.cosine, note)
    note = f"{written(noise.decibels)}, where {wanted:.1f} dB are enough"
    return OutputCheck(bool(noise.decibels >= wanted), noise.worst, noise.relative, noise.cosine, note)


def rounds_itself(model: Path) -> bool:
    """Whether the ONNX model rounds to bytes as it runs."""
    import onnx

    whole = onnx.load(model, load_external_data=False)
    graphs, rounds = [whole.graph, *whole.functions], False
    while graphs and not rounds:
        nodes = graphs.pop().node
        rounds = any(node.op_type in _ROUNDING for node in nodes)
        graphs += [attribute.g for node in nodes for attribute in node.attribute if attribute.HasField("g")]
    return rounds


def reference_outputs(model: Path, *feeds: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What ONNX Runtime, with its default options, makes of each feed."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        results = [session.run(None, dict(feed)) for feed in feeds]
    except Exception as error:  # its exceptions have no common base but this
        raise UserError(f"ONNX Runtime cannot run {model}: {' '.join(str(error).split())}") from error
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, map(np.asarray, arrays), strict=True)) for arrays in results]


def note_constants(verdict: Verdict, first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> Verdict:
    """`verdict` with a note on each output that is the same in two references of different inputs.

    To agree on such an output proves little: any program that gives the constant does.
    """
    note = "the reference does not depend on the inputs, so agreeing with it proves little"
    return Verdict({
        name: replace(check, note=check.note or note)
        if np.array_equal(first[name], second[name], equal_nan=is_float(first[name].dtype.name)) else check
        for name, check in verdict.outputs.items()
    })  # fmt: skip


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(np.dot(a, b)) / norms
