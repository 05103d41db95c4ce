"""A CPU that stands for a GPU: kernels' own CUDA C, compiled by g++, its threads as fibers. For tests and debugging."""

from targets.cuda.emulator.device import Emulator, compile_for_host, launch

__all__ = ["Emulator", "compile_for_host", "launch"]
