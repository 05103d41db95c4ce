"""Fused attention. `kernel` goes over the keys: `copies` bring operands to `tiles`, `units` multiply, `softmax` keeps
what was seen, `results` leave."""

from targets.cuda.kernels.attention.kernel import extents_of_attention, lower_attention

__all__ = ["extents_of_attention", "lower_attention"]
