"""The walk: constants, shapes, names, functions, and what is said about models that are wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from tensorc.errors import UnsupportedError, UserError
from tensorc.frontend import ImportedModel, import_model
from tensorc.ir import evaluate


def parse(body: str, opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n{body}')


def ops(model: ImportedModel) -> Counter[str]:
    return Counter(node.op for node in model.graph.nodes)


def run(model: ImportedModel, *arrays: np.ndarray) -> list[np.ndarray]:
    return evaluate(model.graph, {v.name: a for v, a in zip(model.graph.inputs, arrays, strict=True)})


def node_model(
    op: str, shapes: Sequence[Sequence[int]], domain: str = "", dtypes: Sequence[int] = (), **attrs: Any
) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(shapes))]
    codes = dtypes or [TensorProto.FLOAT] * len(shapes)
    inputs = [helper.make_tensor_value_info(n, c, s) for n, c, s in zip(names, codes, shapes, strict=True)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(op, names, ["y"], name="the_node", domain=domain, **attrs)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph([node], "g", inputs, [output]), opset_imports=opsets, ir_version=8)


# Constants --------------------------------------------------------------------------------------------------


def test_shape_arithmetic_leaves_nothing() -> None:
    model = parse("""
        g (float[2, 3, 4] x) => (float[n, m] y) <int64[1] zero = {0}, int64[1] last = {-1}, int64[1] one = {1}> {
            s = Shape(x)
            batch = Gather(s, zero)
            rest = Slice(s, one, last, zero)
            both = Mul(batch, rest)
            target = Concat<axis = 0>(both, last)
            y = Reshape(x, target)
        }""")
    imported = import_model(model)
    assert ops(imported) == {"reshape": 1}
    assert imported.graph.outputs[0].shape == (6, 4)


def test_a_splat_of_half_a_gigabyte_costs_nothing() -> None:
    model = parse("""
        g () => (float[n, m] y) <int64[2] s = {8192, 16384}, float two = {2}> {
            ones = ConstantOfShape<value = float[1] {1}>(s)
            wide = Add(ones, two)
            turned = Transpose(wide)
            y = Neg(turned)
        }""")
    (y,) = import_model(model).graph.outputs
    assert y.constant is not None
    assert (y.shape, y.constant.splat) == ((16384, 8192), -3)
    assert y.constant.numpy().strides == (0, 0)


def test_a_large_weight_is_moved_when_it_is_loaded_and_not_before() -> None:
    weight = np.arange(1500 * 1000, dtype=np.float16).reshape(1500, 1000)
    model = node_model("MatMul", [(2, 1500), (1000, 1500)])
    graph = model.graph
    del graph.input[1]
    graph.initializer.append(numpy_helper.from_array(weight, "w"))
    del graph.node[:]
    graph.node.append(helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("MatMul", ["x0", "wide"], ["y"]))
    imported = import_model(model)
    assert ops(imported) == {"matmul": 1}
    (constant,) = imported.graph.constants()
    assert constant.constant is not None
    np.testing.assert_array_equal(constant.constant.numpy(), weight.astype(np.float32))


def test_an_input_that_is_an_initializer_is_a_constant() -> None:
    model = parse("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }", 9, 3)
    imported = import_model(model)
    assert imported.input_names == ("x",)
    np.testing.assert_array_equal(run(imported, np.zeros(2, np.float32))[0], [1, 2])


def test_dead_nodes_and_unread_initializers_go() -> None:
    imported = import_model(parse('g (float[2] x) => (float[2] y) <string[1] s = {"a"}> { z = Exp(x) y = Relu(x) }'))
    assert ops(imported) == {"relu": 1}


# Names and outputs ------------------------------------------------------------------------------------------


def test_onnx_names_are_given_back_beside_legal_ones() -> None:
    model = node_model("Relu", [(2,)])
    model.graph.input[0].name = model.graph.node[0].input[0] = "in put:0"
    model.graph.output[0].name = model.graph.node[0].output[0] = "out/put 1"
    imported = import_model(model)
    assert (imported.input_names, imported.output_names) == (("in put:0",), ("out/put 1",))
    assert imported.graph.inputs[0].name == "in_put_0"
    assert imported.graph.outputs[0].name == "out/put_1"


def test_outputs_may_be_inputs_constants_and_repeated() -> None:
    model = parse("g (float[2] x) => (float[2] x, float[1] c, float[2] y, float[2] z) <float[1] c = {3}> {"
                  " y = Identity(x) z = Relu(x) }")  # fmt: skip
    got = run(import_model(model), np.array([-1, 1], np.float32))
    assert [a.tolist() for a in got] == [[-1, 1], [3], [-1, 1], [0, 1]]


def test_model_local_functions_are_inlined() -> None:
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.twice(x) }
        <domain: "local", opset_import: ["" : 17]>
        twice (a) => (b) { two = Constant<value = float {2}>() b = Mul(a, two) }""")
    np.testing.assert_array_equal(run(import_model(model), np.ones(2, np.float32))[0], [2, 2])


# Shapes -----------------------------------------------------------------------------------------------------

FREE = "g (float[batch, 3] x, float[batch, length] z) => (float[n, m] y) { y = Concat<axis = 1>(x, z) }"


def test_shapes_settle_free_axes_and_those_of_the_same_name() -> None:
    model = parse("g (float[batch, 3] x, float[batch] z) => (float[n, m] y) {"
                  " y = Mul(x, x) w = Neg(z) }")  # fmt: skip
    imported = import_model(model, {"x": (4, 3)})
    assert [value.shape for value in imported.graph.inputs] == [(4, 3), (4,)]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, r"'batch' \(axis 0\) of input 'x' \[batch,3\] is free: .* --shape x=1x3"),
        ({"x": (2, 3)}, r"'length' \(axis 1\) of input 'z' \[2,length\] is free: .* --shape z=2x1"),
        ({"w": (2, 3)}, "no input is named 'w'; inputs: 'x', 'z'"),
        ({"x": (2, 4)}, r"axis 1 of input 'x' \[batch,3\] is 3, but --shape x=2x4 makes it 4"),
        ({"x": (2,)}, r"input 'x' is \[batch,3\], but --shape x=2 has 1 axes"),
        ({"x": (2, 3), "z": (3, 3)}, r"axis 0 of input 'z' \[batch,length\] is 2, but --shape z=3x3 makes it 3"),
        ({"x": (0, 3)}, "--shape x=0x3 has a size below 1"),
    ],
)
def test_bad_shapes(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UserError, match=f"the model: {message}"):
        import_model(parse(FREE), shapes)


def test_unnamed_axis_and_unknown_rank() -> None:
    model = node_model("Relu", [(2, 3)])
    model.graph.input[0].type.tensor_type.shape.dim[1].Clear()
    with pytest.raises(UserError, match=r"axis 1 of input 'x0' \[2,\?\] is free: .* --shape x0=2x1"):
        import_model(model)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UserError, match="input 'x0' has no shape: give it as --shape x0=1x64"):
        import_model(model)
    assert import_model(model, {"x0": (5,)}).graph.outputs[0].shape == (5,)


# What is not supported --------------------------------------------------------------------------------------


def test_everything_unsupported_is_reported_at_once() -> None:
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 20, "com.acme" : 1]>
        g (float[1, 1, 4, 4] x) => (float[n] y) {
            a = Unheard(x)  b = Relu(a)  c = Unheard(b)
            d = com.acme.Magic(x)
            f = Cast<to = 6>(d)
            r = ReduceMax(x)
            g = Expand(x, f)
            y = Unseen(g)
        }""")
    with pytest.raises(UnsupportedError) as caught:
        import_model(model)
    assert str(caught.value) == (
        "the model holds what is not supported: ai.onnx.Unheard (2x, such as 'a'), "
        "ai.onnx.Unseen (1x, such as 'y'), "
        "com.acme.Magic (unknown domain; 1x, such as 'd')"
    )


def test_a_shape_computed_from_data_is_no_single_program() -> None:
    model = parse("g (float[4] x, int64[1] s) => (float[n] y) { y = Reshape(x, s) }")
    with pytest.raises(UnsupportedError, match=r"ai.onnx.Reshape \(its input 1 is computed from data; such as 'y'\)"):
        import_model(model)


def test_an_input_of_an_unsupported_element_type() -> None:
    with pytest.raises(UnsupportedError, match="input 'x0': element type"):
        import_model(node_model("Identity", [(2,)], dtypes=[TensorProto.COMPLEX64]))


def test_an_input_that_is_no_tensor() -> None:
    model = node_model("Identity", [(2,)])
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x0", TensorProto.FLOAT, (2,)))
    with pytest.raises(UnsupportedError, match="input 'x0' is no tensor"):
        import_model(model)


# What is wrong with a model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [0, 1000])
def test_opset_out_of_range(opset: int) -> None:
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(UserError, match=f"is of opset {opset}; supported are 1 to {newest}"):
        import_model(parse("g (float[2] x) => (float[2] y) { y = Relu(x) }", opset))


def test_no_opset_of_the_standard_domain() -> None:
    model = node_model("Relu", [(2,)])
    model.opset_import[0].domain = "com.acme"
    with pytest.raises(UserError, match=r"imports no opset of ai\.onnx"):
        import_model(model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (node_model("Add", [(2, 3), (2, 4)]), r"\(Add\): shapes \[2,3\], \[2,4\] do not broadcast"),
        (
            node_model("Add", [(2,), (2,)], dtypes=[TensorProto.FLOAT, TensorProto.INT64]),
            r"\(Add\): operands have different element types: f32\[2\], i64\[2\]",
        ),
        (node_model("MatMul", [(2, 3), (4, 5)]), r"\(MatMul\): cannot multiply f32\[2,3\] by f32\[4,5\]"),
        (node_model("MatMul", [(), (4, 5)]), r"\(MatMul\): cannot multiply f32\[\] by f32\[4,5\]"),
        (node_model("Concat", [(2, 3), (2, 4)], axis=0), r"\(Concat\): cannot concatenate f32\[2,3\], f32\[2,4\]"),
        (node_model("Concat", [(2, 3)]), r"\(Concat\): the attribute 'axis' is missing"),
        (node_model("Concat", [(2, 3)], axis=2), r"\(Concat\): axis 2 is outside a tensor of 2 axes"),
        (node_model("Relu", []), r"\(Relu\): input 0 is missing"),
        (node_model("Sum", []), r"\(Sum\): input 0 is missing"),
        (node_model("Transpose", [(2, 3)], perm=[0, 0]), r"\(Transpose\): perm \(0, 0\) is no permutation"),
        (node_model("Softmax", [(2, 3)], axis=5), r"\(Softmax\): axis 5 is outside a tensor of 2 axes"),
        (node_model("Slice", [(5,)]), r"\(Slice\): input 1 is missing"),
        (node_model("Conv", [(1, 3, 8, 8), (4, 2, 3, 3)]), r"\(Conv\): .* has 3 channels, the filter .* takes 2"),
        (node_model("Conv", [(1, 2, 8, 8), (4, 2, 3, 3)], strides=[0, 1]), r"\(Conv\): strides \[0, 1\] must be 2"),
        (
            node_model("Conv", [(1, 2, 8, 8), (4, 2, 3, 3)], kernel_shape=[5, 5]),
            r"kernel_shape \[5, 5\] is not that of",
        ),
        (node_model("MaxPool", [(1, 2, 8, 8)], kernel_shape=[3]), r"\(MaxPool\): a kernel of 1 axes does not fit"),
        (node_model("MaxPool", [(1, 2, 8, 8)], kernel_shape=[2, 2], auto_pad="MAYBE"), "auto_pad 'MAYBE' is none of"),
        (node_model("Conv", [(1, 2, 2, 2), (4, 2, 5, 5)]), r"\(Conv\): .*does not fit"),
        (node_model("Gelu", [(2,)], approximate="maybe"), r"\(Gelu\): .*maybe"),
        (node_model("Pad", [(2, 3)], mode="edge"), r"\(Pad\): input 1 is missing"),
        (node_model("Where", [(2,), (2,), (2,)]), r"\(Where\): the condition must be bool"),
        (node_model("DepthToSpace", [(1, 3, 2, 2)], blocksize=2), r"\(DepthToSpace\): .* do not divide by 4"),
        (
            node_model("Gather", [(2, 3), (1,)]),
            r"\(Gather\): indices must be int32 or int64, not f32\[1\]",
        ),
    ],
    ids=lambda x: x.graph.node[0].op_type if isinstance(x, onnx.ModelProto) else "",
)
def test_a_node_that_breaks_its_rule(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_model(model)
    assert "'the_node'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = Relu(nothing)", r"node 'y' \(Relu\): reads 'nothing', which nothing before it defines"),
        ("y = Relu(z) z = Relu(x)", "reads 'z', which nothing before it defines"),
        ("y = Relu(x) y = Neg(x)", r"node 'y' \(Neg\): its output 'y' is defined before"),
        ("x = Relu(x) y = Neg(x)", "its output 'x' is defined before"),
        ("z = Relu(x)", "nothing defines the output 'y'"),
        ("i = Constant<value_ints = [9]>() t = Constant<value_ints = [1, 2]>() y = Gather(t, i)",
         r"node 'y' \(Gather\): index 9 is out of bounds"),
        ("s = Constant<value_ints = [7]>() y = Reshape(x, s)", r"cannot reshape f32\[2\] to \[7\]"),
        ("s = Constant<value_ints = [3, -1]>() y = Reshape(x, s)", r"cannot reshape f32\[2\] to \[3, -1\]"),
        ("s = Constant<value_ints = [3, 3]>() y = Expand(x, s)", r"shapes \[2\], \[3,3\] do not broadcast"),
    ],
)  # fmt: skip
def test_a_graph_that_is_wrong(body: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_model(parse(f"g (float[2] x) => (float[n] y) {{ {body} }}"))
