"""Codes as kernels read them, and which kernels there are to choose from. Nothing is compiled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.cpu.kernels.coded import PARTS, WORD, CodedShape, Words
from targets.cpu.machine import NAMED
from targets.cpu.spaces import space_of
from tensorc.formats import bits
from tensorc.ir import Graph, TensorType
from tensorc.ir.ops.coded import group_count


def body(rows, depth, columns, width, group=0, element="integer"):
    graph = Graph("body")
    x = graph.add_input("x", TensorType("float32", (rows, depth)))
    codes = graph.add_input("c", TensorType("uint8", (columns, bits.packed_bytes(depth, width))))
    scales = graph.add_input("s", TensorType("float32", (columns, group_count(depth, group))))
    attrs = {"width": width, "group": group, "element": element, "zero": 0.0}
    graph.outputs = [graph.add("matmul_coded", [x, codes, scales], attrs)]
    return graph


@given(st.integers(1, 8), st.integers(1, 90), st.integers(1, 20), st.sampled_from([0, 8, 32]), st.booleans(),
       st.integers(0, 99))  # fmt: skip
def test_every_code_is_in_its_words(width, depth, columns, group, apart, seed):
    (node,) = body(1, depth, columns, width, group).nodes
    shape = CodedShape(node, NAMED["x86-64-v3"])
    parts = [(b, 1) for b in range(width)] if apart else PARTS[width]
    chunk = WORD // min(size for _, size in parts)
    words = Words(shape, 8, parts, chunk)
    codes = np.random.default_rng(seed).integers(0, 1 << width, (columns, depth), dtype=np.uint8)
    packed = words.packing().apply(bits.pack(codes, width)).view("<u4")
    assert packed.shape == (-(-columns // 8), words.panel)
    found = np.zeros_like(codes)
    for run, start in zip(shape.runs, words.starts, strict=True):
        chunks = -(-run.size // chunk)
        laid = packed[:, start : start + run.count * chunks * words.per_chunk * 8]
        laid = laid.reshape(-1, run.count, chunks, words.per_chunk, 8)
        for element in range(run.size):
            first, code = 0, np.zeros((*laid.shape[:2], 8), np.uint32)
            for low, size in parts:
                word, place = divmod(element % chunk, WORD // size)
                code |= (laid[:, :, element // chunk, first + word] >> place * size & (1 << size) - 1) << low
                first += chunk * size // WORD
            for block in range(run.count):
                at = (run.first + block) * shape.group + element
                found[:, at] = code[:, block].reshape(-1)[:columns]
    np.testing.assert_array_equal(found, codes)


KINDS = [
    # machine, body, numerics, kinds, default
    ("znver5", body(1, 64, 64, 4, 32), "strict", {"coded", "coded_lookup"}, "coded"),
    ("znver5", body(1, 64, 64, 2, 32), "strict", {"coded", "coded_lookup"}, "coded_lookup"),
    ("znver5", body(1, 64, 64, 4, 32), "fast", {"coded", "coded_lookup", "coded_dot"}, "coded_dot"),
    ("znver5", body(1, 64, 64, 8, 32), "fast", {"coded", "coded_dot"}, "coded_dot"),
    ("znver5", body(1, 64, 64, 4, 16), "fast", {"coded"}, "coded"),
    ("znver5", body(1, 64, 64, 4, 32, "e2m1"), "fast", {"coded"}, "coded"),
    ("skylake-avx512", body(9, 64, 64, 4, 32), "fast", {"coded", "coded_lookup", "coded_panel"}, "coded"),
    ("znver5", body(32, 64, 64, 4, 32), "strict", {"coded", "coded_lookup", "coded_panel"}, "coded_panel"),
    ("znver5", body(32, 64, 64, 3, 32), "fast", {"coded", "coded_lookup", "coded_panel", "coded_dot"}, "coded_panel"),
    ("haswell", body(1, 64, 64, 2, 32), "fast", {"coded"}, "coded"),
]


@pytest.mark.parametrize(("machine", "graph", "numerics", "kinds", "default"), KINDS)
def test_what_there_is_to_choose(machine, graph, numerics, kinds, default):
    space = space_of(graph, NAMED[machine], numerics)
    assert {algorithm.kind for algorithm in space.algorithms} == kinds
    assert space.default["kind"] == default
    assert space.values(space.default) is not None
    tables = {schedule["tables"] for schedule in map(space.schedule, space.enumerate()) if "tables" in schedule}
    assert numerics == "fast" or tables <= {"float32"}
