"""Kernels that run a task a thread, emulated: see the conftest of tests/targets."""

from __future__ import annotations

import numpy as np
import pytest

from targets.cuda.emulator import compile_for_host

pytestmark = pytest.mark.compiler


def test_tasks(cuda, well_made):
    with cuda.batch() as check:
        check("cumsum(x, axis=1)", x="f32[3,9,5]")
        check("arg_max(x, axis=0)", x="u8[9,4]")
        check("top_k(x, axis=1, k=3, largest=1)", x="f32[3,40]")
        check("add(cast(scatter(x, i, u, reduction='add'), to='float16'), y)", {"i": [[0, 2, 2, 9]]}, x="f32[1,5,6]",
              i="i64[1,4]", u="f32[1,4,6]", y="f16[1,5,6]", tolerance=1e-3)  # fmt: skip
    assert not well_made(check)


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
