"""The identity of a fused group: two groups with one workload are computed by one kernel.

A workload is the group's body with the names taken out: operators, attributes, types and how they are connected.
Its key is stable between runs and versions of Python, so that it can name records in a database.
"""

from __future__ import annotations

import hashlib

from tensorc.ir import Graph, print_graph
from tensorc.ir.graph import Value, clone


def workload_text(body: Graph) -> str:
    """The body's text with values numbered in order."""
    plain = clone(body)
    plain.name = "workload"
    seen: dict[Value, None] = {}
    for value in (*plain.inputs, *plain.constants(), *plain.values()):
        seen.setdefault(value)
    for number, value in enumerate(seen):
        value.name = str(number)
    return print_graph(plain)


def workload_key(body: Graph) -> str:
    """32 hexadecimal digits."""
    return hashlib.sha256(workload_text(body).encode()).hexdigest()[:32]


def workload_label(body: Graph) -> str:
    """The operators in order, for people: `conv_blocked+add+relu`; a body without operators copies."""
    return "+".join(node.op for node in body.nodes) or "copy"
