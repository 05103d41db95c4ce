"""Settles the types of a model's inputs: what the model declares, with what the user gave for its free axes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from tensorc.dynamic.kinds import Kind
from tensorc.errors import UnsupportedError, UserError
from tensorc.frontend.limits import MOST_AXES, MOST_ELEMENTS
from tensorc.frontend.reader import LoadedModel, element_type
from tensorc.ir.types import TensorType
from tensorc.options import Size, Sizes, format_shape, format_size

#: A declared axis: its size, all of those that it is compiled for, or the name of a free one ("" when it has none).
Axis = Size | str


@dataclass(frozen=True)
class Declared:
    """An input or output as the model has it. `form` is "tensor", "sequence" or "optional"; `axes` are None where the
    rank is free, and are known of tensors only. `symbols` are what the model calls its free axes, given or not."""

    name: str
    form: str
    dtype: str
    axes: tuple[Axis, ...] | None
    symbols: tuple[str, ...] = ()

    @property
    def spans(self) -> dict[Hashable, range]:
        """The axes that have several sizes; those of one symbol, in all inputs, have the same."""
        axes = enumerate(self.axes or ())
        return {self._symbol(index): axis for index, axis in axes if isinstance(axis, range)}

    def _symbol(self, index: int) -> Hashable:
        return self.symbols[index] or (self.name, index)

    def chosen(self, sizes: Mapping[Hashable, int]) -> Declared:
        """With these sizes of the axes that have several."""
        if self.axes is None:
            return self
        axes = (sizes[self._symbol(i)] if isinstance(axis, range) else axis for i, axis in enumerate(self.axes))
        return replace(self, axes=tuple(axes))

    @property
    def is_static(self) -> bool:
        return self.form == "tensor" and self.axes is not None and all(isinstance(axis, int) for axis in self.axes)

    def kind(self) -> Kind:
        """The type of a static one."""
        assert self.axes is not None
        return TensorType(self.dtype, tuple(axis for axis in self.axes if isinstance(axis, int)))

    def check_static(self, model: str) -> None:
        """Raise, saying what to give, unless it is a tensor of one shape."""
        if self.form != "tensor":
            raise UnsupportedError(f"{model}: input {self.name!r} is no tensor")
        if self.axes is None:
            raise UserError(f"{model}: input {self.name!r} has no shape: give it as --shape {self.name}=1x64")
        for index, axis in enumerate(self.axes):
            if isinstance(axis, range):
                raise UserError(f"{model}: axis {index} of input {self.name!r} is {format_size(axis)}: give one size")
            if isinstance(axis, str):
                free = f"{axis!r} (axis {index})" if axis else f"axis {index}"
                example = "x".join(str(max(size, 1)) if isinstance(size, int) else "1" for size in self.axes)
                raise UserError(
                    f"{model}: {free} of input {self.name!r} {_written(self.axes)} is free: give its size, as in "
                    f"--shape {self.name}={example}"
                )

    def to_json(self) -> dict[str, Any]:
        """As manifests have it: free axes have their name or None."""
        row: dict[str, Any] = {"name": self.name, "dtype": self.dtype}
        row["shape"] = None if self.axes is None else [
            format_size(axis) if isinstance(axis, range) else axis if axis != "" else None for axis in self.axes
        ]  # fmt: skip
        return row if self.form == "tensor" else row | {"form": self.form}


def declared_inputs(model: LoadedModel, given: Mapping[str, Sizes]) -> list[Declared]:
    """Each input, in order. A free axis that bears the same name as a given one has its size."""
    initializers = {tensor.name for tensor in model.proto.graph.initializer}
    inputs = [info for info in model.proto.graph.input if info.name not in initializers]
    unknown = sorted(given.keys() - {info.name for info in inputs})
    if unknown:
        legal = ", ".join(repr(info.name) for info in inputs) or "none"
        raise UserError(f"{model.name}: no input is named {unknown[0]!r}; inputs: {legal}")
    declared = {info.name: declared_type(model.name, "input", info) for info in inputs}
    sizes: dict[str, Size] = {}
    for name, shape in given.items():
        _match(model.name, name, declared[name].axes, shape, sizes)
    settled = [_settled(row, given.get(name), sizes) for name, row in declared.items()]
    for row in settled:
        axes = row.axes or ()
        if math.prod(axis for axis in axes if isinstance(axis, int)) > MOST_ELEMENTS or len(axes) > MOST_AXES:
            raise UserError(
                f"{model.name}: input {row.name!r} {_written(axes)} is too large: it may have {MOST_ELEMENTS} elements "
                f"and {MOST_AXES} axes"
            )
    return settled


def _settled(row: Declared, shape: Sizes | None, sizes: Mapping[str, Size]) -> Declared:
    axes: tuple[Axis, ...] | None = shape
    if axes is None and row.axes is not None:
        axes = tuple((sizes.get(axis) or axis) if isinstance(axis, str) else axis for axis in row.axes)
    return replace(row, axes=axes, symbols=row.symbols or ("",) * len(axes or ()))


def declared_type(model: str, what: str, info: onnx.ValueInfoProto) -> Declared:
    """Raises UnsupportedError where it is no tensor, sequence or optional of a known element type."""
    proto, form = info.type, "tensor"
    while not proto.HasField("tensor_type"):
        kind = proto.WhichOneof("value")
        if kind not in ("optional_type", "sequence_type"):
            raise UnsupportedError(f"{model}: {what} {info.name!r} is no tensor")
        form = "sequence" if kind == "sequence_type" and form == "tensor" else "optional"
        proto = getattr(proto, kind).elem_type
    tensor = proto.tensor_type
    try:
        dtype = "string" if tensor.elem_type == onnx.TensorProto.STRING else element_type(tensor.elem_type)
    except UnsupportedError as error:
        raise UnsupportedError(f"{model}: {what} {info.name!r}: {error}") from error
    axes = None
    if tensor.HasField("shape"):
        axes = tuple(
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param
            for dim in tensor.shape.dim
        )
    symbols = tuple(axis if isinstance(axis, str) else "" for axis in axes or ())
    return Declared(info.name, form, dtype, axes, symbols)


def _match(model: str, name: str, axes: tuple[Axis, ...] | None, shape: Sizes, sizes: dict[str, Size]) -> None:
    text = format_shape(shape)
    if any((size if isinstance(size, int) else size.start) < 1 for size in shape):
        raise UserError(f"{model}: --shape {name}={text} has a size below 1")
    if axes is None:
        return
    if len(axes) != len(shape):
        raise UserError(f"{model}: input {name!r} is {_written(axes)}, but --shape {name}={text} has {len(shape)} axes")
    for index, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        wanted = sizes.setdefault(axis, size) if isinstance(axis, str) and axis else size if axis == "" else axis
        if wanted != size:
            raise UserError(
                f"{model}: axis {index} of input {name!r} {_written(axes)} is {_axis(wanted)}, but "
                f"--shape {name}={text} makes it {format_size(size)}"
            )


def _axis(axis: Axis) -> str:
    return axis or "?" if isinstance(axis, str) else format_size(axis)


def _written(axes: Sequence[Axis]) -> str:
    return "[" + ",".join(map(_axis, axes)) + "]"
