"""Kernels to an object file, through TVM's LLVM code generator.

The functions keep the plain C convention: TVM's host runtime, its packed calls and its thread pool are left out,
so that a model needs nothing of TVM to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
from tvm.s_tir import transform as s_transform
from tvm.tirx import transform

from targets.cpu.machine import Machine


def _lower(module: Any) -> Any:
    passes = [
        transform.StmtSimplify(),
        transform.VectorizeLoop(True),
        transform.UnrollLoop(),
        transform.StmtSimplify(),
        s_transform.RewriteUnsafeSelect(),
        transform.LowerIntrin(),
    ]
    return tvm.transform.Sequential(passes)(module)


def build_module(kernels: Mapping[str, Any], machine: Machine) -> Any:
    """TVM's runtime module of the functions, by symbol name; `inspect_source("asm")` shows their code."""
    target = tvm.target.Target(machine.llvm_target())
    functions = {
        name: function.with_attr("global_symbol", name).with_attr("target", target)
        for name, function in kernels.items()
    }
    return tvm.get_global_func("target.build.llvm")(_lower(tvm.IRModule(functions)), target)


def build_object(kernels: Mapping[str, Any], machine: Machine, out: Path) -> None:
    """Write one object file that exports every function under its name."""
    build_module(kernels, machine).write_to_file(str(out))
