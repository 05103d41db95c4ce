"""Accesses to memory that cost a warp more than their bytes are found, at their line."""

from __future__ import annotations

import numpy as np
import pytest

from targets.cuda.device import Call
from targets.cuda.emulator import Emulator
from targets.cuda.lint import accesses

_SOURCE = """
extern "C" __global__ void __launch_bounds__(64) k(float* __restrict__ in0, float* __restrict__ out0) {
  __shared__ alignas(64) float tile[2048];
  tile[((int)threadIdx.x) * STEP] = in0[((int)threadIdx.x) * STRIDE];
  __syncthreads();
  out0[(int)threadIdx.x] = max(tile[((int)threadIdx.x) * STEP], 0.0f);
}
"""


@pytest.mark.parametrize(
    ("step", "turns", "stride", "sectors"), [(1, 1, 1, 4), (2, 2, 2, 8), (32, 32, 8, 32), (33, 1, 1, 4)]
)
def test_factors(step, turns, stride, sectors):
    x, out = np.arange(64.0 * stride, dtype=np.float32), np.zeros(64, np.float32)
    device = Emulator()
    addresses = device.allocate(x.nbytes), device.allocate(out.nbytes)
    device.write(addresses[0], x)
    source = _SOURCE.replace("STEP", str(step)).replace("STRIDE", str(stride))
    call = Call("k", None, 1, 64, 0, addresses)
    found = accesses("k", source.replace("tile[2048]", "tile[2112]"), call)
    device.read(addresses[1], out)
    device.close()
    np.testing.assert_array_equal(out, x[::stride])
    by_kind = {(one.is_shared, one.is_store): one for one in found}
    assert by_kind[False, False].taken == 2 * sectors
    assert by_kind[False, True].factor == 1
    assert by_kind[True, True].taken == by_kind[True, False].taken == 2 * turns
    assert all(one.requests == 2 for one in found)
    assert by_kind[True, True].line.startswith("tile")
    assert by_kind[False, True].line.startswith("out0")
