"""Whole runs in which a denoiser returns what a rule makes of c and u, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from support import oracle
from support.tiny.base import Tiny

Tensor = torch.Tensor


def played(
    given: Tiny, D: Callable[[int, int, Tensor, Tensor, Any], Tensor], **options: Any
) -> Tensor:
    """The latents of a run whose denoiser returns D(step, output, c, u, g) for cond and for
    uncond."""
    options, returns, i, steps = {**given.short, **options}, [], 0, 1
    while i < steps:
        step, steps = oracle.calls_of_step(given, i, returns, options)
        g = oracle.scales_of(given, step.calls[0].model, options)
        assert step.u is not None
        found = [
            D(i, k, c, step.u[k], torch.as_tensor(g[k], dtype=c.dtype))
            for k, c in enumerate(step.c)
        ]
        returns += [[torch.cat([d, d]) for d in found] if step.batched else found] * len(step.calls)
        i += 1
    with oracle.playing(given, returns):
        return oracle.run(given, **options)


def on_prediction(
    given: Tiny, rule: Callable[[Tensor, Tensor, Any], Tensor]
) -> Callable[..., Tensor]:
    """A rule that leaves a learned variance alone."""

    def D(_: int, __: int, c: Tensor, u: Tensor, g: Any) -> Tensor:
        if not given.variance:
            return rule(c, u, g)
        half = c.shape[1] // 2
        return torch.cat([rule(c[:, :half], u[:, :half], g), c[:, half:]], 1)

    return D
