"""Kernels have room for all that they keep in registers: what NVRTC says of them. Nothing is run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from targets.cuda.codegen import print_kernel
from targets.cuda.compiler import compile_kernel
from targets.cuda.gpu import NAMED
from targets.cuda.kernels import lower

from .test_cuda_convolutions import conv
from .test_cuda_products import tile

pytestmark = pytest.mark.compiler

_WIDE = "cast(x, to='float32')"
_PADDED = conv(pads=(1, 1, 1, 1))
_STEM = conv(strides=(2, 2), pads=(3, 3, 3, 3))
_TOKENS = "gelu(add(matmul_packed(x, w, columns=3072), b), approximate='none')"
#: What networks spend their time in, with their sizes; rules choose the schedule where none is given.
ANCHORS = {
    "float32": (_TOKENS, {"x": "f32[128,768]", "w": "f32[384,768,8]", "b": "f32[3072]"}, None),
    "float16": (_TOKENS, {"x": "f16[128,768]", "w": "f16[384,768,8]", "b": "f16[3072]"}, None),
    "bytes": ("cast(matmul_packed(x, w, columns=768), to='float32')", {"x": "u8[128,768]", "w": "i8[96,768,8]"}, None),
    "scores": ("matmul(x, y, transpose_b=1)", {"x": "f16[12,128,64]", "y": "f16[12,128,64]"}, None),
    "one row": ("matmul_packed(x, w, columns=1000)", {"x": "f16[1,2048]", "w": "f16[125,2048,8]"}, None),
    "one long row": ("relu(add(matmul_packed(x, w, columns=4096), b))",
                     {"x": "f32[1,9216]", "w": "f32[512,9216,8]", "b": "f32[4096]"}, None),
    "pixels": (conv(), {"x": "f32[1,8,56,56,8]", "w": "f32[32,64,1,1,8]"}, None),
    "conv": (f"relu(add({_PADDED}, r))", {"x": "f32[1,32,14,14,8]", "w": "f32[32,256,3,3,8]",
                                          "r": "f32[1,32,14,14,8]"}, None),
    "conv, float16": (f"relu(add({_PADDED}, r))", {"x": "f16[1,16,28,28,8]", "w": "f16[16,128,3,3,8]",
                                                   "r": "f16[1,16,28,28,8]"}, None),
    "stem": (f"relu({_STEM})", {"x": "f32[1,3,224,224]", "w": "f32[8,3,7,7,8]"}, None),
    "stem, float16": (f"relu({_STEM})", {"x": "f32[1,3,224,224]", "w": "f16[8,3,7,7,8]"}, None),
    "attention": ("attention(q, k, v, scale=0.125)", dict.fromkeys("qkv", "f32[1,197,12,64]"), None),
    "attention, float16": ("attention(q, k, v, scale=0.125)", dict.fromkeys("qkv", "f16[1,197,12,64]"), None),
    "shared tiles": ("matmul(x, y)", {"x": "f16[3000,2048]", "y": "f16[2048,3000]"}, tile(128, 128, 64, 4, 2, 4, 0)),
    "shared tiles, float32": (_TOKENS, {"x": "f32[3000,768]", "w": "f32[384,768,8]", "b": "f32[3072]"},
                              tile(128, 128, 32, 4, 2, 3, 0, unit="fma")),
    # Six parts of a reduction, all of which were once loaded before the first was added.
    "parts": (f"cast(relu(add({conv(_WIDE)}, b)), to='float16')",
              {"x": "f16[1,104,6,6,8]", "w": "f16[20,832,1,1,8]", "b": "f32[1,20,1,1,8]"},
              tile(32, 16, 32, 2, 1, 4, 6)),
}  # fmt: skip
_TF32 = replace(NAMED["sm_90"], rounds_products=True)
_CASES = [(name, NAMED[architecture]) for name in ANCHORS for architecture in ("sm_80", "sm_90")]
_CASES += [(name, _TF32) for name in ("float32", "conv", "stem", "attention")]


@pytest.mark.parametrize(("name", "gpu"), _CASES, ids=lambda case: getattr(case, "name", case))
def test_no_anchor_spills(cuda, name, gpu):
    expression, types, schedule = ANCHORS[name]
    kernel = lower(cuda.body(expression, **types), gpu, schedule)
    resources = compile_kernel(print_kernel(kernel.function, "k"), "k", gpu).resources
    assert resources.stack == resources.spill_stores == resources.spill_loads == 0
