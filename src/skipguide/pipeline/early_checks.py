"""Refuse a budget that is too small before any model runs, as far as it can be known by then.

What a run costs at least is known in full at its first step only, when there are noise levels. But
each difference is computed at one step or more, and to know what that costs takes the number of
steps only. It is among the arguments of the pipeline's call when its text encoders are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType
from typing import Any

from torch import nn

from skipguide.method.request import GuidanceRequest
from skipguide.method.terms import STG
from skipguide.pipeline import budget

_OTHER_NUMBERS = ("pyramid_num_inference_steps_list",)  # arguments by which a run has more steps


def check_budget(
    request: GuidanceRequest, num_steps: int, has_cfg: bool, weak_costs: Sequence[float]
) -> None:
    """Check that a budget pays for each difference at one step of a run.

    Args:
        request: what was asked for; without a budget there is nothing to check.
        num_steps: of the run, or more.
        has_cfg: whether the run has CFG; False where it is not known.
        weak_costs: of the weak pass of each term, in forward passes, or less.

    Raises:
        ValueError: if it does not.
    """
    if request.budget is None or num_steps < 1:
        return
    bins = request.schedule.bins if request.schedule else ()
    needs_uncond = has_cfg and not any(entry.guidance_scale == 1 for entry in bins)
    passes = float(needs_uncond)
    if request.schedule is None:  # which bins a run comes through, its noise levels say
        for term, cost in zip(request.terms, weak_costs, strict=True):
            # A list of another length than the run is told of elsewhere.
            on = (term.guided_steps(num_steps) or []) if isinstance(term, STG) else []
            passes += cost * any(step >= request.zero_steps for step in on)
    budget.check_least(request.budget, passes, num_steps)


def count_steps(pipe: Any, frame: FrameType) -> int | None:
    """Return how many steps a call of a pipeline is going to have at most; None if not known.

    Args:
        frame: of the call, which has its arguments.
    """
    given = frame.f_locals
    if getattr(pipe.scheduler, "order", 1) != 1 or any(given.get(n) for n in _OTHER_NUMBERS):
        return None
    for name in ("timesteps", "sigmas"):
        if given.get(name) is not None:
            return len(given[name])
    steps = given.get("num_inference_steps")
    return steps if isinstance(steps, int) else None


def text_encoders(pipe: Any) -> list[nn.Module]:
    """Return the text encoders of a pipeline that are models."""
    components = getattr(pipe, "components", {})
    return [
        part
        for name, part in components.items()
        if name.startswith("text_encoder") and isinstance(part, nn.Module)
    ]
