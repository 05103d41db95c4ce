"""Cross-layer equalisation: neighbouring layers share out the ranges of the channels between them.

Where weights have one scale for a tensor, channels of small weights are left with a few of the 256 codes. Dividing the
channels that one layer gives, and multiplying the weights that the next reads them with, leaves the function as it is;
with the root of the ratio of their ranges as the factor, both ranges are the same. After Nagel, van Baalen, Blankevoort
and Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.channel_factors import Divisible, divisible, input_axis, is_weighted, multiply, powers_of_two
from passes.rules.matching import is_output
from tensorc.ir.graph import Graph, Node, Value
from tensorc.pipeline import Pass

#: Rounds over all pairs; chains of layers need a few.
_ROUNDS = 20
#: How much more of the codes two layers' channels have to use together for it to be worth it. Networks whose channels
#: are even gain little, and lose that again where activations become uneven.
_WORTHWHILE = 3.0
#: Factors that are nearer to one than this in all channels end it.
_SETTLED = 0.05


@dataclass(frozen=True)
class EqualiseChannels(Pass):
    """Data-free. Changes no result by a bit, unless numbers get too small or too large."""

    name: ClassVar[str] = "equalise"

    def run(self, graph: Graph) -> bool:
        pairs = _pairs(graph)
        before, (_, after) = _ranges(pairs), _equalised(pairs)
        pairs = [pair for pair in pairs if pair.used(after) >= _WORTHWHILE * pair.used(before)]
        wanted, _ = _equalised(pairs)
        changed = False
        for pair, factors in zip(pairs, map(powers_of_two, wanted), strict=True):
            if (factors != 1).any():
                pair.divisible.divide(factors)
                for node in pair.readers:
                    multiply(node, graph, factors)
                changed = True
        if changed:
            graph.sort()
            graph.remove_dead()
        return changed


@dataclass(frozen=True)
class _Pair:
    """`first` makes what `readers`, and nobody else, multiply."""

    first: Node
    readers: Sequence[Node]
    divisible: Divisible
    channels: int

    def used(self, ranges: Mapping[Node, _Ranges]) -> float:
        """How much of both ranges the mean channel uses, of 1."""
        given, read = ranges[self.first].of_outputs(), _read([ranges[node] for node in self.readers])
        largest = float(given.max(initial=0) * read.max(initial=0))
        return float((given * read).mean()) / largest if largest else 1.0


class _Ranges:
    """The largest of the weights between each channel of the input and of the output, [groups, out, in]."""

    def __init__(self, largest: np.ndarray):
        self.largest = largest

    @classmethod
    def of(cls, node: Node) -> _Ranges:
        constant = node.inputs[1].constant
        assert constant is not None
        data = np.abs(constant.numpy()).astype(np.float64)
        if node.op == "conv":
            data = data.reshape(*data.shape[:2], -1).max(-1)
            return cls(data.reshape(node.attrs["groups"], -1, data.shape[1]))
        return cls((data if node.attrs["transpose_b"] else data.T)[None])

    def of_outputs(self) -> np.ndarray:
        return np.asarray(self.largest.max(2).reshape(-1))

    def of_inputs(self) -> np.ndarray:
        return np.asarray(self.largest.max(1).reshape(-1))

    def divide_outputs(self, factors: np.ndarray) -> None:
        self.largest = self.largest / factors.reshape(*self.largest.shape[:2], 1)

    def multiply_inputs(self, factors: np.ndarray) -> None:
        self.largest = self.largest * factors.reshape(self.largest.shape[0], 1, -1)


def _ranges(pairs: Sequence[_Pair]) -> dict[Node, _Ranges]:
    nodes = dict.fromkeys(node for pair in pairs for node in (pair.first, *pair.readers))
    return {node: _Ranges.of(node) for node in nodes}


def _equalised(pairs: Sequence[_Pair]) -> tuple[list[np.ndarray], dict[Node, _Ranges]]:
    """Factors for each pair, and the ranges that they make."""
    ranges = _ranges(pairs)
    wanted = [np.ones(pair.channels) for pair in pairs]
    for _ in range(_ROUNDS):
        moved = 0.0
        for number, pair in enumerate(pairs):
            factors = _factors(ranges[pair.first], [ranges[node] for node in pair.readers])
            wanted[number] *= factors
            moved = max(moved, float(np.abs(np.log2(factors)).max(initial=0)))
        if moved < _SETTLED:
            break
    return wanted, ranges


def _read(readers: Sequence[_Ranges]) -> np.ndarray:
    return np.asarray(np.max([reader.of_inputs() for reader in readers], axis=0))


def _factors(first: _Ranges, readers: Sequence[_Ranges]) -> np.ndarray:
    """Applied to the ranges."""
    given, read = first.of_outputs(), _read(readers)
    known = (given > 0) & (read > 0)
    factors = np.sqrt(np.where(known, given, 1) / np.where(known, read, 1))
    first.divide_outputs(factors)
    for reader in readers:
        reader.multiply_inputs(factors)
    return np.asarray(factors)


def _pairs(graph: Graph) -> list[_Pair]:
    found = []
    values: dict[Value, None] = dict.fromkeys(node.inputs[0] for node in graph.nodes if is_weighted(node))
    for value in values:
        readers = list(dict.fromkeys(value.users))
        alike = all(is_weighted(reader) and reader.inputs[0] is value for reader in readers)
        if not alike or value.type.rank < 2 or is_output(value, graph):
            continue
        axes = {input_axis(reader) for reader in readers}
        way = divisible(value, axes.pop(), graph) if len(axes) == 1 else None
        if way is None or way.source is None:
            continue
        found.append(_Pair(way.source, readers, way, int(value.shape[input_axis(readers[0])])))
    return found
