"""Workload keys: the same for the same computation, another for any other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from passes.fusion import FuseGroups
from tensorc.ir import Graph, parse_graph
from tensorc.pipeline import run_passes
from tensorc.workload import workload_key, workload_label, workload_text

BODY = """graph @body(%a: f32[4,8], %b: f32[8]) {
  %c = constant 2.0 : f32[]
  %0 = add(%a, %b) : f32[4,8]
  %1 = mul(%0, %c) : f32[4,8]
  return %1
}"""
#: Written down once: records in databases are found by it.
KEY = "b6d6e6bbb17c33d7d2164304b48f280e"


def key(text: str) -> str:
    return workload_key(parse_graph(text))


def test_names_do_not_count():
    renamed = BODY.replace("%a", "%left").replace("%b", "%right").replace("%0", "%sum").replace("@body", "@other")
    assert key(renamed) == key(BODY)
    assert workload_text(parse_graph(renamed)) == workload_text(parse_graph(BODY))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("constant 2.0", "constant 2.0000002"),
        ("constant 2.0", "constant -2.0"),
        ("constant 2.0", "constant inf"),
        ("add(%a, %b)", "add(%b, %a)"),
        ("add(", "sub("),
        ("mul(%0, %c)", "mul(%c, %0)"),
        ("mul(%0, %c)", "mul(%0, %a)"),
        ("%b: f32[8]", "%b: f32[1,8]"),
        ("f32", "f64"),
        ("[4,8]", "[2,8]"),
        ("return %1", "return %1, %0"),
        ("return %1", "return %0"),
    ],
)
def test_everything_else_does(old, new):
    assert old in BODY
    assert key(BODY.replace(old, new)) != key(BODY)


def test_zeros_of_both_signs_differ():
    assert key(BODY.replace("2.0", "0.0")) != key(BODY.replace("2.0", "-0.0"))


def test_attributes_count():
    text = "graph @b(%a: f32[4,4]) { %0 = softmax(%a) {axis=1} : f32[4,4] return %0 }"
    assert key(text) != key(text.replace("axis=1", "axis=0"))


def test_the_key_is_the_same_in_every_process():
    assert key(BODY) == KEY
    code = "import sys; from tensorc.ir import parse_graph; from tensorc.workload import workload_key; "
    code += "print(workload_key(parse_graph(sys.argv[1])))"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, BODY], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == KEY


def test_a_key_does_not_change_the_body():
    body = parse_graph(BODY)
    before = str(body)
    workload_key(body)
    assert str(body) == before


def test_labels():
    assert workload_label(parse_graph(BODY)) == "add+mul"
    assert workload_label(parse_graph("graph @b(%a: f32[2]) { return %a }")) == "copy"


def bodies(text: str) -> list[Graph]:
    graph = parse_graph(text)
    run_passes(graph, [FuseGroups()])
    return [node.body for node in graph.nodes if node.body is not None]


def test_equal_layers_of_a_network_are_one_workload():
    first, second = bodies(
        "graph @main(%x: f32[4,4], %w: f32[4,4], %v: f32[4,4]) { %0 = matmul(%x, %w) : f32[4,4] "
        "%1 = relu(%0) : f32[4,4] %2 = matmul(%1, %v) : f32[4,4] %3 = relu(%2) : f32[4,4] return %3 }"
    )
    assert workload_key(first) == workload_key(second)


def test_the_order_of_side_operands_counts():
    first, second = bodies(
        "graph @main(%x: f32[4,4], %w: f32[4,4]) { %0 = matmul(%x, %w) : f32[4,4] %1 = sub(%0, %x) : f32[4,4] "
        "%2 = matmul(%1, %w) : f32[4,4] %3 = sub(%1, %2) : f32[4,4] return %3 }"
    )
    assert workload_key(first) != workload_key(second)
