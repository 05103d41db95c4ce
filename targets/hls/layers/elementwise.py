"""Layers that make each word of their output of a word of each of their inputs."""

from __future__ import annotations

from collections.abc import Sequence

from targets.hls.expressions import Counter
from targets.hls.layers.layer import Epilogue, Group, Layer, Unroll
from targets.hls.layers.tensor import Tensor
from targets.hls.layers.windows import used_loops
from targets.hls.program import Channel, Nest, Process


class Elementwise(Layer):
    """The operands that are not constants have the output's shape, and come in its order."""

    def __init__(self, name: str, group: Group, inputs: tuple[Tensor, ...], output: Tensor):
        self.name = name
        self.group = group
        self.inputs = inputs
        self.output = output
        self.title = f"{output.name}: {', '.join(node.op for node in group.body.nodes)}"

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        lanes = unroll.outputs
        row = Counter.of("row", self.output.size // self.output.channels)
        chunk = Counter.of("chunk", self.output.channels // lanes)
        epilogue = Epilogue(self.group, None, self.output)
        body = epilogue.statements(lanes, None, chunk, row, inputs, outputs)
        nest = Nest("pass", used_loops((row, chunk)), body)
        return Process(self.name, self.title, (nest,), tuple(inputs), tuple(outputs), epilogue.memories)
