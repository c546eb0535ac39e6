"""Put on a loaded pipeline what one video asks for beside the call, and take it off again."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from skipguide.method import validate
from skipguide.method.protocols import Pipeline
from skipguide.models import telling
from skipguide.models.placement import denoisers, needs_tiles
from skipguide.models.scheduler import use_scheduler
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
        with warnings.catch_warnings():
            # `slow_attention_note` has said it in fewer words.
            warnings.filterwarnings("ignore", message="flex_attention called without torch.com")
            yield
    finally:
        for processor, own in processors.items():
            processor._attention_backend = own
        Registry.set_active_backend(before)


def slow_attention_note(settings: ModelSettings) -> str | None:
    """Return a note for a backend that is slow as it is used."""
    if settings.attention != "flex" or settings.compile:
        return None
    return (
        "--attention flex is slow and needs much memory where it is not compiled. Add --compile, or"
        " take native."
    )


def _set_backend(denoiser: Any, backend: str) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    names = [name.value for name in AttentionBackendName]
    if backend not in names:
        advice = validate.did_you_mean(backend, names, "Take one of these.")
        raise ValueError(
            f"attention must be one of {', '.join(names)}, but got {backend!r}. {advice}"
        )
    try:
        # It says at every call that this is experimental.
        with telling.only_from(logging.ERROR, "diffusers.models.modeling_utils"):
            denoiser.set_attention_backend(backend)
    except (ImportError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"attention must be a backend that works here, but {backend!r} does not:"
            f" {str(error).rstrip('.')}. Install what it needs, or take native."
        ) from error


# --- tiling ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def use_tiling(pipe: Pipeline, tiling: bool | None) -> Iterator[None]:
    """Decode in tiles, or not."""
    if tiling is False and needs_tiles(pipe):
        raise ValueError(
            f"vae_tiling must be true for {type(pipe).__name__}, whose VAE decodes in tiles only,"
            " but got false. Leave out --no-vae-tiling."
        )
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
