"""What every layer is: tensors in, one tensor out, and a process for each way to unroll it."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from targets.hls.expressions import Const, Counter, Element, Expr, Load
from targets.hls.layers.elements import Elements, Number
from targets.hls.layers.tensor import Tensor, kind_of
from targets.hls.program import Channel, Lanes, Memory, Process, Put, Read, Statement, Write
from tensorc.errors import UnsupportedError
from tensorc.fixed_point import Grid
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Graph, Node, Value


@dataclass(frozen=True)
class Unroll:
    """How much is computed side by side: `outputs` (PE) results, each of `inputs` (SIMD) products at each of `places`
    of a kernel. `constants` says what memories of constants are made of, see `Memory.storage`; "outside" is for the
    weights of products only."""

    outputs: int = 1
    inputs: int = 1
    constants: str = ""
    places: int = 1

    @property
    def size(self) -> int:
        return self.outputs * self.inputs * self.places


@dataclass(frozen=True)
class Group:
    """A fused group: its body, what of the graph the body's inputs are, and the grids of both."""

    node: Node
    body: Graph
    outer: Mapping[Value, Value]
    grids: Mapping[Value, Grid]
    _rows: dict[tuple[Value, Tensor], np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def head(self, *ops: str) -> Node:
        """The one node of the body that is one of `ops`."""
        (found,) = (node for node in self.body.nodes if node.op in ops)
        return found

    def beside(self, head: Node | None) -> list[Value]:
        """The operands from outside that are read by others than the head, and are no constants."""
        return [
            value for value in self.body.inputs
            if self.outer[value].constant is None and any(user is not head for user in value.users)
        ]  # fmt: skip

    def rows(self, value: Value, numbers: np.ndarray, result: Tensor) -> np.ndarray:
        """The raw integers of a constant as they meet the `result`, a row for each of its rows, or one if all are
        alike. They are kept: a layer is made many times while it is decided how to unroll it."""
        key = value, result
        if key not in self._rows:
            grid, shape = self.grids[value], static_shape(self.body.outputs[0].shape)
            whole = np.broadcast_to(grid.raw(numbers), shape).reshape(-1)[result.order]
            rows = whole.reshape(-1, result.channels)
            self._rows[key] = rows[:1] if (rows == rows[:1]).all() else rows
        return self._rows[key]

    def constant(self, value: Value) -> np.ndarray | None:
        """Of a value of the body."""
        outer = self.outer.get(value, value)
        return outer.constant.numpy() if outer.constant is not None else None


class Layer(abc.ABC):
    """`name` is a legal identifier, `title` the layer's name in the model and what it does."""

    name: str
    title: str
    inputs: tuple[Tensor, ...]
    output: Tensor

    @property
    def weight_bits(self) -> int | None:
        """Of what its inputs are multiplied with; None where that is nothing known."""
        return None

    @property
    def bits(self) -> dict[str, Any]:
        """Of a number of each of its inputs, of weights and of the output."""
        return {"inputs": [tensor.kind.bits for tensor in self.inputs], "weights": self.weight_bits,
                "output": self.output.kind.bits}  # fmt: skip

    def choices(self) -> list[Unroll]:
        """The ways to unroll it, the least first."""
        return [Unroll(n, n) for n in divisors(self.output.channels)]

    def input_lanes(self, unroll: Unroll) -> tuple[int, ...]:
        """Lanes of the channels that it reads."""
        return (unroll.inputs,) * len(self.inputs)

    def output_lanes(self, unroll: Unroll) -> int:
        return unroll.outputs

    @abc.abstractmethod
    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        """`inputs` have the lanes that were asked for; each of `outputs` gets every word."""


class HeadLayer(Layer):
    """Of a group whose `head` makes it what it is."""

    def __init__(self, name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor):
        self.name = name
        self.group = group
        self.head = head
        self.inputs = inputs
        self.output = output


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


class Epilogue:
    """What a group does behind its head: elements of `result` from the head's numbers, constants and other tensors.

    `others` are the group's operands that come by channels of their own. Constants become memories, one word for each
    place of a row; `memories` lists them when all expressions are made.
    """

    def __init__(self, group: Group, head: Value | None, result: Tensor):
        self.group = group
        self.head = head
        self.result = result
        self.others = group.beside(head.producer if head is not None else None)
        self.tables: dict[tuple[Value, str], Memory] = {}
        self.parameters: dict[Value, Memory] = {}

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (*self.parameters.values(), *self.tables.values())

    def statements(
        self,
        lanes: int,
        head: Expr | None,
        place: Expr,
        row: Expr,
        channels: Sequence[Channel],
        outputs: Sequence[Channel],
    ) -> tuple[Statement, ...]:
        """Reads a word of each of `others` from `channels`, and writes one to `outputs`: the `place`th of row `row` of
        the result. `head` is the head's number, of the lane counter `lane`."""
        lane = Counter.of("lane", lanes, is_lane=True)
        words = {value: f"other{number}" for number, value in enumerate(self.others)}

        def operand(value: Value) -> Number:
            if value is self.head:
                grid = self.group.grids[value]
                assert head is not None
                return Number(head, grid.fraction, grid.divisor)
            if value in words:
                kind = channels[list(words).index(value)].kind
                return Number(Element(kind.low, kind.high, words[value], lane), kind.fraction)
            return self._parameter(value, lanes, place, row, lane)

        elements = Elements(self.group.grids, operand, self.group.constant, self.tables)
        value = elements.number(self.group.body.outputs[0])
        if value.divisor != 1:
            raise UnsupportedError(f"{self.result.name} is a mean that is not rounded")
        raw = value.raw << (self.result.kind.fraction - value.fraction)
        return (
            *(Read(channel, word) for channel, word in zip(channels, words.values(), strict=True)),
            Lanes(lane, (Put("out", lane, raw),)),
            Write(tuple(outputs), "out"),
        )

    def _parameter(self, value: Value, lanes: int, place: Expr, row: Expr, lane: Expr) -> Number:
        """An element of a constant: one for each place of a row, or for each of the output's."""
        numbers = self.group.constant(value)
        if numbers is None:
            raise UnsupportedError(f"%{value.name} is not known to {self.result.name}")
        grid = self.group.grids[value]
        rows = self.group.rows(value, numbers, self.result)
        per_row = len(rows) == 1
        if value not in self.parameters:
            data = rows.reshape(-1, lanes)
            self.parameters[value] = Memory(f"parameter{len(self.parameters)}", kind_of(grid), lanes, len(data), data)
        memory = self.parameters[value]
        address = place if per_row else row * (self.result.channels // lanes) + place
        if memory.depth == 1:
            address = Const.of(0)
        return Number(Load(grid.low, grid.high, memory.name, address, lane), grid.fraction)
