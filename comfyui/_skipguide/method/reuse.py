# Built by `make comfyui` from src/skipguide/method/reuse.py; do not edit.
"""Use again what earlier steps computed: c - p of a weak pass, and c - u of CFG.

Between the steps at which it is computed, a difference d is extrapolated along the noise level,

    d(x) = sum_k d(x_k) prod_{l != k} (x - x_l) / (x_k - x_l),    x = log(a / n),

where a and n are the shares of data and noise in the latents, and x_k are the last one to three
noise levels at which it was computed. This is Lagrange's formula, so each sample has its own.

Which steps compute it (`Reuse.every`):

    n        every n-th guided step
    a share  that share of them, where reuse would err most: the sum over the other steps of
             (change of n in the step) |x - x of the last computed step|^1.5 is minimal
    "auto"   wherever reuse would err by more than a tolerance, judged by what the last computed
             difference was off from its own extrapolation
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from ..method import validate
from ..method.formula import upcast

Tensor = torch.Tensor
MAX_LOG_RATIO = 7.0  # of data to noise: a run begins at no data and may end at no noise
MAX_REACH = 2.0  # how far beyond the last interval a line is followed, in intervals; "auto": half
GROWTH = 1.5  # of the error of reuse with the distance: between those of a constant and a line
DEFAULT_TOLERANCE = 0.05
Every = int | float | str  # n, a share, or "auto"


@dataclass(frozen=True)
class Reuse:
    """When a difference is computed, and how it is continued in between.

    Args:
        every: n >= 1, a share above 0 and below 1, or "auto".
        tolerance: for "auto", above 0: the estimated error of all reused steps together, as a part
            of what the differences do in the whole run.
        extrapolate: 0 keeps the last difference, 1 follows a line through the last two, 2 a
            parabola through three. None is 0 for a number n, else 2.
    """

    every: Every = 1
    tolerance: float = DEFAULT_TOLERANCE
    extrapolate: int | None = None

    def check(self) -> None:
        """Raise a ValueError for anything outside these ranges."""
        share = isinstance(self.every, float) and 0 < self.every < 1
        if not share and self.every != "auto":
            self._check_number()
        validate.check_number("tolerance", self.tolerance, 0.0, note="0.05 is usual")
        if self.tolerance == 0:
            raise ValueError(
                "tolerance must be above 0, but got 0, which no reuse keeps. Write every=1."
            )
        if self.extrapolate not in (None, 0, 1, 2) or isinstance(self.extrapolate, bool):
            raise ValueError(
                "extrapolate must be 0 (keep the last difference), 1 (a line) or 2 (a parabola),"
                f" but got {self.extrapolate!r}. Leave it out."
            )

    def _check_number(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(
                'every must be a whole number from 1, a share above 0 and below 1, or "auto", but'
                f" got {self.every!r}. 1 is every guided step, 0.5 half of them."
            )

    @property
    def is_on(self) -> bool:
        """True if any difference is used again."""
        return self.every != 1

    @property
    def order(self) -> int:
        """The degree of the polynomial that continues a difference."""
        if self.extrapolate is not None:
            return self.extrapolate
        return 0 if isinstance(self.every, int) else 2

    def count(self, steps: int) -> int:
        """Return how many of some steps compute; of "auto" a guess, the half."""
        if isinstance(self.every, int):
            return math.ceil(steps / self.every)
        share = self.every if isinstance(self.every, float) else 0.5
        return min(steps, max(1, round(share * steps)))

    @property
    def needs_noise_levels(self) -> bool:
        """True if the noise levels of the run must be known."""
        return self.is_on and (self.order > 0 or not isinstance(self.every, int))


class NoisePath:
    """The noise levels of a run.

    Args:
        shares: n of each step, from 0 to 1, as `noise_levels.noise_shares` returns them.
    """

    def __init__(self, shares: Sequence[float]):
        after = [*shares[1:], 0.0]
        self.x = [_log_ratio(n) for n in shares]
        self.weights = [abs(n - following) for n, following in zip(shares, after, strict=True)]
        self.shares = list(shares)


def _log_ratio(n: float) -> float:
    if not 0 < n < 1:
        return MAX_LOG_RATIO if n <= 0 else -MAX_LOG_RATIO
    return min(max(math.log((1 - n) / n), -MAX_LOG_RATIO), MAX_LOG_RATIO)


class DifferenceHistory:
    """The differences of one term, or of CFG, in one run, and the decision when to compute one.

    Args:
        reuse: what was asked for.
        path: of the run; None if `reuse` does not need it.
        steps: the steps of the run at which the difference is used, in their order.
        planned: the steps that compute, where `reuse.every` is a share or a budget chose them.
        stop: from this step on nothing is computed; None is never.
    """

    def __init__(
        self,
        reuse: Reuse,
        path: NoisePath | None,
        steps: Sequence[int],
        planned: Collection[int] | None = None,
        stop: int | None = None,
    ):
        self.reuse, self.path, self.planned, self.stop = reuse, path, planned, stop
        self._rank = {step: rank for rank, step in enumerate(steps)}
        self._kept: list[tuple[float, tuple[Tensor, ...]]] = []  # (x, one difference per output)
        self._uses = 0  # steps since the last computed one, itself included
        self._error, self._points, self._spent = 0.0, 0, 0.0  # for "auto"

    def is_due(self, step: int) -> bool:
        """Return whether the difference of a step has to be computed. This changes nothing."""
        if not self._kept:
            return True
        if self.stop is not None and step >= self.stop:
            return False
        if self.planned is not None:
            return step in self.planned
        if self.reuse.every == "auto":
            return self._is_due_by_error(step)
        assert isinstance(self.reuse.every, int)
        return self._uses >= self.reuse.every

    def fits(self, predictions: Sequence[Tensor]) -> bool:
        """Return whether the shapes fit: some runs drop frames on their way, or take in more."""
        if not self._kept:
            return False
        pairs = zip(self._kept[-1][1], predictions, strict=True)
        return all(difference.shape == c.shape for difference, c in pairs)

    def extrapolate(self, step: int) -> tuple[Tensor, ...]:
        """Return the difference of a step from those that are kept, per output."""
        weights = self._weights(self._x(step))
        parts = [(w, kept) for w, (_, kept) in zip(weights, self._kept, strict=True) if w]
        return tuple(
            sum((w * kept[k] for w, kept in parts[1:]), parts[0][0] * parts[0][1][k])
            for k in range(len(parts[0][1]))
        )

    def count_reuse(self, step: int) -> None:
        """Note that a step used what is kept."""
        self._uses += 1
        if self.reuse.every == "auto" and self.planned is None:
            self._spent += self._estimated_error(step)

    def add(self, step: int, differences: tuple[Tensor, ...]) -> None:
        """Keep what a step computed. "auto" waits for the device here, to measure a length."""
        x = self._x(step)
        if self._kept and self.reuse.every == "auto" and self.planned is None:
            self._measure_error(x, step, differences)
        if self._kept and (abs(x - self._kept[-1][0]) < 1e-6 or not self.fits(differences)):
            self._kept = []  # the same noise level once more, or another shape
        self._kept = [*self._kept, (x, differences)][-(self.reuse.order + 1) :]
        self._uses = 1

    # --- the polynomial ---------------------------------------------------------------------------

    def _x(self, step: int) -> float:
        return float(step) if self.path is None else self.path.x[step]

    def _reach(self) -> float:
        """Return how far beyond the last noise level a difference is continued, at most."""
        if len(self._kept) < 2:
            return math.inf
        return MAX_REACH * abs(self._kept[-1][0] - self._kept[-2][0])

    def _leaps(self, step: int) -> bool:
        """Return whether a step is farther from the last computed one than that from the one
        before it: an estimate from near points says nothing of far ones."""
        return len(self._kept) > 1 and 2 * abs(self._x(step) - self._kept[-1][0]) > self._reach()

    def _weights(self, x: float) -> list[float]:
        nodes = [known for known, _ in self._kept]
        distance = min(abs(x - nodes[-1]), self._reach())
        x = nodes[-1] + math.copysign(distance, x - nodes[-1])
        return [
            math.prod((x - other) / (node - other) for other in nodes if other != node)
            for node in nodes
        ]

    # --- the estimate of its error ----------------------------------------------------------------

    def _measure_error(self, x: float, step: int, differences: tuple[Tensor, ...]) -> None:
        """Measure how far the extrapolation to a computed step is off, per unit of its node
        polynomial: the factor of the error term of Lagrange's formula."""
        if not self.fits(differences):
            self._points = 0
            return
        pairs = zip(self.extrapolate(step), differences, strict=True)
        ratio = torch.stack([_relative_error(found, own) for found, own in pairs]).max()
        product = math.prod(abs(x - node) for node, _ in self._kept)
        if product < 1e-9:  # the same noise level once more, as with Heun's scheduler
            return
        self._points = len(self._kept)
        self._error = float(ratio) / product  # the one wait for the device

    def _estimated_error(self, step: int) -> float:
        """Return the error of reuse at a step, times how much the step counts in the run."""
        assert self.path is not None
        nodes = [node for node, _ in self._kept][-self._points :] if self._points else []
        x = self.path.x[step]
        return self._error * math.prod(abs(x - node) for node in nodes) * self.path.weights[step]

    def _is_due_by_error(self, step: int) -> bool:
        assert self.path is not None
        if self._points < min(2, self.reuse.order + 1) or self._leaps(step):
            return True
        total = sum(self.path.weights[known] for known in self._rank)
        done = (self._rank.get(step, len(self._rank) - 1) + 1) / len(self._rank)
        allowed = self.reuse.tolerance * total * done
        return self._spent + self._estimated_error(step) > allowed


def _relative_error(found: Tensor, own: Tensor) -> Tensor:
    """Return the largest |found - own| / |own| of the samples of a batch."""
    far, near = upcast(found).flatten(1), upcast(own).flatten(1)
    length = near.norm(dim=1)
    ratio = (far - near).norm(dim=1) / length.where(length > 0, 1.0)
    return ratio.max()


# --- where to compute -----------------------------------------------------------------------------


class Placement:
    """The best steps at which to compute a difference, for every number of them.

    Args:
        path: of the run.
        steps: the steps at which the difference is used, in their order.
        fresh: those of them at which nothing earlier can be used, such as the first one, and those
            after a restart.
        importance: how much an error counts at each step of the run; None counts all alike.
    """

    def __init__(
        self,
        path: NoisePath,
        steps: Sequence[int],
        fresh: Collection[int],
        importance: Sequence[float] | None = None,
    ):
        self.steps = list(steps)
        self._costs, self._last = _best_sums(_gap_costs(path, self.steps, fresh, importance))

    @property
    def fewest(self) -> int:
        """The smallest number of computed steps."""
        return int(self._costs.isfinite().int().argmax()) + 1

    def cost(self, count: int) -> float:
        """Return the sum of the errors, up to a factor, if `count` steps compute."""
        return float(self._costs[count - 1])

    def choose(self, count: int) -> frozenset[int]:
        """Return the best `count` steps; at least `fewest`."""
        found, end = [], len(self.steps)
        for k in range(max(count, self.fewest) - 1, -1, -1):
            end = int(self._last[k][end])
            found.append(self.steps[end])
        return frozenset(found)


def _gap_costs(
    path: NoisePath,
    steps: Sequence[int],
    fresh: Collection[int],
    importance: Sequence[float] | None,
) -> Tensor:
    """Return `(N, N + 1)`: the errors of the steps after a computed one and before the next."""
    x = torch.tensor([path.x[step] for step in steps], dtype=torch.float64)
    counts = importance or [1.0] * len(path.x)
    weight = torch.tensor([path.weights[step] * counts[step] for step in steps])
    error = weight * (x - x[:, None]).abs() ** GROWTH
    error[:, [step in fresh for step in steps]] = math.inf
    later = torch.ones_like(error).triu(1).bool()
    sums = torch.where(later, error, 0.0).cumsum(1)
    gaps = torch.cat([torch.zeros(len(x), 1, dtype=sums.dtype), sums], 1)
    return torch.where(torch.ones_like(gaps).triu(1).bool(), gaps, math.inf)


def _best_sums(gaps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least sum for 1, 2, ... computed steps, and which step came before an end.

    The second is `(N, N + 1)`: with k + 1 computed steps before `end`, the last of them.
    """
    count = len(gaps)
    best, last = gaps.new_full((count,), math.inf), torch.zeros(count, count + 1, dtype=torch.long)
    ends = gaps.new_full((count,), math.inf)
    ends[0] = 0.0  # the first step is computed
    for k in range(count):
        reached, last[k] = (ends[:, None] + gaps).min(0)
        best[k], ends = reached[count], reached[:count]
    return best, last
