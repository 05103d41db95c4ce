"""Schedules of the CUDA kernels."""

from __future__ import annotations

from tensorc.search.schedule import Schedule

__all__ = ["Schedule"]
