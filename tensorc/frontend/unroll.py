"""Control flow that is settled while a stage is translated: the branch that is taken, the iterations that are made.

A loop becomes its first iteration and a loop of the rest; whether there is another one, the next stage may have to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tensorc.errors import UnsupportedError
from tensorc.frontend.inline import inline
from tensorc.frontend.translator import Work

#: Iterations that are written out at most, in all stages of a loop together.
MOST_ITERATIONS = 4096

#: Gives the value of an input; raises NeedsValueError where that is not known yet.
Known = Callable[[int], np.ndarray]


def expand(work: Work, known: Known) -> list[Work]:
    """The nodes that stand for an If or a Loop."""
    return _branch(work, known) if work.node.op_type == "If" else _loop(work, known)


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    for attribute in node.attribute:
        if attribute.name == name and attribute.type == onnx.AttributeProto.GRAPH:
            return attribute.g
    raise ValueError(f"the attribute {name!r} is missing")


def _condition(array: np.ndarray) -> bool:
    if array.size != 1:
        raise ValueError(f"the condition must be one truth value, not {array.size}")
    return bool(array.reshape(()))


def _label(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), node.name)


def _branch(work: Work, known: Known) -> list[Work]:
    node = work.node
    taken = _attribute(node, "then_branch" if _condition(known(0)) else "else_branch")
    if len(taken.output) != len(node.output):
        raise ValueError(f"its branch has {len(taken.output)} outputs, the node has {len(node.output)}")
    return [Work(inner, work.opset) for inner in inline(taken, f"{_label(node)}/", {}, node.output)]


def _loop(work: Work, known: Known) -> list[Work]:
    node, number = work.node, work.iteration
    body = _attribute(node, "body")
    carried = list(node.input[2:])
    stacked = len(body.output) - 1 - len(carried)
    if len(body.input) != 2 + len(carried) or stacked < 0 or len(node.output) > len(body.output) - 1:
        raise ValueError(f"its body takes {len(body.input)} and gives {len(body.output)} values, which does not fit "
                         f"{len(carried)} carried ones and {len(node.output)} outputs")  # fmt: skip
    gathered = work.gathered or ((),) * stacked
    limit = int(known(0).reshape(())) if node.input[0] else None
    if (limit is not None and number >= limit) or (node.input[1] and not _condition(known(1))):
        return [Work(last, work.opset) for last in _ended(node, body, carried, gathered)]
    if number >= MOST_ITERATIONS:
        raise UnsupportedError(f"it makes more than {MOST_ITERATIONS} iterations, whose types or number data decide")
    prefix = f"{_label(node)}/{number}/"
    index, going = prefix + "iteration", prefix + "going"
    inputs = dict(zip((info.name for info in body.input), (index, going, *carried), strict=True))
    outputs = [f"{prefix}out/{position}" for position in range(len(body.output))]
    nodes = [
        _constant(np.array(number, np.int64), index),
        _constant(np.array(True), going),
        *inline(body, prefix, inputs, outputs),
    ]
    rest = onnx.NodeProto()
    rest.CopyFrom(node)
    rest.input[:] = [node.input[0], outputs[0], *outputs[1 : 1 + len(carried)]]
    parts = tuple((*old, new) for old, new in zip(gathered, outputs[1 + len(carried) :], strict=True))
    return [
        *(Work(inner, work.opset) for inner in nodes),
        replace(work, node=rest, iteration=number + 1, gathered=parts),
    ]


def _constant(array: np.ndarray, name: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def _ended(node: onnx.NodeProto, body: onnx.GraphProto, carried: list[str],
           gathered: tuple[tuple[str, ...], ...]) -> list[onnx.NodeProto]:  # fmt: skip
    """What gives a loop's outputs when no iteration is left."""
    nodes = []
    for number, name in enumerate(node.output):
        if not name:
            continue
        if number < len(carried):
            nodes.append(helper.make_node("Identity", [carried[number]], [name]))
            continue
        parts = gathered[number - len(carried)]
        if parts:
            nodes.append(helper.make_node("SequenceConstruct", parts, [f"{name}/parts"]))
            nodes.append(helper.make_node("ConcatFromSequence", [f"{name}/parts"], [name], axis=0, new_axis=1))
            continue
        declared = body.output[1 + number].type.tensor_type
        shape = [0, *(max(dim.dim_value, 0) for dim in declared.shape.dim)]
        empty = np.zeros(shape, helper.tensor_dtype_to_np_dtype(declared.elem_type or onnx.TensorProto.FLOAT))
        nodes.append(_constant(empty, name))
    return nodes
