"""What is known of a step of a guided run while it is under way, and what a run cost."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from skipguide.weak import weak_pass
from skipguide.weak.autoguidance import OtherModel

Tensor = torch.Tensor


@dataclasses.dataclass
class Passes:
    """What the last run of a guided pipeline cost, counted in forward passes of one sample per prompt."""

    steps: int = 0
    strong: int = 0
    runs: Counter[weak_pass.WeakPass | OtherModel] = dataclasses.field(default_factory=Counter)  # of each weak pass
    instead: Counter[weak_pass.WeakPass | OtherModel] = dataclasses.field(
        default_factory=Counter
    )  # of uncond, weakened by SLG

    @property
    def weak(self) -> float:
        """What the weak passes took; what one of a UNet takes is measured here, when somebody asks."""
        return sum(times * weak.cost(shared=weak.strong is not None) for weak, times in self.runs.items())

    @property
    def per_step(self) -> float:
        """Mean over the steps so far: 2 for plain CFG, plus what the weak passes evaluated, less what SLG left out."""
        saved = sum(times * (1 - weak.cost(shared=False)) for weak, times in self.instead.items())
        return (self.strong + self.weak - saved) / self.steps if self.steps else math.nan


@dataclasses.dataclass
class Step:
    """The step under way."""

    index: int
    cfg: bool
    calls: int  # calls of the denoiser that it takes
    phi: float = 0.0
    g: float | None = None  # in the place of the pipeline's
    passes: int = 1  # of one sample, without weak ones
    rule: bool = False  # D is made of u and c by another rule than the pipeline's
    alone: bool = False  # without u, although the pipeline has CFG
    zero: bool = False  # D is zero
    keeps_c: bool = False  # the pipeline rescales by the deviation of c, so c must come back as it is
    active: tuple[int, ...] = ()  # STG terms
    weakened: tuple[int, ...] = ()  # SLG terms
    done: int = 0  # calls so far
    split: bool = False  # one call on [uncond, cond], done in halves
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the call that was split
    c: tuple[Tensor, ...] = ()  # the conditional prediction, and what was returned in its place
    returned: tuple[Tensor, ...] = ()
    push: tuple[Tensor, ...] = ()

    @property
    def shifts(self) -> bool:
        """Whether D is the pipeline's own combination of u and c, both shifted by the push."""
        return self.phi == 0 and self.g is None and not (self.keeps_c or self.rule or self.alone or self.zero)

    @property
    def guided(self) -> bool:
        """Whether this step differs from the pipeline's own."""
        own = self.active or self.weakened or self.g is not None or self.phi
        return bool(own or self.rule or self.alone or self.zero)

    def forget(self) -> None:
        """Free the tensors."""
        self.inputs, self.c, self.returned, self.push = {}, (), (), ()


@dataclasses.dataclass
class Kept:
    """The difference c - p of a step, for the next ones."""

    differences: tuple[Tensor, ...]  # per output
    uses: int = 1  # steps so far

    def fits(self, predictions: Sequence[Tensor]) -> bool:
        """Whether it is of their shape: some runs drop frames on their way, or take more of them in."""
        pairs = zip(self.differences, predictions, strict=True)
        return all(difference.shape == c.shape for difference, c in pairs)
