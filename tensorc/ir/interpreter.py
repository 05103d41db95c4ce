"""Runs a graph by the numpy meanings of its operators: the oracle of tests and of constant folding."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from tensorc.ir.graph import Graph, Node, Value, signatures
from tensorc.ir.ops import OPS


def evaluate_node(node: Node, inputs: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The outputs of one node, given its inputs' arrays."""
    if node.body is not None:
        return tuple(_call(node.body, *inputs))
    if node.regions:
        functions = [partial(_call, region) for region in node.regions]
        return OPS[node.op].evaluate(inputs, node.attrs, regions=functions, signatures=signatures(node))
    return OPS[node.op].evaluate(inputs, node.attrs)


def _call(graph: Graph, *inputs: np.ndarray) -> list[np.ndarray]:
    return evaluate(graph, {value.name: array for value, array in zip(graph.inputs, inputs, strict=True)})


def evaluate(graph: Graph, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs for arrays given by input name."""
    arrays: dict[int, np.ndarray] = {id(value): np.asarray(inputs[value.name]) for value in graph.inputs}

    def array(value: Value) -> np.ndarray:
        return value.constant.numpy() if value.constant is not None else arrays[id(value)]

    for node in graph.nodes:
        results = evaluate_node(node, [array(value) for value in node.inputs])
        arrays.update((id(value), result) for value, result in zip(node.outputs, results, strict=True))
    return [array(value) for value in graph.outputs]
