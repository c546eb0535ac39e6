"""guide(): put the formula and the shared prefix on a diffusers pipeline, and take them off again.

What happens in a guided step is in guided_calls.py."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skipguide.families import lookup
from skipguide.families.schema import Family
from skipguide.method import cfg_rules
from skipguide.method.request import (
    GuidanceRequest,
    fill_in_published,
    take_nag,
    unpack_terms,
)
from skipguide.method.restart import Restart, to_restarts
from skipguide.method.terms import NAG, SLG, STG, Schedule
from skipguide.pipeline import call_frame, early_checks
from skipguide.pipeline.cache_contexts import COND, UNCOND
from skipguide.pipeline.guided_calls import GuidedCalls

if TYPE_CHECKING:
    from typing_extensions import Self

Tensor = torch.Tensor
Term = STG | SLG

_log = logging.getLogger("skipguide")
_GUIDED_DENOISERS: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def guide(
    pipe: Any,
    *terms: Term | NAG | Schedule | Sequence[Term | NAG],
    rescale: float | None = None,
    rescale_space: str | None = None,
    orthogonalize: bool = False,
    cfg: cfg_rules.CFGRule | None = None,
    restart: Restart | Sequence[Restart] | None = None,
    share_prefix: bool = True,
    budget: float | None = None,
    exact: bool = True,
    parallel: Any = None,
    audio_rescale: float | None = None,
    replace_own: bool | None = None,
    skip_step: int = 0,
) -> Guide:
    """Guide every call of `pipe` by skipping layers, until the handle is removed.

        D = u + g (c - u) + sum_j s_j (c - p_j)

    Args:
        pipe: an unmodified diffusers pipeline of a known family.
        terms: one or more STG, whose pushes are added (Eq. 20), and SLG, which weaken u; Modality
            for LTX-2; or one Schedule. Beside them, or alone, a NAG, which guides attention by the
            negative prompt. A list or tuple of terms, such as a preset of several, stands for its
            entries.
        rescale: phi in [0, 1] (Algorithm 4), per sample, at steps with a term or a rule; 0 is off.
            None is 0, or what was published with a preset.
        rescale_space: "prediction", as the paper's code has it, or "data": the deviations are those
            of the estimates of the clean video (and sound) that c and D are, as in LTX-2's and
            ComfyUI's code. None is "prediction", or what was published with a preset.
        orthogonalize: each STG term loses its components along those before it, in the order given
            (Eq. 21), per sample and output. A term that is parallel to those before it vanishes; a
            zero one takes nothing away. The paper found no gain in it.
        cfg: a rule in the place of u + g (c - u), such as APG(), CFGZero(), FDG(), TAG() or
            Interval(), or a CFGReuse, which computes u at some steps only; g is the pipeline's.
            docs/rules.md has all of them.
        restart: do the steps of an interval of noise levels again (Algorithm 3); alone, or with
            terms, which hold in the repeated steps as they do in the first round. The additional
            passes are in `handle.passes`.
        share_prefix: start each weak pass at its first skipped layer. False runs it in full, for
            benchmarks and doubt.
        budget: forward passes of one sample that a step may take on average, such as 2.0, what CFG
            takes. At which steps u and the weak passes are computed, and at which they follow from
            earlier ones, is chosen for it (pipeline/budget.py); `handle.plan` says it from the
            first step on, as the log does. An approximation where the budget is below the exact
            cost. One that is too small for a run is refused when the pipeline's call begins.
        exact: run a batch [uncond, cond] in halves, and every weak pass alone, so that the result
            is the same to the last bit as with full passes. False keeps the pipeline's own batch,
            and runs weak passes that start in the same layer as one: faster on a GPU that half a
            batch does not fill, and the same but for rounding. Where SLG weakens u or NAG is on,
            the batch runs in halves all the same.
        parallel: a process group of torch.distributed, or one dimension of a DeviceMesh, whose
            processes divide the passes of a step among them (docs/parallel.md). All of them call
            this, and then the pipeline, with the same arguments.
        audio_rescale: phi of the sound, for models that make both; None is the same as `rescale`,
            or what was published with a preset.
        replace_own: switch off the guidance that a pipeline has of its own beside CFG: LTX-2's STG,
            modality guidance and rescaling, which are on unless its call says otherwise, and SD3's
            `skip_guidance_layers`. False adds to it, with a warning. None is False, or True with a
            preset that stands for all of it.
        skip_step: after each step that runs, in so many steps the model does not run at all, and
            the last estimate of the clean video (and sound) is gone towards once more: LTX-2's
            `skip_step`, for both at once. Unlike `every`, which keeps c - p and computes c. An
            approximation.

    Returns:
        A handle: a context manager with `.remove()`. After it the pipeline is what it was, hooks
            and modules included.

    Raises:
        ValueError: for an unknown pipeline, a layer, skip or axis that the family has not, a bad
            number, nothing to do, a scheduler on which a restart is not known to be right, a
            model with a cache that they would spoil (diffusers' FirstBlockCache, MagCache,
            SeaCache, TaylorSeer, Pyramid Attention Broadcast and TextKVCache are none;
            FasterCache and those of others are), a model that has no NAG, NAG with parallel=, or
            more processes than passes.
        RuntimeError: if the pipeline (or another one that shares a denoiser) is guided already.
    """
    family, restarts = lookup.family_of(pipe), to_restarts(restart)
    others, nag = take_nag(terms)
    schedule, single = unpack_terms(
        others, allow_empty=bool(restarts or skip_step) or not (cfg is budget is nag is None)
    )
    of_preset = fill_in_published(
        single,
        {
            "rescale": rescale,
            "audio_rescale": audio_rescale,
            "rescale_space": rescale_space,
            "replace_own": replace_own,
        },
    )
    if replace_own is None and not lookup.call_convention_of(pipe).own_guidance:
        of_preset["replace_own"] = False  # of a preset for several pipelines
    request = GuidanceRequest(
        single,
        schedule,
        **of_preset,
        orthogonalize=orthogonalize,
        cfg=cfg,
        restart=restarts,
        share_prefix=share_prefix,
        budget=budget,
        exact=exact,
        nag=nag,
        skip_step=skip_step,
    )
    _check_request(pipe, family, request)
    _check_weak_models(pipe, family, single)
    _check_rule(family, cfg)
    check_unguided(pipe, family)
    if parallel is None:
        return Guide(pipe, family, request)
    if nag is not None:
        raise ValueError(
            "parallel= divides passes that are known of each other by one state, which NAG is not"
            " part of. Leave one of them out."
        )
    from skipguide.pipeline.branches import BranchGuide  # a Guide, so not above

    return BranchGuide(pipe, family, request, parallel)


def check_unguided(pipe: Any, family: Family) -> None:
    """Reject a pipeline whose denoiser is guided already.

    Raises:
        RuntimeError: if it is.
    """
    if any(denoiser in _GUIDED_DENOISERS for denoiser in lookup.denoisers_of(pipe, family)):
        raise RuntimeError(
            f"guide() needs an unguided pipeline, but this {type(pipe).__name__} (or one that"
            f" shares its {family.denoisers[0]}) is guided already. Call .remove() on that handle"
            " or leave its with-block first; several terms go into one guide()."
        )


def _check_rule(family: Family, rule: cfg_rules.CFGRule | None) -> None:
    if isinstance(rule, cfg_rules.FDG) and family.latent_layout == "packed":
        raise ValueError(
            "FDG needs predictions with a height and a width, but those of a"
            f" {family.model} are rows of tokens. Use another rule."
        )


def _check_request(pipe: Any, family: Family, request: GuidanceRequest) -> None:
    """Reject what is for other models: with sound, of blocks, or with guidance of their own."""
    if request.audio_rescale is not None and "audio" not in family.outputs:
        raise ValueError(
            f"audio_rescale is for models that make sound, but {family.name} makes none. Leave it"
            " out."
        )
    if request.skip_step and family.unet is not None:
        raise ValueError(
            f"skip_step leaves blocks of a transformer out, but {family.name} has a UNet. Use"
            " every= or a budget."
        )
    if request.replace_own and not lookup.call_convention_of(pipe).own_guidance:
        raise ValueError(
            "replace_own is for pipelines with guidance of their own beside CFG (LTX-2, SD3), but a"
            f" {type(pipe).__name__} has none. Leave it out."
        )


def _check_weak_models(pipe: Any, family: Family, terms: Sequence[Term]) -> None:
    models = [term.weak_model for term in terms if isinstance(term, STG)]
    models = [model for model in models if model is not None]
    count = len(lookup.denoisers_of(pipe, family))
    if models and count > 1:
        raise ValueError(
            f"weak is one model in the place of one denoiser, but this {type(pipe).__name__}"
            f" divides the run between {count}. Skip layers instead."
        )
    if any(model in _GUIDED_DENOISERS for model in models):
        raise RuntimeError(
            "weak must be a model that is not guided itself, but it is. Call .remove() on that"
            " handle."
        )


class Guide(GuidedCalls):
    """The handle that guide() returns: a context manager with `.remove()`."""

    def __init__(self, pipe: Any, family: Family, request: GuidanceRequest):
        super().__init__(pipe, family, request)
        self._hooks = self._register_hooks()

    def _register_hooks(self) -> list[Any]:
        before: Any = torch.compiler.disable(self._before_forward)
        after: Any = torch.compiler.disable(self._after_forward)
        hooks = []
        for denoiser in self._guided_denoisers:
            hooks += [
                denoiser.register_forward_pre_hook(before, with_kwargs=True),
                denoiser.register_forward_hook(after, with_kwargs=True, always_call=True),
            ]
            _GUIDED_DENOISERS.add(denoiser)
        if self.request.budget is not None:
            check: Any = torch.compiler.disable(self._before_text_encoder)
            encoders = early_checks.text_encoders(self.pipe)
            hooks += [encoder.register_forward_pre_hook(check) for encoder in encoders]
        return hooks

    def _before_text_encoder(self, *_: Any) -> None:
        frame = call_frame.find_call_frame(self.pipe)
        if frame is not None:
            self.check_call(frame)

    def remove(self) -> None:
        """Take everything off the pipeline again; a second call does nothing."""
        self._clean_up()
        if self._hooks:
            self._warn_if_denoiser_replaced()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._guider_formula.remove()
        self._own_guidance.restore()
        if self._restart_controller is not None:
            self._restart_controller.remove()
        self._step = self._timesteps = None  # tensors among them
        self._run.forget_history()
        running = call_frame.find_call_frame(self.pipe) is not None
        for guided in self._guided_denoisers.values():
            if running:  # which goes on with these
                guided.forget_caches([COND, UNCOND])
            else:
                guided.release_caches()
        for denoiser in self._guided_denoisers:
            _GUIDED_DENOISERS.discard(denoiser)

    def _warn_if_denoiser_replaced(self) -> None:
        """Nothing of ours is called when the pipeline calls another denoiser: only tell of it."""
        held = (
            getattr(denoiser, "_orig_mod", denoiser)
            for denoiser in lookup.denoisers_of(self.pipe, self.family)
        )
        if new := [
            type(denoiser).__name__ for denoiser in held if denoiser not in self._guided_denoisers
        ]:
            _log.warning(
                "this %s got another denoiser (%s) after guide(), which was not guided. Exchange it"
                " first, then call guide().",
                type(self.pipe).__name__,
                ", ".join(new),
            )

    def __enter__(self) -> Self:
        if not self._hooks:
            raise RuntimeError(
                f"this guidance was taken off its {type(self.pipe).__name__}, by .remove() or at"
                " the end of a with-block. Call guide() again."
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def check_steps(self, num_steps: int) -> None:
        """Check that windows, lists of scales, zero steps and a budget suit runs of so many steps.

        Each run is checked when it begins; this is for knowing before.

        Raises:
            ValueError: if one does not.
        """
        self._run.check_steps(num_steps)
        self._check_budget(num_steps, has_cfg=False)

    def check_call(self, frame: FrameType) -> None:
        """Check that a budget suits a call of the pipeline, as far as its arguments tell.

        It is done before a text encoder runs, and again in full at the first step.

        Args:
            frame: of the call.

        Raises:
            ValueError: if the budget is too small.
        """
        num_steps = early_checks.count_steps(self.pipe, frame)
        if num_steps is not None:
            self._check_budget(num_steps, self._loop.will_have_cfg(frame))

    def _check_budget(self, num_steps: int, has_cfg: bool) -> None:
        if self.request.budget is None or self.request.restart:  # which takes more steps
            return
        costs = [0.0] * len(self.terms)
        if self.family.unet is None:  # a UNet's are measured on the inputs of its first call
            found = [known.weak_costs(num_steps) for known in self._guided_denoisers.values()]
            costs = [min(own) for own in zip(*found, strict=True)]
        early_checks.check_budget(self.request, num_steps, has_cfg, costs)

    def describe_price(self, num_steps: int) -> str | None:
        """Return what a run without CFG takes: "no CFG here: 1 + 0.29 passes a step".

        It counts the layers of a UNet, whose operations are counted in a run (`handle.passes`).
        None for a Schedule, whose steps follow the noise levels of a run, and without terms.
        """
        return self._describe_price(next(iter(self._guided_denoisers.values())), num_steps)

    @property
    def rescale(self) -> float:
        """phi: what was asked for, or what was published with the preset."""
        return self.request.rescale

    @property
    def passes_per_step(self) -> float:
        """Forward passes of one sample, per step and prompt, in the last run; nan before it."""
        return self.passes.per_step
