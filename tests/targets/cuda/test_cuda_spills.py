"""Kernels have room for all that they keep in registers: what NVRTC says of them. Nothing is run."""

from __future__ import annotations

import pytest

from targets.cuda.codegen import print_kernel
from targets.cuda.compiler import compile_kernel
from targets.cuda.gpu import NAMED
from targets.cuda.kernels import lower

from .test_cuda_convolutions import conv
from .test_cuda_products import tile

pytestmark = pytest.mark.compiler

_WIDE = "cast(x, to='float32')"
#: By name: a kernel and, where rules choose another for one of the architectures, its schedule.
ANCHORS = {
    # Six parts of a reduction, all of which were once loaded before the first was added.
    "parts": (f"cast(relu(add({conv(_WIDE)}, b)), to='float16')",
              {"x": "f16[1,104,6,6,8]", "w": "f16[20,832,1,1,8]", "b": "f32[1,20,1,1,8]"},
              tile(32, 16, 32, 2, 1, 4, 6)),
}  # fmt: skip


@pytest.mark.parametrize("gpu", [NAMED["sm_80"], NAMED["sm_90"]], ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("name", ANCHORS)
def test_no_anchor_spills(cuda, name, gpu):
    expression, types, schedule = ANCHORS[name]
    kernel = lower(cuda.body(expression, **types), gpu, schedule)
    resources = compile_kernel(print_kernel(kernel.function, "k"), "k", gpu).resources
    assert resources.stack == resources.spill_stores == resources.spill_loads == 0
