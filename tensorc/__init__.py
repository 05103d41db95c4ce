"""tensorc: ONNX models compiled to fast native code.

    model = tensorc.compile("model.onnx", target="cpu")
    outputs = model.run(None, {"input": x})

Importing this package costs nothing: what a function needs is imported when it is called, so that a program which only
loads an artifact never pays for the compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from tensorc.frontend.reader import Source
    from tensorc.options import CompileOptions, Fallback, Numerics, Objective, Precision
    from tensorc.quantization.accuracy import Metric
    from tensorc.quantization.data import Reader
    from tensorc.quantization.scheme import Quantization
    from tensorc.runtime.model import Model
    from tensorc.search.tuner import TuningProgress, TuningResult

    __version__: str
else:

    def __getattr__(name):
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("tensorc")


__all__ = ["__version__", "compile", "load", "tune"]


def compile(
    source: Source,
    target: str = "cpu",
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 0,
    out: str | os.PathLike[str] | None = None,
    *,
    tune: str | int | None = None,
    database: str | os.PathLike[str] | None = None,
    numerics: Numerics = "strict",
    fallback: Fallback = "error",
    precision: Precision = "float32",
    quantize: str | Quantization | None = None,
    calibration: str | os.PathLike[str] | Reader | None = None,
    evaluate: str | os.PathLike[str] | Reader | None = None,
    max_accuracy_drop: str | float | None = None,
    metric: Metric | None = None,
    memory_budget: str | int | None = None,
    objective: Objective | None = None,
    clock: str | None = None,
) -> Model:
    """Compile an ONNX model (a path, its bytes or a ModelProto) and load the result.

    `shapes` fixes the free axes of inputs, by name; `threads` of 0 means all cores. The artifact is kept in the file
    `out`, or else for as long as the model lives (`Model.save` writes it then). `tune` searches for better schedules
    first, for a time ("60s") or a number of trials; without it, those of earlier searches are used, from the records in
    `database` (default: the user's own). `numerics="fast"` admits algorithms that round worse. With
    `fallback="onnxruntime"`, what is not compiled runs there instead of being an error. `precision="bfloat16"` or
    "float16" keeps weights in 16 bits, half of the file; sums stay in float32. `quantize="int8"` computes
    products in bytes; their inputs' ranges come from `calibration`: a file of samples or of ranges, or a reader whose
    `get_next()` gives feeds. `quantize="int4-g32"`, or any other format of `tensorc.formats`, keeps the weights of
    matrix products in few bits. What quantizing costs is measured on the same samples, or those of `evaluate`, and is
    in the manifest's `quantized`; with `max_accuracy_drop="0.5%"`, layers stay in float32 until it costs no more, or,
    in fixed point, each tensor gets the fewest bits that cost no more.
    Accuracy is the share of samples whose class is that of the array `labels` beside the inputs, else float32's; or the
    mean of `metric`, called with each sample's outputs and the sample. `memory_budget`, as "400MiB" or in bytes, is the
    most that a process is to have resident which only loads the artifact and runs it, or that the model is to take of a
    GPU's memory. `objective` says what hardware is to be best in, of targets that make some, and `clock`, as "200MHz"
    or "5ns", what it is clocked with. Raises `tensorc.errors.UserError`, a ValueError, in one line that says what is
    wrong and what is legal.
    """
    import os
    from dataclasses import replace
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from tensorc.driver import compile_model
    from tensorc.errors import UserError
    from tensorc.options import parse_bytes, parse_clock
    from tensorc.quantization.scheme import Quantization, parse_drop
    from tensorc.search.budget import Budget

    options = replace(_options(target, shapes, threads, database, numerics), fallback=fallback, precision=precision)
    options = replace(options, objective=objective, clock=None if clock is None else parse_clock(clock))
    if memory_budget is not None:
        options = replace(options, memory_budget=parse_bytes(str(memory_budget)))
    if tune is not None:
        options = replace(options, tune=Budget.parse(str(tune)))
    if isinstance(quantize, str):

        def opened(given: str | os.PathLike[str] | Reader | None) -> Path | Reader | None:
            return Path(given) if isinstance(given, (str, os.PathLike)) else given

        drop = None if max_accuracy_drop is None else parse_drop(max_accuracy_drop)
        quantize = Quantization(quantize, opened(calibration), evaluate=opened(evaluate), max_drop=drop, metric=metric)
    elif evaluate is not None or max_accuracy_drop is not None or metric is not None:
        raise UserError("evaluate, max_accuracy_drop and metric go with quantize=, a scheme by name")
    options = replace(options, quantize=quantize)
    if out is not None:
        return load(compile_model(source, options, Path(out)).output, threads)
    # A loaded model maps its artifact, so the file needs its name no longer: its bytes go when the model does.
    with TemporaryDirectory(prefix="tensorc-") as folder:
        return load(compile_model(source, options, Path(folder) / "model.tcm").output, threads)


def tune(
    source: Source,
    target: str = "cpu",
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 0,
    *,
    budget: str | int = "60s",
    database: str | os.PathLike[str] | None = None,
    numerics: Numerics = "strict",
    precision: Precision = "float32",
    seed: int = 0,
    watch: Callable[[TuningProgress], None] | None = None,
) -> TuningResult:
    """Search for better schedules of a model's kernels; `compile` finds them in `database` afterwards.

    Ends after `budget`, a time ("60s") or a number of trials, or when nothing is left to gain. What was measured is
    kept at once, so a run may be stopped and started again. `watch` is told after every batch. Other arguments, and
    errors, are as `compile`'s.
    """
    from dataclasses import replace

    from tensorc.driver import tune_model
    from tensorc.search.budget import Budget

    options = replace(_options(target, shapes, threads, database, numerics), precision=precision)
    return tune_model(source, options, Budget.parse(str(budget)), seed=seed, watch=watch)


def _options(
    target: str,
    shapes: Mapping[str, Sequence[int]] | None,
    threads: int,
    database: str | os.PathLike[str] | None,
    numerics: Numerics,
) -> CompileOptions:
    from pathlib import Path

    from tensorc.options import CompileOptions

    return CompileOptions(
        target=target,
        shapes={name: tuple(shape) for name, shape in (shapes or {}).items()},
        threads=threads,
        database=None if database is None else Path(database),
        numerics=numerics,
    )


def load(path: str | os.PathLike[str], threads: int = 0) -> Model:
    """Load a compiled artifact (`.tcm`); `threads` of 0 means the target's default."""
    from pathlib import Path

    from tensorc.runtime.model import load as load_artifact

    return load_artifact(Path(path), threads=threads)
