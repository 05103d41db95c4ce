"""The CPU target: register-blocked kernels through LLVM, run by a small executor that is part of every artifact.

`target` is the door; `kernels` writes the loops, `codegen` turns them into machine code, `link` into a shared object
with `executor.c`, `program` says what that holds and `executable` runs it; `machine` knows the CPUs.
"""

from targets.cpu.target import CpuTarget

__all__ = ["CpuTarget"]
