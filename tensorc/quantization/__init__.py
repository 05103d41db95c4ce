"""Quantization, but for the passes: ranges of values, how they are found, and what the result costs in accuracy."""
