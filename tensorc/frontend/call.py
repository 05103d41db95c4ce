"""What a rule for an ONNX operator sees of the node it translates, and how it makes IR nodes.

A rule says that a node cannot be translated by raising UnsupportedError (valid, but not done) or ValueError or
TypeError (the model is wrong); the importer adds which node it was. Where the IR has an attribute, and the model an
input that is computed, the rule just asks for its value: the node then waits for a stage in which that is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnx

from tensorc.frontend.emitter import Emitter
from tensorc.frontend.reader import LoadedModel
from tensorc.frontend.regions import Region
from tensorc.frontend.scope import Absent, Datum, SequenceDatum
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Constant, Value
from tensorc.ir.types import TensorType


class SubGraphs(Protocol):
    """Translates graphs that are attributes."""

    def translate_body(self, proto: onnx.GraphProto, types: Sequence[TensorType], opset: int) -> Region: ...

    def inline_body(self, proto: onnx.GraphProto, inputs: Sequence[Value], opset: int) -> list[Value]: ...


class NeedsValueError(Exception):
    """A rule asks for the value of an input that is known only when the model runs."""

    def __init__(self, index: int):
        super().__init__(f"its input {index} is computed from data")
        self.index = index


class Call:
    """One ONNX node with its inputs resolved. Calling it emits an IR node and gives its value."""

    def __init__(
        self, node: onnx.NodeProto, opset: int, inputs: Sequence[Datum | None], emitter: Emitter, model: LoadedModel,
        graphs: SubGraphs,
    ):  # fmt: skip
        self.node = node
        self.opset = opset
        self.data = tuple(inputs)
        self._emitter = emitter
        self._model = model
        self._graphs = graphs
        self._attributes = {attribute.name: attribute for attribute in node.attribute}

    def __call__(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        return self._emitter.emit(op, inputs, attrs)

    # Inputs ---------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        """The inputs of an operator that takes tensors only."""
        return tuple(self.optional(index) for index in range(len(self.data)))

    def input(self, index: int) -> Value:
        value = self.optional(index)
        if value is None:
            raise ValueError(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        datum = self.datum(index)
        if isinstance(datum, SequenceDatum | Absent):
            raise TypeError(
                f"input {index} is {'a sequence' if isinstance(datum, SequenceDatum) else 'empty'}, no tensor"
            )
        return datum

    def datum(self, index: int) -> Datum | None:
        """An input that may be a sequence or an optional; None where the node names none."""
        return self.data[index] if index < len(self.data) else None

    def sequence(self, index: int) -> SequenceDatum:
        datum = self.datum(index)
        if not isinstance(datum, SequenceDatum):
            raise TypeError(f"input {index} is no sequence")
        return datum

    def all_inputs(self) -> list[Value]:
        """The inputs of an operator that takes any number of them, at least one."""
        if not self.data:
            raise ValueError("there are no inputs")
        return [self.input(index) for index in range(len(self.data))]

    def array(self, index: int) -> np.ndarray:
        """The data of an input that must be constant: the IR has it as an attribute."""
        value = self.input(index)
        if value.constant is None:
            raise NeedsValueError(index)
        return value.constant.numpy()

    def ints(self, index: int) -> tuple[int, ...]:
        """The integers of a constant list (or of one number)."""
        array = self.array(index)
        if array.ndim > 1 or not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"input {index} must be a list of integers, not {self.input(index).type}")
        return tuple(int(item) for item in array.reshape(-1))

    def number(self, index: int) -> Any:
        """The Python number of a constant of one element."""
        array = self.array(index)
        if array.size != 1:
            raise ValueError(f"input {index} must be one number, not {self.input(index).type}")
        return array.astype(object).reshape(()).item()

    # Attributes -----------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        return name in self._attributes

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as a Python value: strings decoded, lists as tuples; `default` when it is absent."""
        attribute = self._attributes.get(name)
        if attribute is None:
            # A default is a number in single precision, as what is given is.
            return float(np.float32(default)) if isinstance(default, float) else default
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
            return tuple(value)
        return value

    def required(self, name: str) -> Any:
        if name not in self._attributes:
            raise ValueError(f"the attribute {name!r} is missing")
        return self.attr(name)

    def tensor(self, name: str) -> Constant:
        """A tensor attribute, by reference."""
        return self._model.constant(self.required(name), label=self.node.output[0])

    # Sub-graphs -----------------------------------------------------------------------------------------

    def wanted(self, index: int) -> bool:
        """Whether the node has an output of that number."""
        return index < len(self.node.output) and bool(self.node.output[index])

    def region(self, name: str, types: Sequence[TensorType]) -> Region:
        """The graph that is the attribute `name`, its inputs of these types. Raises as rules do."""
        return self._graphs.translate_body(self.required(name), types, self.opset)

    def inline(self, name: str, inputs: Sequence[Value]) -> list[Value]:
        """The results of the graph that is the attribute `name`, its nodes put in front of this one's."""
        return self._graphs.inline_body(self.required(name), inputs, self.opset)

    def control(self, op: str, inputs: Sequence[Value], regions: Sequence[Region], **attrs: Any) -> list[Value]:
        """A node of control flow and its results; what the regions capture follows `inputs`."""
        return self._emitter.control(op, inputs, regions, attrs)

    # Helpers of many rules ------------------------------------------------------------------------------

    def constant(self, data: Any, dtype: str | None = None) -> Value:
        """A constant value of an array, a number or a `Constant`."""
        return self._emitter.constant(data if isinstance(data, Constant) else Constant.of(data, dtype))

    def like(self, number: float, value: Value) -> Value:
        """`number` as a scalar of `value`'s element type."""
        return self.constant(number, value.dtype)

    def cast(self, value: Value, dtype: str) -> Value:
        return self("cast", value, to=dtype)

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        return self("reshape", value, shape=tuple(shape))


def shape_of(value: Value) -> tuple[int, ...]:
    return static_shape(value.shape)


def axis_of(axis: int, rank: int) -> int:
    """`axis` counted from the front; ValueError when there is no such axis."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is outside a tensor of {rank} axes")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    return tuple(sorted({axis_of(axis, rank) for axis in axes}))
