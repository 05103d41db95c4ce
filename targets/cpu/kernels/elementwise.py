"""Kernels of groups that only compute elements from elements: activations, residual adds, copies, transposes."""

from __future__ import annotations

import contextlib
import math

from targets.cpu.kernels.group import GroupKernel, Kernel, vector_blocks
from targets.cpu.kernels.padding import interior
from targets.cpu.machine import Machine
from targets.cpu.schedules import lanes_of
from tensorc.ir import OPS, Constant, Graph, Kind, Value
from tensorc.ir.dims import static_shape
from tensorc.lowering import tir
from tensorc.lowering.indexing import Index, ravel, unravel
from tensorc.lowering.tir import Buffer, Expr

#: Elements that a task should hold at least, so that handing it out costs little beside doing it.
TASK_ELEMENTS = 4096


def collapse(body: Graph) -> Graph:
    """The body with neighbouring axes merged wherever every operand has both or neither.

    [1, 64, 56, 56] plus a bias of [64, 1, 1] becomes [64, 3136] plus [64, 1]: long rows, whatever the last axis was,
    and little index arithmetic. Only elementwise operators keep their meaning under this; other bodies come back as
    they are.
    """
    if not body.nodes or any(OPS[node.op].kind is not Kind.ELEMENTWISE for node in body.nodes):
        return body
    full = static_shape(body.outputs[0].shape)
    values = [*body.inputs, *(value for node in body.nodes for value in (*node.inputs, *node.outputs))]
    aligned = {v: (1,) * (len(full) - len(v.shape)) + static_shape(v.shape) for v in values}
    runs: list[list[int]] = []
    for axis in (a for a, extent in enumerate(full) if extent != 1):
        if runs and all((s[runs[-1][-1]] == 1) == (s[axis] == 1) for s in aligned.values() if math.prod(s) > 1):
            runs[-1].append(axis)
        else:
            runs.append([axis])

    def merged(value: Value) -> tuple[int, ...]:
        return tuple(math.prod(aligned[value][axis] for axis in run) for run in runs) or (1,)

    result = Graph(body.name)
    known: dict[Value, Value] = {v: result.add_input(v.name, v.type.with_shape(merged(v))) for v in body.inputs}
    for value in body.constants():
        constant = value.constant
        assert constant is not None
        assert constant.splat is not None, "a group holds constants of one repeated number only"
        known[value] = result.add_constant(Constant.full(value.type.with_shape(merged(value)), constant.splat))
    for node in body.nodes:
        inputs = [known[v] for v in node.inputs]
        known[node.output] = result.add(node.op, inputs, node.attrs)
    result.outputs = [known[v] for v in body.outputs]
    return result


def lower_elementwise(body: Graph, machine: Machine) -> Kernel:
    """Nested loops over the result's axes, vectorised along the last, the leading ones shared out as tasks.

    Where a short last axis was another one before, or repeats, vectors go along the axis in front of it.
    """
    body = collapse(body)
    group = GroupKernel(body, machine)
    shape = static_shape(body.outputs[0].shape)
    if any(static_shape(value.shape) != shape for value in body.outputs):
        raise ValueError(f"the outputs of an elementwise group differ in shape: {body.outputs}")
    *outer, inner = shape or (1,)
    lanes = lanes_of(machine, body.outputs[0].dtype)
    turned = _is_turned(body, lanes)
    if turned:
        inner *= outer.pop()
    if inner >= 2 * TASK_ELEMENTS:
        return _long_rows(group, outer, inner, lanes)
    split = len(outer)
    while split and inner * math.prod(outer[split - 1 :]) <= TASK_ELEMENTS:
        split -= 1
    builder = group.builder
    leading, nested = outer[:split], outer[split:]
    pieces = interior(body, len(shape) - 2 if turned else len(shape) - 1)
    # The last leading axis is cut into runs when one step of it is still little work.
    run = max(1, min(leading[-1], TASK_ELEMENTS // (inner * math.prod(nested)))) if leading else 1
    task_shape = [*leading[:-1], -(-leading[-1] // run)] if leading else []

    def rows(index: Index) -> None:
        with contextlib.ExitStack() as loops:
            rest = [loops.enter_context(builder.serial(extent, name="r")) for extent in nested]
            for begin, extent in pieces:
                for first, width in vector_blocks(builder, extent, lanes):
                    if turned:
                        _store_turned(group, [*index, *rest], begin + first, width)
                        continue
                    with builder.vector(width) as lane:
                        group.store_outputs([*index, *rest, begin + first + lane][: len(shape)])

    with builder.tasks() as task:
        where = [i if isinstance(i, int) else builder.bind(i) for i in unravel(task, task_shape)]
        if run == 1:
            rows(where)
        else:
            count = run if leading[-1] % run == 0 else tir.minimum(leading[-1] - where[-1] * run, run)
            with builder.serial(count, name="r") as step:
                rows([*where[:-1], where[-1] * run + step])
    return group.finish(math.prod(task_shape))


def _is_turned(body: Graph, lanes: int) -> bool:
    """Whether the elements along a short last axis lie apart, or are one, in what they are made of."""
    shape = static_shape(body.outputs[0].shape)
    if len(shape) < 2 or not 1 < shape[-1] <= lanes // 2 or not lanes // 2 <= shape[-2] < TASK_ELEMENTS // shape[-1]:
        return False
    last = len(shape) - 1
    return any(
        (node.op == "transpose" and node.attrs["perm"][-1] != last)
        or (node.op == "expand" and node.inputs[0].shape[-1:] in ((), (1,)))
        or node.op == "block"
        for node in body.nodes
        if node.output.shape == shape
    )


def _store_turned(group: GroupKernel, outer: Index, first: Expr, width: int) -> None:
    """Store `width` short rows from the `first` on: a vector for each place in them, laid into each other."""
    builder = group.builder
    for value, buffer in zip(group.body.outputs, group.outputs, strict=True):
        shape = static_shape(value.shape)
        length = shape[-1]
        if (value.dtype, length) == ("uint8", 4):
            _store_words(group, buffer, value, outer, first, width)
            continue
        held = builder.registers("int8" if value.dtype == "bool" else value.dtype, length * width, "rows")
        for place in range(length):
            with builder.vector(width) as lane:
                element = group.elements.evaluate(value, [*outer, first + lane, place])
                builder.store(
                    held, tir.cast(element, "int8") if value.dtype == "bool" else element, place * width + lane
                )
        begin = ravel([*outer, first, 0], shape)
        for part in range(length):
            with builder.vector(width) as lane:
                at = part * width + lane
                element = builder.load(held, tir.floor_mod(at, length) * width + tir.floor_div(at, length))
                builder.store(buffer, element, begin + at)


def _store_words(group: GroupKernel, buffer: Buffer, value: Value, outer: Index, first: Expr, width: int) -> None:
    """Rows of four bytes, put together as one number each."""
    builder = group.builder
    words = builder.registers("int32", width, "words")
    for place in range(4):
        with builder.vector(width) as lane:
            byte = tir.cast(group.elements.evaluate(value, [*outer, first + lane, place]), "int32")
            if place:
                byte = tir.bitwise_or(builder.load(words, lane), tir.shift_left(byte, 8 * place))
            builder.store(words, byte, lane)
    count = 4 * width
    begin = ravel([*outer, first, 0], static_shape(value.shape))
    builder.store_lanes(buffer, builder.load_lanes(words, 0, count, value.dtype), begin, count)


def _long_rows(group: GroupKernel, outer: list[int], inner: int, lanes: int) -> Kernel:
    """Rows too long for one task: cut into pieces of whole vectors."""
    builder = group.builder
    piece = TASK_ELEMENTS // lanes * lanes
    pieces = -(-inner // piece)
    tail = inner % lanes
    with builder.tasks() as task:
        *row, number = [i if isinstance(i, int) else builder.bind(i) for i in unravel(task, [*outer, pieces])]
        first: Expr = builder.bind(number * piece)
        whole = tir.floor_div(tir.minimum(inner - first, piece), lanes)
        with builder.serial(whole, name="b") as block, builder.vector(lanes) as lane:
            group.store_outputs([*row, first + block * lanes + lane])
        if tail:

            def rest() -> None:
                with builder.vector(tail) as lane:
                    group.store_outputs([*row, inner - tail + lane])

            builder.when(first + piece >= inner, rest)
    return group.finish(math.prod(outer) * pieces)
