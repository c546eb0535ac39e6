"""One denoiser under guidance: its layers, its weak passes, and the prefix that they share."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from skipguide.families import blocks
from skipguide.families.schema import Family
from skipguide.method import perturbations
from skipguide.method.protocols import Inputs, ReadOnlyInputs
from skipguide.method.terms import SLG, STG, Random
from skipguide.pipeline import compat, foreign_code, state_watch
from skipguide.weak import (
    attention,
    flops,
    joint_pass,
    patching,
    prefix_cache,
    step_context,
    weak_pass,
)
from skipguide.weak.autoguidance import AutoguidancePass

Term = STG | SLG
_SKIPS_NEEDING_GRID = {
    "shuffle",
    *(name for name, kind in perturbations.PERTURBATIONS.items() if "grid" in kind.required_traits),
}


class GuidedDenoiser:
    """A denoiser under guidance: Wan 2.2 has two, every other family one.

    `weak_passes` has the weak pass of each term; that of a Random is another one at every step.
    """

    def __init__(
        self, family: Family, denoiser: nn.Module, terms: Sequence[Term], share_prefix: bool
    ):
        sites = blocks.layer_sites(family, denoiser)
        self.watch = state_watch.StateWatch(family, denoiser, sites)
        where = {
            j: blocks.resolve_layers(family, sites, term)
            for j, term in enumerate(terms)
            if _skips_layers(term)
        }
        fixed = [j for j in where if not isinstance(terms[j].layers, Random)]
        blocks.check_disjoint([terms[j] for j in fixed], [where[j] for j in fixed], sites)
        compat.check_attention_backends(
            sites, {k for j, ks in where.items() if _intercepts_attention(terms[j]) for k in ks}
        )
        self.family, self.sites, self.terms = family, sites, tuple(terms)
        self.denoiser, self.modules = denoiser, list(denoiser.modules())[1:]
        self.signature = _call_signature(denoiser, family)
        self.prefix_cache = None
        if share_prefix and (firsts := _resume_positions(terms, where)):
            self.prefix_cache = prefix_cache.PrefixCache(family, denoiser, sites, firsts)
        self._step_context = step_context.StepContext(
            family.latent_layout, getattr(denoiser, "config", {})
        )
        self._positions, self._weak_pass_cache = where, dict[Any, weak_pass.WeakPass]()
        self._joint_passes: dict[tuple[int, ...], joint_pass.JointPass] = {}
        self.weak_passes = [self._weak_pass(j, 0) for j in range(len(terms))]

    def is_current(self) -> bool:
        """Return whether the denoiser still has the modules that it had when this was made."""
        now = list(self.denoiser.modules())[1:]
        return len(now) == len(self.modules) and all(
            a is b for a, b in zip(now, self.modules, strict=True)
        )

    # --- a step -----------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """Begin a guided step of the run: draw what is drawn at each of them.

        Raises:
            ValueError: for a cache, or a replaced forward or block, that was not there before.
        """
        self.watch.begin_step()
        self._step_context.begin_step(step)
        for j, term in enumerate(self.terms):
            if isinstance(term.layers, Random):
                self.weak_passes[j] = self._weak_pass(j, step)

    def observe_inputs(self, args: Sequence[Any], kwargs: ReadOnlyInputs) -> None:
        """Take note of the inputs of a call, whose shapes some weak passes have to know."""
        if any(term.skip in _SKIPS_NEEDING_GRID for term in self.terms):
            self._step_context.observe_inputs(self.bind_inputs(args, kwargs))

    def recording_patches(
        self, active_terms: Sequence[int], in_batch: bool = False
    ) -> list[patching.Patch]:
        """Return the patches that record inputs during the conditional pass, for these terms.

        Args:
            in_batch: the pass is the second half of a batch [uncond, cond].
        """
        sharing = [
            weak
            for j in active_terms
            if isinstance(weak := self.weak_passes[j], weak_pass.WeakPass)
        ]
        cache = self.prefix_cache
        return self.watch.patches(
            []
            if cache is None
            else cache.patches({weak.first_skipped for weak in sharing}, in_batch)
        )

    def join_terms(self, active_terms: Sequence[int]) -> list[list[int]]:
        """Return which of these terms run in one batch; those with a draw or a model of their own
        run alone."""
        weaks = {j: self.weak_passes[j] for j in active_terms}
        fixed = {
            j: weak
            for j, weak in weaks.items()
            if isinstance(weak, weak_pass.WeakPass) and not isinstance(self.terms[j].layers, Random)
        }
        alone = [[j] for j in weaks if j not in fixed]
        return sorted([*joint_pass.join_terms(self.family, fixed), *alone])

    def joint_pass(self, active_terms: Sequence[int]) -> joint_pass.JointPass:
        """Return the pass of several terms in one batch, which join_terms() put together.

        It is made once, so that torch.compile meets the same modules at every step."""
        key = tuple(active_terms)
        if key not in self._joint_passes:
            weaks = [self.weak_passes[j] for j in key]
            members = [weak for weak in weaks if isinstance(weak, weak_pass.WeakPass)]
            self._joint_passes[key] = joint_pass.JointPass(members)
        return self._joint_passes[key]

    def joint_patches(self, joint: joint_pass.JointPass) -> list[patching.Patch]:
        """Return the patches of the pass of several terms."""
        shared = joint.prefix_cache is not None
        return self.watch.patches(joint.patches(), joint.first_skipped + 1 if shared else 0)

    def weak_patches(self, active_term: int) -> list[patching.Patch]:
        """Return the patches of the weak pass of a term; of a model of its own there are none."""
        weak = self.weak_passes[active_term]
        if not isinstance(weak, weak_pass.WeakPass):
            return list(weak.patches())
        shared = weak.prefix_cache is not None
        return self.watch.patches(weak.patches(), weak.first_skipped + 1 if shared else 0)

    def idle_patches(self) -> list[patching.Patch]:
        """Return the patches for a call whose result nobody reads; a UNet's resnets run anyway."""
        if self.family.unet is not None:
            return []
        return [
            (*site.entry, patching.Bypass(site.block, site.stack.streams)) for site in self.sites
        ]

    def uncond_patches(self, uncond_terms: Sequence[int]) -> list[patching.Patch]:
        """Return the patches that weaken u for these SLG terms, which share one pass."""
        patches = [patch for j in uncond_terms for patch in self.weak_passes[j].full_patches]
        return self.watch.patches(patches) if patches else []

    def set_input_spec(self, args: Sequence[Any], kwargs: ReadOnlyInputs) -> None:
        """Tell the weak passes what a call looks like, so that their cost can be measured."""
        inputs = flops.to_meta_tensors(self.bind_inputs(args, kwargs))
        for weak in self.weak_passes:
            weak.set_input_spec(inputs)

    def bind_inputs(self, args: Sequence[Any], kwargs: ReadOnlyInputs) -> Inputs:
        """Return the inputs of a call of the denoiser, by name."""
        return patching.bind_inputs(self.signature, args, kwargs)

    # --- the weak passes --------------------------------------------------------------------------

    def _weak_pass(self, j: int, step: int) -> weak_pass.WeakPass | AutoguidancePass:
        term = self.terms[j]
        if not _skips_layers(term):
            assert isinstance(term, STG)
            made = AutoguidancePass(self.family, self.denoiser, term.weak)
            sites = blocks.layer_sites(self.family, term.weak)
            foreign_code.check_forwards(term.weak, self.family, sites)
            return made
        skipped = tuple(self._positions[j])
        if isinstance(term, STG) and isinstance(term.layers, Random):
            count = sum(term.axis in (None, site.axis) for site in self.sites)
            skipped = draw_layers(skipped, count, term, step)
        if (j, skipped) not in self._weak_pass_cache:
            strong = self.prefix_cache if isinstance(term, STG) else None
            options = weak_pass.WeakOptions(self._step_context, term.strength, term.seed)
            self._weak_pass_cache[j, skipped] = weak_pass.WeakPass(
                self.family, self.denoiser, self.sites, skipped, term.skip, strong, options
            )
        return self._weak_pass_cache[j, skipped]


def _call_signature(denoiser: nn.Module, family: Family) -> inspect.Signature:
    """Return the signature of a denoiser, of its base class where a subclass hides it (*args)."""
    found = inspect.signature(denoiser.forward)
    kinds = [parameter.kind for parameter in found.parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        own = next(cls for cls in type(denoiser).__mro__ if cls.__name__ == family.model)
        found = inspect.signature(types.MethodType(own.forward, denoiser))
    return found


def _skips_layers(term: Term) -> bool:
    return getattr(term, "weak", None) is None


def _intercepts_attention(term: Term) -> bool:
    return term.skip in attention.ATTENTION_EDITS


def _resume_positions(terms: Sequence[Term], where: Mapping[int, Sequence[int]]) -> set[int]:
    """Return where weak passes can leave the conditional one; those of SLG are passes of u."""
    pushing = {j: ks for j, ks in where.items() if isinstance(terms[j], STG)}
    return {
        k
        for j, ks in pushing.items()
        for k in (ks if isinstance(terms[j].layers, Random) else ks[:1])
    }


def draw_layers(middle: Sequence[int], count: int, term: STG, step: int) -> tuple[int, ...]:
    """Return the positions that a Random skips at a step, sorted.

    Args:
        middle: what `resolve_layers` returned.
        count: of all blocks of the term's axis.
    """
    assert isinstance(term.layers, Random)
    number = min(max(1, round(term.layers.share * count)), len(middle))
    order = step_context.random_permutation(len(middle), term.seed, step, "layers")
    return tuple(sorted(middle[int(i)] for i in order[:number]))
