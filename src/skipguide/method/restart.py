"""Restart sampling: go back to a higher noise level K times (Xu et al. 2023; Algorithm 3).

When a run arrives at the noise level t_min, noise is added until it is at t_max again, and the
steps from t_max to t_min are repeated with the same guidance, K times. What one step did wrong
another one can repair. Here are the formulas; pipeline/restarting.py puts them on a scheduler.

A sample z at level s_1 becomes z' at level s_2 > s_1 by new noise eps:

    flow    z' = r z + sqrt(s_2^2 - r^2 s_1^2) eps    r = (1 - s_2) / (1 - s_1)
    vp      z' = r z + sqrt(1 - r^2) eps              r = sqrt(ab_2 / ab_1)
    ve      z' = z + sqrt(s_2^2 - s_1^2) eps

where samples are made of data x_0 and noise eps as

    flow    x = (1 - s) x_0 + s eps
    vp      x = sqrt(ab) x_0 + sqrt(1 - ab) eps       ab = 1 / (1 + s^2)
    ve      x = x_0 + s eps

The paper's code has 1 - r instead of the square root for flow matching, which is right for s_1 = 0
alone. Algorithm 3 as printed is the third line, whatever the sampler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from skipguide.method import formula, validate

Tensor = torch.Tensor


@dataclass(frozen=True)
class Restart:
    """Do the steps of an interval again, after adding the noise that they took away.

    Args:
        sigma: (t_min, t_max), noise levels: of flow matching from 1, noise, to 0; of others as the
            scheduler's `sigmas` have them, or sqrt((1 - ab) / ab). The first step at or below t_max
            begins a round, and the first one at or below t_min ends it.
        window: (start, stop), in the place of `sigma`: fractions of the run; steps i with start <=
            i/N < stop.
        repeats: K, how many times more.
        noise_scale: the noise is multiplied by it (S_noise; Xu et al. use 1.003 on ImageNet). 1
            keeps the distribution.
        mask: renew only the places where the estimates of the clean video in two rounds differ by
            this much or more, as a mean over channels, in units of the latents; 0 renews all, and
            None is a restart without a mask. The authors of Self-Refining (2601.18577) have 0.25
            for Wan. For schedulers of one step (pipeline/restart_mask.py).

    Raises:
        ValueError: for both or none of the two, an empty interval, or a number out of range.
    """

    sigma: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    repeats: int = 1
    noise_scale: float = 1.0
    mask: float | None = None

    def __post_init__(self) -> None:
        given = [pair for pair in (self.sigma, self.window) if pair is not None]
        if len(given) != 1:
            raise ValueError(
                "a Restart needs sigma=(t_min, t_max) or window=(start, stop), but got"
                f" {len(given)} of the two. Write Restart(window=(0.4, 0.6))."
            )
        name, high = ("sigma", math.inf) if self.window is None else ("window", 1.0)
        object.__setattr__(
            self, name, validate.check_interval(name, given[0], high, "Change them.")
        )
        validate.check_integer("repeats", self.repeats, 1, "Leave it out for 1.")
        if not validate.is_number(self.noise_scale) or self.noise_scale <= 0:
            raise ValueError(
                f"noise_scale must be a number above 0, but got {self.noise_scale!r}. Leave it out"
                " for 1."
            )
        if self.mask is not None:
            validate.check_number("mask", self.mask, 0.0, note="0 renews every place")

    def steps(self, before: Sequence[float], after: Sequence[float]) -> tuple[int, int]:
        """Return (first, end): the steps that are repeated are first <= i < end.

        Args:
            before, after: noise level before each of the N steps, and after it.

        Raises:
            ValueError: if the run has no step in the interval.
        """
        num = len(before)
        if self.window is not None:
            first, end = (math.ceil(edge * num - 1e-9) for edge in self.window)
        else:
            assert self.sigma is not None
            low, high = self.sigma
            first = next((i for i, level in enumerate(before) if level <= high + 1e-6), num)
            end = next((i + 1 for i, level in enumerate(after) if level <= low + 1e-6), num + 1)
        if not first < end <= num:
            where = f"sigma={self.sigma}" if self.window is None else f"window={self.window}"
            levels = ", ".join(f"{level:.3g}" for level in (*before, after[-1]))
            raise ValueError(
                f"a Restart must hold at least one whole step, but {where} holds none of this run,"
                f" whose noise levels are {levels}. Widen it, or take more steps."
            )
        return first, end


def to_restarts(restart: Any) -> tuple[Restart, ...]:
    """Return one Restart, several, or None as a tuple.

    Raises:
        ValueError: for something else.
    """
    found = () if restart is None else (restart,) if isinstance(restart, Restart) else restart
    if not isinstance(found, (tuple, list)) or not all(
        isinstance(entry, Restart) for entry in found
    ):
        raise ValueError(
            f"restart must be a Restart or a list of them, but got {restart!r}. Write Restart(...)."
        )
    return tuple(found)


def renoise(z: Tensor, kind: str, low: float, high: float, noise: Tensor) -> Tensor:
    """Return a sample at noise level `low` taken back to `high`, computed in float32 at least.

    Args:
        z, noise: `(B, ...)`; noise is normal with deviation 1 (or `noise_scale`).
        kind: "flow", "vp" or "ve"; see the top of this file.
    """
    if kind == "ve":
        r, s = 1.0, math.sqrt(high**2 - low**2)
    elif kind == "flow":
        r = (1 - high) / (1 - low)
        s = math.sqrt(high**2 - (r * low) ** 2)
    else:
        r = math.sqrt((1 + low**2) / (1 + high**2))
        s = math.sqrt(1 - r**2)
    return (r * formula.upcast(z) + s * formula.upcast(noise)).to(z.dtype)
