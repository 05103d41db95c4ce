"""Fused attention on the CUDA target, emulated, against float64; what the compiler says of registers."""

from __future__ import annotations

import math

import pytest

pytestmark = pytest.mark.compiler

#: Of results, relative to the largest: the operands are what they are, weights and results are rounded.
TOLERANCE = {"f32": 3e-6, "f16": 1.5e-3, "bf16": 1.2e-2}


def attend(check, dtype, q, k, v=None, mask=None, data=None, schedule=None, post="{}"):
    """q [B,L,H,D], k [B,S,Hk,D], v [B,S,Hk,E], mask float32, as the precision pass leaves them."""
    v = v or k
    types = {name: f"{dtype}[{','.join(map(str, shape))}]" for name, shape in zip("qkv", (q, k, v), strict=True)}
    operands = [name if dtype == "f32" else f"cast({name}, to='float32')" for name in "qkv"]
    if mask is not None:
        types["m"] = f"f32[{','.join(map(str, mask))}]"
        operands.append("m")
    text = post.format(f"attention({', '.join(operands)}, scale={1 / math.sqrt(q[3])})")
    if dtype != "f32":
        text = f"cast({text}, to='{'float16' if dtype == 'f16' else 'bfloat16'}')"
    return check(text, data, tolerance=TOLERANCE[dtype], schedule=schedule, **types)


def flash(rows, keys, stages=2, splits=1):
    return {"kind": "flash", "rows": rows, "keys": keys, "stages": stages, "splits": splits}


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_shapes(cuda, dtype):
    with cuda.batch() as check:
        attend(check, dtype, (1, 16, 2, 32), (1, 16, 2, 32))
        attend(check, dtype, (2, 5, 3, 24), (2, 37, 3, 24))  # nothing is whole
        attend(check, dtype, (1, 33, 2, 64), (1, 70, 2, 64), schedule=flash(32, 32, 3))
        attend(check, dtype, (1, 3, 1, 20), (1, 9, 1, 20), (1, 9, 1, 12))  # rows of no whole chunks
        kernel = attend(check, dtype, (1, 1, 1, 8), (1, 1, 1, 8))
    assert kernel.schedule["kind"] == "flash"
