"""Constants of programs: where they lie in an artifact, and that programs of one model share them in memory."""

from __future__ import annotations

import gc

import numpy as np

from tensorc.ir.graph import Constant
from tensorc.runtime.constants import ALIGNMENT, ConstantStore, chunks, table, views
from tensorc.target import PackedConstant

A = np.arange(5, dtype=np.float32)
B = np.arange(32, dtype=np.int16).reshape(4, 8).T


def packed(array: np.ndarray, origin: object = None) -> PackedConstant:
    return PackedConstant(array.nbytes, lambda: array, origin)


def test_a_section_gives_back_what_was_put_in() -> None:
    constants = [packed(A), packed(B), packed(np.empty(0, np.int8)), packed(A)]
    section = memoryview(b"".join(bytes(chunk) for chunk in chunks(constants)))
    rows = table(constants)
    assert all(offset % ALIGNMENT == 0 for offset, _ in rows)
    found = views(section, rows)
    assert [bytes(view) for view in found] == [A.tobytes(), B.tobytes(), b"", A.tobytes()]


def test_what_is_the_same_is_held_once() -> None:
    store = ConstantStore()
    first, again, other, packed_otherwise = store.get(
        [packed(A), packed(A.copy()), packed(A + 1), packed(A + 1, ("w", "columns"))]
    )
    address = np.frombuffer(first, np.uint8).ctypes.data
    assert np.frombuffer(again, np.uint8).ctypes.data == address
    assert address % ALIGNMENT == 0
    assert bytes(other) == bytes(packed_otherwise) == (A + 1).tobytes()
    assert store.nbytes == 3 * A.nbytes


def test_what_is_known_by_its_origin_is_not_made_again() -> None:
    store = ConstantStore()
    made = []

    def load() -> np.ndarray:
        made.append(1)
        return A

    held = [store.get([PackedConstant(A.nbytes, load, ("w", "rows"))]) for _ in range(3)]
    assert made == [1]
    assert all(bytes(view) == A.tobytes() for (view,) in held)


def test_what_nobody_holds_is_let_go() -> None:
    store = ConstantStore()
    held = store.get([packed(A, "a"), packed(A + 1, "b")])
    del held[0]
    gc.collect()
    assert store.nbytes == A.nbytes


def test_a_derived_constant_knows_where_it_comes_from() -> None:
    constant = Constant(Constant.of(A).type, lambda: A, "w", origin=("initializer", "w"))
    doubled = constant.derive(constant.type, lambda data: 2 * data, how="double")
    assert doubled.origin == (("initializer", "w"), "double")
    assert constant.derive(constant.type, np.sqrt).origin is None
    assert Constant.of(A).derive(constant.type, np.sqrt, how="sqrt").origin is None
