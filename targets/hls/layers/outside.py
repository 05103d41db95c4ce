"""Memory outside the chip: weights that come from there, and tensors that wait there.

Weights are read by a process of their own, in the order in which they are needed: all of them once for each pixel of a
convolution's result, or for each row of a product's. A tensor is written by one process, which reads it when all of it
is there. Each such memory has a port of its own, `port` bytes wide, by which a word passes a cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from targets.hls.expressions import Counter, whole
from targets.hls.layers.gearbox import passed
from targets.hls.layers.layer import Layer, Unroll
from targets.hls.layers.product import Product
from targets.hls.layers.tensor import Tensor
from targets.hls.layers.windows import used_loops
from targets.hls.program import (
    OUTSIDE,
    OUTSIDE_LATENCY,
    Channel,
    Deposit,
    Fetch,
    Kind,
    Memory,
    Nest,
    Process,
    Read,
    Write,
    element_bytes,
)

#: Bytes of a port, where no part is known.
PORT = 8
#: Words that are on their way or wait for the layer, at most: enough for one in each cycle. With more of them, a layer
#: that waits for something else could begin with all that is there already: it would be on the chip.
AHEAD = OUTSIDE_LATENCY + 8


class Outside(Layer):
    """A tensor that waits outside the chip: all of it is written before the first of it is read."""

    def __init__(self, name: str, tensor: Tensor, port: int):
        self.name = name
        self.port = port
        self.inputs = (tensor,)
        self.output = replace(tensor, viewed=None)
        self.title = f"{tensor.name}: waits outside the chip"

    def choices(self) -> list[Unroll]:
        return [Unroll(n, n) for n in _powers(self.output.kind, self.output.size, self.port)]

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        (source,) = inputs
        number = Counter.of("number", source.count)
        memory = _memory(source.kind, unroll.outputs, source.count, self.port)
        save = (Read(source, "word_in"), passed(source, "word_in"), Deposit(memory, number, "out"))
        load = (Fetch(memory, number, "word_in"), passed(memory, "word_in"), Write(tuple(outputs), "out"))
        steps = (Nest("save", (number,), save, memory.pace), Nest("load", (number,), load, memory.pace))
        return Process(self.name, self.title, steps, (source,), tuple(outputs), (memory,))


# Weights ------------------------------------------------------------------------------------------------


def streamed(layer: Layer, unroll: Unroll) -> Tensor | None:
    """What passes to a product whose weights lie outside, a row for each of its iterations; None for others."""
    if unroll.constants != OUTSIDE or not isinstance(layer, Product):
        return None
    width = layer.multipliers(unroll)
    numbers = layer.passes * layer.weights.size
    order = np.broadcast_to(np.int64(0), (numbers,))  # nobody asks for it
    return Tensor(f"{layer.name}.weights", layer.weight_kind, (numbers,), order, width)


def port_lanes(layer: Product, unroll: Unroll, port: int) -> int:
    """Weights in a word of the memory."""
    width = layer.multipliers(unroll)
    powers = _powers(layer.weight_kind, layer.weights.size, port)
    return max(n for n in powers if n == 1 or width % n == 0 or n % width == 0)


def weights_of(layer: Product, unroll: Unroll, port: int, outputs: Sequence[Channel]) -> Process:
    """`NAME_weights`, which reads them."""
    lanes = port_lanes(layer, unroll, port)
    words = layer.weights.size // lanes

    def contents() -> np.ndarray:
        return layer.words(unroll).reshape(words, lanes)

    memory = replace(_memory(layer.weight_kind, lanes, words, port), given=contents)
    loops = (Counter.of("turn", layer.passes), Counter.of("number", words))
    body = (Fetch(memory, whole(loops[1]), "word_in"), passed(memory, "word_in"), Write(tuple(outputs), "out"))
    nest = Nest("read", used_loops(loops), body, memory.pace)
    title = f"{layer.output.name}: weights from outside the chip"
    return Process(f"{layer.name}_weights", title, (nest,), (), tuple(outputs), (memory,))


def _memory(kind: Kind, lanes: int, words: int, port: int) -> Memory:
    return Memory("memory", kind, lanes, words, None, OUTSIDE, -(-lanes * element_bytes(kind) // port))


def _powers(kind: Kind, numbers: int, port: int) -> list[int]:
    """How many of so many numbers can be in a word of a port: ports have a power of two of bytes."""
    most = max(port // element_bytes(kind), 1)
    return [1 << power for power in range(most.bit_length()) if numbers % (1 << power) == 0]
