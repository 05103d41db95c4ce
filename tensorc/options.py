"""What a user may ask of one compilation. Frozen, so that it can key caches and stand in an artifact."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from tensorc.errors import UserError
from tensorc.quantization.scheme import Quantization
from tensorc.search.budget import Budget

#: The size of an axis, or all of those that it may have.
Size = int | range
Sizes = tuple[Size, ...]

#: "strict" admits algorithms that round no worse than the plain sum of products, "fast" also those that trade some
#: digits for time.
Numerics = Literal["strict", "fast"]
#: What weights are kept in, and what is multiplied where the machine has instructions for it; sums are in float32. With
#: tf32 all is kept in float32, and may be rounded to the 11 significant bits of tf32 where it is multiplied.
Precision = Literal["float32", "tf32", "bfloat16", "float16"]
#: What becomes of an operator that is not compiled: the model is refused, or it runs on ONNX Runtime, on the host.
Fallback = Literal["error", "onnxruntime"]

#: What a target that makes hardware is to be best in.
Objective = Literal["latency", "throughput", "resources", "energy"]


@dataclass(frozen=True)
class CompileOptions:
    """`threads` of 0 means all cores of the machine; `shapes` gives input shapes by name: for an axis whose size is a
    range, the model is compiled for each.

    `database` is where tuning records are looked up and kept, None the user's own. With a budget to `tune`, the
    search goes on for so long before the model is built. `memory_budget` is the most bytes that a process which loads
    and runs the artifact is to have resident, or that it is to take of a GPU's memory, None for as many as there are.
    `objective` and `clock`, in nanoseconds, are for targets that make hardware, None for what they think best;
    `max_latency` is the most cycles that an image may take in a small one.
    """

    target: str = "cpu"
    shapes: Mapping[str, Sizes] = field(default_factory=dict)
    threads: int = 0
    database: Path | None = None
    tune: Budget | None = None
    numerics: Numerics = "strict"
    fallback: Fallback = "error"
    precision: Precision = "float32"
    quantize: Quantization | None = None
    memory_budget: int | None = None
    objective: Objective | None = None
    clock: float | None = None
    max_latency: int | None = None
    print_ir_after: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.numerics not in get_args(Numerics):
            raise UserError(f"no numerics {self.numerics!r}; legal: {', '.join(get_args(Numerics))}")
        if self.precision not in get_args(Precision):
            raise UserError(f"no precision {self.precision!r}; legal: {', '.join(get_args(Precision))}")
        if self.objective is not None and self.objective not in get_args(Objective):
            raise UserError(f"no objective {self.objective!r}; legal: {', '.join(get_args(Objective))}")
        if self.max_latency is not None and self.objective != "resources":
            raise UserError("a limit on the latency (--max-latency) is for --objective resources: others do not grow")
        if self.fallback not in get_args(Fallback):
            raise UserError(f"no fallback {self.fallback!r}; legal: {', '.join(get_args(Fallback))}")


_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def parse_bytes(text: str) -> int:
    """`400MiB`, `1.5GiB`, `64MB` or a number of bytes. Raises UserError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMG]?i?B)?", text.strip(), re.IGNORECASE)
    unit = (found[2] or "B").upper() if found else ""
    nbytes = round(float(found[1]) * _UNITS[unit]) if found and unit in _UNITS else 0
    if nbytes < 1:
        raise UserError(f"{text!r} is not a size in memory, such as 400MiB, 1.5GiB or 64MB")
    return nbytes


_PERIODS = {"PS": 1e-3, "NS": 1.0, "US": 1e3}
_FREQUENCIES = {"HZ": 1e9, "KHZ": 1e6, "MHZ": 1e3, "GHZ": 1.0}


def parse_clock(text: str) -> float:
    """`200MHz` or `5ns`, in nanoseconds. Raises UserError."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-z]+)", text.strip(), re.IGNORECASE)
    number, unit = (float(found[1]), found[2].upper()) if found else (0.0, "")
    if number > 0 and unit in _PERIODS:
        return number * _PERIODS[unit]
    if number > 0 and unit in _FREQUENCIES:
        return _FREQUENCIES[unit] / number
    raise UserError(f"{text!r} is no clock: a frequency such as 200MHz, or a period such as 5ns")


def format_bytes(nbytes: float) -> str:
    """Bytes for a person: 999 B, 1.5 KiB, 97.3 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.2f} GiB"


def whole_bytes(nbytes: int, up: bool) -> str:
    """As `parse_bytes` reads it, in whole MiB, or KiB where those are few, rounded up or down."""
    shift, unit = (20, "MiB") if nbytes >= 16 << 20 else (10, "KiB")
    return f"{(nbytes + up * ((1 << shift) - 1)) >> shift}{unit}"


def parse_shape(text: str) -> Sizes:
    """`1x3x224x224` or `1..8x3x224x224`. Raises UserError."""
    sizes = tuple(_parse_size(part) for part in text.split("x"))
    if any(size is None for size in sizes):
        raise UserError(f"{text!r} is not a shape of positive whole numbers, such as 1x3x224x224 or 1..8x3x224x224")
    return tuple(size for size in sizes if size is not None)


def _parse_size(text: str) -> Size | None:
    found = re.fullmatch(r"([0-9]+)(?:\.\.([0-9]+))?", text)
    if found is None:
        return None
    least, most = int(found[1]), int(found[2] or found[1])
    if not 1 <= least <= most:
        return None
    return least if found[2] is None else range(least, most + 1)


def format_size(size: Size) -> str:
    """As it is written in a shape."""
    return str(size) if isinstance(size, int) else f"{size.start}..{size.stop - 1}"


def format_shape(sizes: Sequence[Size]) -> str:
    return "x".join(map(format_size, sizes))
