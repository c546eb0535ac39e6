"""One guided step: what is decided about it, the tensors it holds meanwhile, and what a run
cost."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import Counter
from collections.abc import Sequence

import torch

from skipguide.method import formula
from skipguide.method.cfg_rules import CFGRule, RectifiedCFG
from skipguide.method.protocols import Inputs
from skipguide.method.terms import STG
from skipguide.weak.autoguidance import AutoguidancePass
from skipguide.weak.weak_pass import WeakPass

Tensor = torch.Tensor


class Combination(enum.Enum):
    """The ways in which a step hands D to the loop that combines u and c."""

    UNGUIDED = "the predictions as they are"
    SHIFT = "u and c, both shifted by the push, which u + g (c - u) lets through unchanged"
    REPLACE = "D in the place of both, or with c a u' for which the pipeline's formula yields D"
    KEEP_COND = "as REPLACE, but with c as it is, for the pipeline rescales by its deviation"
    COND_ONLY = "D = c + push in the place of both: no CFG at this step"
    ZERO = "zeros in the place of both"
    HELD = "nothing runs: the estimate of the clean data of the last step that ran, for both"
    GUIDER = "u and c as they are: the push is added to what the pipeline's guider makes of them"


@dataclasses.dataclass(frozen=True)
class ActiveTerm:
    """An STG term that is on at a step, with its scale for each output of the denoiser."""

    index: int  # among the terms of the request
    term: STG
    scales: tuple[float, ...]


@dataclasses.dataclass
class GuidedStep:
    """The step under way.

    Args:
        index: of the run, restarts included.
        has_cfg: whether u is computed, or would be.
        phi: rescaling at this step; 0 is off.
        audio_phi: that of the sound; None is the same.
        guidance_scale: g in the place of the pipeline's; None leaves it.
        rule: a rule in the place of plain CFG.
        active_terms: the STG terms that are on.
        uncond_terms: which terms of the request are SLG that is on.
        num_calls: how often the pipeline calls its denoiser.
        num_passes: forward passes of one sample, without weak ones.
        is_batched: c and u come from one call on [uncond, cond].
        split_batch: that call runs in halves.
        has_nag: attention is guided by the negative prompt in c and in the weak passes.
        keeps_uncond: c - u may be used again by later steps.
        reuses_uncond: u is not computed: c - u is that of earlier steps.
        is_kept: its estimate of the clean data is used by later steps, which do not run.
        unread_calls: how many of the last calls nobody reads, for guidance that is switched off.
    """

    index: int
    has_cfg: bool
    phi: float = 0.0
    guidance_scale: float | None = None
    rule: CFGRule | None = None
    active_terms: tuple[ActiveTerm, ...] = ()
    uncond_terms: tuple[int, ...] = ()
    combination: Combination = Combination.UNGUIDED
    num_calls: int = 1
    num_passes: int = 1
    is_batched: bool = False
    split_batch: bool = False
    has_nag: bool = False
    keeps_uncond: bool = False
    reuses_uncond: bool = False
    audio_phi: float | None = None
    is_kept: bool = False
    unread_calls: int = 0
    calls_done: int = 0
    inputs: Inputs = dataclasses.field(default_factory=dict)  # of a batch that is split
    c: tuple[Tensor, ...] = ()  # the conditional prediction, per output of the denoiser
    us: tuple[Tensor, ...] | None = None  # where it is not computed: c less earlier differences
    corrected: tuple[Tensor, ...] = ()  # c where RectifiedCFG computes u, per output
    push: tuple[Tensor, ...] = ()  # the sum over the terms, per output
    returned: tuple[Tensor, ...] = ()  # what the pipeline got in the place of c

    @property
    def is_guided(self) -> bool:
        """True if anything differs from the pipeline's own step."""
        return self.combination is not Combination.UNGUIDED

    @property
    def rescales(self) -> bool:
        """True if any output is rescaled."""
        return bool(self.phi or self.audio_phi)

    def phi_of(self, output: int) -> float:
        """Return phi of an output of the denoiser: 0 is the video, 1 the sound."""
        return self.phi if output == 0 or self.audio_phi is None else self.audio_phi

    @property
    def leaves_out_uncond(self) -> bool:
        """True if D is made without u, although the loop has CFG."""
        return self.combination in (Combination.COND_ONLY, Combination.ZERO, Combination.HELD)

    def choose_combination(self, keeps_cond: bool = False, by_guider: bool = False) -> None:
        """Settle how D reaches the pipeline, unless the step is ZERO, COND_ONLY or HELD already.

        Args:
            keeps_cond: the pipeline rescales by the deviation of the c that it gets back.
            by_guider: a guider with a formula of its own combines u and c.
        """
        if self.combination is not Combination.UNGUIDED:
            return
        replaces = (
            self.rescales or self.is_kept or self.guidance_scale is not None
            or self.rule is not None
        )  # fmt: skip
        if not (self.active_terms or self.uncond_terms or replaces or self.keeps_uncond):
            return
        if by_guider:
            self.combination = Combination.GUIDER
        elif keeps_cond:
            self.combination = Combination.KEEP_COND
        else:
            self.combination = Combination.REPLACE if replaces else Combination.SHIFT

    def choose_batch(self, exact: bool, always_split: bool) -> None:
        """Settle whether a batch [uncond, cond] runs in halves.

        It does at a guided step for results that are bit-equal to those of passes of their own, and
        where u is weakened alone or not needed.

        Args:
            exact: of the request.
            always_split: it does, for a cache has a state for each half, NAG acts in one, or the
                halves come in the other order.
        """
        alone = bool(self.uncond_terms) or self.leaves_out_uncond or self.reuses_uncond
        alone = alone or isinstance(self.rule, RectifiedCFG)  # u is computed elsewhere than c
        needed = always_split or (self.is_guided and (exact or alone))
        self.split_batch = self.is_batched and needed

    @property
    def keeps_batch(self) -> bool:
        """True if c and u of a guided step come from one call that runs as the pipeline made it."""
        return self.is_batched and self.is_guided and not self.split_batch

    @property
    def has_uncond_call(self) -> bool:
        """True if the pipeline calls for u after it has called for c."""
        return self.has_cfg and not self.is_batched

    def compute_push(
        self, weaks: Sequence[Sequence[Tensor]], orthogonalize: bool, channels: int | None = None,
        masks: Sequence[Sequence[Tensor | None]] = (),
    ) -> None:  # fmt: skip
        """Set the push of each output from the weak predictions of each active term.

        Args:
            weaks: one per active term, each with one prediction per output.
            orthogonalize, channels: as for `formula.skip_guidance`.
            masks: one per active term, each with one per output; () is none.
        """
        normalized = [active.term.normalize for active in self.active_terms]
        self.push = tuple(
            formula.skip_guidance(
                c,
                [weak[k] for weak in weaks],
                [active.scales[k] for active in self.active_terms],
                orthogonalize,
                channels,
                normalized,
                [mask[k] for mask in masks],
            )
            for k, c in enumerate(self.c)
        )

    def clear(self) -> None:
        """Free the tensors."""
        self.inputs, self.c, self.returned, self.push, self.us = {}, (), (), (), None
        self.corrected = ()


@dataclasses.dataclass
class PassCounts:
    """The cost of a guided pipeline's last run, in forward passes of one sample per prompt.

    Args:
        steps: how many steps ran.
        unweakened: passes of c and u.
        weak_runs: how often each weak pass ran.
        uncond_weakened: how often SLG weakened u by each of its passes.
        left_out_by_caches: what a cache across steps left out of all these, in passes.
        negative_text: what blocks with joint attention computed for the negative text of NAG, in
            passes; where the text is an argument of cross-attention, this attention alone is
            computed once more, which is not counted.
    """

    steps: int = 0
    unweakened: int = 0
    weak_runs: Counter[WeakPass | AutoguidancePass] = dataclasses.field(default_factory=Counter)
    uncond_weakened: Counter[WeakPass | AutoguidancePass] = dataclasses.field(
        default_factory=Counter
    )
    left_out_by_caches: float = 0.0
    negative_text: float = 0.0

    @property
    def weak(self) -> float:
        """The cost of the weak passes; that of a UNet's is measured when this is read."""
        return sum(
            times * weak.cost(shared=weak.prefix_cache is not None)
            for weak, times in self.weak_runs.items()
        )

    @property
    def per_step(self) -> float:
        """The mean over the steps so far: 2 for CFG, plus weak passes, less what was left out."""
        saved = self.left_out_by_caches + sum(
            times * (1 - weak.cost(shared=False)) for weak, times in self.uncond_weakened.items()
        )
        computed = self.unweakened + self.weak + self.negative_text - saved
        return computed / self.steps if self.steps else math.nan
