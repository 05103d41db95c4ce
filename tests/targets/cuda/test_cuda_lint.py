"""Accesses to memory that cost a warp more than their bytes are found, at their line."""

from __future__ import annotations

import math

import numpy as np
import pytest

from targets.cuda.codegen import print_kernel
from targets.cuda.device import Call
from targets.cuda.emulator import Emulator
from targets.cuda.kernels import lower
from targets.cuda.lint import accesses
from tensorc.ir.types import numpy_dtype

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


#: Kernels that networks spend their time in, and by how much more than the least their requests may take of global and
#: of shared memory. Windows two apart take every other pixel.
ANCHORS = {
    "matmul": ("relu(matmul_packed(x, w, columns=64))", {"x": "f16[64,64]", "w": "f16[8,64,8]"}, 1.02, 1.02),
    "residual": ("add(matmul_packed(x, w, columns=64), r)", {"x": "f16[64,64]", "w": "f16[8,64,8]", "r": "f16[64,64]"},
                 1.02, 1.02),
    "long": ("gelu(matmul_packed(x, w, columns=64), approximate='none')", {"x": "f16[64,64]", "w": "f16[8,64,8]"},
             1.02, 1.02),
    "float32": ("matmul_packed(x, w, columns=64)", {"x": "f32[64,64]", "w": "f32[8,64,8]"}, 1.1, 1.05),
    "few bits": ("matmul_coded(x, c, s, width=4, group=32, zero=8.0)",
                 {"x": "f32[1,512]", "c": "u8[64,256]", "s": "bf16[64,16]"}, 1.05, 1.05),
    "few bits, tiles": ("cast(matmul_coded(cast(x, to='float32'), c, s, width=4, group=32, zero=8.0), to='float16')",
                        {"x": "f16[64,64]", "c": "u8[64,32]", "s": "bf16[64,2]"}, 1.35, 1.05),
    "conv": ("relu(conv_blocked(x, w, strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1)))",
             {"x": "f16[1,2,16,16,8]", "w": "f16[2,16,3,3,8]"}, 1.2, 1.05),
    "attention": ("attention(q, k, v, scale=0.25)", dict.fromkeys("qkv", "f16[1,32,2,32]"), 1.1, 1.05),
    "softmax": ("softmax(x, axis=1)", {"x": "f16[16,256]"}, 1.05, 1.05),
    "layer norm": ("layer_norm(x, g, b, axis=1, epsilon=1e-5)", {"x": "f32[8,256]", "g": "f32[256]", "b": "f32[256]"},
                   1.05, 1.05),
    "elements": ("gelu(add(x, y), approximate='tanh')", {"x": "f16[16,256]", "y": "f16[256]"}, 1.05, 1.05),
    "pool": ("max_pool(x, kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1))",
             {"x": "f16[1,4,16,16,8]"}, 1.85, 1.05),
}  # fmt: skip


@pytest.mark.parametrize("name", ANCHORS)
def test_anchors_use_what_they_move(cuda, name):
    expression, types, most_global, most_shared = ANCHORS[name]
    body = cuda.body(expression, **types)
    kernel = lower(body, cuda.machine)
    device = Emulator()
    addresses = []
    for value in (*body.inputs, *body.outputs):
        packing = kernel.packings.get(len(addresses)) if len(addresses) < len(body.inputs) else None
        elements = value.type.size if packing is None else math.prod(packing.shape)
        addresses.append(device.allocate(elements * numpy_dtype(value.dtype).itemsize))
        device.clear(addresses[-1], elements * numpy_dtype(value.dtype).itemsize)
    addresses += [device.allocate(nbytes) for nbytes in (kernel.scratch_bytes, 4 * kernel.counters) if nbytes]
    if kernel.counters:
        device.clear(addresses[-1], 4 * kernel.counters)
    call = Call("k", None, kernel.blocks, kernel.threads, kernel.shared_bytes, tuple(addresses))
    found = accesses("k", print_kernel(kernel.function, "k"), call)
    device.close()
    for is_shared, most in ((False, most_global), (True, most_shared)):
        mine = [one for one in found if one.is_shared == is_shared]
        taken, least = (sum(getattr(one, what) for one in mine) for what in ("taken", "least"))
        worst = max(mine, key=lambda one: one.taken - one.least, default=None)
        assert taken <= most * least, f"{taken / least:.2f} times as much as bytes need, most of it in: {worst}"
