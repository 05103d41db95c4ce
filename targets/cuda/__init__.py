"""The CUDA target: kernels of thread blocks through TVM's code generator and NVRTC, launched as one CUDA graph.

`target` is the door; `gpu` knows the architectures, `kernels` writes the kernels, `codegen` prints them as CUDA C for
`prelude.cuh`, `compiler` makes machine code of that, `budget` says which weights stay on the GPU, `program` what an
artifact holds, and `executable` runs it on a `driver` or, without a GPU, on the `emulator`.
"""

from targets.cuda.target import CudaTarget

__all__ = ["CudaTarget"]
