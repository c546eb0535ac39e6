"""Which process runs which pass of a step, and how long the step takes by that.

The unit is a forward pass of one sample. Process 0 runs the conditional pass, process 1 the
unconditional one where there is CFG, and each weak pass goes to the process that is through with it
first. A weak pass of another process can begin when the state has come that it starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from skipguide.method.cfg_rules import CFGReuse, RectifiedCFG
from skipguide.method.request import GuidanceRequest
from skipguide.method.terms import STG
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.weak.weak_pass import WeakPass


@dataclasses.dataclass(frozen=True)
class WeakWork:
    """One weak pass of a step.

    Args:
        term: the index of its term.
        start: when its state leaves the conditional pass, in forward passes after that began; 0
            where it needs none.
        cost: what it computes, in forward passes.
    """

    term: int
    start: float
    cost: float


@dataclasses.dataclass(frozen=True)
class PassPlan:
    """Which process runs which pass of a step.

    Args:
        weak: the process of each term's weak pass, in the order in which a process runs its own.
        uncond: the process of u; None where there is no such pass.
        duration: the time until the last process is through, in forward passes, if sending takes
            none.
    """

    weak: Mapping[int, int]
    uncond: int | None
    duration: float

    def terms_of(self, rank: int) -> list[int]:
        """Return the terms whose weak passes a process runs, in that order."""
        return [term for term, where in self.weak.items() if where == rank]


def plan_passes(
    works: Sequence[WeakWork], world: int, has_uncond: bool, uncond_last: bool = False
) -> PassPlan:
    """Divide the passes of a step among `world` processes; ties go to the lowest of them.

    Args:
        works: the weak passes.
        has_uncond: whether u is computed.
        uncond_last: the pipeline calls for u after c, so that its process runs weak passes first.
    """
    uncond = min(1, world - 1) if has_uncond else None
    taken: list[list[WeakWork]] = [[] for _ in range(world)]
    for work in sorted(works, key=lambda work: -work.cost):
        ends = [
            _end(rank, [*own, work], uncond == rank, uncond_last) for rank, own in enumerate(taken)
        ]
        taken[ends.index(min(ends))].append(work)
    duration = max(_end(rank, own, uncond == rank, uncond_last) for rank, own in enumerate(taken))
    weak = {work.term: rank for rank, own in enumerate(taken) for work in _in_order(own)}
    return PassPlan(weak, uncond, duration)


def _end(rank: int, works: Sequence[WeakWork], runs_uncond: bool, uncond_last: bool) -> float:
    """Return when a process is through with its passes."""
    time = float(rank == 0) + (runs_uncond and not uncond_last)
    for work in _in_order(works):
        time = max(time, work.start) + work.cost
    return time + (runs_uncond and uncond_last)


def _in_order(works: Sequence[WeakWork]) -> list[WeakWork]:
    return sorted(works, key=lambda work: (work.start, work.term))


def weak_work(guided: GuidedDenoiser, j: int) -> WeakWork:
    """Return what the weak pass of a term needs and costs; a UNet's by counting layers."""
    weak, total = guided.weak_passes[j], len(guided.sites)
    if not isinstance(weak, WeakPass):
        return WeakWork(j, 0.0, 1.0)
    shared = weak.prefix_cache is not None
    start = weak.first_skipped / total if shared else 0.0
    return WeakWork(j, start, 1 - start if guided.family.unet else weak.cost(shared))


def max_passes(terms: Sequence[object]) -> int:
    """Return how many passes a step may have at most: c, u, and the weak pass of each STG."""
    return 2 + sum(isinstance(term, STG) for term in terms)


def check_request(request: GuidanceRequest) -> None:
    """Check that a request can be divided among processes.

    Raises:
        ValueError: for what leaves passes of u out, which save no time where u has a process of its
            own, and for batches of several passes.
    """
    if request.budget is not None or isinstance(request.cfg, CFGReuse):
        what = "CFGReuse" if request.budget is None else "a budget"
        raise ValueError(
            "parallel= runs u in a process of its own, where leaving it out saves no time, but"
            f" got {what}. Leave one of the two out; STG(every=0.5) goes with parallel=."
        )
    if isinstance(request.cfg, RectifiedCFG):
        raise ValueError(
            "parallel= runs c and u side by side, but RectifiedCFG computes u where c leads. Leave"
            " one of the two out."
        )
    if request.skip_step:
        raise ValueError(
            "parallel= divides the passes of a step, but skip_step leaves whole ones out. Leave one"
            " of the two out."
        )
    if not request.exact:
        raise ValueError(
            "parallel= gives each pass to one process, but exact=False puts several into one"
            " batch. Leave one of the two out."
        )
