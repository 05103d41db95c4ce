"""Kernels that run a task a thread, emulated: see the conftest of tests/targets."""

from __future__ import annotations

import numpy as np
import pytest

from targets.cuda.emulator import compile_for_host

pytestmark = pytest.mark.compiler


def test_elements(cuda):
    with cuda.batch() as check:
        check("relu(add(x, y))", x="f32[3,37]", y="f32[37]")
        check("gelu(x, approximate='none')", x="f16[5,37]", tolerance=1e-3)
        check("cast(mul(x, y), to='bfloat16')", x="f32[3,5]", y="f32[5]", tolerance=1e-2)
        check("div(x, y)", {"y": np.arange(1, 22)}, x="i64[2,21]", y="i64[21]")
        check("less(x, y)", x="f64[4,9]", y="f64[9]")


def test_rows(cuda):
    with cuda.batch() as check:
        check("softmax(x, axis=1)", x="f32[3,70]")
        check("layer_norm(x, g, b, axis=1, epsilon=1e-5)", x="f32[3,50]", g="f32[50]", b="f32[50]")
        check("cumsum(x, axis=1)", x="f32[3,9,5]")
        check("reduce_max(x, axes=(0,))", x="i32[7,5]")


def test_what_waits_in_vain_is_said():
    """The emulator's own: threads that wait where others have ended."""
    source = """
extern "C" __global__ void k(float* out0) {
  if (threadIdx.x < 3) __syncthreads();
  out0[threadIdx.x] = 1.0f;
}
"""
    function = compile_for_host("k", source)
    out = np.zeros(32, np.float32)
    arguments = np.array([out.ctypes.data], np.uint64)
    assert b"wait" in function(1, 32, 0, arguments.ctypes.data)
