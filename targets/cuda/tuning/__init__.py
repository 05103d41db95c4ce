"""Tuning of CUDA kernels: candidates are built anywhere, and timed where a GPU is."""
