"""Operations and bytes of groups, against numbers worked out by hand and against what the operators compute."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorc.errors import IRError
from tensorc.ir import OPS, Graph, Kind, TensorType
from tensorc.ir.cost import _RULES, Work, flops, work
from tensorc.ir.ops import table


def test_a_convolution_of_resnet():
    graph = Graph()
    x, w = (graph.add_input(n, TensorType("float32", s)) for n, s in (("x", (1, 64, 56, 56)), ("w", (64, 64, 3, 3))))
    y = graph.add("conv", [x, w], {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)})
    graph.outputs = [graph.add("relu", [y])]
    image = 64 * 56 * 56
    assert work(graph) == Work(2 * image * 64 * 9 + image, 4 * (image + 64 * 64 * 9 + image))


@pytest.mark.parametrize("op", sorted(OPS))
def test_every_anchor_says_what_it_takes(op):
    """Without a rule of its own an anchor would be refused when it is compiled."""
    assert OPS[op].kind is not Kind.ANCHOR or op in _RULES


def test_an_anchor_without_a_rule_is_not_free(monkeypatch):
    monkeypatch.setitem(OPS, "fft", table.Op("fft", Kind.ANCHOR, (1, 1), lambda types, _: [types[0]], np.fft.fft))
    graph = Graph()
    node = graph.make("fft", [graph.add_input("x", TensorType("float32", (8,)))])
    with pytest.raises(IRError, match="fft has no rule"):
        flops(node)


def products(node):
    """Multiplications that make up the results: what their sum is when every number is 1. Without padding."""
    ones = [np.ones(value.shape, np.float32) for value in node.inputs]
    (result,) = OPS[node.op].evaluate(ones, node.attrs)
    return result.sum()


def conv_node(op, x, w, **attrs):
    graph = Graph()
    values = [graph.add_input(name, TensorType("float32", shape)) for name, shape in (("x", x), ("w", w))]
    return graph.make(op, values, {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)} | attrs)


windows = {"size": st.integers(3, 6), "kernel": st.integers(1, 3), "stride": st.integers(1, 2)}
channels = {"groups": st.integers(1, 2), "inputs": st.integers(1, 3), "outputs": st.integers(1, 2)}


@given(**windows, **channels)
def test_convolutions_as_computed(size, kernel, stride, groups, inputs, outputs):
    x, w = (2, groups * inputs, size, size), (groups * outputs, inputs, kernel, kernel)
    node = conv_node("conv", x, w, strides=(stride, stride), groups=groups)
    assert flops(node) == 2 * products(node)


@given(**windows, **channels)
def test_blocked_convolutions_as_computed(size, kernel, stride, groups, inputs, outputs):
    """Whole blocks of 4 channels, in and out."""
    x, w = (2, groups * inputs, size, size, 4), (groups * outputs, 4 * inputs, kernel, kernel, 4)
    node = conv_node("conv_blocked", x, w, strides=(stride, stride), groups=groups)
    assert flops(node) == 2 * products(node)


@given(**windows, blocks=st.integers(1, 3))
def test_depthwise_convolutions_as_computed(size, kernel, stride, blocks):
    x, w = (1, blocks, size, size, 4), (blocks, 1, kernel, kernel, 4)
    node = conv_node("conv_blocked", x, w, strides=(stride, stride), groups=1, depthwise=1)
    assert flops(node) == 2 * products(node)


def test_a_plain_image_has_only_its_channels():
    node = conv_node("conv_blocked", (1, 3, 6, 6), (2, 3, 3, 3, 16))
    assert flops(node) == 2 * products(node) == 2 * (2 * 4 * 4 * 16) * 3 * 9


@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 7), st.sampled_from([8, 16]))
def test_packing_changes_neither_operations_nor_the_rest(rows, columns, depth, width):
    """Columns that fill the last panel are read, but are no results."""
    panels = -(-columns // width)
    plain, packed = Graph(), Graph()
    a = plain.add_input("a", TensorType("float32", (rows, depth)))
    b = plain.add_input("b", TensorType("float32", (depth, columns)))
    plain.outputs = [plain.add("matmul", [a, b])]
    a = packed.add_input("a", TensorType("float32", (rows, depth)))
    b = packed.add_input("b", TensorType("float32", (panels, depth, width)))
    packed.outputs = [packed.add("matmul_packed", [a, b], {"columns": columns})]
    assert work(plain).flops == work(packed).flops == 2 * rows * columns * depth
    assert work(packed).nbytes - work(plain).nbytes == 4 * depth * (panels * width - columns)


def test_attention_is_two_products():
    graph = Graph()
    q = graph.add_input("q", TensorType("float32", (2, 10, 4, 8)))
    k = graph.add_input("k", TensorType("float32", (2, 12, 2, 8)))
    v = graph.add_input("v", TensorType("float32", (2, 12, 2, 6)))
    node = graph.make("attention", [q, k, v], {"scale": 1.0})
    assert flops(node) == 2 * (2 * 4 * 10 * 12) * 8 + 2 * (2 * 4 * 10 * 12) * 6


def test_a_lookup_reads_rows_and_not_the_table():
    graph = Graph()
    words = graph.add_input("words", TensorType("float32", (30_000, 4)))
    ids = graph.add_input("ids", TensorType("int64", (7,)))
    graph.outputs = [graph.add("gather", [words, ids], {"axis": 0})]
    assert work(graph) == Work(0, 7 * 4 * 4 + 7 * 8 + 7 * 4 * 4)


def test_what_is_read_whole_by_one_is_read_once_by_all():
    graph = Graph()
    x = graph.add_input("x", TensorType("float32", (8, 4)))
    flat = graph.add("reshape", [x], {"shape": (32,)})
    part = graph.add("slice", [flat], {"starts": (0,), "sizes": (4,), "steps": (1,)})
    graph.outputs = [part]
    assert work(graph).nbytes == 2 * 4 * 4
    graph.outputs = [part, flat]
    assert work(graph).nbytes == 4 * (32 + 4 + 32)
    graph.outputs = [part, graph.add("relu", [x])]
    assert work(graph).nbytes == 4 * (32 + 4 + 32)


def test_indices_are_read_whole():
    graph = Graph()
    table, places = graph.add_input("t", TensorType("int64", (9, 9))), graph.add_input("p", TensorType("int64", (4, 2)))
    graph.outputs = [graph.add("gather_nd", [table, places])]
    assert work(graph).nbytes == 8 * (4 + 8 + 4)
    graph.outputs = [graph.add("gather_nd", [places, places])]
    graph.remove_dead()
    assert work(graph).nbytes == 8 * (8 + 4)


def test_a_reduction_takes_an_operation_for_each_element_of_its_input():
    graph = Graph()
    x = graph.add_input("x", TensorType("float32", (8, 4)))
    graph.outputs = [graph.add("reduce_sum", [x], {"axes": (1,), "keepdims": 0})]
    assert work(graph) == Work(32, 4 * (32 + 8))


def test_one_number_takes_no_memory():
    graph = Graph()
    x = graph.add_input("x", TensorType("float32", (8,)))
    graph.outputs = [graph.add("mul", [x, graph.constant(np.float32(2))])]
    assert work(graph) == Work(8, 64)


def test_a_group_is_what_is_in_it():
    inner = Graph()
    inner.outputs = [inner.add("relu", [inner.add_input("x", TensorType("float32", (8,)))])]
    graph = Graph()
    node = graph.make("group", [graph.add_input("x", TensorType("float32", (8,)))], body=inner)
    assert flops(node) == 8
