"""Runs whose steps are timed, and runs that are timed whole.

Reading the clock between steps costs a little each time: so runs of both kinds take turns, and what a step gets is the
median over all of the former. What a run spends outside steps is the median of single runs' differences: that of two
medians would drown in noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

#: Runs of each kind. More samples than this move no median that anybody could read.
_LEAST, _MOST = 3, 2000


def take_turns(
    run: Callable[[], object],
    run_timed: Callable[[], np.ndarray],
    seconds: float,
    progress: Callable[[int, int, str], None],
) -> tuple[list[float], list[float], list[np.ndarray]]:
    """For about `seconds`: the seconds of whole runs; of as many timed ones, what they spent outside their steps, and
    the seconds of those, which `run_timed` gives."""
    start = time.perf_counter()
    run_timed()  # pages weights in, and shows how long a run takes
    run()
    pair = time.perf_counter() - start
    whole: list[float] = []
    outside: list[float] = []
    timed: list[np.ndarray] = []
    until = time.perf_counter() + seconds
    while len(whole) < _LEAST or (time.perf_counter() < until and len(whole) < _MOST):
        left = max(until - time.perf_counter(), 0)
        total = min(max(len(whole) + math.ceil(left / pair), _LEAST), _MOST)
        progress(len(whole), total, "runs")
        begin = time.perf_counter()
        run()
        middle = time.perf_counter()
        steps = run_timed()
        end = time.perf_counter()
        whole.append(middle - begin)
        outside.append(end - middle - float(steps.sum()))
        timed.append(steps)
        pair = (end - until + seconds) / len(whole)
    return whole, outside, timed
