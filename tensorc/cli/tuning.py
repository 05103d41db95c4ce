"""How tuning shows: a bar that fills with the budget, and the best so far beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tensorc.cli.console import duration
from tensorc.driver import Watch
from tensorc.search.budget import Budget

if TYPE_CHECKING:
    from tensorc.search.tuner import TuningProgress


def tuning_watch(watch: Watch, budget: Budget | None) -> Callable[[TuningProgress], None]:
    """Tells `watch` how much of the budget is spent, in seconds or in trials."""

    def tell(progress: TuningProgress) -> None:
        done, total = progress.trials, progress.trials
        if budget is not None and budget.trials is not None:
            total = budget.trials
        elif budget is not None:
            done, total = int(progress.seconds), int(budget.seconds)
        best = "measuring" if math.isinf(progress.model_seconds) else f"best {duration(progress.model_seconds)}"
        watch("tune", min(done, total), total, f"{best}, {progress.trials} trials, {progress.failures} failed")

    return tell
