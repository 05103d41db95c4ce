"""Ranges of values, and the scales and zero points that map them onto integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorc.ir.types import integer_limits


@dataclass(frozen=True)
class Range:
    """What values lie between. Zero is always among them: padding and relu's floor are exact."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= 0 <= self.high or not np.isfinite([self.low, self.high]).all():
            raise ValueError(f"no range around 0: {self.low} to {self.high}")

    def to_json(self) -> list[float]:
        return [self.low, self.high]

    @classmethod
    def of(cls, low: float, high: float) -> Range:
        """The least one that holds `low`, `high` and 0."""
        return cls(min(float(low), 0.0), max(float(high), 0.0))


@dataclass(frozen=True)
class QuantParams:
    """An integer q of type `dtype` stands for (q - zero) * scale."""

    dtype: str
    scale: float
    zero: int

    @classmethod
    def of(cls, range: Range, dtype: str = "uint8", symmetric: bool = False) -> QuantParams:
        """Such that the range just fits; with `symmetric`, zero is the type's middle."""
        low, high = integer_limits(dtype)
        if symmetric:
            middle = (low + high + 1) // 2
            scale = _scale(max(-range.low, range.high) / (high - middle))
            return cls(dtype, scale, middle)
        scale = _scale((range.high - range.low) / (high - low))
        return cls(dtype, scale, int(np.clip(round(low - range.low / scale), low, high)))

    def to_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "scale": self.scale, "zero": self.zero}


def _scale(step: float) -> float:
    """In float32, as kernels have it; 1 where there is nothing but zero (or what float32 cannot tell from it)."""
    scale = float(np.float32(step))
    return scale if scale > np.finfo(np.float32).tiny else 1.0


@dataclass(frozen=True)
class Widths:
    """Bits of fixed-point tensors, by their names in the canonical graph: of what is computed, and of weights. `proxy`
    is what hardware would take (see `tensorc.quantization.widths`) before they were searched for, and what it takes."""

    values: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    proxy: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        return bool(self.values or self.weights)

    @property
    def by_name(self) -> dict[str, int]:
        return {**self.values, **self.weights}

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"values": dict(self.values), "weights": dict(self.weights)}
        if self.proxy is not None:
            found["proxy"] = {"before": self.proxy[0], "after": self.proxy[1]}
        return found

    def described(self) -> str:
        """For a summary; "" where there are none."""
        parts = ((_span(self.values), "bits"), (_span(self.weights), "in weights"))
        text = ", ".join(f"{span} {what}" for span, what in parts if span)
        return text if self.proxy is None else f"{text} (proxy of hardware {self.proxy[1] / self.proxy[0] - 1:+.0%})"


def _span(bits: Mapping[str, int]) -> str:
    if not bits:
        return ""
    least, most = min(bits.values()), max(bits.values())
    return str(least) if least == most else f"{least} to {most}"
