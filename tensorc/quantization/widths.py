"""The fewest bits for each tensor of a fixed-point model that is still as good as it has to be.

What hardware takes is told by a proxy: the sum over products of multiplications x bits x bits of what is multiplied,
and the bits of all weights and of all tensors that are kept. Each tensor alone is given fewer and fewer bits: how much
noise that makes in the outputs, by what it saves of the proxy, is the order in which bits are taken away, one at a
time. How many can be is found by bisection, each time with the whole model on all samples; then tensors are tried one
by one, the most gainful first, and lose as many more as they can.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Graph, Node, Value
from tensorc.quantization.calibration import Calibrated
from tensorc.quantization.params import Widths

#: Of weights these are -1, 0 and 1.
FEWEST = 2
#: How often single bits are tried to be taken away in the end.
_TRIED = 40


class Widened(Calibrated):
    """A pass that gives tensors of fixed-point numbers their bits."""

    @abc.abstractmethod
    def asked(self, graph: Graph) -> Widths:
        """The bits of every tensor that may have others; `graph` is canonical, and stays as it is."""


@dataclass(frozen=True)
class Proxy:
    """What hardware takes. `products`: so many multiplications of a number of one tensor by one of another; `sizes` of
    tensors; both by names of tensors that have a width."""

    products: tuple[tuple[int, str, str], ...]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, graph: Graph, widths: Widths) -> Proxy:
        """Of a canonical graph; `widths` has its tensors."""
        names = widths.by_name
        found = [
            (count, _source(a, names), _source(b, names)) for node in graph.nodes for count, a, b in _multiplied(node)
        ]
        products = [row for row in found if all(row)]
        sizes = {value.name: value.type.size for value in _tensors(graph) if value.name in names}
        return cls(tuple(products), sizes)

    def cost(self, bits: Mapping[str, int]) -> int:
        """In products of single bits."""
        multiplied = sum(count * bits[a] * bits[b] for count, a, b in self.products)
        return multiplied + sum(size * bits[name] for name, size in self.sizes.items())


def _tensors(graph: Graph) -> list[Value]:
    return [*graph.constants(), *graph.values()]


def _multiplied(node: Node) -> list[tuple[int, Value, Value]]:
    """How many numbers of one value are multiplied with those of another."""
    if node.op == "conv":
        x, weights = node.inputs[:2]
        return [(node.output.type.size * (weights.type.size // max(static_shape(weights.shape)[0], 1)), x, weights)]
    if node.op == "matmul":
        x, weights = node.inputs[:2]
        return [(node.output.type.size * static_shape(x.shape)[-1], x, weights)]
    if node.op == "attention":
        q, k, v = node.inputs[:3]
        count = q.type.size * static_shape(k.shape)[1]
        return [(count, q, k), (count, node.output, v)]
    if node.op == "mul":
        a, b = node.inputs
        return [(node.output.type.size, a, b)]
    return []


def _source(value: Value, names: Mapping[str, int]) -> str:
    """The tensor whose bits a value's numbers have; "" where it has none of its own."""
    while value.name not in names:
        if value.producer is None or not value.producer.inputs:
            return ""
        value = value.producer.inputs[0]
    return value.name


@dataclass(frozen=True)
class WidthSearch:
    """`start` holds. `holds` says whether a model of those widths is good enough, `noise` what it does to the outputs
    beside one of the widths `start`."""

    start: Widths
    proxy: Proxy
    holds: Callable[[Widths], bool]
    noise: Callable[[Widths], float]

    def run(self) -> Widths:
        steps = self._steps()
        few, many = 0, len(steps) + 1  # so many steps hold, and so many do not
        while many - few > 1:
            middle = (few + many) // 2
            if self.holds(self._after(steps[:middle])):
                few = middle
            else:
                many = middle
        return self._again(self._after(steps[:few]))

    def _steps(self) -> list[str]:
        """The tensors that lose a bit, one after the other: the one whose noise grows least for what it saves."""
        bits = self.start.by_name
        noises = {name: self._noises(name) for name in bits}
        steps: list[str] = []
        while candidates := [name for name in bits if bits[name] > FEWEST]:
            whole = self.proxy.cost(bits)

            def price(name: str, whole: int = whole) -> float:
                saved = whole - self.proxy.cost({**bits, name: bits[name] - 1})
                added = noises[name][bits[name] - 1] - noises[name][bits[name]]
                return max(added, 0.0) / saved if saved else math.inf

            name = min(candidates, key=price)
            steps.append(name)
            bits[name] -= 1
        return steps

    def _noises(self, name: str) -> dict[int, float]:
        """Of one tensor alone, by its bits. Fewer never make less noise, for the order's sake."""
        most = self.start.by_name[name]
        found = {most: 0.0}
        for bits in range(most - 1, FEWEST - 1, -1):
            found[bits] = max(self.noise(_with(self.start, name, bits)), found[bits + 1])
        return found

    def _after(self, steps: list[str]) -> Widths:
        widths = self.start
        for name in steps:
            widths = _with(widths, name, widths.by_name[name] - 1)
        return widths

    def _again(self, widths: Widths) -> Widths:
        """Less where single tensors allow it."""
        left, stuck = _TRIED, set[str]()
        while left:
            bits = widths.by_name
            whole = self.proxy.cost(bits)
            saved = {name: whole - self.proxy.cost({**bits, name: bits[name] - 1})
                     for name in bits if name not in stuck and bits[name] > FEWEST}  # fmt: skip
            if not saved:
                break
            name = max(saved, key=saved.__getitem__)
            less = _with(widths, name, bits[name] - 1)
            if self.holds(less):
                widths = less
            else:
                stuck.add(name)
            left -= 1
        return widths


def _with(widths: Widths, name: str, bits: int) -> Widths:
    if name in widths.weights:
        return replace(widths, weights={**widths.weights, name: bits})
    return replace(widths, values={**widths.values, name: bits})
