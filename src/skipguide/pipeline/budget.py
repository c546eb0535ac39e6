"""Choose which steps compute u and the weak passes, for a given number of forward passes a step.

    1 + (steps with u) / N + sum_j w_j (steps with weak pass j) / N  <=  budget

where w_j is what weak pass j costs, as a part of a forward pass. Of all numbers of steps that fit,
those are taken for which the sum of the errors of reuse is the smallest (`reuse.Placement`), and
an error counts as much as the difference moves the prediction: (g - 1) |c - u| and s_j |c - p_j|,
with g and s_j of each step.
How long the differences are along the noise level is not known before a run; IMPORTANCE has curves
that were measured on lab-mochi and lab-opensora, where c - u shrinks and c - p grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipguide.method.reuse import NoisePath, Placement

Curve = tuple[float, float, int]
TYPICAL_SCALE = 5.0  # g, where a pipeline does not tell it in time
UNCOND_LENGTH: Curve = (10.0, 25.0, 2)  # a + b n^k: |c - u| at the share n of noise
WEAK_LENGTH: Curve = (20.0, 0.0, 1)  # |c - p|


@dataclass(frozen=True)
class Demand:
    """One difference that a run needs.

    Args:
        name: for the report.
        cost: of computing it at one step, in forward passes.
        steps: the steps of the run at which it is needed, in their order.
        fresh: those at which nothing earlier can be used: the first, and after restarts.
        scales: by which it is multiplied at each of `steps`.
        length: (a, b, k) of how long it is.
    """

    name: str
    cost: float
    steps: tuple[int, ...]
    fresh: frozenset[int]
    scales: tuple[float, ...]
    length: Curve


@dataclass(frozen=True)
class BudgetPlan:
    """The steps at which each difference is computed; `str()` says it in words.

    Args:
        budget: forward passes a step that were allowed.
        passes_per_step: those that the plan takes.
        num_steps: of the run.
        demands: the differences; computed: the steps of each, in the same order.
    """

    budget: float
    passes_per_step: float
    num_steps: int
    demands: tuple[Demand, ...]
    computed: tuple[frozenset[int], ...]

    def __str__(self) -> str:
        parts = [
            f"{demand.name} at {len(chosen)} of {len(demand.steps)} steps"
            for demand, chosen in zip(self.demands, self.computed, strict=True)
        ]
        passes = f"{self.passes_per_step:.2f} passes a step"
        cfg = "" if any(demand.name == "u" for demand in self.demands) else ", no CFG"
        what = ", ".join(parts) or "nothing beside c"
        return f"budget {self.budget:g}{cfg}: {what}; {passes} over {self.num_steps} steps"


def choose_plan(
    budget: float, path: NoisePath, demands: Sequence[Demand], num_steps: int
) -> BudgetPlan:
    """Return the plan with the smallest error that keeps to a budget.

    Args:
        budget: forward passes a step.
        path: the noise levels of the run.
        demands: u first, if there is one; then the weak passes, which all get the same share.
        num_steps: that are still to do, c at each of them.

    Raises:
        ValueError: if not even the fewest possible passes fit.
    """
    placements = [
        Placement(path, demand.steps, demand.fresh, _importance(demand, path)) for demand in demands
    ]
    fewest = [placement.fewest for placement in placements]
    least = sum(demand.cost * n for demand, n in zip(demands, fewest, strict=True))
    check_least(budget, least, num_steps)
    allowed = _allowed(budget, num_steps)
    counts = min(
        _possible_counts(demands, fewest, allowed),
        key=lambda counts: sum(
            placement.cost(n) for placement, n in zip(placements, counts, strict=True)
        ),
    )
    chosen = [placement.choose(n) for placement, n in zip(placements, counts, strict=True)]
    spent = sum(demand.cost * len(steps) for demand, steps in zip(demands, chosen, strict=True))
    return BudgetPlan(budget, 1 + spent / num_steps, num_steps, tuple(demands), tuple(chosen))


def check_least(budget: float, passes: float, num_steps: int) -> None:
    """Check that a budget pays for the fewest passes that a run can do with, beside those of c.

    Raises:
        ValueError: if it does not.
    """
    if passes > _allowed(budget, num_steps):
        raise ValueError(
            f"a budget must allow at least {1 + passes / num_steps:.2f} passes a step in this run"
            f" of {num_steps} steps, where c is computed at each of them, but got {budget:g}. Raise"
            " it, or take more steps."
        )


def _allowed(budget: float, num_steps: int) -> float:
    return (budget - 1) * num_steps + 1e-9


def lengths(curve: Curve, path: NoisePath) -> list[float]:
    """Return how long a difference is at each step of a run, by its curve."""
    a, b, k = curve
    return [a + b * n**k for n in path.shares]


def _importance(demand: Demand, path: NoisePath) -> list[float]:
    """Return how much an error counts at each step of a run."""
    scales = dict(zip(demand.steps, demand.scales, strict=True))
    return [scales.get(i, 0.0) * length for i, length in enumerate(lengths(demand.length, path))]


def _possible_counts(
    demands: Sequence[Demand], fewest: Sequence[int], allowed: float
) -> list[tuple[int, ...]]:
    """Return for each number of steps with the first difference what remains for the others."""
    if not demands:
        return [()]
    first, others = demands[0], demands[1:]
    found = []
    for count in range(fewest[0], len(first.steps) + 1):
        rest = allowed - first.cost * count
        share = _largest_share(others, fewest[1:], rest)
        if share is not None:
            found.append((count, *share))
    return found


def _largest_share(
    demands: Sequence[Demand], fewest: Sequence[int], allowed: float
) -> tuple[int, ...] | None:
    """Return the numbers of steps by the largest share of all of them that fits; None if none."""
    for parts in range(100, -1, -1):
        counts = tuple(
            max(n, len(demand.steps) * parts // 100)
            for demand, n in zip(demands, fewest, strict=True)
        )
        if sum(d.cost * n for d, n in zip(demands, counts, strict=True)) <= allowed:
            return counts
    return None
