"""SkipGuidance: STG as a guider, the component to which diffusers' Modular pipelines and some
others leave their CFG.

    pipe.update_components(guider=SkipGuidance(layers=[34], scale=1.0, guidance_scale=5.0))

A pipeline with a guider runs each step in its own loop: it asks the guider for batches of inputs,
runs the denoiser on each of them between prepare_models() and cleanup_models(), and has the guider
combine what came out. The batches here:

    pred_cond      the denoiser as it is; recordings stand at the first skipped layers
    pred_uncond    where CFG is on at this step
    pred_weak      the conditional inputs again, layers skipped, from the recorded state on; one batch per active term
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from torch import nn

from skipguide.families.lookup import family_of_denoiser
from skipguide.method import formula, validate
from skipguide.method import terms as guidance_terms
from skipguide.method.request import published_rescale
from skipguide.method.terms import STG, Layer, Random
from skipguide.pipeline import compat
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.weak import patching

Tensor = torch.Tensor

COND, UNCOND, WEAK = "pred_cond", "pred_uncond", "pred_weak"
_LAYER_ARGUMENTS = ("scale", "skip", "axis", "start", "stop")  # what belongs to `layers`
_FIXED_ARGUMENTS = {"layers", "terms", "share_prefix", "cfg_start", "cfg_stop", *_LAYER_ARGUMENTS}


class SkipGuidance(BaseGuidance):
    """Classifier-free guidance and Spatiotemporal Skip Guidance in one guider.

        D = u + g (c - u) + sum_j s_j (c - p_j)      with CFG
        D = c             + sum_j s_j (c - p_j)      without: guidance_scale is 1, or CFG is outside its window

    Args:
        layers, scale, skip, axis, start, stop: one STG term, as skipguide.STG has it. Steps i of N
            are pushed when start <= i/N < stop.
        terms: further terms, each a dict of STG's arguments (or an STG), or one STG; with them
            `layers` may be left out.
        guidance_scale: g; 1 is no CFG. With use_original_formulation CFG is c + g (c - u), and 0 is
            none.
        rescale: phi in [0, 1], on the steps that are pushed; 0 is off. None is 0, or what was
            published with a preset.
        orthogonalize: each term loses its components along those before it (Eq. 21), as in guide().
        share_prefix: start each weak pass at its first skipped layer. The result is the same to the
        last bit. cfg_start, cfg_stop: the window of CFG as all guiders of diffusers round it:
        int(start N) <= i < int(stop N). enabled: False is the conditional prediction alone.

    `guidance_scale`, `rescale`, `orthogonalize` and `use_original_formulation` may be set later;
    for the rest there is `.new(...)`.

    Raises:
        ValueError: for anything outside these ranges, at once; for layers that the denoiser has
            not, a cache on it, or a window without a step, when a run starts.
    """

    _input_predictions = [COND, UNCOND, WEAK]  # BaseGuidance wants a list  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        layers: Sequence[Layer] | None = None,
        scale: float | Sequence[float] = 1.0,
        skip: str = "residual",
        axis: str | None = None,
        start: float = 0.0,
        stop: float = 1.0,
        terms: Sequence[Mapping[str, Any] | STG] | STG = (),
        guidance_scale: float = 7.5,
        rescale: float | None = None,
        share_prefix: bool = True,
        use_original_formulation: bool = False,
        cfg_start: float = 0.0,
        cfg_stop: float = 1.0,
        enabled: bool = True,
        orthogonalize: bool = False,
    ):
        super().__init__(cfg_start, cfg_stop, enabled)
        _check_layer_arguments(
            layers, dict(scale=scale, skip=skip, axis=axis, start=start, stop=stop)
        )
        own = [] if layers is None else [STG(layers, scale, skip, axis, start, stop)]
        more = [_to_term(entry) for entry in ([terms] if isinstance(terms, STG) else terms)]
        if not own and not more:
            raise ValueError(
                "SkipGuidance needs layers to skip, but got none. Write SkipGuidance(layers=[34])."
            )
        for term in (*own, *more):
            _check_term_supported(term)
        self.terms = tuple(
            dataclasses.replace(term, layers=_layer_list(term)) for term in (*own, *more)
        )
        self.layers, self.scale, self.skip, self.axis, self.start, self.stop = (
            layers,
            scale,
            skip,
            axis,
            start,
            stop,
        )
        phi = published_rescale(self.terms) if rescale is None else rescale
        self.guidance_scale, self.rescale, self.share_prefix = guidance_scale, phi, share_prefix
        self.orthogonalize, self.cfg_start, self.cfg_stop = orthogonalize, cfg_start, cfg_stop
        self.use_original_formulation = use_original_formulation
        # JSON, and all of it: from_config() would leave out what it believes to be a default,
        # positional arguments too
        self.register_to_config(
            layers=layers and list(layers),
            terms=[_term_to_json(term) for term in more],
            rescale=phi,
            _use_default_values=[],
        )
        self._reset_models()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED_ARGUMENTS and name in self.__dict__:
            raise AttributeError(
                f"{name} of a SkipGuidance is fixed, but was set to {value!r}. Use"
                f" .new({name}=...)."
            )
        if name == "rescale":
            validate.check_number("rescale", value, 0.0, 1.0, "0 is off, the paper uses 0.7")
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which meet other models."""
        return {
            key: value
            for key, value in self.__dict__.items()
            if key not in ("_guided_denoisers", "_undo_patches", "_hooks")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset_models()

    def _reset_models(self) -> None:
        self._guided_denoisers: weakref.WeakKeyDictionary[nn.Module, GuidedDenoiser] = (
            weakref.WeakKeyDictionary()
        )
        self._undo_patches: list[
            patching.Patch
        ] = []  # what puts the denoiser right again while a batch is under way
        self._hooks: list[Any] = []  # on the denoiser, while one is
        self._num_calls = 0  # of the denoiser since the batch was prepared
        self._checked_denoisers: weakref.WeakSet[nn.Module] = (
            weakref.WeakSet()
        )  # denoisers met in this run

    # --- what runs at a step ----------------------------------------------------------------------

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        """The pipeline begins a step.

        Raises:
            ValueError: for a window that selects no step of the run, or a step beyond its last one.
        """
        if step >= num_inference_steps:
            raise ValueError(
                f"step i of N must be from 0 to N - 1, but got {step} of {num_inference_steps}."
                " Schedulers of second order count on, and no window can say which of their steps"
                " are guided: use one of first order."
            )
        self._restore_modules()
        self._clear_caches()
        new_run = (
            self._step is None
            or step <= self._step
            or num_inference_steps != self._num_inference_steps
        )
        super().set_state(step, num_inference_steps, timestep)
        if new_run:
            self._checked_denoisers.clear()
            self._check_windows(num_inference_steps)

    def _check_windows(self, num_steps: int) -> None:
        for term in self.terms if self._enabled else ():
            if max(term.scales(1)) > 0:
                guidance_terms.check_window((term.start, term.stop), num_steps)
            term.check_steps(num_steps)

    def _batch_names(self) -> list[str]:
        """The names of the batches of this step, in the order in which they run."""
        uncond = [UNCOND] if self._cfg_is_on() else []
        return [
            COND,
            *uncond,
            *(name for name, term in self._weak_terms().items() if self._is_on(term)),
        ]

    def _weak_terms(self) -> dict[str, STG]:
        """Each term by the name of its prediction."""
        return {f"{WEAK}_{j}" if j else WEAK: term for j, term in enumerate(self.terms)}

    def _is_on(self, term: STG) -> bool:
        if not self._enabled or max(term.scales(1, self._step)) == 0:
            return False
        return self._step is None or formula.is_in_window(
            term.start, term.stop, self._step, self._num_inference_steps
        )

    def _cfg_is_on(self) -> bool:
        if not self._uses_cfg() or self._step is None:
            return self._uses_cfg()
        steps = self._num_inference_steps
        return int(self._start * steps) <= self._step < int(self._stop * steps)

    def _uses_cfg(self) -> bool:
        """Whether there is CFG at any step."""
        none = 0.0 if self.use_original_formulation else 1.0
        return (
            self._enabled
            and self._start < self._stop
            and not math.isclose(self.guidance_scale, none)
        )

    @property
    def num_conditions(self) -> int:
        """How many texts a run needs: 2 with CFG, 1 without.

        Pipelines read it before a run to know whether to encode a negative prompt, and between
        steps to know whether to hand one over; so it does not depend on the step (of an earlier
        run), nor on the weak passes, which need no text of their own."""
        return 2 if self._uses_cfg() else 1

    @property
    def is_conditional(self) -> bool:
        return self._current_batch() != UNCOND

    def _current_batch(self) -> str:
        """The batch under way."""
        batches = self._batch_names()
        if self._count_prepared > len(batches):
            raise RuntimeError(
                f"this step has {len(batches)} batches ({', '.join(batches)}), but prepare_models()"
                f" was called {self._count_prepared} times in it. Call set_state() at the start of"
                " each step."
            )
        return batches[max(self._count_prepared - 1, 0)]

    def prepare_inputs(self, data: Any) -> list[Any]:
        """The batches of this step from inputs: a tensor, or a tuple (for cond, for uncond)."""
        return [
            self._prepare_batch(data, int(name == UNCOND), name) for name in self._batch_names()
        ]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Any) -> list[Any]:
        """The same from the state of a Modular pipeline: the name of a field, or a tuple of two."""
        return [
            self._prepare_batch_from_block_state(input_fields, data, int(name == UNCOND), name)
            for name in self._batch_names()
        ]

    # --- the denoiser -----------------------------------------------------------------------------

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Before the forward of a batch.

        Raises:
            ValueError: for a model of an unknown family, a layer, skip or axis that it has not, or
                a cache on it.
        """
        super().prepare_models(denoiser)
        self._restore_modules()
        self._num_calls = 0
        if not self._enabled or not any(max(term.scales(1)) > 0 for term in self.terms):
            return
        patches = self._patches(self._find_guided_denoiser(denoiser), self._current_batch())
        if patches:
            self._undo_patches = patching.apply_patches(patches)
            before: Any = torch.compiler.disable(self._before_forward)
            after: Any = torch.compiler.disable(self._after_forward)
            self._hooks = [
                denoiser.register_forward_pre_hook(before),
                denoiser.register_forward_hook(after, always_call=True),
            ]

    def cleanup_models(self, denoiser: nn.Module) -> None:
        """After it.

        Raises:
            RuntimeError: if the denoiser was called more than once, for only the first call was the
                batch's.
        """
        self._restore_modules()
        if self._num_calls > 1:
            raise RuntimeError(
                "SkipGuidance needs one call of the denoiser between prepare_models() and"
                " cleanup_models(), but got another one. Call set_state() and prepare_inputs() for"
                " each part of the inputs."
            )

    def _patches(self, guided: GuidedDenoiser, batch: str) -> Sequence[patching.Patch]:
        """What stands where in the forward of a batch."""
        names = list(self._weak_terms())
        if batch in names:
            return guided.weak_passes[names.index(batch)].patches()
        active = [names.index(name) for name in self._batch_names() if name in names]
        return guided.recording_patches(active) if active and batch != UNCOND else []

    def _find_guided_denoiser(self, denoiser: nn.Module) -> GuidedDenoiser:
        """What is needed to weaken a denoiser: made once, so that torch.compile meets the same
        modules in every run, and again where modules of the denoiser were replaced."""
        known = self._guided_denoisers.get(denoiser)
        if known is not None and denoiser in self._checked_denoisers:
            return known
        family = family_of_denoiser(denoiser)
        if known is None or not known.is_current():
            known = self._guided_denoisers[denoiser] = GuidedDenoiser(
                family, denoiser, self.terms, self.share_prefix
            )
        compat.check_no_stateful_hooks(
            denoiser, family
        )  # in each run: a cache can be switched on in between
        self._checked_denoisers.add(denoiser)
        return known

    # --- housekeeping -----------------------------------------------------------------------------
    # Pipelines do not clean up after a forward that raised. The second hook sees any exception but
    # a KeyboardInterrupt, the first one the next call of the denoiser, if nobody prepared it.

    def _before_forward(self, denoiser: nn.Module, args: tuple[Any, ...]) -> None:
        self._num_calls += 1
        if self._num_calls > 1 or not self._undo_patches:
            self._restore_modules()

    def _after_forward(self, denoiser: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        patching.apply_patches(self._undo_patches)
        self._undo_patches = []
        if output is None:  # it raised
            self._clear_caches()

    def _restore_modules(self) -> None:
        """Put the real modules back and take the hooks off."""
        patching.apply_patches(self._undo_patches)
        for hook in self._hooks:
            hook.remove()
        self._undo_patches, self._hooks = [], []

    def _clear_caches(self) -> None:
        for known in self._guided_denoisers.values():
            if known.prefix_cache is not None:
                known.prefix_cache.clear()

    # --- the formula ------------------------------------------------------------------------------

    def __call__(self, data: list[Any]) -> Any:
        """Combine the predictions of the batches that prepare_inputs() made."""
        self._clear_caches()
        came, needed = [getattr(batch, self._identifier_key) for batch in data], self._batch_names()
        if came != needed or not all(hasattr(batch, "noise_pred") for batch in data):
            raise ValueError(
                f"SkipGuidance combines {', '.join(needed)} at this step, each with its noise_pred,"
                f" but got {', '.join(came)}. Hand over all batches that prepare_inputs() returned."
            )
        return self.forward(
            **{name: batch.noise_pred for name, batch in zip(came, data, strict=True)}
        )

    def forward(
        self, pred_cond: Tensor, pred_uncond: Tensor | None = None, **pred_weak: Tensor
    ) -> GuiderOutput:
        """D from c, u and p_j; without u there is no CFG, without p_j no push."""
        c, u, g, terms = pred_cond, pred_uncond, self.guidance_scale, self._weak_terms()
        weaks, here = list(pred_weak.values()), [terms[name] for name in pred_weak]
        scales, normalized = (
            [term.scales(1, self._step)[0] for term in here],
            [term.normalize for term in here],
        )
        phi = self.rescale if weaks else 0.0
        if (
            u is not None and self.use_original_formulation
        ):  # not with g + 1: to the bit what CFG's guider gives
            push = formula.skip_guidance(c, weaks, scales, self.orthogonalize, None, normalized)
            D = formula.rescale(c + g * (c - u) + push, c, phi)
        else:
            D = formula.combine(c, u, g, weaks, scales, phi, self.orthogonalize, normalized)
        return GuiderOutput(pred=D, pred_cond=c, pred_uncond=u)  # type: ignore[call-arg]  # a dataclass only in spirit


def _to_term(entry: Any) -> STG:
    """One of `terms`."""
    if isinstance(entry, STG):
        return entry
    known = [field.name for field in dataclasses.fields(STG)]
    if not isinstance(entry, Mapping) or "layers" not in entry or not set(entry) <= set(known):
        raise ValueError(
            "each of terms must be a dict with layers and other arguments of STG"
            f" ({', '.join(known)}), but got "
            f'{entry!r}. Write terms=[{{"layers": [34], "scale": 1.0}}].'
        )
    return STG(**entry)


def _check_term_supported(term: STG) -> None:
    """See that a term is one that a step's batches can be made for, whatever the step."""
    beyond = {
        "every above 1": term.every > 1,
        "layers drawn at each step": isinstance(term.layers, Random),
        "a weak model of its own": term.weak is not None,
        f'skip="{term.skip}"': term.skip not in ("residual", "attention"),
    }
    found = [name for name, is_so in beyond.items() if is_so]
    if found:
        raise ValueError(
            "SkipGuidance skips named layers, their residual or attention, at every guided step,"
            f" but got a term with {', '.join(found)}. Leave it out, or use guide(), which"
            " knows it."
        )


def _layer_list(term: STG) -> list[Layer]:
    assert not isinstance(term.layers, Random)  # _check_term() saw to it
    return list(term.layers)


def _term_to_json(term: STG) -> dict[str, Any]:
    """A term in JSON."""
    scale = list(term.scale) if isinstance(term.scale, (list, tuple)) else term.scale
    return {
        **dataclasses.asdict(term),
        "layers": _layer_list(term),
        "scale": scale,
    }  # they may have been tuples


def _check_layer_arguments(layers: Any, own: Mapping[str, Any]) -> None:
    """What STG does not check itself."""
    usual = {field.name: field.default for field in dataclasses.fields(STG)}
    changed = [name for name in _LAYER_ARGUMENTS if own[name] != usual[name]]
    if layers is None and changed:
        raise ValueError(
            f"{', '.join(changed)} needs layers to belong to, but layers is None. Pass layers, or"
            " write it in terms."
        )
