"""Which values a group may write its result over while it reads them.

A kernel of elementwise operators reads, of an input of its result's type, the very element that it is about to write,
before it writes it, and no other task reads that element. All other kernels may look at elements written by then.
"""

from __future__ import annotations

from collections.abc import Callable

from tensorc.ir import OPS, Graph, Kind, Node, Value

#: The value in whose buffer a value lies, and at which byte.
Resolve = Callable[[Value], tuple[Value, int]]


def replaceable(body: Graph) -> frozenset[int]:
    """The numbers of the inputs that a kernel of `body` can have in the place of its output."""
    if len(body.outputs) != 1 or any(OPS[node.op].kind is not Kind.ELEMENTWISE for node in body.nodes):
        return frozenset()
    (output,) = body.outputs
    return frozenset(number for number, value in enumerate(body.inputs) if value.type == output.type)


def overwritten(node: Node, resolve: Resolve) -> list[Value]:
    """The buffers whose place the result of `node` may take, if nothing else needs them any more: whole ones, that
    `node` does not also read in another way."""
    if node.body is None or not (numbers := replaceable(node.body)) or resolve(node.output) != (node.output, 0):
        return []
    found: dict[Value, bool] = {}
    for number, value in enumerate(node.inputs):
        root, offset = resolve(value)
        whole = number in numbers and offset == 0 and root.type.nbytes == value.type.nbytes
        found[root] = found.get(root, True) and whole and root.constant is None
    return [root for root, may in found.items() if may]
