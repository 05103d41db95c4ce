"""A picture of tuning: latency against trials and against seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tensorc.errors import UserError
from tensorc.search.tuner import TuningProgress

_EXTRA = "pip install 'tensorc[plot]'"


def check_plot(path: Path) -> None:
    """Find out before hours of work that no plot can be written. Raises UserError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise UserError(f"--plot needs matplotlib: {_EXTRA}") from error
    legal = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix[1:].lower() not in legal:
        raise UserError(f"cannot plot to {path}: its suffix must be one of {', '.join(legal)}")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: {path.parent} is not a folder")


def plot_histories(path: Path, histories: Sequence[tuple[str, Sequence[TuningProgress]]]) -> None:
    """A line for each (label, history); nothing is drawn of the time before every kernel of a model was measured."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    by_trials, by_seconds = figure.subplots(1, 2, sharey=True)
    for label, history in histories:
        known = [row for row in history if math.isfinite(row.model_seconds)]
        if known:
            best = [1e3 * row.model_seconds for row in known]
            look = {"where": "post", "marker": ".", "label": f"{label}: {best[-1]:.3g} ms"}
            by_trials.step([row.trials for row in known], best, **look)
            by_seconds.step([row.seconds for row in known], best, **look)
    by_trials.set(xlabel="trials", ylabel="latency, the kernels' sum (ms)")
    by_seconds.set(xlabel="seconds")
    for axes in (by_trials, by_seconds):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.legend(*by_trials.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
