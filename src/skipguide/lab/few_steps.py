"""lab-mochi-2 distilled to four steps without CFG: phased consistency (PCM, arXiv 2405.18407).

The four steps of the sampler cut the way from noise at t = 0 to data at t = 1 into four phases. In
a phase that ends at e, the student's prediction leads from any point to the end at once (Eq. 4):

    f(x_t, t) = x_t + (e - t) v(x_t, t),    f(x_e, e) = x_e.

It learns that two neighbouring points of the teacher's trajectory lead to the same end (Eq. 5). The
teacher's step has CFG in it, which the student therefore needs no more:

    |f(x_t, t) - sg f(x_t + dt v_g(x_t, t), t + dt)|^2,    v_g = u + g (c - u).

Of the paper's parts the adversarial loss is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline, linear_quadratic_schedule
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from skipguide.lab import mochi, text_to_video, training_loop

Tensor = torch.Tensor
Velocity = Callable[[Tensor, Tensor], Tensor]  # x (B, ...) and t (B,) -> v (B, ...)

STEPS = 4
# Mochi spends half of its steps next to pure noise, where few steps have nothing to do. This shift
# of its scheduler puts the four at t = 0, 0.15, 0.27 and 0.84.
SHIFT = 0.07
SUBSTEPS = 8  # of the teacher in a phase
GUIDANCE_SCALE = 4.5  # g of the teacher
BATCH_SIZE = 16
THRESHOLD_NOISE = 0.025  # of MochiPipeline's schedule
SCHEDULE = training_loop.Schedule(steps=1500, learning_rate=1e-3, adam_rate=5e-4, ema=0.99)


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the scheduler with which the student is sampled, by 4 steps of MochiPipeline."""
    return FlowMatchEulerDiscreteScheduler(invert_sigmas=True, shift=SHIFT)


def phase_bounds(steps: int = STEPS) -> Tensor:
    """Return the times `(steps + 1,)` at which the phases begin and the last one ends."""
    found: Any = scheduler()
    found.set_timesteps(sigmas=linear_quadratic_schedule(steps, THRESHOLD_NOISE))
    return found.sigmas.float()


def consistency_loss(
    student: Velocity,
    teacher: Velocity,
    noise: Tensor,
    data: Tensor,
    bounds: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the mean squared disagreement of two neighbouring points, in units of the velocity.

    Args:
        student: v of the model that learns.
        teacher: v_g of the trained one.
        noise, data: `(B, ...)` the ends of the straight path on which x_t lies.
        bounds: `(P + 1,)` of the phases, rising from 0 to 1.
        generator: of the phase and the substep of each row; on the CPU.
    """
    rows = (len(data), *[1] * (data.dim() - 1))
    phase = torch.randint(len(bounds) - 1, rows[:1], generator=generator)
    substep = torch.randint(SUBSTEPS, rows[:1], generator=generator)
    start, end = bounds[phase], bounds[phase + 1]
    length = (end - start).to(data.device).view(rows)
    share = substep.to(bounds.dtype) / SUBSTEPS
    t = torch.lerp(start, end, share)
    following = torch.lerp(start, end, share + 1 / SUBSTEPS)
    t, following, end = (each.to(data.device) for each in (t, following, end))
    x = torch.lerp(noise, data, t.view(rows))

    def leads_to(x: Tensor, t: Tensor) -> Tensor:
        return x + (end - t).view(rows) * student(x, t)

    with torch.no_grad():
        onward = x + (following - t).view(rows) * teacher(x, t)
        target = leads_to(onward, following)
    return ((leads_to(x, t) - target) / length).square().mean()


def train(
    folder: Path, device: torch.device, schedule: training_loop.Schedule = SCHEDULE
) -> Iterator[training_loop.Progress]:
    """Distill `folder/pipeline` into `folder/few-steps`; see `text_to_video.train`."""
    yield from text_to_video.train(
        folder,
        device,
        schedule,
        _load_student,
        _make_loss,
        mochi.BatchedAttention(),
        source="pipeline",
        result="few-steps",
    )


def _load_student(folder: Path) -> MochiPipeline:
    pipe = MochiPipeline.from_pretrained(folder)
    pipe.scheduler = scheduler()
    pipe.text_encoder.requires_grad_(False)  # its words stay what they were for the teacher
    pipe.transformer.pos_frequencies.requires_grad_(False)
    return pipe


def _make_loss(setup: text_to_video.TrainingSetup) -> Callable[[int], Tensor]:
    latents, device = setup.data["latents"], setup.device
    scenes, bounds = mochi.OPEN.draw(len(latents)), phase_bounds()
    trained = copy.deepcopy(setup.pair.transformer).requires_grad_(False)
    text_to_video.compile_blocks(trained, device)

    def error_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        x, words = mochi.sample_batch(step, latents, scenes, mochi.OPEN, BATCH_SIZE)
        noise = torch.randn(x.shape, generator=generator).to(device)
        tokens, mask = setup.tokenize([*words, *[""] * len(words)], mochi.OPEN.max_tokens)
        with setup.autocast():
            embeds = setup.pair.text_encoder(tokens, attention_mask=mask.bool())[0]
            cond, real = embeds[: len(x)], mask.bool()[: len(x)]

            def velocity(model: Any, x: Tensor, t: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
                return model(x, embeds, 1000 * t, mask, return_dict=False)[0].float()

            def teacher(x: Tensor, t: Tensor) -> Tensor:
                both = (torch.cat([x, x]), torch.cat([t, t]))
                c, u = velocity(trained, *both, embeds, mask.bool()).chunk(2)
                return u + GUIDANCE_SCALE * (c - u)

            def student(x: Tensor, t: Tensor) -> Tensor:
                return velocity(setup.pair.transformer, x, t, cond, real)

            return consistency_loss(student, teacher, noise, x.to(device), bounds, generator)

    return error_at
