"""Settles the shapes of a model's inputs: what the model declares, with what the user gave for its free axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

from tensorc.errors import UserError
from tensorc.frontend.limits import MOST_AXES, MOST_ELEMENTS

#: A declared axis: its size, or the name of a free one ("" when it has none).
_Axis = int | str


def settle_shapes(
    model: str, inputs: Sequence[onnx.ValueInfoProto], given: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The static shape of each input. A free axis that bears the same name as a given one has its size."""
    unknown = sorted(given.keys() - {info.name for info in inputs})
    if unknown:
        legal = ", ".join(repr(info.name) for info in inputs) or "none"
        raise UserError(f"{model}: no input is named {unknown[0]!r}; inputs: {legal}")
    declared = {info.name: _declared(info) for info in inputs}
    sizes: dict[str, int] = {}
    for name, shape in given.items():
        _match(model, name, declared[name], shape, sizes)
    settled = {name: given.get(name) or _complete(model, name, axes, sizes) for name, axes in declared.items()}
    for name, shape in settled.items():
        if math.prod(shape) > MOST_ELEMENTS or len(shape) > MOST_AXES:
            raise UserError(
                f"{model}: input {name!r} {_written(shape)} is too large: it may have {MOST_ELEMENTS} elements "
                f"and {MOST_AXES} axes"
            )
    return settled


def _declared(info: onnx.ValueInfoProto) -> tuple[_Axis, ...] | None:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param for dim in tensor.shape.dim
    )


def _match(
    model: str, name: str, axes: tuple[_Axis, ...] | None, shape: tuple[int, ...], sizes: dict[str, int]
) -> None:
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


def _complete(model: str, name: str, axes: tuple[_Axis, ...] | None, sizes: Mapping[str, int]) -> tuple[int, ...]:
    if axes is None:
        raise UserError(f"{model}: input {name!r} has no shape: give it as --shape {name}=1x64")
    shape = [axis if isinstance(axis, int) else sizes.get(axis, -1) for axis in axes]
    if -1 in shape:
        index = shape.index(-1)
        free = f"{axes[index]!r} (axis {index})" if axes[index] else f"axis {index}"
        example = "x".join(str(max(size, 1)) for size in shape)
        raise UserError(
            f"{model}: {free} of input {name!r} {_written(axes)} is free: give its size, as in --shape {name}={example}"
        )
    return tuple(shape)


def _written(axes: Sequence[_Axis]) -> str:
    return "[" + ",".join(str(axis) or "?" for axis in axes) + "]"
