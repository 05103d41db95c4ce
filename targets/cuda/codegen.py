"""Kernels as CUDA C, through TVM's code generator. The text needs `prelude.cuh` in front, and nothing else."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.s_tir import transform as s_transform
from tvm.tirx import transform

#: The linkage of kernels that are launched by name.
_DEVICE_KERNEL = 2
#: Where what the code generator prints before kernels ends: headers of its own, which the prelude stands for.
_BEGIN = 'extern "C" __global__'


def print_kernel(function: Any, name: str) -> str:
    """The text of one kernel, a PrimFunc of `BlockBuilder`."""
    target = tvm.target.Target({"kind": "cuda", "arch": "sm_80"})  # what is printed is the same for all
    function = function.with_attr("global_symbol", name).with_attr("target", target)
    module = tvm.IRModule({name: function.with_attr("calling_conv", _DEVICE_KERNEL)})
    passes = [
        transform.StmtSimplify(),
        s_transform.RewriteUnsafeSelect(),
        transform.LowerIntrin(),
    ]
    lowered = tvm.transform.Sequential(passes)(module)
    text: str = tvm.get_global_func("target.build.cuda")(lowered, target).inspect_source()
    declared = text.index(_BEGIN)
    return text[text.index(_BEGIN, declared + 1) :]
