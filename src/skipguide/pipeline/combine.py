"""The values to hand back to a pipeline so that its own arithmetic arrives at D.

The pipeline computes u + g (c - u) from what its calls of the denoiser return. `Combination` lists
the ways in which a step can make D of that; here is what each of them returns from a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from skipguide.pipeline.loop import PipelineLoop
from skipguide.pipeline.run import RunState
from skipguide.pipeline.step import Combination, GuidedStep

Tensor = torch.Tensor
Predictions = tuple[Tensor, ...]  # one per output of the denoiser


def after_cond_call(
    run: RunState, loop: PipelineLoop, step: GuidedStep, us: Predictions | None
) -> tuple[Predictions, Predictions | None]:
    """Return (c', u') in the place of the conditional predictions and of u, where u is known.

    Args:
        us: the other half of a batch; None where u comes with a call of its own, or never.
    """
    if step.combination in (Combination.GUIDER, Combination.UNGUIDED):
        return step.c, us
    if step.combination is Combination.SHIFT:
        return _shift(step.c, step.push), us and _shift(us, step.push)
    if step.leaves_out_uncond:
        D = run.guided_predictions(step, None)
        return D, D if step.split_batch else None
    if step.has_cfg and us is None:
        return _before_uncond_call(run, loop, step), None
    D = run.guided_predictions(step, us, loop.guidance_scales(len(step.c)) if us else ())
    if us is None or step.combination is Combination.REPLACE:
        return D, us and D  # D + g (D - D) = D
    scales = loop.guidance_scales(len(step.c))
    pairs = [
        (d, u) if g == 1 else (c, _solve_uncond(d, c, g))
        for d, c, u, g in zip(D, step.c, us, scales, strict=True)
    ]
    return tuple(c for c, _ in pairs), tuple(u for _, u in pairs)


def _before_uncond_call(run: RunState, loop: PipelineLoop, step: GuidedStep) -> Predictions:
    """Return c itself, or D where g is 1: the pipeline then arrives at what it got here."""
    scales = loop.guidance_scales(len(step.c))
    if 1 not in scales:
        return step.c
    if step.guidance_scale is not None:
        raise ValueError(
            f"this Schedule sets guidance_scale={step.guidance_scale:g} at this step, which needs"
            f" u, but the pipeline's own is 1 and leaves it out. Set {loop.scale_argument} above 1."
        )
    D = run.guided_predictions(step, None)
    return tuple(d if g == 1 else c for d, c, g in zip(D, step.c, scales, strict=True))


def after_later_call(
    run: RunState, loop: PipelineLoop, step: GuidedStep, found: Predictions
) -> Predictions:
    """Return what stands in the place of u, or of a prediction for guidance of the pipeline's own.

    The latter is shifted by as much as c was. Where D is zero or c + push alone, the pipeline has
    no difference to go by, and gets the same once more."""
    is_uncond = step.calls_done == 2 and step.has_uncond_call
    if step.combination in (Combination.GUIDER, Combination.UNGUIDED):
        return found
    if step.combination in (Combination.ZERO, Combination.HELD) or (
        is_uncond and step.combination is Combination.COND_ONLY
    ):
        return step.returned
    if step.combination is Combination.SHIFT or not is_uncond:
        shifts = [after - c for after, c in zip(step.returned, step.c, strict=True)]
        return _shift(found, shifts)
    scales = loop.guidance_scales(len(step.c))
    D = run.guided_predictions(step, found, scales)
    return tuple(
        u if g == 1 else _solve_uncond(d, c, g)
        for u, d, c, g in zip(found, D, step.c, scales, strict=True)
    )


def _shift(predictions: Sequence[Tensor], shifts: Sequence[Tensor]) -> Predictions:
    return tuple(value + shift for value, shift in zip(predictions, shifts, strict=True))


def _solve_uncond(D: Tensor, c: Tensor, g: float) -> Tensor:
    """Return the u' with u' + g (c - u') = D."""
    return (g * c - D) / (g - 1)


# --- outputs of a denoiser ------------------------------------------------------------------------


def output_samples(output: Any) -> list[Tensor]:
    """Return the predictions in a tensor, a tuple, or one of diffusers' output classes."""
    if torch.is_tensor(output):
        return [output]
    found = output if isinstance(output, tuple) else output.values()
    return [torch.stack(one) if isinstance(one, list) else one for one in found]


def replace_samples(output: Any, samples: Sequence[Tensor]) -> Any:
    """Return `output` with its first entries replaced."""
    if torch.is_tensor(output):
        return samples[0]
    if isinstance(output, tuple):
        return (*map(_like, samples, output), *output[len(samples) :])
    found = map(_like, samples, output.values())
    named = dict(zip(output, found, strict=False))  # an output may have more entries than that
    return type(output)(**{**output, **named})


def _like(sample: Tensor, before: Any) -> Any:
    """Return a prediction as a list of rows where the denoiser returned such a list."""
    return list(sample) if isinstance(before, list) else sample
