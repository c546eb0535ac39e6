"""A restart that keeps what the model is sure of (Self-Refining Video Sampling, arXiv 2601.18577).

The model is asked twice for the clean video at the beginning of an interval: in the round before,
and after noise was added. Where the two estimates agree, the latents of each step are those of the
round before; elsewhere they are new:

    U = mean over channels |x_0 - x_0 of the round before|
    x <- x where U >= threshold, the x of the same step of the round before elsewhere

A place that was kept in one round is kept in all later ones. In an interval of one step this is the
paper's rule.
"""

from __future__ import annotations

import torch

from skipguide.method.formula import upcast

Tensor = torch.Tensor


class MaskedRounds:
    """The latents of the round before, in one interval of one run.

    They take as much memory as the latents, once for each step of the interval.

    Args:
        threshold: places with a smaller U are kept.
        channels: the dimension of the channels.
    """

    def __init__(self, threshold: float, channels: int):
        self.threshold, self.channels = threshold, channels
        self.clear()

    def clear(self) -> None:
        """Forget all rounds, as before the first one and after the last one."""
        self._estimate: Tensor | None = None  # x_0 at the first step of the round before
        self._latents: dict[int, Tensor] = {}  # after each step of it
        self._kept: Tensor | None = None  # where they are kept; None in the first round

    def observe_estimate(self, x_0: Tensor) -> None:
        """Take note of the estimate at the first step of a round, which decides what is kept.

        Args:
            x_0: `(B, ...)`, shaped like the latents.
        """
        x_0, before = upcast(x_0), self._estimate
        if before is not None and before.shape == x_0.shape:  # some runs drop frames
            agrees = (x_0 - before).abs().mean(self.channels, keepdim=True) < self.threshold
            self._kept = agrees if self._kept is None else self._kept | agrees
            x_0 = torch.where(self._kept, before, x_0)
        self._estimate = x_0

    def merge(self, step: int, latents: Tensor) -> Tensor:
        """Return the latents after a step, with those of the round before where they are kept.

        Args:
            step: of the run without restarts.
        """
        before = self._latents.get(step)
        if self._kept is not None and before is not None and before.shape == latents.shape:
            latents = torch.where(self._kept, before, latents)
        self._latents[step] = latents
        return latents
