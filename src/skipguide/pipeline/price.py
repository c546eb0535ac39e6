"""Say before a run without CFG begins what it costs: c, and what the weak passes add."""

from __future__ import annotations

from collections.abc import Sequence

from skipguide.method.request import GuidanceRequest
from skipguide.method.terms import STG


def weak_passes_per_step(
    request: GuidanceRequest, costs: Sequence[float], num_steps: int
) -> float | None:
    """Return what the weak passes add to a step, on average over a run, in forward passes.

    Args:
        request: what guide() was asked for; a budget and restarts are not looked at.
        costs: of one weak pass of each term, in forward passes.
        num_steps: of the run.

    Returns:
        None for a Schedule, whose steps follow noise levels that only a run has, and for a list of
        scales of another length.
    """
    if request.schedule is not None:
        return None
    total = 0.0
    for term, cost in zip(request.terms, costs, strict=True):
        if isinstance(term, STG):
            on = term.guided_steps(num_steps)
            if on is None:
                return None
            total += cost * term.reuse.count(len(on))
    return total / num_steps


def describe_price(weak: float, budget: float | None = None) -> str:
    """Return the price of a run without CFG in words.

    Args:
        weak: as `weak_passes_per_step` returns it.
        budget: of the request.
    """
    words = f"no CFG here: 1 + {weak:.2g} passes a step"
    return words if budget is None or 1 + weak <= budget else f"{words}, {budget:g} by the budget"
