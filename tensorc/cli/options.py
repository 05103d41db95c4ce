"""Parameters that several commands share, and the parsing of their values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from tensorc.errors import UserError
from tensorc.options import CompileOptions, Objective, Precision, Sizes, parse_bytes, parse_clock, parse_shape
from tensorc.quantization.scheme import METHODS, SCHEMES, Quantization, parse_drop
from tensorc.search.budget import Budget

Shape = Sizes
Value = TypeVar("Value")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])

DEFAULT_TARGET = "cpu"

#: An existing file, readable; click's own complaint about another names the parameter and the path.
EXISTING = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


def _unique(param: click.Parameter, pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in pairs:
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice", param=param)
        found[name] = value
    return found


def _parse_shapes(_: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Shape]:
    def parse(text: str) -> tuple[str, Shape]:
        name, _, dims = text.rpartition("=")
        try:
            if name:
                return name, parse_shape(dims)
        except UserError:
            pass
        wanted = "NAME=SHAPE with a shape of positive whole numbers, such as 1x3x224x224 or 1..8x3x224x224"
        raise click.BadParameter(f"{text!r} is not {wanted}", param=param)

    return _unique(param, map(parse, texts))


def _parse_files(context: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Path]:
    def parse(text: str) -> tuple[str, Path]:
        name, _, file = text.partition("=")
        if not name or not file:
            raise click.BadParameter(f"{text!r} is not NAME=FILE.npy", param=param)
        return name, Path(EXISTING.convert(file, param, context))

    return _unique(param, map(parse, texts))


def model_argument(metavar: str, folders: bool = False) -> Callable[[Decorated], Decorated]:
    kind = click.Path(exists=True, readable=True, path_type=Path) if folders else EXISTING
    return click.argument("model", type=kind, metavar=metavar)


def shape_option(function: Decorated) -> Decorated:
    return click.option(
        "--shape", "shapes", multiple=True, callback=_parse_shapes, metavar="NAME=1x3x224x224",
        help="Fix the shape of an input; 1..8 is every size from 1 to 8. Repeatable.",
    )(function)  # fmt: skip


def input_option(function: Decorated) -> Decorated:
    return click.option(
        "--input", "files", multiple=True, callback=_parse_files, metavar="NAME=FILE.npy",
        help="An input, from a file that numpy.save wrote. Repeatable.",
    )(function)  # fmt: skip


def target_option(function: Decorated) -> Decorated:
    return click.option("--target", help=f"What to compile for, see `tensorc targets`. Default: {DEFAULT_TARGET}.")(
        function
    )


def threads_option(function: Decorated) -> Decorated:
    return click.option(
        "--threads", type=click.IntRange(min=0), default=0, help="Threads to run on. Default: all cores."
    )(function)


def seed_option(function: Decorated) -> Decorated:
    return click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the random inputs.")(function)


def reference_option(function: Decorated) -> Decorated:
    return click.option(
        "--model", "reference", type=EXISTING, metavar="MODEL.onnx", help="The ONNX model that OUT.tcm was made of."
    )(function)


def database_option(function: Decorated) -> Decorated:
    return click.option(
        "--database", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
        help="Where tuning records are kept. Default: tuning.db in the user's data folder.",
    )(function)  # fmt: skip


def numerics_option(function: Decorated) -> Decorated:
    return click.option(
        "--numerics", type=click.Choice(["strict", "fast"]), default="strict", show_default=True,
        help="Whether algorithms that round worse than plain sums of products are admitted.",
    )(function)  # fmt: skip


def precision_option(function: Decorated) -> Decorated:
    return click.option(
        "--precision", type=click.Choice(get_args(Precision)), default="float32", show_default=True,
        help="What weights are kept in, and multiplied in where the machine can; sums are in float32. On a GPU, "
        "bfloat16 and float16 are also what lies in memory between kernels, and tf32 is what float32 is multiplied in.",
    )(function)  # fmt: skip


def objective_option(function: Decorated) -> Decorated:
    return click.option(
        "--objective", type=click.Choice(get_args(Objective)),
        help="What hardware is to be best in; for targets that make some. Default: latency.",
    )(function)  # fmt: skip


def clock_option(function: Decorated) -> Decorated:
    return click.option(
        "--clock", callback=_parse_clock, metavar="200MHz|5ns",
        help="What hardware is to be clocked with; for targets that make some. Default: 5ns.",
    )(function)  # fmt: skip


def max_latency_option(function: Decorated) -> Decorated:
    return click.option(
        "--max-latency", type=click.IntRange(min=1), metavar="CYCLES",
        help="The most that an image may take, with --objective resources. Default: any time.",
    )(function)  # fmt: skip


def fallback_option(function: Decorated) -> Decorated:
    return click.option(
        "--fallback", type=click.Choice(["error", "onnxruntime"]), default="error", show_default=True,
        help="What becomes of operators that are not compiled: the model is refused, or ONNX Runtime runs them.",
    )(function)  # fmt: skip


def quantize_options(function: Decorated) -> Decorated:
    """`quantize` is made of what several options say."""

    @click.option("--quantize", "scheme", metavar="|".join((*SCHEMES, "FORMAT")),
                  help="Compute products in small integers, or take their weights in few bits: see tensorc ops "
                       "--formats.")  # fmt: skip
    @click.option("--calibration", type=EXISTING, metavar="DATA.npz|RANGES.json",
                  help="Samples of the inputs, as numpy.savez wrote them, or ranges that were kept.")  # fmt: skip
    @click.option("--calibration-method", "method", type=click.Choice(list(METHODS)), default="mse", show_default=True,
                  help="How ranges are chosen.")  # fmt: skip
    @click.option("--save-ranges", type=click.Path(dir_okay=False, path_type=Path), metavar="RANGES.json",
                  help="Keep the ranges that were found.")  # fmt: skip
    @click.option(
        "--per-tensor", is_flag=True, help="One scale for all weights of a product, not one for each channel."
    )
    @click.option("--equalise/--no-equalise", default=None,
                  help="Even out weights between layers. Default: with --per-tensor.")  # fmt: skip
    @click.option("--smooth", type=click.FloatRange(0, 1, max_open=True), default=0.5, show_default=True,
                  help="How much of the differences between channels of a transformer's activations weights take up; "
                  "0: nothing.")  # fmt: skip
    @click.option("--correct-bias/--no-correct-bias", default=True, show_default=True,
                  help="Take off what the rounding of weights does on average.")  # fmt: skip
    @click.option("--evaluate", type=EXISTING, metavar="DATA.npz",
                  help="Samples to measure accuracy on, with an array `labels` of classes if there are any. "
                  "Default: those of --calibration.")  # fmt: skip
    @click.option("--max-accuracy-drop", "max_drop", metavar="0.5%",
                  help="Leave so many layers in float32 that accuracy drops by no more; in fixed point, give each "
                  "tensor the fewest bits that will do.")  # fmt: skip
    @functools.wraps(function)
    def wrapped(*arguments: Any, scheme: str | None, calibration: Path | None, method: str, save_ranges: Path | None,
                per_tensor: bool, equalise: bool | None, smooth: float, correct_bias: bool, evaluate: Path | None,
                max_drop: str | None, **others: Any) -> Any:  # fmt: skip
        named = {"--calibration": calibration, "--save-ranges": save_ranges, "--evaluate": evaluate,
                 "--max-accuracy-drop": max_drop}  # fmt: skip
        given = [option for option, value in named.items() if value is not None]
        if scheme is None and given:
            raise UserError(f"{given[0]} is for --quantize")
        quantize = None
        if scheme is not None:
            drop = None if max_drop is None else parse_drop(max_drop)
            quantize = Quantization(
                scheme, calibration, method, not per_tensor, save_ranges, evaluate=evaluate, max_drop=drop,
                equalise=equalise, smooth=smooth, correct_bias=correct_bias,
            )  # fmt: skip
        return function(*arguments, quantize=quantize, **others)

    return wrapped  # type: ignore[return-value]


def parse_budget(_: click.Context, param: click.Parameter, text: str | None) -> Budget | None:
    try:
        return None if text is None else Budget.parse(text)
    except UserError as error:
        raise click.BadParameter(str(error), param=param) from error


def _parse_bytes(_: click.Context, param: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else parse_bytes(text)
    except UserError as error:
        raise click.BadParameter(str(error), param=param) from error


def _parse_clock(_: click.Context, param: click.Parameter, text: str | None) -> float | None:
    try:
        return None if text is None else parse_clock(text)
    except UserError as error:
        raise click.BadParameter(str(error), param=param) from error


def memory_budget_option(function: Decorated) -> Decorated:
    return click.option(
        "--memory-budget", callback=_parse_bytes, metavar="400MiB",
        help="The most memory that a process is to have resident which loads and runs the model, all of it counted; "
             "for cuda, the most of the GPU's that the model takes.",
    )(function)  # fmt: skip


def json_option(function: Decorated) -> Decorated:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(function)


def compile_options(target: str | None, shapes: dict[str, Shape], threads: int) -> CompileOptions:
    return CompileOptions(target=target or DEFAULT_TARGET, shapes=shapes, threads=threads)


def refuse_for_artifact(
    model: Path, target: str | None, shapes: dict[str, Shape], precision: Precision = "float32"
) -> None:
    """An artifact has its target, shapes and precision already: to be told others is a mistake, not a wish."""
    for option, given in (("--target", target), ("--shape", shapes), ("--precision", precision != "float32")):
        if given:
            raise UserError(f"{option} is for an ONNX model; {model} is compiled already")
