"""Tensors as hardware has them: words of some elements, one behind the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from targets.hls.program import Kind
from tensorc.fixed_point import Grid
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Value


@dataclass(frozen=True, eq=False)
class Tensor:
    """The numbers of a graph's value, in the order in which they pass: `order[i]` is the place of number i among the
    value's elements in row-major order. `channels` numbers that follow each other make a row that is cut into words.
    A view of another tensor, `viewed`, is the same numbers as they pass.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    order: np.ndarray
    channels: int
    viewed: Tensor | None = None

    @property
    def root(self) -> Tensor:
        """What a layer gave, or what came from outside."""
        return self if self.viewed is None else self.viewed.root

    @property
    def size(self) -> int:
        return len(self.order)

    def words(self, lanes: int) -> int:
        return self.size // lanes

    def same_order(self, other: Tensor) -> bool:
        return np.array_equal(self.order, other.order)


def kind_of(grid: Grid) -> Kind:
    return Kind(grid.low, grid.high, grid.fraction)


def stored(grid: Grid) -> Kind:
    """What is kept of numbers on a grid: all that their bits can hold, so that types are plain integers."""
    return kind_of(grid).full


def in_order(value: Value, grid: Grid, axes: tuple[int, ...]) -> Tensor:
    """`value` with its axes from the slowest to the fastest; the last are the channels."""
    shape = static_shape(value.shape)
    places = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    return Tensor(
        value.name, stored(grid), shape, np.transpose(places, axes).reshape(-1), shape[axes[-1]] if axes else 1
    )


def channels_last(rank: int) -> tuple[int, ...]:
    """Of a convolution's tensor [N, C, spatial...]."""
    return (0, *range(2, rank), 1)


def as_it_is(rank: int) -> tuple[int, ...]:
    return tuple(range(rank))


def inverse(order: np.ndarray) -> np.ndarray:
    """Of a permutation: where each number stands in it."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places
