"""Say what a published setting becomes in a run of few steps without CFG: its steps and its price.

A window is fractions of a run, and holds fewer steps of a short one, or none. The price is counted
on the family's example at the depth of the preset's model, as a guided run counts it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from skipguide.families import blocks, presets, tables
from skipguide.families.examples import DEPTH_ARGUMENTS, denoiser_class, example_of
from skipguide.families.presets import Preset
from skipguide.families.protocols import as_denoiser
from skipguide.families.rows import FAMILIES
from skipguide.families.schema import Family
from skipguide.method import formula
from skipguide.method.protocols import PlainData
from skipguide.method.request import GuidanceRequest, active_bins
from skipguide.method.terms import SLG, STG, Schedule
from skipguide.pipeline import price
from skipguide.weak import flops
from skipguide.weak.step_context import StepContext
from skipguide.weak.weak_pass import WeakOptions, WeakPass

FEW_STEPS = (4, 6, 8)
NO_STG = "no STG: 1"
NEEDS_CFG = "needs CFG"


@dataclasses.dataclass(frozen=True)
class FewSteps:
    """A preset in a run of so many steps without CFG.

    Args:
        steps: of the run.
        guided: how many of them its terms are on at; None where noise levels decide it.
        passes: forward passes a step; None where the preset cannot run without CFG.
        window: for a preset whose window holds no step, the (start, stop) of the nearest one.
    """

    steps: int
    guided: int | None
    passes: float | None
    window: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.passes is None:
            return NEEDS_CFG
        if self.window is not None:
            return f"none; {self.window[0]:g} to {self.window[1]:g} is one step"
        if self.guided == 0:
            return NO_STG
        at = "by sigma" if self.guided is None else f"{self.guided} of {self.steps}"
        return f"{at}: {'' if self.guided is not None else 'up to '}{self.passes:.2f}"


def in_few_steps(row: Preset, steps: Sequence[int] = FEW_STEPS) -> list[FewSteps]:
    """Return what a preset becomes in runs without CFG.

    Args:
        row: of a model that has a family; there are none for others.
        steps: of each run.
    """
    family = family_of_preset(row)
    if family is None or row.is_cfg_alone:
        return []
    made = presets.to_terms(row)
    if isinstance(made, Schedule):
        return [_schedule_in(made, family, row, count) for count in steps]
    if isinstance(made, SLG):
        return [FewSteps(count, None, None) for count in steps]
    terms = made if isinstance(made, tuple) else (made,)
    return [_terms_in(terms, family, row, count) for count in steps]


def _terms_in(terms: Sequence[STG], family: Family, row: Preset, count: int) -> FewSteps:
    start, stop = terms[0].start, terms[0].stop
    on = formula.steps_in_window(start, stop, count)
    if not on:
        return FewSteps(count, 0, 1.0, formula.nearest_window(start, stop, count))
    costs = _weak_costs(family, terms, row.depth)
    weak = price.weak_passes_per_step(GuidanceRequest(tuple(terms)), costs, count)
    assert weak is not None  # it is no schedule
    guided = len(on) if any(max(term.scales(1)) > 0 for term in terms) else 0
    return FewSteps(count, guided, 1 + weak)


def _schedule_in(schedule: Schedule, family: Family, row: Preset, count: int) -> FewSteps:
    if any(entry.guidance_scale not in (None, 1) for entry in schedule.bins):
        return FewSteps(count, None, None)
    terms = [entry.term() for entry in active_bins(schedule)]
    if not terms:
        return FewSteps(count, 0, 1.0)
    largest = max(_weak_costs(family, terms, row.depth))
    low, high = schedule.bins[0].sigma
    whole = len(schedule.bins) == 1 and low <= 0 and high > 1
    return FewSteps(count, count if whole else None, 1 + largest)


def family_of_preset(row: Preset) -> Family | None:
    """Return the family of a preset's pipelines; None for a model that has no row."""
    return next((family for family in FAMILIES if set(family.pipelines) & set(row.pipelines)), None)


def _weak_costs(family: Family, terms: Sequence[STG], depth: int) -> list[float]:
    """Return what the weak pass of each term costs, in forward passes, with a shared prefix."""
    model, inputs = _example(family.name, depth)
    sites = blocks.layer_sites(family, model)
    context = StepContext(family.latent_layout, as_denoiser(model).config)
    context.observe_inputs(inputs)
    found = []
    for term in terms:
        skipped = blocks.resolve_layers(family, sites, term)
        weak = WeakPass(family, model, sites, skipped, term.skip, None, WeakOptions(context))
        weak.set_input_spec(inputs)
        found.append(weak.cost(shared=True))
    return found


@functools.cache
def _example(name: str, depth: int) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return the narrow example of a family without weights, of another depth; and its inputs."""
    work = example_of(name).workload("narrow")
    family = next(row for row in FAMILIES if row.name == name)
    first = next((argument for argument in DEPTH_ARGUMENTS if argument in work.config), None)
    deeper = {first: depth} if first is not None and depth else {}
    with torch.device("meta"):
        model = denoiser_class(family)(**{**work.config, **deeper}).eval()
    return model, flops.to_meta_tensors(work.inputs(1))


def to_plain(row: Preset, steps: Sequence[int]) -> list[PlainData]:
    """Return what a preset becomes in runs of so many steps, ready for JSON."""
    return [
        {
            "steps": run.steps,
            "guided_steps": run.guided,
            "passes_per_step": run.passes,
            "nearest_window": run.window,
        }
        for run in in_few_steps(row, steps)
    ]


# --- tables ---------------------------------------------------------------------------------------


def columns(steps: Iterable[int]) -> tuple[str, ...]:
    """Return the headings of `cells`."""
    return ("preset", "setting", *(f"{count} steps" for count in steps))


def cells(row: Preset, steps: Sequence[int]) -> tuple[str, ...]:
    """Return a preset as a line of a table; there is nothing to say of models without a family."""
    found = in_few_steps(row, steps)
    mark = " *" if row.recommended else ""
    setting = presets.describe_preset(row)
    return (row.name + mark, setting, *(map(str, found) if found else [""] * len(steps)))


def markdown(rows: Iterable[Preset], steps: Sequence[int]) -> str:
    """Return the table of some presets as Markdown."""
    lines = tables.markdown_table(columns(steps), (cells(row, steps) for row in rows))
    return "\n".join([*lines, ""])
