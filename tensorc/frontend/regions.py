"""Regions during import: what a rule gets of an ONNX sub-graph, and how it writes a region by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tensorc.frontend.emitter import Emitter
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Constant, Graph, Value
from tensorc.ir.types import TensorType


@dataclass(frozen=True)
class Region:
    """A graph whose last inputs stand for values of the graph around it: those in `captured`, in that order."""

    graph: Graph
    captured: list[Value]

    @property
    def types(self) -> list[TensorType]:
        """Of its outputs."""
        return [value.type for value in self.graph.outputs]

    def capture(self, value: Value) -> Value:
        """The input that stands for `value`, a new one if there is none."""
        first = len(self.graph.inputs) - len(self.captured)
        if value in self.captured:
            return self.graph.inputs[first + self.captured.index(value)]
        self.captured.append(value)
        return self.graph.add_input(value.name, value.type)


class RegionBuilder:
    """Writes a region that takes values of `types` and, behind them, whatever it meets of the graph around it.

    Called as a `Call` is. Constants are not captured: they stand in the region.
    """

    def __init__(self, name: str, types: Sequence[TensorType]):
        self.region = Region(Graph(name), [])
        self._emitter = Emitter(self.region.graph)
        self.inputs = [self.region.graph.add_input("x", type) for type in types]
        #: A value of the region or of the graph around it -> that of the region.
        self._inner: dict[Value, Value] = {value: value for value in self.inputs}

    def __call__(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        return self._own(self._emitter.emit(op, self._within(inputs), attrs))

    def control(self, op: str, inputs: Sequence[Value], regions: Sequence[Region], **attrs: Any) -> list[Value]:
        """As `Call.control`."""
        return [self._own(value) for value in self._emitter.control(op, self._within(inputs), regions, attrs)]

    def constant(self, data: Any, dtype: str | None = None) -> Value:
        return self._own(self._emitter.constant(Constant.of(data, dtype)))

    def like(self, number: float, value: Value) -> Value:
        """`number` as a scalar of `value`'s element type."""
        return self.constant(number, value.dtype)

    def slice(self, value: Value, axis: int, start: int, size: int) -> Value:
        """`size` elements of an axis from `start` on."""
        shape = static_shape(value.shape)
        starts, sizes = [0] * len(shape), list(shape)
        starts[axis], sizes[axis] = start, size
        return self("slice", value, starts=tuple(starts), sizes=tuple(sizes), steps=(1,) * len(shape))

    def finish(self, outputs: Sequence[Value]) -> Region:
        self.region.graph.outputs = list(self._within(outputs))
        self.region.graph.remove_dead()
        return self.region

    def _own(self, value: Value) -> Value:
        self._inner[value] = value
        return value

    def _within(self, values: Sequence[Value]) -> list[Value]:
        for value in values:
            if value in self._inner:
                continue
            if value.constant is not None:
                self._inner[value] = self._own(self._emitter.constant(value.constant))
            else:
                self._inner[value] = self._own(self.region.capture(value))
        return [self._inner[value] for value in values]
