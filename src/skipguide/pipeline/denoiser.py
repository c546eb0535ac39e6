"""One denoiser under guidance: its layers, its weak passes, and the prefix that they share."""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from skipguide.families import blocks
from skipguide.families.schema import Family
from skipguide.method import perturbations
from skipguide.method.protocols import Inputs, ReadOnlyInputs
from skipguide.method.terms import NAG, SLG, STG, Random
from skipguide.pipeline import compat, foreign_code, state_watch
from skipguide.pipeline.cache_contexts import COND, REPEAT, UNCOND
from skipguide.pipeline.step import ActiveTerm
from skipguide.pipeline.step_caches import StepCaches
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
from skipguide.weak.lora import LoRAPass, first_changed
from skipguide.weak.negative_text import NegativeText
from skipguide.weak.push_masks import PushMasks

Term = STG | SLG
_SKIPS_NEEDING_GRID = {
    "shuffle",
    *(name for name, kind in perturbations.PERTURBATIONS.items() if "grid" in kind.required_traits),
}


class GuidedDenoiser:
    """A denoiser under guidance: Wan 2.2 has two, every other family one.

    `weak_passes` has the weak pass of each term; that of a Random is another one at every step.
    `negative_text` is what NAG needs, None without it: where it is joint attention, proxies for all
    blocks are below those of the passes.
    """

    def __init__(
        self,
        family: Family,
        denoiser: nn.Module,
        terms: Sequence[Term],
        share_prefix: bool,
        nag: NAG | None = None,
    ):
        self.denoiser, self.modules = denoiser, list(denoiser.modules())[1:]
        sites = blocks.layer_sites(family, denoiser)
        self.negative_text: NegativeText | None = None
        if nag is not None and not nag.is_off:
            self.negative_text = NegativeText(family, denoiser, sites, nag)
        with self._above_negative_text():
            self._make_passes(family, denoiser, sites, terms, share_prefix)
        self.find_caches()

    def _make_passes(
        self,
        family: Family,
        denoiser: nn.Module,
        sites: Sequence[blocks.LayerSite],
        terms: Sequence[Term],
        share_prefix: bool,
    ) -> None:
        self.watch = state_watch.StateWatch(family, denoiser, sites)
        self.caches = StepCaches(family, denoiser, sites)
        self._caches_of_models: dict[int, StepCaches] = {}  # of weak models, by term
        where = {
            j: blocks.resolve_layers(family, sites, term)
            for j, term in enumerate(terms)
            if _skips_layers(term)
        }
        changed = {
            j: first_changed(family, denoiser, sites, term.weak)
            for j, term in enumerate(terms)
            if isinstance(term, STG) and term.changes_lora
        }
        where |= {j: [k] for j, k in changed.items() if k is not None}
        fixed = [j for j in where if not isinstance(terms[j].layers, Random)]
        blocks.check_disjoint([terms[j] for j in fixed], [where[j] for j in fixed], sites)
        self._heads = {j: blocks.resolve_heads(family, sites, terms[j]) for j in where}
        compat.check_attention_backends(
            sites,
            {
                k
                for j, ks in where.items()
                for k in (ks if _intercepts_attention(terms[j]) else self._heads[j])
            },
        )
        self.family, self.sites, self.terms = family, sites, tuple(terms)
        self._push_masks = PushMasks(family, terms)
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

    def _above_negative_text(self) -> contextlib.AbstractContextManager[None]:
        """Let proxies that are made take those of joint attention under NAG for the blocks."""
        text = self.negative_text
        return patching.patched([] if text is None else text.block_patches)

    def is_current(self) -> bool:
        """Return whether the denoiser still has the modules that it had when this was made."""
        now = list(self.denoiser.modules())[1:]
        return len(now) == len(self.modules) and all(
            a is b for a, b in zip(now, self.modules, strict=True)
        )

    # --- caches across steps ----------------------------------------------------------------------

    def find_caches(self) -> None:
        """Look for the caches across steps that are on now.

        Raises:
            ValueError: for one that does not go together with the terms.
        """
        for caches in self.all_caches():
            caches.find()
        for term, weak in zip(self.terms, self.weak_passes, strict=True):
            off = isinstance(term, STG) and max(term.scales(len(self.family.outputs))) == 0
            if isinstance(weak, weak_pass.WeakPass) and not off:
                self.caches.check_skipped(weak.skipped, weak.skip)
        if self.negative_text is not None:
            self.caches.check_called_twice(self.negative_text.called_twice)

    def all_caches(self) -> list[StepCaches]:
        """Return the caches of the denoiser and of the weak models."""
        return [self.caches, *self._caches_of_models.values()]

    def weak_context(self, j: int) -> str:
        """Return the name of the context of a weak pass; other layers are another model."""
        weak = self.weak_passes[j]
        if isinstance(weak, weak_pass.WeakPass) and isinstance(self.terms[j].layers, Random):
            return f"weak {j} without {weak.skipped}"
        return f"weak {j}"

    def uncond_context(self, uncond_terms: Sequence[int]) -> str:
        """Return the name of the context of u, weakened by these SLG terms."""
        return UNCOND + "".join(f" of term {j}" for j in uncond_terms)

    def caches_of(self, j: int) -> StepCaches:
        """Return the cache of the model that makes the weak pass of a term."""
        return self._caches_of_models.get(j, self.caches)

    def in_weak_context(self, j: int) -> contextlib.AbstractContextManager[None]:
        """Run the weak pass of a term in its context."""
        return self.caches_of(j).context(self.weak_context(j), self.caches.pipeline_context)

    def left_out_of_weak_pass(self, j: int, shared: bool) -> float:
        """Return what a cache left out of the weak pass of a term that ended, in forward passes.

        Args:
            j: the term.
            shared: whether the pass started from a state of the conditional one.
        """
        weak, caches = self.weak_passes[j], self.caches_of(j)
        if not caches.is_on:
            return 0.0
        skipped = getattr(weak, "skipped", ())
        cost = caches.weak_cost(self.weak_context(j), weak.cost(shared), skipped, shared)
        return weak.cost(shared=weak.prefix_cache is not None) - cost

    def forget_caches(self, keep: Sequence[str] = ()) -> None:
        """Drop the states of the caches, but for those of these contexts."""
        for caches in self.all_caches():
            caches.forget(keep)

    def release_caches(self) -> None:
        """Leave the caches as they were before guidance; their states are dropped."""
        self.forget_caches()
        for caches in self.all_caches():
            caches.release()

    def begin_caches(self, step: int, position: int) -> None:
        """Begin a step of the run for the caches; see `StepCaches.begin_step`."""
        for caches in self.all_caches():
            caches.begin_step(step, position)

    # --- a step -----------------------------------------------------------------------------------

    def begin_run(self, joins: bool = False) -> None:
        """Begin a run: look for what is on the denoiser now.

        Args:
            joins: the run was under way without guidance.

        Raises:
            ValueError: for a cache, or a replaced forward or block, that is refused, or offloading
                that NAG does not go together with.
        """
        self.watch.check_forwards()  # again: a cache can be switched on after guide()
        self.watch.begin_run()
        self.find_caches()
        if self.negative_text is not None:
            joint = self.negative_text.is_joint
            compat.check_called_twice(self.denoiser, self.sites, joint)
        for caches in self.all_caches():
            caches.begin_run(joins)
        self._refresh_loras()

    def begin_step(self, step: int) -> None:
        """Begin a guided step of the run: draw what is drawn at each of them.

        Raises:
            ValueError: for a cache, or a replaced forward or block, that is refused.
        """
        self.watch.begin_step()
        if self.watch.has_cache or any(caches.is_on for caches in self.all_caches()):
            self.find_caches()
        if self.caches.is_on and self.watch.is_probed:
            self.caches.copy_states(COND, REPEAT)
        self._step_context.begin_step(step)
        self._refresh_loras()
        for j, term in enumerate(self.terms):
            if isinstance(term.layers, Random):
                self.weak_passes[j] = self._weak_pass(j, step)

    def _refresh_loras(self) -> None:
        """Take note of what the LoRAs are now, which are switched without a change of modules."""
        for weak in self.weak_passes:
            if isinstance(weak, LoRAPass):
                weak.refresh()

    def observe_inputs(self, args: Sequence[Any], kwargs: ReadOnlyInputs) -> None:
        """Take note of the inputs of a call, whose shapes some weak passes and masks need.

        Raises:
            ValueError: for a mask that does not go with their sizes.
        """
        if any(term.skip in _SKIPS_NEEDING_GRID for term in self.terms):
            self._step_context.observe_inputs(self.bind_inputs(args, kwargs))
        if self._push_masks:
            self._push_masks.observe_inputs(self.bind_inputs(args, kwargs))

    def push_masks(
        self, active_terms: Sequence[ActiveTerm], c: Sequence[torch.Tensor]
    ) -> list[list[torch.Tensor | None]]:
        """Return the masks of the pushes of these terms, one for each output of c; [] for none."""
        if not self._push_masks:
            return []
        return [self._push_masks.of_outputs(active.index, c) for active in active_terms]

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
            and weak.prefix_cache is not None
        ]
        cache, firsts = self.prefix_cache, {weak.first_skipped for weak in sharing}
        if cache is None:
            return [*self.watch.patches([]), *self._attention_patches()]
        if self.caches.has_leader:  # whose first block runs in each pass, and may record nothing
            firsts -= {0}
        first = self.caches.recording_patches() if firsts else []
        recording = self.watch.patches([*cache.patches(firsts, in_batch), *first])
        return [*recording, *self._attention_patches()]

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
        shared = self.starts_from_prefix(active_term)
        patches = self.caches.weak_patches(
            weak.patches() if shared else weak.full_patches, weak.skipped, shared
        )
        found = self.watch.patches(patches, weak.first_skipped + 1 if shared else 0)
        return [*found, *self._attention_patches()]

    def starts_from_prefix(self, active_term: int) -> bool:
        """Return whether the weak pass of a term starts from a state of the conditional pass."""
        weak = self.weak_passes[active_term]
        if not isinstance(weak, weak_pass.WeakPass) or weak.prefix_cache is None:
            return False
        return self.caches.may_share(self.weak_context(active_term), weak.first_skipped)

    def clear_prefix(self) -> None:
        """Free what was kept of the conditional pass; what runs after it is not under NAG."""
        self.caches.clear()
        if self.negative_text is not None:
            self.negative_text.end_step()
        if self.prefix_cache is not None:
            self.prefix_cache.clear()

    # --- NAG --------------------------------------------------------------------------------------

    def begin_negative_step(self, active_terms: Sequence[int]) -> None:
        """Begin a step with NAG, at its conditional pass.

        Args:
            active_terms: the STG terms whose weak passes follow.
        """
        assert self.negative_text is not None
        weaks = [self.weak_passes[j] for j in active_terms]
        self.negative_text.begin_step(
            {weak.first_skipped for weak in weaks if isinstance(weak, weak_pass.WeakPass)}
        )

    def begin_negative_weak_pass(self, active_term: int) -> None:
        """Begin the weak pass of a term in a step with NAG, which does in it what it did before."""
        text, weak = self.negative_text, self.weak_passes[active_term]
        if text is not None and text.is_on:
            assert isinstance(weak, weak_pass.WeakPass)
            text.begin_pass(weak.first_skipped if self.starts_from_prefix(active_term) else 0)

    def repeat_patches(self) -> list[patching.Patch]:
        """Return the patches for one more conditional pass of the same step, and begin it."""
        if self.negative_text is not None and self.negative_text.is_on:
            self.negative_text.begin_pass()
        return [*self.watch.patches([]), *self._attention_patches()]

    def _attention_patches(self) -> list[patching.Patch]:
        text = self.negative_text
        return [] if text is None or not text.is_on else text.attention_patches

    # --- passes of u ------------------------------------------------------------------------------

    def idle_patches(self) -> list[patching.Patch]:
        """Return the patches for a call whose result nobody reads; a UNet's resnets run anyway."""
        if self.family.unet is not None:
            return []
        return [(*site.entry, patching.Bypass(site.block, site.stack)) for site in self.sites]

    def uncond_patches(self, uncond_terms: Sequence[int]) -> list[patching.Patch]:
        """Return the patches that weaken u for these SLG terms, which share one pass."""
        weak = [self.weak_passes[j] for j in uncond_terms]
        patches = [patch for one in weak for patch in one.full_patches]
        if not patches:
            return []
        return self.watch.patches(self.caches.uncond_patches(patches))

    def set_input_spec(self, args: Sequence[Any], kwargs: ReadOnlyInputs) -> None:
        """Tell the weak passes what a call looks like, so that their cost can be measured."""
        inputs = flops.to_meta_tensors(self.bind_inputs(args, kwargs))
        for weak in self.weak_passes:
            weak.set_input_spec(inputs)

    def bind_inputs(self, args: Sequence[Any], kwargs: ReadOnlyInputs) -> Inputs:
        """Return the inputs of a call of the denoiser, by name."""
        return patching.bind_inputs(self.signature, args, kwargs)

    # --- the weak passes --------------------------------------------------------------------------

    def weak_costs(self, num_steps: int) -> list[float]:
        """Return what the weak pass of each term costs in a run, in forward passes.

        Where layers are drawn it is the largest cost of all steps."""
        found = []
        for j, term in enumerate(self.terms):
            passes = [self.weak_passes[j]]
            if isinstance(term.layers, Random):
                passes = [self._weak_pass(j, step) for step in range(num_steps)]
            found.append(max(one.cost(shared=one.prefix_cache is not None) for one in passes))
        return found

    def _weak_pass(self, j: int, step: int) -> weak_pass.WeakPass | AutoguidancePass:
        with self._above_negative_text():
            return self._make_weak_pass(j, step)

    def _make_weak_pass(self, j: int, step: int) -> weak_pass.WeakPass | AutoguidancePass:
        term = self.terms[j]
        if isinstance(term, STG) and term.changes_lora:
            (first,) = self._positions.get(j, [0])
            cache = self.prefix_cache if j in self._positions else None
            return LoRAPass(self.family, self.denoiser, self.sites, term.weak, first, cache)
        if not _skips_layers(term):
            assert isinstance(term, STG)
            made = AutoguidancePass(self.family, self.denoiser, term.weak)
            sites = blocks.layer_sites(self.family, term.weak)
            foreign_code.check_forwards(term.weak, self.family, sites)
            self._caches_of_models[j] = StepCaches(self.family, made.denoiser, sites)
            return made
        skipped = tuple(self._positions[j])
        if isinstance(term, STG) and isinstance(term.layers, Random):
            count = sum(term.axis in (None, site.axis) for site in self.sites)
            skipped = draw_layers(skipped, count, term, step)
        if (j, skipped) not in self._weak_pass_cache:
            strong = self.prefix_cache if isinstance(term, STG) else None
            options = weak_pass.WeakOptions(
                self._step_context, term.strength, term.seed, self._heads[j]
            )
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
