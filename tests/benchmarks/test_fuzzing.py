"""Differential fuzzing: graphs are valid, comparing tells right from wrong, shrinking keeps the fault, graphs run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from benchmarks.fuzz import make_case, operators_of
from benchmarks.fuzzing.case import ROUNDED, Case, load_arrays, save_arrays
from benchmarks.fuzzing.compare import EPSILONS, difference, differences
from benchmarks.fuzzing.judge import Judge
from benchmarks.fuzzing.operators import PLACES
from benchmarks.fuzzing.shrink import shrink, with_output
from benchmarks.fuzzing.widen import narrowed, widened
from tensorc.frontend.functions import supported_operators

#: What every graph below is made of: operators with kernels for every type that ONNX gives them here.
FEW = ("Abs", "Add", "Concat", "Equal", "Expand", "Gather", "MaxPool", "MatMul", "Mul", "Neg", "Pad", "ReduceMean",
       "Relu", "Reshape", "Slice", "Softmax", "Sub", "Tanh", "Transpose", "Where")  # fmt: skip

# Graphs -----------------------------------------------------------------------------------------------------


def test_graphs_are_valid_and_of_many_kinds() -> None:
    names, dtypes, sizes, empty, special = Counter[str](), set[str](), Counter[int](), 0, 0
    for number in range(400):
        case = make_case(0, number, list(PLACES))
        onnx.checker.check_model(case.model, full_check=True)
        names.update(operators_of(case))
        sizes[len(case.model.graph.node)] += 1
        assert set(case.inputs) == {value.name for value in case.model.graph.input}
        assert set(case.loose) == {value.name for value in case.model.graph.output}
        for array in case.inputs.values():
            dtypes.add(array.dtype.name)
            empty += not array.size
            special += array.dtype.kind == "f" and bool(np.isnan(array).any())
    assert len(names) > 0.85 * len(PLACES)
    assert len(dtypes) == 13
    assert max(sizes) >= 8
    assert min(sizes) == 1
    assert empty > 5
    assert special > 10


def test_every_supported_operator_that_can_be_compared_has_a_generator() -> None:
    lacking = {operator.name for operator in supported_operators()} - set(PLACES)
    strings = {"RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"}
    deprecated = {"Scatter", "Upsample"}
    assert lacking == strings | deprecated | {"ImageDecoder"}


def test_a_graph_is_the_same_in_every_run() -> None:
    first, again = make_case(3, 7, list(PLACES)), make_case(3, 7, list(PLACES))
    assert first.model == again.model
    for name, array in first.inputs.items():
        np.testing.assert_array_equal(array, again.inputs[name])


def test_arrays_of_every_type_come_back(tmp_path) -> None:
    arrays = {"a:b/c": np.ones((2, 3), ml_dtypes.bfloat16), "": np.zeros((0, 2), np.int8), "x": np.array(True)}
    save_arrays(tmp_path / "a.npz", arrays)
    back = load_arrays(tmp_path / "a.npz")
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(back[name], array)


# Comparing --------------------------------------------------------------------------------------------------

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("got", "want", "loose", "equal"),
    [
        ([1.0, NAN, INF], [1.0, NAN, INF], 0.0, True),
        ([1.0, 2.0], [1.0, 2.0000002], 0.0, False),
        ([1.0, 2.0], [1.0, 2.0000002], EPSILONS["float32"], True),
        ([0.0, 100.0], [0.001, 100.0], EPSILONS["float32"], True),
        ([0.0, 100.0], [0.1, 100.0], EPSILONS["float32"], False),
        ([NAN], [1.0], 1.0, False),
        ([1.0], [NAN], 1.0, False),
        ([INF], [-INF], 1.0, False),
        ([INF], [3.4e38], EPSILONS["float32"], True),
        ([INF], [1e30], EPSILONS["float32"], False),
        ([-0.0], [0.0], 0.0, True),
        ([], [], 0.0, True),
    ],
)
def test_difference(got: list[float], want: list[float], loose: float, equal: bool) -> None:
    found = difference(np.array(got, np.float32), np.array(want, np.float32), loose)
    assert (not found) == equal, found


def test_types_shapes_and_integers_must_be_the_same() -> None:
    one = np.ones(3, np.int32)
    assert "int32[3], not int64[3]" in difference(one, one.astype(np.int64), 1.0)
    assert "int32[3], not int32[1, 3]" in difference(one, one[None], 1.0)
    assert "1 of 3 elements differ, at [2]: 1 for 2" in difference(one, np.array([1, 1, 2], np.int32), 0.0)
    assert not difference(one, np.array([1, 1, 2], np.int32), 1.0)
    assert differences({"a": one}, {"a": one, "b": one}, {}) == "output 'b' is missing"


# Shrinking --------------------------------------------------------------------------------------------------


def test_shrinking_finds_the_node_that_is_wrong() -> None:
    """The engine that is fuzzed here takes Tanh for Sin."""
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Add", ["b", "x"], ["c"]),
        helper.make_node("Neg", ["c"], ["d"]),
        helper.make_node("Relu", ["x"], ["e"]),
    ]
    ends = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 6]) for name in ("x", "d", "e")}
    graph = helper.make_graph(nodes, "g", [ends["x"]], [ends["d"], ends["e"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    case = Case(model, {"x": x}, {"d": EPSILONS["float32"], "e": 0.0})

    def right(case: Case) -> dict[str, np.ndarray]:
        outputs = ReferenceEvaluator(case.model).run(None, dict(case.inputs))
        return dict(zip((value.name for value in case.model.graph.output), outputs, strict=True))

    def fails(case: Case) -> bool:
        wrong = onnx.ModelProto.FromString(case.model.SerializeToString().replace(b"Tanh", b"Sinh"))
        return bool(differences(right(replace(case, model=wrong)), right(case), case.loose))

    small = shrink(case, fails, right)
    assert operators_of(small) == ("Tanh",)
    assert fails(small)
    assert [array.size for array in small.inputs.values()] == [1]


# Judging ----------------------------------------------------------------------------------------------------


def test_in_double_precision_nothing_is_rounded_but_what_comes_out() -> None:
    """Sums in float16 go astray: what the case means shows in float64, in the types that it asks for."""
    nodes = [
        helper.make_node("Resize", ["x", "", "s"], ["a"], mode="nearest"),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.BFLOAT16),
        helper.make_node("CumSum", ["b", "axis"], ["c"]),
        helper.make_node("Shape", ["c"], ["d"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 1, 1, 500])],
        [helper.make_tensor_value_info("c", TensorProto.BFLOAT16, [1, 1, 1, 1000]),
         helper.make_tensor_value_info("d", TensorProto.INT64, [4])],
        [numpy_helper.from_array(np.array([1, 1, 1, 2], np.float32), "s"),
         numpy_helper.from_array(np.array(3), "axis")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    case = Case(model, {"x": np.ones((1, 1, 1, 500), np.float16)}, {"c": EPSILONS["bfloat16"], "d": 0.0})
    wide = widened(case)
    onnx.checker.check_model(wide.model, full_check=True)
    outputs = dict(zip("cd", ReferenceEvaluator(wide.model).run(None, dict(wide.inputs)), strict=True))
    assert outputs["c"].dtype == np.float64
    outputs = narrowed(case, outputs)
    assert outputs["c"].dtype == ml_dtypes.bfloat16
    assert outputs["c"][0, 0, 0, -1] == 1000
    np.testing.assert_array_equal(outputs["d"], [1, 1, 1, 1000], strict=True)
    assert widened(with_output(case, "d")) is not None  # of its input
    assert widened(wide) is None


def test_a_rounding_on_the_way_may_move_a_result_far() -> None:
    """Near -1 the arc cosine has no slope that ends: one unit in the last place of erf makes 3.5e-4 of it."""
    nodes = [
        helper.make_node("Erf", ["x"], ["a"], doc_string=ROUNDED),
        helper.make_node("Acos", ["a"], ["y"], doc_string=ROUNDED),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]),
                              opset_imports=[helper.make_opsetid("", 18)], ir_version=9)  # fmt: skip
    case = Case(model, {"x": np.array([-3.9, 0.5], np.float32)}, {"y": EPSILONS["float32"]})
    with Judge(("reference",)) as judge:
        want = judge.values(case)
        off = {"y": want["y"] + np.float32([4e-4, 0])}
        assert judge._moves_as_far(case, off, "reference", want)
        off = {"y": want["y"] + np.float32([0, 4e-4])}
        assert not judge._moves_as_far(case, off, "reference", want)


def test_what_pooling_makes_of_nan_is_left_open() -> None:
    nodes = [helper.make_node("Sqrt", ["x"], ["a"]), helper.make_node("MaxPool", ["a"], ["y"], kernel_shape=[2])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4]) for name in "xy"]
    ends[1].type.tensor_type.shape.dim[2].dim_value = 3
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]),
                              opset_imports=[helper.make_opsetid("", 18)], ir_version=9)  # fmt: skip
    with Judge(("reference",)) as judge:
        for last, left in ((4, False), (-4, True)):
            case = Case(model, {"x": np.array([[[1, 2, 3, last]]], np.float32)}, {"y": EPSILONS["float32"]})
            assert judge._left_open(case) == left


# On the engines ---------------------------------------------------------------------------------------------


@pytest.mark.compiler
def test_some_graphs_on_the_engines() -> None:
    """Long runs are for benchmarks/fuzz.py."""
    counts: Counter[str] = Counter()
    with Judge(("onnxruntime", "reference")) as judge:
        for number in range(20):
            case = make_case(0, number, FEW)
            outcome = judge.judge(case)
            counts[outcome.status] += 1
            assert not outcome.finding, f"{number}, {operators_of(case)}: {outcome}"
    assert counts["equal"] > 10


@pytest.mark.compiler
def test_what_kills_the_worker_is_a_finding(monkeypatch) -> None:
    case = make_case(0, 0, FEW)
    with Judge(("reference",), limit=30.0) as judge:
        monkeypatch.setattr("benchmarks.fuzzing.judge.Judge._ask", _dying(judge))
        assert judge.judge(case).status == "crash"


def _dying(judge: Judge):
    ask = Judge._ask

    def dies(self: Judge, engine: str, folder):
        if engine == "tensorc":
            worker = judge._workers[engine]
            worker.command[1:] = ["-c", "print('{\"ready\": true}', flush=True); input(); import os; os.abort()"]
        return ask(self, engine, folder)

    return dies


def test_only_what_is_rounded_to_integers_may_be_off_in_them() -> None:
    rounding = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "Resize")
    for number in range(400):
        case = make_case(1, number, list(PLACES))
        loose = {name for node in case.model.graph.node if node.op_type in rounding for name in node.output}
        for value in case.model.graph.output:
            code = value.type.tensor_type.elem_type
            whole = np.issubdtype(helper.tensor_dtype_to_np_dtype(code), np.integer) or code == TensorProto.BOOL
            if whole and value.name not in loose:
                assert case.loose[value.name] == 0
            elif not whole:
                assert case.loose[value.name] <= max(EPSILONS.values())
