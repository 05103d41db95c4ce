"""The target `c`: one portable C99 file, in fixed point, without dependencies; for microcontrollers."""

from targets.c.target import CTarget

__all__ = ["CTarget"]
