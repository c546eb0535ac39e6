"""What a budget of two passes means for the published layers of real models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from skipguide.families import presets, tables
from skipguide.families.presets import Preset
from skipguide.method.reuse import NoisePath
from skipguide.pipeline import budget
from skipguide.pipeline.budget import BudgetPlan, Demand
from skipguide.weak.weak_pass import stack_cost

BUDGET = 2.0
STEPS = 50  # where a model's own number is not known
WEAK, MODALITY = "weak", "modality"  # passes


@dataclass(frozen=True)
class PublishedLayer:
    """A published setting, its exact cost and the plan of a budget.

    Args:
        model: its hub id.
        layer: the first one that is skipped.
        cost: of the weak passes with the shared prefix, in forward passes.
        has_cfg: whether the model runs with CFG.
        plan: at `BUDGET`, on noise levels in equal steps.
    """

    model: str
    layer: int | str
    cost: float
    has_cfg: bool
    plan: BudgetPlan

    @property
    def exact(self) -> float:
        """The passes of a step without reuse."""
        return 1 + self.has_cfg + self.cost


def published_layers() -> Iterator[PublishedLayer]:
    """Yield the recommended settings that name layers of a stack, of models that others made."""
    stacks = {
        pipeline: row["stacks"] for row in tables.family_rows() for pipeline in row["pipelines"]
    }
    for row in presets.load_presets():
        known = next((stacks[name] for name in row.pipelines if name in stacks), {})
        is_stack = len(row.layers) == 1 and not str(row.layers[0]).startswith("up:")
        if row.recommended and row.kind == "stg" and is_stack and "/" in row.model and known:
            yield _published_layer(row, known)


def _published_layer(row: Preset, stacks: dict[str, int]) -> PublishedLayer:
    sizes = [row.depth or next(iter(stacks.values())), *list(stacks.values())[1:]]
    position = _position(row.layers[0], dict(zip(stacks, sizes, strict=True)))
    weak = {WEAK: (stack_cost(sum(sizes), position, row.skip == "residual"), row.scale)}
    if row.modality_scale > 1:  # in all blocks
        weak[MODALITY] = (1.0, row.modality_scale - 1)
    g = row.defaults.get("guidance_scale")
    steps = row.defaults.get("num_inference_steps") or STEPS
    cost = sum(each for each, _ in weak.values())
    return PublishedLayer(row.model, row.layers[0], cost, g is not None, _plan(weak, g, steps))


def _position(layer: int | str, stacks: dict[str, int]) -> int:
    """Return the place of a layer in the whole chain."""
    if isinstance(layer, int):
        return layer
    name, _, number = layer.partition(":")
    before = list(stacks)[: list(stacks).index(name)]
    return sum(stacks[known] for known in before) + int(number)


def _plan(weak: Mapping[str, tuple[float, float]], g: float | None, steps: int) -> BudgetPlan:
    """Return the plan of a budget.

    Args:
        weak: the cost and the scale of each weak pass, by its name.
        g: the guidance scale, None without CFG.
        steps: of the run.
    """
    path = NoisePath([1 - i / steps for i in range(steps)])
    every, first = tuple(range(steps)), frozenset({0})
    demands = [
        Demand(name, cost, every, first, (scale,) * steps, budget.WEAK_LENGTH)
        for name, (cost, scale) in weak.items()
    ]
    if g is not None:
        scales = (g - 1,) * steps
        demands.insert(0, Demand("u", 1.0, every, first, scales, budget.UNCOND_LENGTH))
    return budget.choose_plan(BUDGET, path, demands, steps)


def table() -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield "| model | layer | exact | with a budget of 2 | u at | weak pass at |"
    yield "|---|---|--:|--:|--:|--:|"
    for row in published_layers():
        counts = {
            demand.name: f"{len(chosen)} of {len(demand.steps)}"
            for demand, chosen in zip(row.plan.demands, row.plan.computed, strict=True)
        }
        exact, planned = f"{row.exact:.2f}", f"{row.plan.passes_per_step:.2f}"
        weak = counts[WEAK] + (f", of modality {counts[MODALITY]}" if MODALITY in counts else "")
        cells = [row.model, str(row.layer), exact, planned, counts.get("u", "no CFG"), weak]
        yield f"| {' | '.join(cells)} |"
