"""How long a search may go on."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from tensorc.errors import UserError

_UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """Ends after `seconds` or `trials`, whichever comes first."""

    seconds: float = math.inf
    trials: int | None = None

    @staticmethod
    def parse(text: str) -> Budget:
        """`90s`, `5min` or `2h` of time, or a number of trials. Raises UserError."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h)", text.strip())
        if match:
            return Budget(seconds=float(match[1]) * _UNITS[match[2]])
        if re.fullmatch(r"\d{1,9}", text.strip()) and int(text) > 0:
            return Budget(trials=int(text))
        raise UserError(f"{text!r} is not a budget: a time such as 60s, 5min or 2h, or a number of trials such as 200")

    def share(self, parts: int) -> Budget:
        """One of so many equal parts, of at least one trial."""
        return Budget(self.seconds / parts, None if self.trials is None else max(self.trials // parts, 1))

    def __str__(self) -> str:
        if self.trials is None:
            return f"{self.seconds:g}s"
        return f"{self.trials} trials" + ("" if math.isinf(self.seconds) else f" or {self.seconds:g}s")
