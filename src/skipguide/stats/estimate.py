"""A number with its 95 % interval: what every statistic of skipguide is reported as."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval, and how many observations it was computed from.

    `low` and `high` are None where no interval holds; `reason` says why.
    """

    value: float
    low: float | None
    high: float | None
    count: int
    reason: str | None = None

    @property
    def sign(self) -> int:
        """1 or -1 if the whole interval lies on one side of 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)
