"""A product that several processes compute, each some channels of the output, so that several cores work on one layer.

The input goes to all of them (of a depthwise convolution to each its channels), and what they give is joined again,
pixel by pixel.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from targets.hls.expressions import Counter
from targets.hls.layers.gearbox import passed
from targets.hls.layers.layer import Layer, Unroll, divisors
from targets.hls.layers.network import Network
from targets.hls.layers.outside import Outside
from targets.hls.layers.product import Product
from targets.hls.layers.tensor import Tensor
from targets.hls.layers.windows import used_loops
from targets.hls.program import Channel, Nest, Process, Read, Statement, When, Write


class Spread(Layer):
    """The input as it is, in one place however many read it: where a whole tensor waits, it does so once."""

    def __init__(self, name: str, tensor: Tensor):
        self.name = name
        self.inputs = (tensor,)
        self.output = replace(tensor, viewed=None)
        self.title = f"{tensor.name}: for several readers"

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        assert unroll.outputs == inputs[0].lanes
        word = Counter.of("number", inputs[0].count)
        body = (Read(inputs[0], "word_in"), passed(inputs[0], "word_in"), Write(tuple(outputs), "out"))
        return Process(self.name, self.title, (Nest("pass", (word,), body),), tuple(inputs), tuple(outputs))


class Take(Layer):
    """Part `which` of `count` of the channels."""

    def __init__(self, name: str, tensor: Tensor, which: int, count: int):
        self.name = name
        self.which = which
        self.count = count
        self.inputs = (tensor,)
        self.output = part_of(tensor, which, count)
        self.title = f"{tensor.name}: part {which + 1} of {count}"

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        row, part, chunk = _walk(self.output, self.count, unroll.outputs)
        write = Write(tuple(outputs), "out")
        chosen = When(part.equals(self.which), (passed(inputs[0], "word_in"), write))
        nest = Nest("pass", used_loops((row, part, chunk)), (Read(inputs[0], "word_in"), chosen))
        return Process(self.name, self.title, (nest,), tuple(inputs), tuple(outputs))


class Join(Layer):
    """The channels of all inputs, one behind the other."""

    def __init__(self, name: str, parts: Sequence[Tensor], output: Tensor):
        self.name = name
        self.inputs = tuple(parts)
        self.output = output
        self.title = f"{output.name}: joined of {len(parts)} parts"

    def choices(self) -> list[Unroll]:
        return [Unroll(n, n) for n in divisors(self.inputs[0].channels)]

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        row, part, chunk = _walk(self.inputs[0], len(inputs), unroll.outputs)
        body: list[Statement] = []
        for number, channel in enumerate(inputs):
            word = f"word{number}"
            each = (Read(channel, word), passed(channel, word), Write(tuple(outputs), "out"))
            body.append(When(part.equals(number), each))
        nest = Nest("pass", used_loops((row, part, chunk)), tuple(body))
        return Process(self.name, self.title, (nest,), tuple(inputs), tuple(outputs))


def _walk(part: Tensor, count: int, lanes: int) -> tuple[Counter, Counter, Counter]:
    """Through all words of a tensor that has `count` such parts."""
    rows = part.size // part.channels
    return Counter.of("row", rows), Counter.of("part", count), Counter.of("chunk", part.channels // lanes)


def part_of(tensor: Tensor, which: int, count: int) -> Tensor:
    """Some of the channels of a tensor, as they pass."""
    channels = tensor.channels // count
    rows = np.asarray(tensor.order).reshape(-1, tensor.channels)
    order = rows[:, which * channels : (which + 1) * channels].reshape(-1)
    return replace(tensor, name=f"{tensor.name}.{which}", order=order, channels=channels, viewed=None)


def ways(layer: Layer) -> list[int]:
    """Into how many parts a layer can be split."""
    if not isinstance(layer, Product):
        return [1]
    groups, outputs, _, _ = layer.weights.shape
    return divisors(groups if layer.depthwise else outputs) if layer.depthwise or groups == 1 else [1]


def split(network: Network, counts: Mapping[str, int]) -> Network:
    """The network with each layer that `counts` names in so many parts, `NAME_0`, `NAME_1` and so on. Raises ValueError
    where that cannot be."""
    layers: list[Layer] = []
    for layer in network.layers:
        count = counts.get(layer.name, 1)
        if count not in ways(layer):
            raise ValueError(f"{layer.name} cannot be split into {count} parts")
        layers += [layer] if count == 1 else parts_of(layer, count)
    return replace(network, layers=tuple(layers))


def part_names(layer: Layer, count: int) -> list[str]:
    """Of what takes its place, the processes that compute first."""
    parts = list(parts_of(layer, count))
    return [part.name for part in sorted(parts, key=lambda part: not isinstance(part, Product))]


def waiting_outside(network: Network, inputs: Collection[tuple[str, int]], port: int) -> Network:
    """The network with inputs of layers, by the layer's name and the input's number, that wait outside the chip:
    by layers `NAME_in_outside`."""
    layers: list[Layer] = []
    for layer in network.layers:
        changed = list(layer.inputs)
        for number, tensor in enumerate(layer.inputs):
            if (layer.name, number) in inputs:
                layers.append(Outside(outside_name(layer.name, number), tensor, port))
                changed[number] = layers[-1].output
        if tuple(changed) != layer.inputs:
            layer = copy.copy(layer)
            layer.inputs = tuple(changed)
        layers.append(layer)
    return replace(network, layers=tuple(layers))


def outside_name(layer: str, number: int) -> str:
    """Of what keeps an input of a layer outside the chip."""
    return f"{layer}_in{number or ''}_outside"


def parts_of(layer: Layer, count: int) -> Iterator[Layer]:
    """What takes the place of a layer that is split: `NAME_all`, the parts, and `NAME`, which joins them."""
    assert isinstance(layer, Product)
    first, *others = layer.inputs
    every = Spread(f"{layer.name}_all", first)
    yield every
    spread = [Spread(f"{layer.name}_all{number}", other) for number, other in enumerate(others, 1)]
    yield from spread
    groups, outputs, _, _ = layer.weights.shape
    parts = []
    for which in range(count):
        name = f"{layer.name}_{which}"
        window, source = layer.window, every.output
        if layer.depthwise:
            take = Take(f"{name}_of", every.output, which, count)
            yield take
            source = take.output
            window = replace(window, channels=window.channels // count)
            weights = layer.weights[which * groups // count : (which + 1) * groups // count]
        else:
            weights = layer.weights[:, which * outputs // count : (which + 1) * outputs // count]
        takes = [Take(f"{name}_of{number}", one.output, which, count) for number, one in enumerate(spread, 1)]
        yield from takes
        inputs = (source, *(take.output for take in takes))
        output = part_of(layer.output, which, count)
        part = Product(name, layer.group, layer.head, inputs, output, window, weights)
        yield part
        parts.append(part.output)
    yield Join(layer.name, parts, layer.output)
