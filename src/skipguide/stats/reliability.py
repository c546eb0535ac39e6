"""The reliability of a map of settings: how much of its order is more than noise.

A map has a number for each cell, a layer that was skipped, say, measured on the same prompts. Its
reliability is the share of what differs between cells that would be found again on other prompts.
It is Cronbach's alpha with prompts in the place of items, which is the mean over all ways to halve
the prompts of what the one half says of the order in the other, corrected for their being halves
(Spearman and Brown's formula, in the form of Flanagan and Rulon). So no halves have to be drawn,
and its interval is exact where noise is normal (Feldt, Psychometrika 30, 1965).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipguide.stats.quantiles import beta_quantile

Floats = NDArray[np.float64]
JACKKNIFE_FREEDOM = 19  # of an interval by the jackknife: 20 groups of prompts


@dataclass(frozen=True)
class Reliability:
    """The reliability of a map: the share of what differs between its cells that is no noise.

    Args:
        between: standard deviation between the cells.
        error: root mean square of the standard errors of the cells' differences to no STG.
        value: 1 - error^2 / between^2. Cells are compared with each other on the same prompts, so
            where the errors are those of the comparison, `paired`, it is larger.
        low, high: the 95 % interval of `paired` (Feldt, Psychometrika 30, 1965), or of `value`
            where the errors are all that is known.
        paired: the same with the errors that cells do not share: Cronbach's alpha of cells over
            prompts; None where the clips are not known.
    """

    cells: int
    prompts: int
    between: float
    error: float
    value: float
    paired: float | None
    low: float
    high: float

    @property
    def best(self) -> float:
        """The reliability that is reported: `paired` where it is known."""
        return self.value if self.paired is None else self.paired

    @property
    def has_signal(self) -> bool:
        """Tell whether the cells' order is more than noise: the interval lies above 0."""
        return self.low > 0


def reliability(differences: Floats) -> Reliability:
    """Measure the reliability of a map from its differences to no STG, `(cells, P)`."""
    cells, prompts = differences.shape
    variance = float(differences.mean(1).var(ddof=1))
    own = float((differences.var(1, ddof=1) / prompts).mean())
    # What all cells share on a prompt, a hard one, say, does not change their order.
    residual = differences - differences.mean(0) - differences.mean(1, keepdims=True)
    residual += differences.mean()
    freedom = (cells - 1) * (prompts - 1)
    noise = float((residual**2).sum()) / freedom / prompts
    paired = 1 - noise / variance if variance else float("nan")
    low, high = _feldt(paired, cells - 1, freedom)
    return Reliability(
        cells, prompts, variance**0.5, own**0.5, 1 - own / variance if variance else float("nan"),
        paired, low, high,
    )  # fmt: skip


def reliability_of_estimates(values: Floats, errors: Floats, prompts: int) -> Reliability:
    """Measure it where only the cells' values and standard errors are known, `(cells,)` each."""
    variance, own = float(values.var(ddof=1)), float((errors**2).mean())
    value = 1 - own / variance if variance else float("nan")
    freedom = len(values) - 1
    low, high = _feldt(value, freedom, freedom * JACKKNIFE_FREEDOM)
    return Reliability(len(values), prompts, variance**0.5, own**0.5, value, None, low, high)


def _feldt(value: float, freedom: int, error_freedom: int) -> tuple[float, float]:
    """Return the 95 % interval of a reliability: 1 / (1 - R) is a ratio of two variances."""
    most, least = (f_quantile(one, freedom, error_freedom) for one in (0.975, 0.025))
    return 1 - (1 - value) * most, 1 - (1 - value) * least


def f_quantile(probability: float, first: int, second: int) -> float:
    """Return the quantile of the F distribution with two degrees of freedom."""
    x = beta_quantile(probability, first / 2, second / 2)
    return second * x / (first * (1 - x))
