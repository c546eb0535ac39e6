"""What is known of a step of a guided run while it is under way, and what a run cost."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from skipguide.weak import weak_pass
from skipguide.weak.autoguidance import AutoguidancePass

Tensor = torch.Tensor


@dataclasses.dataclass
class PassCounts:
    """What the last run of a guided pipeline cost, counted in forward passes of one sample per
    prompt."""

    steps: int = 0
    unweakened: int = 0
    weak_runs: Counter[weak_pass.WeakPass | AutoguidancePass] = dataclasses.field(
        default_factory=Counter
    )  # of each weak pass
    uncond_weakened: Counter[weak_pass.WeakPass | AutoguidancePass] = dataclasses.field(
        default_factory=Counter
    )  # of uncond, weakened by SLG

    @property
    def weak(self) -> float:
        """What the weak passes took; what one of a UNet takes is measured here, when somebody
        asks."""
        return sum(
            times * weak.cost(shared=weak.prefix_cache is not None)
            for weak, times in self.weak_runs.items()
        )

    @property
    def per_step(self) -> float:
        """Mean over the steps so far: 2 for plain CFG, plus what the weak passes evaluated, less
        what SLG left out."""
        saved = sum(
            times * (1 - weak.cost(shared=False)) for weak, times in self.uncond_weakened.items()
        )
        return (self.unweakened + self.weak - saved) / self.steps if self.steps else math.nan


@dataclasses.dataclass
class GuidedStep:
    """The step under way."""

    index: int
    has_cfg: bool
    num_calls: int  # calls of the denoiser that it takes
    phi: float = 0.0
    guidance_scale: float | None = None  # in the place of the pipeline's
    num_passes: int = 1  # of one sample, without weak ones
    has_cfg_rule: bool = False  # D is made of u and c by another rule than the pipeline's
    cond_only: bool = False  # without u, although the pipeline has CFG
    zero_prediction: bool = False  # D is zero
    must_keep_cond: bool = (
        False  # the pipeline rescales by the deviation of c, so c must come back as it is
    )
    active_terms: tuple[int, ...] = ()  # STG terms
    uncond_terms: tuple[int, ...] = ()  # SLG terms
    calls_done: int = 0  # calls so far
    split_batch: bool = False  # one call on [uncond, cond], done in halves
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the call that was split
    c: tuple[Tensor, ...] = ()  # the conditional prediction, and what was returned in its place
    returned: tuple[Tensor, ...] = ()
    skip_guidance: tuple[Tensor, ...] = ()

    @property
    def is_plain_shift(self) -> bool:
        """Whether D is the pipeline's own combination of u and c, both shifted by the push."""
        return (
            self.phi == 0
            and self.guidance_scale is None
            and not (
                self.must_keep_cond or self.has_cfg_rule or self.cond_only or self.zero_prediction
            )
        )

    @property
    def is_guided(self) -> bool:
        """Whether this step differs from the pipeline's own."""
        own = self.active_terms or self.uncond_terms or self.guidance_scale is not None or self.phi
        return bool(own or self.has_cfg_rule or self.cond_only or self.zero_prediction)

    def clear(self) -> None:
        """Free the tensors."""
        self.inputs, self.c, self.returned, self.skip_guidance = {}, (), (), ()


@dataclasses.dataclass
class CachedDifference:
    """The difference c - p of a step, for the next ones."""

    differences: tuple[Tensor, ...]  # per output
    uses: int = 1  # steps so far

    def has_shapes_of(self, predictions: Sequence[Tensor]) -> bool:
        """Whether it is of their shape: some runs drop frames on their way, or take more of them
        in."""
        pairs = zip(self.differences, predictions, strict=True)
        return all(difference.shape == c.shape for difference, c in pairs)
