"""LTX-2's published recipe in the benchmark: CFG, STG in one layer and modality guidance, made by
four full passes as its pipelines make them, and by guide()."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from skipguide.bench import rounds
from skipguide.families import blocks
from skipguide.method import perturbations
from skipguide.method.protocols import PlainData
from skipguide.method.terms import STG, Modality
from skipguide.pipeline import guide
from skipguide.weak import flops, patching
from skipguide.weak.prefix_cache import PrefixCache
from skipguide.weak.weak_pass import WeakPass, stack_cost

if TYPE_CHECKING:
    from skipguide.bench.step_cost import BenchmarkStep

Tensor = torch.Tensor
LAYER, STG_SCALE, MODALITY_SCALE = 28, 1.0, 3.0  # of LTX-2.3
OWN, SHARED, BATCH, REUSED = "own", "shared", "batch", "reused"
STEPS = {REUSED: 2}  # how many a way makes, where it is not one


def recipe_ways(step: BenchmarkStep, g: float) -> dict[str, Callable[[], Tensor]]:
    """Return the ways of making the recipe's step; none for models that have no such recipe.

    Args:
        step: of the benchmark.
        g: the guidance scale.
    """
    sites = step.sites
    if not sites[0].stack.isolation or not getattr(step.model, "config", {}).get("perturbed_attn"):
        return {}
    return {
        OWN: lambda: _run_own(step, g),
        SHARED: lambda: _run_guided(step, 1, 1),
        BATCH: lambda: _run_guided(step, 1, 1, exact=False),
        REUSED: lambda: _run_guided(step, STEPS[REUSED], 2),
    }


def _run_own(step: BenchmarkStep, g: float) -> Tensor:
    """Make the step as LTX2Pipeline does: u and c as a batch, and two more full passes."""
    c, u = step.predict_cond_and_uncond()
    assert u is not None  # LTX-2 has CFG
    (weak, *_) = step.predict({**step.cond, "spatio_temporal_guidance_blocks": [LAYER]})
    (apart, *_) = step.predict({**step.cond, "isolate_modalities": True})
    modality = (MODALITY_SCALE - 1) * (c - apart)
    return c + (g - 1) * (c - u) + STG_SCALE * (c - weak) + modality


def _run_guided(step: BenchmarkStep, steps: int, every: int, exact: bool = True) -> Tensor:
    """Make steps with guide(); attaching and removing it is included."""
    terms = (
        STG([LAYER], STG_SCALE, "attention", every=every),
        Modality(MODALITY_SCALE, every=every),
    )
    with guide.guide(step.pipe, *terms, exact=exact):
        return step.pipe(steps)


def count_operations(step: BenchmarkStep) -> tuple[dict[str, float], dict[str, float]]:
    """Return the floating point operations of each way, and of its weak passes, by their names.

    They are in forward passes of one sample, counted on a copy of the denoiser without weights.
    """
    model, inputs = flops.build_meta_model(step.model), flops.to_meta_tensors(step.cond)
    sites = blocks.layer_sites(step.family, model)
    cache = PrefixCache(step.family, model, sites, {LAYER})
    with patching.patched(cache.patches({LAYER})):
        whole = flops.count_flops(model, inputs)

    def count(layers: Sequence[int], skip: str, shared: bool = False) -> float:
        weak = WeakPass(step.family, model, sites, layers, skip, cache if shared else None)
        with patching.patched(weak.patches()):
            return flops.count_flops(model, inputs) / whole

    apart = count(range(len(sites)), perturbations.ISOLATION)
    stg = count([LAYER], "attention", shared=True)
    own, weak = 2 + count([LAYER], "attention") + apart, stg + apart
    ways = {OWN: own, SHARED: 2 + weak, BATCH: 2 + weak, REUSED: 2 + weak / 2}
    return ways, {"STG": stg, "modality": apart}


def measure_round(
    ways: Mapping[str, Callable[[], Tensor]], device: torch.device
) -> dict[str, float]:
    """Return the seconds that each way takes for one step."""
    return {
        name: rounds.measure_time(way, device) / STEPS.get(name, 1) for name, way in ways.items()
    }


def summarize(
    step: BenchmarkStep,
    ways: Mapping[str, Callable[[], Tensor]],
    measured: Sequence[Mapping[str, float]],
) -> PlainData:
    """Return passes, seconds and ratios to the pipeline's own way; `apart` is how far D is away.

    Args:
        measured: what `measure_round` returned, for each round.
    """
    seconds = {name: [found[name] for found in measured] for name in ways}
    weak = stack_cost(len(step.sites), LAYER, 0) + 1
    passes = {OWN: 4.0, SHARED: 2 + weak, BATCH: 2 + weak, REUSED: 2 + weak / 2}
    own, guided = ways[OWN](), ways[SHARED]()
    operations, weak_operations = count_operations(step)
    return {
        "layer": LAYER,
        "weak_passes_by_operations": weak_operations,
        "apart": ((own - guided).norm() / own.norm()).item(),
        "ways": {
            name: {
                **found,
                "passes": passes[name],
                "by_operations": operations[name] / operations[OWN],
            }
            for name, found in rounds.compare_ways(seconds, to=OWN).items()
        },
    }
