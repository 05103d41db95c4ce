"""Products by warpgroups (Hopper's wgmma), emulated: types, edges, stages; what the emulator takes for an error; and
what stands in for them on other architectures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import targets.cuda
from targets.cuda.codegen import print_kernel
from targets.cuda.compiler import compile_kernel
from targets.cuda.device import Call
from targets.cuda.emulator import Emulator
from targets.cuda.emulator.device import compile_for_host, launch
from targets.cuda.gpu import NAMED
from targets.cuda.kernels import lower
from targets.cuda.schedules import Extents, gemm_schedule
from targets.cuda.spaces import space_of

from .test_cuda_convolutions import conv

pytestmark = pytest.mark.compiler


def tile(rows, columns, warp_rows, warp_columns=1, stages=3, depth=64):
    return {"kind": "gemm", "rows": rows, "columns": columns, "depth": depth, "warp_rows": warp_rows,
            "warp_columns": warp_columns, "stages": stages, "split_k": 1, "unit": "warpgroups"}  # fmt: skip


def none_waits(check):
    """None spills, and products go on by themselves."""
    assert all(r.spill_stores == r.spill_loads == r.stack == 0 and not r.serialized for r in check.resources)


def test_packed_weights(cuda):
    """More steps than stages, and one only; rows, columns and depths that fill no tile; warpgroups below and beside
    each other."""
    with cuda.batch() as check:
        check("relu(add(matmul_packed(x, w, columns=100), b))", schedule=tile(64, 64, 4), tolerance=2e-3,
              x="f16[2,65,456]", w="f16[13,456,8]", b="f16[100]")  # fmt: skip
        check("matmul_packed(cast(x, to='float32'), w, columns=200)", schedule=tile(128, 128, 8, stages=4),
              x="bf16[70,328]", w="bf16[25,328,8]")  # fmt: skip
        check("matmul_packed(x, w, columns=128)", schedule=tile(64, 128, 4, 2), x="f16[64,64]", w="f16[16,64,8]",
              tolerance=2e-3)  # fmt: skip
        check("add(matmul_packed(x, w, columns=100), b)", schedule=tile(64, 64, 4, depth=128), x="u8[70,700]",
              w="i8[13,700,8]", b="i32[70,100]")  # fmt: skip
    none_waits(check)


def test_largest_tiles(cuda):
    """128 sums a thread, with a long epilogue and a short one: there are registers for them."""
    with cuda.batch() as check:
        check("add(gelu(add(matmul_packed(x, w, columns=256), b), approximate='none'), r)", tolerance=2e-3,
              schedule=tile(128, 256, 8, stages=4), x="f16[130,200]", w="f16[32,200,8]", b="f16[256]",
              r="f16[130,256]")  # fmt: skip
        check("add(add(matmul_packed(x, w, columns=264), b), r)", schedule=tile(64, 256, 4), tolerance=2e-3,
              x="f16[70,328]", w="f16[33,328,8]", b="f16[264]", r="f16[70,264]")  # fmt: skip
    none_waits(check)


def test_other_operands(cuda):
    """Images, computed matrices, what is converted on the way, and what is read element by element."""
    with cuda.batch() as check:
        check(f"relu({conv(pads=(1, 1, 1, 1))})", schedule=tile(64, 64, 4), x="f16[1,2,12,11,8]", w="f16[9,16,3,3,8]",
              tolerance=2e-3)  # fmt: skip
        check(conv(groups=2, pads=(1, 1, 1, 1)), schedule=tile(64, 64, 4), x="f16[1,6,7,7]", w="f16[4,3,3,3,8]",
              tolerance=2e-3)  # fmt: skip
        check("matmul(x, y, transpose_b=1)", schedule=tile(64, 64, 4), x="f16[2,70,200]", y="f16[90,200]",
              tolerance=2e-3)  # fmt: skip
        check("matmul_packed(x, w, columns=24)", schedule=tile(64, 64, 4), x="f32[70,72]", w="f16[3,72,8]",
              tolerance=2e-3)  # fmt: skip
    none_waits(check)


#: What is left out of a kernel or changed in it, and what the emulator says of that.
_WRONG = {
    "no wait for copies": (r"tc_barrier_wait\(.*\(before.*", "", "has not arrived"),
    "no wait for products": (r"tc_barrier_wait\(.*\(step.*", "", "products under way read"),
    "copies not fenced": (r"tc_async_fence\(\);(?=\s+tc_warp_sync)", "", "without a fence"),
    "barriers not fenced": (r"tc_async_fence\(\);(?=\s+}\s+__sync)", "", "made without a fence"),
    "sums not fenced": (r"tc_wgmma_fence\(\);", "", "before a fence"),
    "sums read too early": (r"tc_wgmma_done<.*", "", "products were under way"),
    "sums changed": (r"(\((acc\w+)\[0\]\).*\s+tc_wgmma_commit\(\);)", r"\1 \2[3] = 1;", "sums are written"),
    "beyond a row": (r"\(uint64_t\)6ULL", "(uint64_t)7ULL", "beyond its swizzled rows"),
}


@pytest.fixture(scope="module")
def edited(cuda):
    """Runs a kernel whose text is edited: how far the result is from the right one. Fails where nothing was edited."""
    body = cuda.body("matmul_packed(x, w, columns=64)", x="f16[130,328]", w="f16[8,328,8]")
    kernel = lower(body, cuda.machine, tile(64, 64, 4))
    source = print_kernel(kernel.function, "k")
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float16) for shape in ((130, 328), (8, 328, 8)))
    packed, out = kernel.packings[1].apply(w), np.empty((130, 64), np.float16)
    wanted = x.astype(np.float64) @ w.transpose(0, 2, 1).reshape(64, 328).T.astype(np.float64)

    def run(pattern="", instead="", before=""):
        text = re.sub(pattern, instead, source) if pattern else source
        assert (text != source) == bool(pattern)
        device = Emulator()
        addresses = tuple(device.allocate(array.nbytes) for array in (x, packed, out))
        device.write(addresses[0], x)
        device.write(addresses[1], packed)
        call = Call("k", None, kernel.blocks, kernel.threads, kernel.shared_bytes, addresses)
        launch(compile_for_host("k", before + text), call)
        device.read(addresses[2], out)
        device.close()
        return np.abs(out - wanted).max()

    run.source = source
    return run


@pytest.mark.parametrize("name", _WRONG)
def test_what_is_undefined_is_an_error(edited, name):
    pattern, instead, said = _WRONG[name]
    with pytest.raises(RuntimeError, match=said):
        edited(pattern, instead)


def test_other_layouts_are_other_operands(edited):
    """Descriptors are read bit by bit, and shared memory begins where the kernel asks for it."""
    assert edited() < 0.1
    assert not edited("4611686293305360384", "4611686155866406912") < 1
    assert not edited(r"__align__\(1024\)", "__align__(64)") < 1


def test_other_architectures_do_without(edited, cuda):
    """What the prelude has for them gives the same, and no instruction of sm_90a is in the PTX."""
    prelude = Path(targets.cuda.__file__).with_name("prelude.cuh").read_text()
    text = re.search(r"/\* wgmma by mma: begin \*/(.*)/\* wgmma by mma: end \*/", prelude, re.DOTALL)
    assert text
    portable = re.sub("tc_(wgmma_[a-z0-9]+|swizzled)", r"other_\1", text[1])
    from_shared = "static const void *tc_from_shared(uint32_t at) { return tc_shared_memory + at; }\n"
    assert edited(r"tc_(wgmma_float16)", r"other_\1", before=from_shared + portable) < 0.1
    made = compile_kernel(edited.source, "k", cuda.machine)
    assert b".target sm_90\n" in made.ptx
    assert b"wgmma" not in made.ptx
    assert made.cubin.startswith(b"\x7fELF")


def test_rules(cuda):
    """Large products that fill the GPU go by warpgroups; what is small, short, float32 or for another GPU does not.
    The tuner has both."""
    large = Extents(1, 4096, 4096, 4096, in_chunks=True)
    hopper = NAMED["sm_90"]
    assert gemm_schedule(large, "float16", hopper).unit == "warpgroups"
    assert gemm_schedule(large, "bfloat16", hopper).unit == "warpgroups"
    assert gemm_schedule(large, "float32", hopper).unit == "fma"
    for other in (Extents(1, 128, 768, 768, True), Extents(1, 4096, 4096, 128, True), Extents(1, 4096, 4096, 4096)):
        assert gemm_schedule(other, "float16", hopper).unit == "tensor"
    for name in ("sm_80", "sm_100"):
        assert gemm_schedule(large, "float16", NAMED[name]).unit == "tensor"
    body = cuda.body("matmul_packed(x, w, columns=4096)", x="f16[4096,4096]", w="f16[512,4096,8]")
    units = space_of(body, hopper).algorithms[0].knobs["unit"]
    assert units == ("tensor", "warpgroups")
