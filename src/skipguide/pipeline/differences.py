"""The differences of a guided run that later steps use again: c - p of each term, and c - u."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from skipguide.method import formula
from skipguide.method.cfg_rules import CFGReuse, CFGRule, Interval
from skipguide.method.request import GuidanceRequest
from skipguide.method.reuse import DifferenceHistory, NoisePath, Placement, Reuse
from skipguide.method.terms import MAX_OUTPUTS, SLG, STG
from skipguide.pipeline import budget, noise_levels
from skipguide.pipeline.budget import BudgetPlan, Demand

if TYPE_CHECKING:
    from skipguide.pipeline.run import Loop

_PLANNED = Reuse(extrapolate=2)


class RunDifferences:
    """Keep the differences of one run, and decide at which steps they are computed.

    Args:
        request: what was asked for.
        loop: the sampling loop.
        guided_steps: the steps of the run at which a term is on, by its index.
        bin_scale: g of a step of the run where a Schedule has its own; None is the loop's.
    """

    def __init__(
        self,
        request: GuidanceRequest,
        loop: Loop,
        guided_steps: Callable[[int], list[int]],
        bin_scale: Callable[[int], float | None],
    ):
        self.request, self.loop = request, loop
        self._guided_steps, self._bin_scale = guided_steps, bin_scale
        self.plan: BudgetPlan | None = None  # of this run, once its costs are known
        self._path: NoisePath | None = None
        self._histories: dict[Any, DifferenceHistory] = {}

    @property
    def feature(self) -> str:
        """The part of the request that needs the noise levels of the run, for errors; "" if none
        does."""
        if self.request.budget is not None:
            return "a budget"
        needed = any(reuse.needs_noise_levels for reuse in self.request.reuses)
        return "every= with a share or extrapolation" if needed else ""

    def begin_run(self) -> None:
        """Read the noise levels of the run that begins, if they are needed: one transfer."""
        self.plan, self._path = None, None
        self.forget()
        if self.feature:
            first = self.loop.first_timestep_index()
            shares = noise_levels.noise_shares(self.loop.scheduler)
            self._path = NoisePath(shares[first:][: self.loop.num_steps()])

    def forget(self) -> None:
        """Forget all differences, as at another noise level."""
        self._histories = {}

    def of_term(self, denoiser: Any, index: int) -> DifferenceHistory | None:
        """Return the differences of a term on one denoiser; None if it runs at every step."""
        term = self.request.terms[index]
        assert isinstance(term, STG)
        planned, key = self._planned(f"term {index}"), (denoiser, index)
        if planned is None and not term.reuse.is_on:
            return None
        if key not in self._histories:
            steps = self._guided_steps(index)
            self._histories[key] = self._begin(term.reuse, steps, budget.WEAK_LENGTH, planned)
        return self._histories[key]

    def of_uncond(self, denoiser: Any, uncond_terms: tuple[int, ...]) -> DifferenceHistory | None:
        """Return the differences c - u; None if u is computed at every step.

        Args:
            denoiser: Wan 2.2 has two, each with a history of its own.
            uncond_terms: the SLG terms that weaken u, of which each set has another c - u.
        """
        rule, planned = self.request.cfg, self._planned("u")
        key = (denoiser, "u", uncond_terms)
        if planned is None and not isinstance(rule, CFGReuse):
            return None
        if key not in self._histories:
            reuse, gate = _PLANNED, 1.0
            if isinstance(rule, CFGReuse):
                reuse, gate = rule.reuse, rule.gate
            steps = [i for i in self._steps() if self._fraction(i) < gate]
            stop = steps[-1] + 1 if gate < 1 else None
            made = self._begin(reuse, steps, budget.UNCOND_LENGTH, planned, stop)
            self._histories[key] = made
        return self._histories[key]

    def _begin(
        self,
        reuse: Reuse,
        steps: Sequence[int],
        length: budget.Curve,
        planned: Collection[int] | None,
        stop: int | None = None,
    ) -> DifferenceHistory:
        """Return a history without a difference yet; a budget's plan comes before `reuse`."""
        if planned is not None:
            reuse = _PLANNED
        elif isinstance(reuse.every, float):
            planned = self._place(steps, reuse.every, length)
        return DifferenceHistory(reuse, self._path, steps, planned, stop)

    def _place(self, steps: Sequence[int], share: float, length: budget.Curve) -> frozenset[int]:
        assert self._path is not None
        importance = budget.lengths(length, self._path)
        placement = Placement(self._path, steps, self._fresh(steps), importance)
        return placement.choose(Reuse(share).count(len(steps)))

    def _fraction(self, step: int) -> float:
        i, num_steps = self.loop.position(step)
        return i / num_steps

    def _steps(self) -> range:
        return range(self.loop.num_steps())

    def _fresh(self, steps: Sequence[int]) -> frozenset[int]:
        """Return the first of some steps, after restarts, and with another denoiser."""
        jumps = self.loop.denoiser_changes() + [
            i for i in self._steps()[1:] if self.loop.position(i)[0] <= self.loop.position(i - 1)[0]
        ]
        later = (min((s for s in steps if s >= jump), default=steps[0]) for jump in jumps)
        return frozenset({steps[0], *later})

    # --- a budget ---------------------------------------------------------------------------------

    def _planned(self, name: str) -> frozenset[int] | None:
        if self.plan is None:
            return None
        names = [demand.name for demand in self.plan.demands]
        return self.plan.computed[names.index(name)] if name in names else None

    @property
    def needs_plan(self) -> bool:
        """True if a budget was given and nothing is chosen yet."""
        return self.request.budget is not None and self.plan is None

    def choose_plan(self, weak_costs: Sequence[float], g: float | None, first: int) -> BudgetPlan:
        """Choose what to compute at which step of this run.

        Args:
            weak_costs: of each term of the request, in forward passes.
            g: the guidance scale of the loop; None in a run without u.
            first: the step that is under way; guide() may have been called in the middle of a run.

        Raises:
            ValueError: for a budget that is too small.
        """
        assert self.request.budget is not None
        assert self._path is not None
        wanted = []
        if g is not None:
            wanted.append(("u", 1.0, self._cfg_scales(g), budget.UNCOND_LENGTH))
        for j, term in enumerate(self.request.terms):
            if isinstance(term, STG):
                scales = self._term_scales(j, term)
                wanted.append((f"term {j}", weak_costs[j], scales, budget.WEAK_LENGTH))
        demands = []
        for name, cost, scales, length in wanted:
            later = tuple(step for step in scales if step >= first)
            if later:
                fresh = self._fresh(later) | (self._slg_changes(later) if name == "u" else set())
                counts = tuple(abs(scales[step]) for step in later)
                demands.append(Demand(name, cost, later, fresh, counts, length))
        num_steps = self.loop.num_steps() - first
        self.plan = budget.choose_plan(self.request.budget, self._path, demands, num_steps)
        return self.plan

    def _slg_changes(self, steps: Sequence[int]) -> set[int]:
        """Return the steps at which other SLG terms weaken u than at the step before."""
        on = [
            set(self._guided_steps(j))
            for j, term in enumerate(self.request.terms)
            if isinstance(term, SLG)
        ]
        sets = [[step in known for known in on] for step in steps]
        return {
            step
            for step, own, before in zip(steps[1:], sets[1:], sets, strict=False)
            if own != before
        }

    def _term_scales(self, j: int, term: STG) -> dict[int, float]:
        """Return the larger of the scales of a term for each output, at the steps where it is
        on."""
        places = {step: self.loop.position(step)[0] for step in self._guided_steps(j)}
        return {step: max(term.scales(MAX_OUTPUTS, i)) for step, i in places.items()}

    def _cfg_scales(self, g: float) -> dict[int, float]:
        """Return g - 1 at the steps of the run at which D is made of u, where there is CFG."""
        rule = self.request.cfg
        window = rule.window if isinstance(rule, Interval) else (0.0, 1.0)
        found = {}
        for step in self._steps():
            own, (i, n) = self._bin_scale(step), self.loop.position(step)
            is_on = i >= self.request.zero_steps and formula.is_in_window(*window, i, n)
            if is_on and not needs_no_uncond(rule, own):
                found[step] = (g if own is None else own) - 1
        return found


def needs_no_uncond(rule: CFGRule | None, g: float | None) -> bool:
    """Return whether D is made without u at a step where a Schedule has the scale g: u + 1 (c - u)
    is c. A rule with a formula of its own gets u all the same, for some remember it."""
    return g == 1 and (rule is None or isinstance(rule, (CFGReuse, Interval)))
