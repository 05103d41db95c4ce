"""A graph of fused groups as layers, and layers as a program.

Views cost nothing: they only say what the numbers that pass are in the model. Where a layer asks for another order than
its producer gives, numbers are rearranged between; where it asks for words of another width, a gearbox stands there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from targets.hls.hardware.clock import CLOCK, levels_of
from targets.hls.layers.attention import Attention
from targets.hls.layers.choice import Pick, TopK
from targets.hls.layers.computed_product import ComputedProduct
from targets.hls.layers.concat import Concat
from targets.hls.layers.elementwise import Elementwise
from targets.hls.layers.experts import Experts
from targets.hls.layers.gearbox import fork, gearbox
from targets.hls.layers.layer import Group, Layer, Unroll
from targets.hls.layers.norm import Norm
from targets.hls.layers.outside import AHEAD, PORT, Outside, port_lanes, streamed, weights_of
from targets.hls.layers.pad import Pad
from targets.hls.layers.pool import Pool
from targets.hls.layers.product import Product, conv_window, convolution, matrix_product
from targets.hls.layers.rearrange import Rearrange
from targets.hls.layers.softmax import Softmax
from targets.hls.layers.tensor import Tensor, as_it_is, channels_last, in_order, inverse, stored
from targets.hls.layers.windows import Window, pixels
from targets.hls.names import RESERVED, identifier, own_name
from targets.hls.program import OUTSIDE, Channel, Port, Process, Program
from tensorc.errors import UnsupportedError
from tensorc.fixed_point import grids
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Graph, Node, Value
from tensorc.ir.interpreter import evaluate_node

#: How channels, gearboxes and forks are called, and what reaches memory outside the chip.
_OF_CHANNEL = re.compile(r"_(in\d*|out|to|fork|weights|outside)(_\d+)*$")
#: Operators that only say where numbers are.
_MOVES = frozenset({"reshape", "transpose", "slice", "expand", "gather"})


@dataclass(frozen=True)
class Network:
    """`layers` in the order in which numbers reach them; `inputs` and `outputs` are tensors by their values' names."""

    layers: tuple[Layer, ...]
    inputs: tuple[tuple[str, Tensor], ...]
    outputs: tuple[tuple[str, Tensor], ...]

    def producer(self, tensor: Tensor) -> Layer | None:
        return next((layer for layer in self.layers if layer.output is tensor.root), None)


def network_of(graph: Graph) -> Network:
    """The layers of a graph after `FixedPoint` and `FuseGroups`. Raises UnsupportedError for what has no hardware."""
    return _Builder(graph).network()


class _Builder:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.grids = dict(grids(graph))
        self.tensors: dict[Value, Tensor] = {}
        self.layers: list[Layer] = []
        #: By the tensor that was put in another order, and the order.
        self.rearranged: dict[tuple[int, int, bytes], Tensor] = {}
        labels = graph.labels or ([], [])
        #: Identifiers that are taken: C++'s, and those of the top function and its ports.
        self.names = {own_name(name) for names in labels for name in names} | {own_name(graph.name), *RESERVED}
        self.inputs: list[tuple[str, Tensor]] = []

    def network(self) -> Network:
        for node in self.graph.nodes:
            self._add(node)
        outputs = []
        names = self.graph.labels[1] if self.graph.labels is not None else [value.name for value in self.graph.outputs]
        for name, value in zip(names, self.graph.outputs, strict=True):
            if value not in self.tensors:
                raise UnsupportedError(f"the output {name} is a constant or an input")
            outputs.append((name, self._ordered(self.tensors[value], as_it_is(value.type.rank), value)))
        return Network(tuple(self.layers), tuple(self.inputs), tuple(outputs))

    def _add(self, node: Node) -> None:
        if _rounds_an_input(node):
            return self._add_input(node)
        if node.op in _MOVES:
            return self._add_move(node)
        if node.op == "concat":
            return self._add_concat(node.output, node.inputs, node.attrs["axis"])
        if node.op != "group":
            raise UnsupportedError(f"%{node.output.name}: no hardware for {node.op}")
        group = self._group(node)
        for op, make in _HEADS.items():
            if any(inner.op == op for inner in group.body.nodes):
                return make(self, group, group.head(op))
        if all(inner.op in _MOVES for inner in group.body.nodes):
            return self._add_moves(group)
        if [inner.op for inner in group.body.nodes] == ["pad"]:
            return self._add_pad(group, group.body.nodes[0])
        if [inner.op for inner in group.body.nodes] == ["concat"]:
            axis = group.body.nodes[0].attrs["axis"]
            return self._add_concat(node.output, [group.outer[v] for v in group.body.nodes[0].inputs], axis)
        return self._add_elementwise(group)

    def _group(self, node: Node) -> Group:
        assert node.body is not None
        outer = dict(zip(node.body.inputs, node.inputs, strict=True))
        known = {inner: self.grids[value] for inner, value in outer.items() if value in self.grids}
        return Group(node, node.body, outer, grids(node.body, known))

    # Tensors --------------------------------------------------------------------------------------------

    def _add_input(self, node: Node) -> None:
        """Rounded by whoever sends it; its order is what its first reader likes."""
        value, rank = node.output, node.output.type.rank
        axes = channels_last(rank) if rank > 2 and self._is_image(value) else as_it_is(rank)
        tensor = in_order(value, self.grids[value], axes)
        self.tensors[value] = tensor
        source = node.inputs[0]
        name = self.graph.labels[0][self.graph.inputs.index(source)] if self.graph.labels is not None else source.name
        self.inputs.append((name, tensor))

    def _is_image(self, value: Value) -> bool:
        for user in value.users:
            for inner in user.body.nodes if user.body is not None else ():
                is_pad = inner.op == "pad" and self._is_image(user.output)
                if is_pad or inner.op in ("conv", "lmul_conv", "max_pool", "avg_pool"):
                    return True
        return False

    def _input(self, value: Value, axes: tuple[int, ...] | None = None) -> Tensor:
        """The tensor that an operand is, in an order that is asked for."""
        if value not in self.tensors:
            raise UnsupportedError(f"%{value.name} is read before it is rounded")
        tensor = self.tensors[value]
        return tensor if axes is None else self._ordered(tensor, axes, value)

    def _ordered(self, tensor: Tensor, axes: tuple[int, ...], value: Value) -> Tensor:
        wanted = in_order(value, self.grids[value], axes)
        return self._reordered(tensor, wanted)

    def _reordered(self, tensor: Tensor, wanted: Tensor) -> Tensor:
        if tensor.same_order(wanted):
            return tensor
        source = inverse(tensor.order)[wanted.order]
        return self._rearranged(tensor, replace(wanted, name=f"{tensor.name}.ordered", kind=tensor.kind), source)

    def _rearranged(self, tensor: Tensor, result: Tensor, source: np.ndarray) -> Tensor:
        """Number i of the result is number `source[i]` of a tensor; what is so already is used again."""
        key = id(tensor.root), result.channels, source.tobytes()
        if key in self.rearranged:
            return replace(result, viewed=self.rearranged[key])
        self.rearranged[key] = result
        self.layers.append(Rearrange(self._name(result.name), tensor, result, source))
        return result

    def _name(self, hint: str) -> str:
        name = re.sub(r"_fixed(_\d+)*$", "", identifier(hint))
        if _OF_CHANNEL.search(name):
            name = f"{name}_layer"
        unique, number = name, 1
        while unique in self.names:
            number += 1
            unique = f"{name}_{number}"
        self.names.add(unique)
        return unique

    def _outer(self, group: Group, value: Value) -> Value:
        return group.outer.get(value, value)

    def _others(self, group: Group, head: Node, result: Tensor) -> tuple[Tensor, ...]:
        """Operands of what is fused behind `head`, in the order of the result."""
        return tuple(self._beside(group.outer[value], result) for value in group.beside(head))

    def _beside(self, value: Value, result: Tensor) -> Tensor:
        """An operand of what is computed element by element, in the order of the result: its numbers as often as they
        are needed."""
        tensor, wanted = self._input(value), replace(result, kind=stored(self.grids[value]), viewed=None)
        shape = static_shape(value.shape)
        if shape == result.shape:
            return self._reordered(tensor, wanted)
        places = np.broadcast_to(np.arange(tensor.size, dtype=np.int64).reshape(shape), result.shape)
        source = inverse(tensor.order)[places.reshape(-1)[result.order]]
        return self._rearranged(tensor, replace(wanted, name=f"{tensor.name}.repeated"), source)

    def _finish(self, group: Group, layer: Layer) -> None:
        self.layers.append(layer)
        self.tensors[group.node.output] = layer.output

    def _result(self, group: Group, axes: tuple[int, ...]) -> Tensor:
        value = group.node.output
        return in_order(value, self.grids[value], axes)

    # Layers ---------------------------------------------------------------------------------------------

    def _conv(self, group: Group, head: Node) -> None:
        self._known_weights(group, head)
        axes = channels_last(head.output.type.rank)
        x, result = self._input(self._outer(group, head.inputs[0]), axes), self._result(group, axes)
        inputs = (x, *self._others(group, head, result))
        self._finish(group, convolution(self._name(result.name), group, head, inputs, result))

    def _matmul(self, group: Group, head: Node) -> None:
        if self._outer(group, head.inputs[1]).constant is None:
            self._rows(group, head)
            return
        if head.inputs[1].type.rank != 2:
            raise UnsupportedError(f"%{head.output.name}: a product by several matrices has no hardware")
        value = self._outer(group, head.inputs[0])
        rank = value.type.rank
        one_row = math.prod(static_shape(value.shape)[:-1]) == 1
        x = self._input(value, None if one_row else as_it_is(rank))
        result = self._result(group, as_it_is(rank))
        inputs = (x, *self._others(group, head, result))
        self._finish(group, matrix_product(self._name(result.name), group, head, inputs, result))

    def _known_weights(self, group: Group, head: Node) -> None:
        if self._outer(group, head.inputs[1]).constant is None:
            raise UnsupportedError(f"%{head.output.name}: {head.op} by what is computed has no hardware")

    def _pool(self, group: Group, head: Node) -> None:
        axes = channels_last(head.output.type.rank)
        x, result = self._input(self._outer(group, head.inputs[0]), axes), self._result(group, axes)
        inputs = (x, *self._others(group, head, result))
        self._finish(group, Pool(self._name(result.name), group, head, inputs, result, conv_window(head)))

    def _global_pool(self, group: Group, head: Node) -> None:
        """A reduction over all pixels of an image, or all positions of a sequence."""
        value = self._outer(group, head.inputs[0])
        rank = value.type.rank
        shape, axes = static_shape(value.shape), head.attrs["axes"]
        out = group.node.output.type.rank
        if rank > 2 and axes == tuple(range(1, rank - 1)) and shape[0] == 1:  # positions of a row of channels each
            x, result = self._input(value, as_it_is(rank)), self._result(group, as_it_is(out))
            rows, columns, channels = math.prod(shape[1:-1]), 1, shape[-1]
        elif rank > 2 and axes == tuple(range(2, rank)):
            x = self._input(value, channels_last(rank))
            result = self._result(group, channels_last(out) if out > 2 else as_it_is(out))
            rows, columns, channels = pixels(shape)
        else:
            raise UnsupportedError(f"%{head.output.name}: {head.op} over axes {axes} has no hardware")
        window = Window(rows, columns, channels, (rows, columns), (rows, columns))
        inputs = (x, *self._others(group, head, result))
        self._finish(group, Pool(self._name(result.name), group, head, inputs, result, window))

    def _experts(self, group: Group, head: Node) -> None:
        self._rows(group, head, 2)

    def _rows(self, group: Group, head: Node, most: int = 3) -> None:
        """Operators on rows of numbers, whose operands come as they lie in the model: `most` of them, those behind are
        known, as masks are."""
        operands = [self._outer(group, value) for value in head.inputs[:most]]
        if any(value.constant is not None for value in operands):
            raise UnsupportedError(f"%{head.output.name}: {head.op} of constants has no hardware")
        result = self._result(group, as_it_is(group.node.output.type.rank))
        tensors = [self._input(value, as_it_is(value.type.rank)) for value in operands]
        inputs = (*tensors, *self._others(group, head, result))
        self._finish(group, _ROWS[head.op](self._name(result.name), group, head, inputs, result))

    def _add_elementwise(self, group: Group) -> None:
        value = group.node.output
        outers = [group.outer[inner] for inner in group.body.inputs if group.outer[inner].constant is None]
        first = next((self._input(outer) for outer in outers if outer.shape == value.shape), None)
        result = self._result(group, as_it_is(value.type.rank))
        if first is not None:
            result = replace(result, order=first.order, channels=first.channels)
        inputs = tuple(self._beside(outer, result) for outer in outers)
        self._finish(group, Elementwise(self._name(value.name), group, inputs, result))

    def _add_concat(self, value: Value, operands: Sequence[Value], axis: int) -> None:
        rank = value.type.rank
        orders = {rank - 1: as_it_is(rank), **({1: channels_last(rank)} if rank > 2 else {})}
        if axis not in orders or any(operand.constant is not None for operand in operands):
            raise UnsupportedError(f"%{value.name}: what is joined along axis {axis} of {value.type} has no hardware")
        inputs = tuple(self._input(operand, orders[axis]) for operand in operands)
        result = in_order(value, self.grids[value], orders[axis])
        self.layers.append(Concat(self._name(result.name), inputs, result))
        self.tensors[value] = result

    def _add_pad(self, group: Group, node: Node) -> None:
        """By a constant, in the order in which the input comes."""
        before, after = node.attrs["before"], node.attrs["after"]
        if node.attrs["mode"] != "constant" or max(*before, *after) <= 0:
            self._add_moves(group)
            return
        value, x = group.node.output, group.outer[node.inputs[0]]
        rank = value.type.rank
        shape, tensor, axes = static_shape(x.shape), self._input(x), as_it_is(rank)
        if rank > 2 and tensor.same_order(in_order(x, self.grids[x], channels_last(rank))):
            axes = channels_last(rank)
        tensor, result = self._ordered(tensor, axes, x), in_order(value, self.grids[value], axes)
        extents, before, after = ([row[axis] for axis in axes] for row in (shape, before, after))
        outside = round(node.attrs["value"] * 2.0**result.kind.fraction)
        self._finish(group, Pad(self._name(result.name), tensor, result, extents, before, after, outside))

    def _add_move(self, node: Node) -> None:
        self._moved(node.output, node.inputs[0], [node], _constant)

    def _add_moves(self, group: Group) -> None:
        (inner,) = group.beside(None)
        self._moved(group.node.output, group.outer[inner], group.body.nodes, group.constant)

    def _moved(self, value: Value, source: Value, nodes: Sequence[Node],
               known: Callable[[Value], np.ndarray | None]) -> None:  # fmt: skip
        """`nodes`, applied to the places of numbers, tell which number goes where."""
        tensor = self._input(source)
        places = np.arange(tensor.size, dtype=np.int64).reshape(static_shape(source.shape))
        arrays: dict[Value, np.ndarray] = {}
        for node in nodes:
            operands = [arrays[operand] if operand in arrays else known(operand) for operand in node.inputs]
            arrays[node.output] = evaluate_node(node, [places if one is None else one for one in operands])[0]
        moved = arrays[nodes[-1].output].reshape(-1)
        shape = static_shape(value.shape)
        if len(moved) == tensor.size and len(np.unique(moved)) == tensor.size:
            # A permutation: the same numbers pass in the same order, and are others in the model.
            order = inverse(moved)[tensor.order]
            self.tensors[value] = Tensor(value.name, tensor.kind, shape, order, tensor.channels, tensor)
            return
        rank = value.type.rank
        axes = channels_last(rank) if rank > 2 and self._is_image(value) else as_it_is(rank)
        result = replace(in_order(value, self.grids[value], axes), kind=tensor.kind)
        numbers = inverse(tensor.order)[moved[result.order]]
        self.layers.append(Rearrange(self._name(value.name), tensor, result, numbers))
        self.tensors[value] = result


def _constant(value: Value) -> np.ndarray | None:
    return value.constant.numpy() if value.constant is not None else None


def _rounds_an_input(node: Node) -> bool:
    """A group that only rounds what comes from outside."""
    return (
        node.op == "group" and node.body is not None and [inner.op for inner in node.body.nodes] == ["receive"]
        and node.inputs[0].producer is None and node.inputs[0].constant is None
    )  # fmt: skip


_ROWS: dict[str, Callable[[str, Group, Node, tuple[Tensor, ...], Tensor], Layer]] = {
    "experts": Experts, "fixed_attention": Attention, "fixed_norm": Norm, "fixed_softmax": Softmax, "fixed_top_k": TopK,
    "gather_elements": Pick, "matmul": ComputedProduct,
}  # fmt: skip
_HEADS: dict[str, Callable[[_Builder, Group, Node], None]] = {
    **dict.fromkeys(_ROWS, _Builder._rows), "experts": _Builder._experts,
    "conv": _Builder._conv, "lmul_conv": _Builder._conv, "matmul": _Builder._matmul, "lmul_matmul": _Builder._matmul,
    "max_pool": _Builder._pool, "avg_pool": _Builder._pool,
    "reduce_mean": _Builder._global_pool, "reduce_max": _Builder._global_pool, "reduce_sum": _Builder._global_pool,
}  # fmt: skip


def program_of(
    network: Network, unrolls: Mapping[str, Unroll], name: str, clock: float = CLOCK, port: int = PORT
) -> Program:
    """Processes and the channels between them, for a choice of how to unroll each layer (by its name; as little as it
    can be where none is given). Ports of memory outside the chip are `port` bytes wide."""
    chosen = {layer.name: unrolls.get(layer.name, layer.choices()[0]) for layer in network.layers}
    lanes_out = {id(layer.output): layer.output_lanes(chosen[layer.name]) for layer in network.layers}
    channels: list[Channel] = []
    gears: dict[str, list[Process]] = {}
    readers: dict[int, list[Channel]] = {}
    read: dict[str, list[Channel]] = {}
    ports: list[Port] = []
    sources: dict[str, Process] = {}
    outside = {id(layer.output) for layer in network.layers if isinstance(layer, Outside)}
    kept: list[Tensor] = []  # as long as they are known by their ids

    def connect(tensor: Tensor, lanes: int, label: str, consumer: str, most: tuple[int, int] = (0, 0)) -> Channel:
        """The channel by which a consumer gets a tensor in words of `lanes`. `most` words are to be in the first one
        and in those behind gearboxes."""
        made = lanes_out.setdefault(id(tensor.root), lanes)
        first = Channel(label, tensor.kind, made, tensor.words(made), most=most[0])
        channels.append(first)
        readers.setdefault(id(tensor.root), []).append(first)
        current = first
        for width in _widths(made, lanes):
            following = Channel(f"{label}_{width}", tensor.kind, width, tensor.words(width), most=most[1])
            channels.append(following)
            gears.setdefault(consumer, []).append(gearbox(f"{label}_to_{width}", current, following))
            current = following
        return current

    for layer in network.layers:
        wanted = layer.input_lanes(chosen[layer.name])
        read[layer.name] = [
            connect(tensor, lanes, f"{layer.name}_in{number}" if number else f"{layer.name}_in", layer.name,
                    _ahead(layer, id(tensor.root) in outside))
            for number, (tensor, lanes) in enumerate(zip(layer.inputs, wanted, strict=True))
        ]  # fmt: skip
        weights = streamed(layer, chosen[layer.name])
        if weights is not None:
            assert isinstance(layer, Product)
            lanes_out[id(weights)] = port_lanes(layer, chosen[layer.name], port)
            label = f"{layer.name}_weights_in"
            read[layer.name].append(connect(weights, weights.channels, label, layer.name, (AHEAD, 2)))
            sources[layer.name] = weights_of(layer, chosen[layer.name], port, readers[id(weights)])
            kept.append(weights)
    outputs = []
    for label, tensor in network.outputs:
        channel = connect(tensor, lanes_out[id(tensor.root)], f"{identifier(label)}_out", "")
        outputs.append(Port(label, channel, tensor.shape, tensor.order))
    processes: list[Process] = []
    for label, tensor in network.inputs:
        taking = readers.get(id(tensor.root), [])
        if len(taking) > 1:
            source = Channel(f"{identifier(label)}_in", tensor.kind, taking[0].lanes, taking[0].count)
            channels.append(source)
            processes.append(fork(f"{identifier(label)}_fork", source, taking))
            taking = [source]
        ports += [Port(label, channel, tensor.shape, tensor.order) for channel in taking]
    for layer in network.layers:
        processes += [sources[layer.name]] if layer.name in sources else []
        processes += gears.get(layer.name, [])
        processes.append(process_of(layer, chosen[layer.name], read[layer.name], readers.get(id(layer.output), [])))
    levels = levels_of(clock)
    made = tuple(replace(process, levels=levels) for process in processes)
    return Program(name, made, tuple(channels), tuple(ports), tuple(outputs), clock=clock)


def _ahead(layer: Layer, is_from_outside: bool) -> tuple[int, int]:
    """The most words in the channels to a layer, in front of gearboxes and behind: none waits on the chip for long that
    is to wait outside."""
    if is_from_outside:
        return AHEAD, 2
    return (AHEAD, AHEAD) if isinstance(layer, Outside) else (0, 0)


def process_of(layer: Layer, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
    process = layer.process(unroll, inputs, outputs)
    if unroll.constants in ("", OUTSIDE):
        return process
    memories = tuple(
        replace(memory, storage=unroll.constants) if memory.is_constant else memory for memory in process.memories
    )
    return replace(process, memories=memories)


def _widths(made: int, wanted: int) -> list[int]:
    """Of the words that gearboxes make on the way."""
    if made == wanted:
        return []
    common = math.gcd(made, wanted)
    return [wanted] if common in (made, wanted) else [common, wanted]
