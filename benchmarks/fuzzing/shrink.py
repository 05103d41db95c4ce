"""Makes a failing case small while it goes on failing: fewer outputs and nodes, smaller tensors, plainer data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.fuzzing.case import Arrays, Case, reads

_MOST_TRIES = 80


def shrink(case: Case, fails: Callable[[Case], bool], values: Callable[[Case], Arrays]) -> Case:
    """The smallest case found that still `fails`. `values` gives a case's outputs by an engine that is right."""
    left = _MOST_TRIES
    again = True
    while again:
        again = False
        for smaller in _candidates(case, values):
            if left <= 0:
                return case
            if not _valid(smaller):
                continue
            left -= 1
            if fails(smaller):
                case, again = smaller, True
                break
    return case


def _candidates(case: Case, values: Callable[[Case], Arrays]) -> Iterator[Case]:
    if len(case.model.graph.output) > 1:
        for output in case.model.graph.output:
            yield with_output(case, output.name)
    yield from _cut_before(case, values)
    yield from _cut_behind(case)
    yield from _smaller_shapes(case)
    yield from _plainer_data(case)


def _valid(case: Case) -> bool:
    try:
        onnx.checker.check_model(case.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _types(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {value.name: value for value in (*graph.value_info, *graph.output)}


def _rebuilt(case: Case, nodes: list[onnx.NodeProto], inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray],
             outputs: list[onnx.ValueInfoProto]) -> Case:  # fmt: skip
    """Of these parts, only what the outputs need."""
    wanted, kept = {value.name for value in outputs}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= reads(node)
    given = {name: array for name, array in inputs.items() if name in wanted}
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items() if name in wanted]
    graph = helper.make_graph(kept[::-1], "fuzz", infos, outputs, weights)
    model = helper.make_model(graph, opset_imports=list(case.model.opset_import), ir_version=case.model.ir_version)
    loosest = max(case.loose.values(), default=0.0)
    return Case(model, given, {value.name: case.loose.get(value.name, loosest) for value in outputs})


def _constants(case: Case) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in case.model.graph.initializer}


def with_output(case: Case, name: str) -> Case:
    """The case with one of its outputs only, and what that needs."""
    graph = case.model.graph
    outputs = [value for value in graph.output if value.name == name]
    return _rebuilt(case, list(graph.node), dict(case.inputs), _constants(case), outputs)


def showing(case: Case, names: Sequence[str]) -> Case:
    """The case with these inner values as its outputs."""
    types = _types(case.model)
    outputs = [types[name] for name in names if name in types]
    return _rebuilt(case, list(case.model.graph.node), dict(case.inputs), _constants(case), outputs)


def _cut_behind(case: Case) -> Iterator[Case]:
    """An inner value as the only output."""
    types = _types(case.model)
    for node in case.model.graph.node[:-1]:
        for name in node.output:
            if name in types:
                yield _rebuilt(case, list(case.model.graph.node), dict(case.inputs), _constants(case), [types[name]])


def _cut_before(case: Case, values: Callable[[Case], Arrays]) -> Iterator[Case]:
    """An inner value as an input, as the other engine computes it."""
    nodes = list(case.model.graph.node)
    if len(nodes) < 2:
        return
    types = _types(case.model)
    inner = [types[name] for node in nodes for name in node.output if name in types]
    known = values(_rebuilt(case, nodes, dict(case.inputs), _constants(case), inner))
    for number in reversed(range(len(nodes))):
        names = [name for name in nodes[number].output if name in known]
        if len(names) == len(nodes[number].output) and not set(names) & {o.name for o in case.model.graph.output}:
            inputs = {**case.inputs, **{name: known[name] for name in names}}
            rest = nodes[:number] + nodes[number + 1 :]
            yield _rebuilt(case, rest, inputs, _constants(case), list(case.model.graph.output))


def _smaller_shapes(case: Case) -> Iterator[Case]:
    """All axes of one size are cut; numbers in lists of sizes, too."""
    constants = _constants(case)
    arrays = {**case.inputs, **constants}
    for size in sorted({size for array in arrays.values() for size in array.shape if size > 1}, reverse=True):
        for new in dict.fromkeys((1, 2, size // 2)):
            if new >= size:
                continue

            def cut(array: np.ndarray, size: int = size, new: int = new) -> np.ndarray:
                array = array[tuple(slice(new) if n == size else slice(None) for n in array.shape)]
                return np.where(array == size, new, array) if array.dtype == np.int64 else array

            inputs = {name: np.ascontiguousarray(cut(array)) for name, array in case.inputs.items()}
            smaller = {name: np.ascontiguousarray(cut(array)) for name, array in constants.items()}
            outputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in case.model.graph.output]
            for value in outputs:
                value.type.tensor_type.ClearField("shape")
            try:
                small = _rebuilt(case, list(case.model.graph.node), inputs, smaller, outputs)
                types = _types(small.model)
            except (onnx.shape_inference.InferenceError, ValueError):
                continue
            yield _rebuilt(small, list(small.model.graph.node), inputs, smaller, [types[v.name] for v in outputs])


def _plainer_data(case: Case) -> Iterator[Case]:
    for name, array in case.inputs.items():
        if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
            with np.errstate(all="ignore"):
                ways = [np.ones_like(array), np.nan_to_num(np.rint(array.astype(np.float64))).astype(array.dtype)]
        elif array.dtype == bool:
            ways = [np.ones_like(array)]
        else:
            continue  # integers may be indices
        for plain in ways:
            if not np.array_equal(plain, array):
                yield Case(case.model, {**case.inputs, name: plain}, case.loose)
