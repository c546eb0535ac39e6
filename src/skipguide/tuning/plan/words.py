"""The plan of a tuning in sentences: what each stage gets, and what that can resolve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from skipguide.files.text import format_count, format_duration
from skipguide.tuning.facts import Facts
from skipguide.tuning.objective.objective import Objective
from skipguide.tuning.options import TuneOptions
from skipguide.tuning.plan import resolution
from skipguide.tuning.plan.budget import ROUND, Plan, Timing
from skipguide.tuning.race.state import RaceRules


def describe(
    options: TuneOptions, plan: Plan, timing: Timing, facts: Facts, objective: Objective,
    measured: Mapping[str, float],
) -> Iterator[str]:  # fmt: skip
    """Yield the sentences of a plan, one for each stage.

    Args:
        measured: standard deviations of paired differences that the clips of the run have, by
            metric.
    """
    yield (
        f"{facts.pipeline} ({facts.family}, {facts.depth} blocks): a forward pass of one sample"
        f" takes {_seconds(timing.pass_seconds)}, and a weak pass of the scan is"
        f" {facts.weak_passes / facts.cells:.2f} of one on average. The budget is"
        f" {_budget(options, plan)}{_by(timing)}."
    )
    # Of a run of few steps, the same step can be the nearest one to two levels.
    levels = f"up to {format_count(len(plan.levels), 'noise level')}"
    yield (
        f"Scan: {facts.cells} cells (layer, skip, axis) on"
        f" {format_count(plan.scan_prompts, 'prompt')} at {levels}, {plan.scan:.0f} passes, about"
        f" {_time(timing, plan.scan)}."
    )
    if objective.spec.votes:
        yield "Race: raters decide in the studio, by blind pairs."
    elif objective.spec.measures:
        yield from _race(options, plan, timing, objective, measured)
    else:
        yield (
            f"Then up to {plan.candidates} settings are sampled on"
            f" {format_count(plan.scan_prompts, 'prompt')} to be looked at side by side. No"
            " --metric is given, so that nothing is measured and nothing is chosen."
        )


def _race(
    options: TuneOptions, plan: Plan, timing: Timing, objective: Objective,
    measured: Mapping[str, float],
) -> Iterator[str]:  # fmt: skip
    prompts = min(plan.rounds * ROUND, len(options.split()[0]))
    level = RaceRules(floors=objective.floors).level(plan.candidates)
    yield (
        f"Race: up to {plan.candidates} settings in rounds of {ROUND} prompts, {plan.race:.0f}"
        f" passes, about {_time(timing, plan.race)}; {format_count(prompts, 'prompt')} a setting if"
        f" nobody goes. {resolution.sentence(objective.spec, prompts, measured, level)}"
    )
    yield (
        f"Scale and window of the winner: {plan.search:.0f} passes, about"
        f" {_time(timing, plan.search)}."
    )
    yield (
        "Answer: the winner, CFG alone and CFG alone at its price on"
        f" {format_count(plan.held_back, 'prompt')} that"
        f" {'chooses' if plan.held_back == 1 else 'choose'} nothing, {plan.answer:.0f} passes,"
        f" about {_time(timing, plan.answer)}."
        f" {resolution.sentence(objective.spec, plan.held_back, measured)}"
    )


def _budget(options: TuneOptions, plan: Plan) -> str:
    hours = options.clock_hours
    if hours is None:
        return f"{options.passes:g} forward passes"
    return f"{hours:g} hour{'' if hours == 1 else 's'}, or {plan.total:.0f} forward passes"


def _by(timing: Timing) -> str:
    return f" by {timing.workers} workers" if timing.workers > 1 else ""


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.3g} s"


def _time(timing: Timing, passes: float) -> str:
    return format_duration(timing.seconds(passes))
