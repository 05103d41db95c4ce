"""Products by weights in few bits, emulated: few rows and tiles, of all that formats are made of."""

from __future__ import annotations

import pytest

from targets.cuda.kernels import lower
from targets.cuda.spaces import space_of

from ..test_cpu_coded import FLOATS, check_all, coded
from .test_cuda_products import none_spills, tile

pytestmark = pytest.mark.compiler


def few(warps, panels, unroll):
    return {"kind": "coded", "warps": warps, "panels": panels, "unroll": unroll}


def narrow(dtype, *args, **kwargs):
    """The same with what is multiplied, and the result, in 16 bits."""
    expression, types, data = coded(*args, **kwargs)
    if dtype == "f16":
        data["s"] = data["s"] / 1024  # some small floats are large
    expression = expression.replace("(x,", "(cast(x, to='float32'),", 1)
    long = {"f16": "float16", "bf16": "bfloat16"}[dtype]
    return f"cast({expression}, to='{long}')", {**types, "x": types["x"].replace("f32", dtype)}, data


def integers(*widths):
    return [((2, 70, 37, width), {"zero": float(1 << (width - 1))}) for width in widths]


def floats(*elements):
    return [((3, 96, 40, FLOATS[one]), {"group": 32, "element": one, "scale": "f8e8m0fnu"}) for one in elements]


#: Blocks that end within words and beyond the sum, of a few scales and of one a number; every type of scales; zero
#: points that are whole numbers and that are not.
BLOCKS = [
    ((1, 200, 130, 4), {"group": 32, "scale": "bf16", "zero": 7.5}),
    ((3, 33, 65, 3), {"group": 8, "zeros": "bf16"}),
    ((2, 100, 17, 2), {"group": 24, "zeros": "f32"}),
    ((4, 64, 64, 4), {"group": 5, "scale": "f16", "zeros": "f16"}),
    ((2, 70, 20, 4), {"group": 16, "element": "e2m1", "scale": "bf16", "zero": 0.5}),
]


def test_few_rows(cuda):
    with cuda.batch() as check:
        check_all(check, integers(5) + floats("e4m3") + BLOCKS)
    none_spills(check)


def test_warps_and_segments_of_few_rows(cuda):
    """Turns and what is left of them; more than one segment of what is multiplied; panels beside each other."""
    with cuda.batch() as check:
        check_all(check, [((1, 1100, 40, 1), {"group": 32, "zero": 0.5})], few(1, 2, 2))
        check_all(check, [((8, 2047, 20, 2), {"group": 64, "zeros": "bf16"})], few(2, 1, 1))
    none_spills(check)


def test_tiles_of_float32(cuda):
    """Nothing is rounded; a step of half a block of codes, of one, and of two."""
    with cuda.batch() as check:
        check_all(check, integers(8), tile(32, 32, 16, 1, 1, unit="fma"))
        check_all(check, floats("e5m2") + BLOCKS[1:2], tile(32, 64, 32, 2, 2, unit="fma"))
        check_all(check, BLOCKS[2:3], tile(64, 32, 64, 4, 1, unit="fma"))
        check_all(check, [((70, 200, 40, 4), {"group": 32, "zero": 8.0})], tile(32, 32, 16, 2, 1, 3, 2, "fma"))
    none_spills(check)


def test_tensor_cores(cuda):
    """Numbers of 16 bits, each rounded once; float32 rounded to tf32."""
    cases = [
        ("f16", integers(2)[0], tile(32, 16, 16, 1, 1)),
        ("f16", floats("e2m3")[0], tile(32, 64, 64, 1, 1)),
        ("f16", BLOCKS[3], tile(32, 64, 32, 1, 1)),
        ("f16", ((36, 160, 70, 4), {"group": 32, "zero": 8.0}), tile(64, 64, 32, 2, 2, 3, 2)),
        ("bf16", BLOCKS[1], tile(16, 32, 32, 1, 1, 3)),
    ]
    with cuda.batch() as check:
        for dtype, (args, kwargs), schedule in cases:
            expression, types, data = narrow(dtype, *args, **kwargs)
            check(expression, data, {"f16": 3e-3, "bf16": 2e-2}[dtype], schedule, **types)
        check_all(check, integers(6), tile(32, 32, 32, 1, 1), 3e-3)
    none_spills(check)


def test_what_comes_behind(cuda):
    expression, types, data = coded(3, 128, 40, 4, group=32, zero=8.0)
    types["b"] = "f32[40]"
    with cuda.batch() as check:
        check(f"gelu(add({expression}, b), approximate='none')", data, 5e-6, few(2, 1, 1), **types)
    none_spills(check)


@pytest.mark.parametrize(("rows", "dtype", "kind"), [
    (1, "f32", "coded"), (8, "f32", "coded"), (9, "f32", "gemm"), (4, "f16", "coded"), (5, "f16", "gemm"),
])  # fmt: skip
def test_what_rules_choose(cuda, rows, dtype, kind):
    expression, types, _ = coded(rows, 256, 64, 4, group=32, scale="bf16", zero=8.0)
    if dtype != "f32":
        expression, types, _ = narrow(dtype, rows, 256, 64, 4, group=32, scale="bf16", zero=8.0)
    body = cuda.body(expression, **types)
    kernel = lower(body, cuda.machine)
    assert kernel.schedule["kind"] == kind
    assert kernel.schedule == space_of(body, cuda.machine).default
