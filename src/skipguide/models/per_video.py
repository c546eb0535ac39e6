"""Put on a loaded pipeline what one video asks for beside the call, and take it off again."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import logging
from collections.abc import Iterator
from typing import Any

import torch

from skipguide.method import validate
from skipguide.method.protocols import Pipeline, PlainData
from skipguide.models.parsing import scheduler_options
from skipguide.models.placement import denoisers
from skipguide.models.settings import ModelSettings


@contextlib.contextmanager
def put_on(pipe: Pipeline, settings: ModelSettings) -> Iterator[None]:
    """Give a pipeline the scheduler, attention backend and VAE tiling of the settings.

    Raises:
        ValueError: for what this pipeline cannot do.
    """
    with (
        use_scheduler(pipe, settings),
        use_attention(pipe, settings.attention),
        use_tiling(pipe, settings.vae_tiling),
    ):
        yield


# --- scheduler ------------------------------------------------------------------------------------


@contextlib.contextmanager
def use_scheduler(pipe: Pipeline, settings: ModelSettings) -> Iterator[None]:
    """Give a pipeline another scheduler or another shift of its noise levels."""
    if settings.scheduler is None and settings.flow_shift is None:
        yield
        return
    own = pipe.scheduler
    pipe.scheduler = build_scheduler(own, settings.scheduler, settings.flow_shift)
    if settings.scheduler is None:
        _check_effect(pipe.scheduler, own, type(pipe).__name__)
    try:
        yield
    finally:
        pipe.scheduler = own


def build_scheduler(own: Any, named: str | None, flow_shift: float | None) -> Any:
    """Return a scheduler for the model that has its own one.

    Args:
        own: the model's scheduler, whose noise levels and prediction are taken over.
        named: as `ModelSettings.scheduler`; None keeps the class.
        flow_shift: as `ModelSettings.flow_shift`; None keeps that of the model.

    Raises:
        ValueError: for a scheduler that diffusers does not have or the model cannot use, and for
            options that it does not have.
    """
    kind, options = (type(own), {}) if named is None else _named_scheduler(named)
    kept = {name: own.config[name] for name in _options_of(kind) if name in own.config}
    config = {**kept, **_translated(own, kind), **options}
    if flow_shift is not None:
        config[_shift_option(own, kind, config)] = flow_shift
    if _is_flow(own.config) and not _is_flow(config, kind):
        raise ValueError(
            f"scheduler must be one for flow matching with this model, whose own is a"
            f" {type(own).__name__}, but {kind.__name__} is none. Take FlowMatchEulerDiscrete,"
            " UniPCMultistep or DPMSolverMultistep."
        )
    return kind(**config)


def _check_effect(shifted: Any, own: Any, model: str) -> None:
    """Let a scheduler refuse its shift where the noise levels are the same without it.

    Some pipelines hand the noise levels to the scheduler, and some schedulers leave them as they
    are.
    """
    set_timesteps = shifted.set_timesteps

    @functools.wraps(set_timesteps)
    def checked(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        other = copy.deepcopy(own)
        other.set_timesteps(*args, **kwargs)
        if torch.equal(other.sigmas.cpu(), shifted.sigmas.cpu()):
            raise ValueError(
                f"flow_shift must change the noise levels, but those of {model} are the same"
                f" without it: its {type(own).__name__} is given them or finds them in another"
                " way. Leave out --flow-shift."
            )

    shifted.set_timesteps = checked


def _named_scheduler(named: str) -> tuple[type[Any], PlainData]:
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    name, options = scheduler_options(named)
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        short = name.removesuffix("Scheduler")
        known = [
            word.removesuffix("Scheduler") for word in dir(diffusers) if word.endswith("Scheduler")
        ]
        longer = [word for word in known if word.startswith(short)]
        close = longer or difflib.get_close_matches(short, known, n=2, cutoff=0.6)
        advice = f"Did you mean {' or '.join(close[:3])}?" if close else "Check the name."
        raise ValueError(
            f"scheduler must be one of diffusers, but got {named!r}, and there is no {name}."
            f" {advice}"
        )
    known_options = _options_of(kind)
    for option in options:
        if option not in known_options:
            raise ValueError(
                f"an option of {name} must be one of {', '.join(known_options)}, but got"
                f" {option!r}. {validate.did_you_mean(option, known_options, 'Remove it.')}"
            )
    return kind, options


def _options_of(kind: type[Any]) -> list[str]:
    import inspect

    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]


def _is_flow(config: Any, kind: type[Any] | None = None) -> bool:
    """Return whether the noise levels are those of flow matching, x = (1 - sigma) x0 + sigma e.

    Args:
        kind: the class for which the configuration is meant; None is the one that it is of.
    """
    known = None if kind is None else _options_of(kind)
    if "shift" in (config if known is None else known):
        return True
    has_switch = known is None or "use_flow_sigmas" in known
    return has_switch and bool(config.get("use_flow_sigmas"))


def _translated(own: Any, kind: type[Any]) -> PlainData:
    """Return what flow matching is called in another scheduler: diffusers has two vocabularies."""
    known, config = _options_of(kind), own.config
    if not _is_flow(config) or isinstance(own, kind):
        return {}
    shift = config.get("shift", config.get("flow_shift"))
    if "use_flow_sigmas" in known:
        words = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        return words | ({"flow_shift": shift} if "flow_shift" in known and shift else {})
    return {"shift": shift} if "shift" in known and shift else {}


def _shift_option(own: Any, kind: type[Any], config: PlainData) -> str:
    known = _options_of(kind)
    name = next((name for name in ("flow_shift", "shift") if name in known), None)
    if name is None or not _is_flow(own.config):
        raise ValueError(
            f"flow_shift needs a model of flow matching, but its scheduler is a"
            f" {type(own).__name__}. Leave out --flow-shift."
        )
    if config.get("use_dynamic_shifting"):
        raise ValueError(
            f"flow_shift needs a scheduler with a fixed shift, but the {type(own).__name__} of"
            " this model finds it from the size of the video (use_dynamic_shifting). Leave out"
            " --flow-shift, or switch that off: --scheduler"
            f" {type(own).__name__.removesuffix('Scheduler')}:use_dynamic_shifting=false"
        )
    return name


# --- attention ------------------------------------------------------------------------------------


@contextlib.contextmanager
def use_attention(pipe: Pipeline, backend: str | None) -> Iterator[None]:
    """Let the denoisers compute attention by another backend of diffusers."""
    if backend is None:
        yield
        return
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    found = denoisers(pipe).values()
    processors: dict[Any, Any] = {
        processor: processor._attention_backend
        for denoiser in found
        for module in denoiser.modules()
        if (processor := getattr(module, "processor", None)) is not None
        and hasattr(processor, "_attention_backend")
    }
    if not processors:
        raise ValueError(
            f"attention needs a model whose attention diffusers can exchange, but"
            f" {type(pipe).__name__} computes its own. Leave out --attention."
        )
    before = Registry.get_active_backend()[0]
    try:
        for denoiser in found:
            _set_backend(denoiser, backend)
        yield
    finally:
        for processor, own in processors.items():
            processor._attention_backend = own
        Registry.set_active_backend(before)


def _set_backend(denoiser: Any, backend: str) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    names = [name.value for name in AttentionBackendName]
    if backend not in names:
        advice = validate.did_you_mean(backend, names, "Take one of these.")
        raise ValueError(
            f"attention must be one of {', '.join(names)}, but got {backend!r}. {advice}"
        )
    log = logging.getLogger("diffusers.models.modeling_utils")
    level = log.level
    log.setLevel(logging.ERROR)  # which says at every call that this is experimental
    try:
        denoiser.set_attention_backend(backend)
    except (ImportError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"attention must be a backend that works here, but {backend!r} does not:"
            f" {str(error).rstrip('.')}. Install what it needs, or take native."
        ) from error
    finally:
        log.setLevel(level)


# --- tiling ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def use_tiling(pipe: Pipeline, tiling: bool | None) -> Iterator[None]:
    """Decode in tiles, or not."""
    vae = getattr(pipe, "vae", None)
    if tiling is None or (tiling is False and not getattr(vae, "use_tiling", False)):
        yield
        return
    before = getattr(vae, "use_tiling", None)
    if vae is None or before is None:
        raise ValueError(
            f"vae_tiling needs a VAE that can decode in tiles, but that of {type(pipe).__name__}"
            " cannot. Leave out --vae-tiling; --decode-chunk-size saves memory where it is taken."
        )
    switch = {True: vae.enable_tiling, False: vae.disable_tiling}
    switch[tiling]()
    try:
        yield
    finally:
        switch[before]()
