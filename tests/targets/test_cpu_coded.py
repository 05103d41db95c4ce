"""Products by weights in few bits, every width and kind of level: see conftest."""

from __future__ import annotations

import numpy as np
import pytest

from tensorc.formats import bits

pytestmark = pytest.mark.compiler

FLOATS = {"e2m1": 4, "e2m3": 6, "e3m2": 6, "e4m3": 8, "e5m2": 8}


def coded(rows, depth, columns, width, group=0, element="integer", scale="f32", zeros=None, zero=0.0):
    """The expression, the types and the codes of a product."""
    groups = -(-depth // group) if group else 1
    attrs = f"width={width}, group={group}, element='{element}', zero={zero}"
    types = {"x": f"f32[{rows},{depth}]", "c": f"u8[{columns},{bits.packed_bytes(depth, width)}]",
             "s": f"{scale}[{columns},{groups}]"}  # fmt: skip
    if zeros:
        types["z"] = f"{zeros}[{columns},{groups}]"
    rng = np.random.default_rng(depth)
    codes = rng.integers(0, 1 << width, (columns, depth), dtype=np.uint8)
    if element in ("e4m3", "e5m2"):
        codes &= 0x77  # no nan, no infinity
    data = {"c": bits.pack(codes, width), "s": 2.0 ** rng.integers(-6, 3, (columns, groups))}
    return f"matmul_coded(x, c, s{', z' if zeros else ''}, {attrs})", types, data


def check_all(check, cases, schedule=None, tolerance=5e-6):
    for case in cases:
        expression, types, data = coded(*case[0], **case[1])
        check(expression, data, tolerance, schedule, **types)


def test_every_width(kernels):
    with kernels.batch() as check:
        check_all(check, [((2, 70, 37, width), {"zero": float(1 << (width - 1))}) for width in range(1, 9)])


def test_small_floats(kernels):
    with kernels.batch() as check:
        check_all(check, [
            ((3, 96, 40, width), {"group": 32, "element": element, "scale": "f8e8m0fnu"})
            for element, width in FLOATS.items()
        ])  # fmt: skip


def test_blocks_rows_and_columns_of_all_sizes(kernels):
    with kernels.batch() as check:
        check_all(check, [
            ((1, 4, 1, 4), {"group": 8, "zero": 8.0}),
            ((1, 200, 130, 4), {"group": 32, "scale": "bf16", "zero": 7.5}),
            ((7, 33, 65, 3), {"group": 8, "zeros": "bf16"}),
            ((5, 100, 17, 2), {"group": 16, "zeros": "f32"}),
            ((13, 64, 64, 4), {"group": 64, "scale": "bf16", "zero": 8.0}),
            ((2, 160, 80, 8), {"group": 32, "zeros": "f32", "scale": "f16"}),
            ((33, 40, 20, 2), {"zero": 1.0}),
            ((4, 1, 3, 5), {"zero": 16.0}),
        ])  # fmt: skip


def test_panels_decoded_for_many_rows(kernels):
    with kernels.batch() as check:
        for rows, vectors in ((4, 2), (1, 1)):
            check_all(check, [
                ((9, 200, 37, 4), {"group": 32, "scale": "bf16", "zero": 7.5}),
                ((8, 33, 65, 3), {"group": 8, "zeros": "bf16"}),
                ((3, 96, 40, 8), {"group": 32, "element": "e4m3", "scale": "f8e8m0fnu"}),
                ((5, 3, 2, 6), {"zero": 1.0}),
            ], {"kind": "coded_panel", "rows": rows, "vectors": vectors})  # fmt: skip


#: Of integers in blocks of chunks: all widths, and sizes that do not come out even.
INTEGERS = [
    ((1, 128, 64, 4), {"group": 32, "scale": "bf16", "zero": 8.0}),
    ((1, 300, 37, 2), {"zero": 1.0}),
    ((3, 200, 130, 3), {"group": 64, "zeros": "bf16"}),
    ((5, 31, 17, 1), {"zero": 0.5}),
    ((4, 520, 20, 4), {"group": 256, "zeros": "f32"}),
]


@pytest.mark.parametrize(("tables", "tolerance"), [("float32", 5e-6), ("int8", 2e-2)])
def test_looking_up(host, tables, tolerance):
    with host.batch() as check:
        for rows, vectors in ((1, 4), (2, 1)):
            schedule = {"kind": "coded_lookup", "rows": rows, "vectors": vectors, "tables": tables}
            check_all(check, INTEGERS, schedule, tolerance)


def test_rounding_to_bytes(host):
    wide = [((3, 100, 40, width), {"zero": float(1 << width - 1)}) for width in range(5, 9)]
    with host.batch() as check:
        for rows, vectors in ((1, 4), (4, 2)):
            check_all(check, INTEGERS + wide, {"kind": "coded_dot", "rows": rows, "vectors": vectors}, 2e-2)
