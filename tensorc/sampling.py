"""Seeded random inputs that a model can be run on: for `verify`, `bench` and `run --random`.

Floats are standard normal. Integers need more care: a token id past the end of its table is an error, not a bad
sample, so an input that indexes a table of the ONNX graph is drawn below that table's extent. Other integers (masks,
segment ids) are 0 or 1, which is legal for nearly every model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorc.errors import UserError
from tensorc.ir.types import is_float, numpy_dtype
from tensorc.options import Sizes

if TYPE_CHECKING:
    from onnx import ModelProto

#: No index is drawn at or past this, however large its table.
LARGEST = 1000

#: Operators that hand integers on unchanged: what they give indexes as their input does.
_CARRIERS = frozenset({
    "Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze", "Where",
})  # fmt: skip
#: Operators that index their first input by their second, along the attribute `axis`.
_INDEXING = frozenset({"Gather", "GatherElements"})


@dataclass(frozen=True)
class Spec:
    """Name, numpy type and static shape of one input, as an artifact's manifest has them."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @staticmethod
    def of_manifest(rows: Sequence[Mapping[str, Any]], shapes: Mapping[str, Sizes] | None = None) -> list[Spec]:
        """`shapes` are those of inputs with free axes; a free axis of the same name in another input has its size."""
        given = dict(shapes or {})
        sizes = {
            axis: size
            for row in rows
            for axis, size in zip(row["shape"] or (), given.get(row["name"], ()), strict=False)
            if isinstance(axis, str)
        }
        specs = []
        for row in rows:
            name = row["name"]
            if row.get("form", "tensor") != "tensor" or row["dtype"] == "string":
                raise UserError(f"there is no random data for input {name!r}, a {row.get('form', 'string')}")
            shape = given.pop(name, None) or [sizes.get(axis, axis) for axis in row["shape"] or [None]]
            free = [axis for axis in shape if not isinstance(axis, int)]
            if free:
                raise UserError(f"input {name!r} {_written(row['shape'])} has free axes: give --shape {name}=1x64, say")
            specs.append(Spec(name, row["dtype"], tuple(axis for axis in shape if isinstance(axis, int))))
        if given:
            raise UserError(f"no input is named {next(iter(given))!r}; inputs: {', '.join(r['name'] for r in rows)}")
        return specs


def _written(shape: Sequence[Any] | None) -> str:
    return "of free rank" if shape is None else "[" + ",".join(str(axis or "?") for axis in shape) + "]"


@dataclass(frozen=True)
class Statistics:
    """Of the values of an input."""

    low: float
    high: float
    mean: float
    deviation: float

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> Statistics:
        data = np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float64)
        return cls(float(data.min()), float(data.max()), float(data.mean()), float(data.std()))


def random_inputs(specs: Sequence[Spec], seed: int, limits: Mapping[str, int] | None = None,
                  like: Mapping[str, Statistics] | None = None) -> dict[str, np.ndarray]:  # fmt: skip
    """One array an input, the same for the same seed; `limits` gives the extents that integers stay below, by name.
    Floats are distributed as `like` says, if it does."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for spec in specs:
        dtype = numpy_dtype(spec.dtype)
        if is_float(spec.dtype):
            data = rng.standard_normal(spec.shape)
            if like is not None and spec.name in like:
                known = like[spec.name]
                data = np.clip(known.mean + known.deviation * data, known.low, known.high)
            arrays[spec.name] = data.astype(dtype)
        else:
            below = min((limits or {}).get(spec.name, 2), LARGEST)
            arrays[spec.name] = rng.integers(0, below, spec.shape).astype(dtype)
    return arrays


def index_limits(model: ModelProto) -> dict[str, int]:
    """For each input that ends as an index into a constant table: the least extent of those tables."""
    extents = _constant_shapes(model)
    origins: dict[str, set[str]] = {value.name: {value.name} for value in model.graph.input}
    limits: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in _INDEXING and node.input[0] in extents:
            table = extents[node.input[0]]
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            for name in origins.get(node.input[1], ()):
                limits[name] = min(limits.get(name, table[axis]), table[axis])
        elif node.op_type in _CARRIERS:
            carried = set().union(*(origins.get(name, set()) for name in node.input))
            for name in node.output:
                origins[name] = carried
    return limits


def _constant_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                shapes[node.output[0]] = tuple(attribute.t.dims)
    return {name: shape for name, shape in shapes.items() if shape}
