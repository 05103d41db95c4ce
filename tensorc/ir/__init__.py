"""The graph IR: types, values, nodes, the op table, its text form, verifier, rewriting and graph algorithms."""

from tensorc.ir.graph import Constant, Graph, Node, Value, clone
from tensorc.ir.interpreter import evaluate
from tensorc.ir.ops import OPS, Kind, Op
from tensorc.ir.text import parse_graph, print_graph
from tensorc.ir.types import TensorType
from tensorc.ir.verifier import verify

__all__ = [
    "OPS",
    "Constant",
    "Graph",
    "Kind",
    "Node",
    "Op",
    "TensorType",
    "Value",
    "clone",
    "evaluate",
    "parse_graph",
    "print_graph",
    "verify",
]
