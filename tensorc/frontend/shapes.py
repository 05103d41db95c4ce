"""Settles the types of a model's inputs: what the model declares, with what the user gave for its free axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from tensorc.dynamic.kinds import Kind
from tensorc.errors import UnsupportedError, UserError
from tensorc.frontend.limits import MOST_AXES, MOST_ELEMENTS
from tensorc.frontend.reader import LoadedModel, element_type
from tensorc.ir.types import TensorType

#: A declared axis: its size, or the name of a free one ("" when it has none).
Axis = int | str


@dataclass(frozen=True)
class Declared:
    """An input or output as the model has it. `form` is "tensor", "sequence" or "optional"; `axes` are None where the
    rank is free, and are known of tensors only."""

    name: str
    form: str
    dtype: str
    axes: tuple[Axis, ...] | None

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
        row["shape"] = None if self.axes is None else [axis if axis != "" else None for axis in self.axes]
        return row if self.form == "tensor" else row | {"form": self.form}


def declared_inputs(model: LoadedModel, given: Mapping[str, tuple[int, ...]]) -> list[Declared]:
    """Each input, in order. A free axis that bears the same name as a given one has its size."""
    initializers = {tensor.name for tensor in model.proto.graph.initializer}
    inputs = [info for info in model.proto.graph.input if info.name not in initializers]
    unknown = sorted(given.keys() - {info.name for info in inputs})
    if unknown:
        legal = ", ".join(repr(info.name) for info in inputs) or "none"
        raise UserError(f"{model.name}: no input is named {unknown[0]!r}; inputs: {legal}")
    declared = {info.name: declared_type(model.name, "input", info) for info in inputs}
    sizes: dict[str, int] = {}
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


def _settled(row: Declared, shape: tuple[int, ...] | None, sizes: Mapping[str, int]) -> Declared:
    if shape is not None:
        return Declared(row.name, row.form, row.dtype, shape)
    if row.axes is None:
        return row
    return Declared(
        row.name, row.form, row.dtype, tuple(a if isinstance(a, int) else sizes.get(a, a) for a in row.axes)
    )


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
    return Declared(info.name, form, dtype, axes)


def _match(model: str, name: str, axes: tuple[Axis, ...] | None, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    text = "x".join(map(str, shape))
    if any(size < 1 for size in shape):
        raise UserError(f"{model}: --shape {name}={text} has a size below 1")
    if axes is None:
        return
    if len(axes) != len(shape):
        raise UserError(f"{model}: input {name!r} is {_written(axes)}, but --shape {name}={text} has {len(shape)} axes")
    for index, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        wanted = axis if isinstance(axis, int) else sizes.setdefault(axis, size) if axis else size
        if wanted != size:
            raise UserError(
                f"{model}: axis {index} of input {name!r} {_written(axes)} is {wanted}, but --shape {name}={text} "
                f"makes it {size}"
            )


def _written(axes: Sequence[Axis]) -> str:
    return "[" + ",".join(str(axis) or "?" for axis in axes) + "]"
