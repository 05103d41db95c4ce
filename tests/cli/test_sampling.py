"""Random inputs are repeatable and legal."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tensorc.errors import UserError
from tensorc.sampling import LARGEST, Spec, index_limits, random_inputs


def test_the_same_seed_gives_the_same_arrays():
    specs = [Spec("x", "float32", (2, 3)), Spec("ids", "int64", (100,)), Spec("mask", "bool", (4,))]
    first, again = random_inputs(specs, 5), random_inputs(specs, 5)
    for spec in specs:
        assert (first[spec.name].dtype.name, first[spec.name].shape) == (spec.dtype, spec.shape)
        np.testing.assert_array_equal(first[spec.name], again[spec.name])


def test_integers_stay_below_their_limit():
    (ids,) = random_inputs([Spec("ids", "int64", (1000,))], 0, {"ids": 7}).values()
    assert set(ids) == set(range(7))
    (ids,) = random_inputs([Spec("ids", "int64", (1000,))], 0, {"ids": 50_000}).values()
    assert ids.max() < LARGEST
    (mask,) = random_inputs([Spec("mask", "int64", (1000,))], 0).values()
    assert set(mask) == {0, 1}


def test_a_limit_is_found_through_a_cast(embedding):
    assert index_limits(onnx.load(embedding)) == {"ids": 7}


def test_the_smallest_of_several_tables_decides():
    nodes = [
        helper.make_node("Gather", ["big", "ids"], ["a"], axis=1),
        helper.make_node("Gather", ["small", "ids"], ["b"]),
    ]
    tables = [
        helper.make_tensor("big", TensorProto.FLOAT, [1, 9], [0.0] * 9),
        helper.make_tensor("small", TensorProto.FLOAT, [4], [0.0] * 4),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [2])
    graph = helper.make_graph(nodes, "g", [ids], [], tables)
    assert index_limits(helper.make_model(graph)) == {"ids": 4}


def test_a_free_axis_is_refused():
    with pytest.raises(UserError, match=r"input 'x' \[n,3\] has free axes: give --shape x=1x64"):
        Spec.of_manifest([{"name": "x", "dtype": "float32", "shape": ["n", 3]}])
