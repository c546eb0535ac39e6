"""Checks of a pipeline's state: stateful hooks, guiders, attention backends, learned variance."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import FrameType
from typing import Any

from torch import nn

from skipguide.families.blocks import LayerSite
from skipguide.families.schema import Family
from skipguide.method.protocols import Guider, Pipeline
from skipguide.pipeline import cache_hooks


def check_attention_backends(sites: Sequence[LayerSite], changed: Collection[int]) -> None:
    """Check that these layers attend by torch's own attention, which is what can be intercepted.

    Raises:
        ValueError: for one that is set to another backend.
    """
    for k in changed:
        for (owner, name), _ in sites[k].attentions():
            backend = getattr(
                getattr(owner._modules[name], "processor", None), "_attention_backend", None
            )
            chosen = str(getattr(backend, "value", backend or "native"))
            if "native" not in chosen:
                raise ValueError(
                    '"soft", "blur", "frames", "tokens" and heads of a layer need attention by'
                    f' torch itself, but that of "{sites[k].address}" is by {chosen}. Call'
                    ' .set_attention_backend("native"), or use another skip.'
                )


def guider_of(pipe: Pipeline, frame: FrameType | None) -> Guider:
    """Return the guider of a pipeline whose `__call__` runs in `frame`.

    HunyuanImage chooses one for each call, and has none of its own for distilled models."""
    chosen = None if frame is None else frame.f_locals.get("guider")
    return pipe.guider if chosen is None else chosen


def has_own_formula(guider: Guider) -> bool:
    """Return whether a pipeline's guider makes something else of u and c than u + g (c - u)."""
    plain = type(guider).__name__ == "ClassifierFreeGuidance"
    return not plain or bool(getattr(guider, "guidance_rescale", 0))


def count_conditions(guider: Guider) -> int:
    """Return how many predictions a pipeline's guider combines at this step: c, or c and u.

    Raises:
        ValueError: for a guider that runs weak passes of its own.
    """
    own = set(getattr(guider, "_input_predictions", None) or ()) - {"pred_cond", "pred_uncond"}
    if type(guider).__name__ == "SkipGuidance":
        raise ValueError(
            "guide() needs a pipeline whose guider combines c and u, but this one has a"
            " SkipGuidance, which runs weak passes already. Give the terms to it, or put diffusers'"
            " ClassifierFreeGuidance in its place."
        )
    if own:
        raise ValueError(
            "guide() needs a pipeline whose guider combines c and u, but this one has a"
            f" {type(guider).__name__}, which also runs {', '.join(sorted(own))}. Put"
            " skipguide.guider.SkipGuidance in its place, which takes the same terms, or"
            " diffusers' ClassifierFreeGuidance."
        )
    return guider.num_conditions


def check_plain_guider(guider: Guider) -> None:
    """Check that a rule of ours, or a scale of a Schedule, can stand in the place of a guider's.

    Raises:
        ValueError: for a guider with a formula of its own.
    """
    if has_own_formula(guider):
        raise ValueError(
            "cfg= and the guidance scales of a Schedule take the place of u + g (c - u), but this"
            f" pipeline's guider, a {type(guider).__name__}, has a formula of its own already."
            " Leave one of the two out, or put a plain ClassifierFreeGuidance in its place."
        )


def predicts_variance(pipe: Pipeline) -> bool:
    """Return whether a variance follows the prediction: twice as many channels as latents."""
    config = pipe.transformer.config
    latents = getattr(getattr(pipe, "vae", None), "config", {}).get(
        "latent_channels", config["in_channels"]
    )
    found = config.get("out_channels") or getattr(pipe.transformer, "out_channels", None)
    return found == 2 * latents  # that of HunyuanDiT is no entry of its config


def check_called_twice(denoiser: nn.Module, sites: Sequence[LayerSite], whole_blocks: bool) -> None:
    """Check that offloading lets modules be called twice in a pass, as NAG does.

    Args:
        denoiser: the model.
        sites: its chain.
        whole_blocks: blocks are called twice, and not their cross-attention alone.

    Raises:
        ValueError: for group offloading that would not have them on the device the second time.
    """
    if any("lazy_prefetch_group_offloading" in _diffusers_hooks(m) for m in denoiser.modules()):
        raise ValueError(
            "group offloading with use_stream=True learns the order of the layers from the first"
            " call of the model, but with NAG some are called twice. Call the pipeline once without"
            " NAG first, or pass use_stream=False."
        )
    groups = [_diffusers_hooks(site.block).get("group_offloading") for site in sites]
    if whole_blocks and any(hook and len(hook.group.modules) > 1 for hook in groups):
        raise ValueError(
            "NAG calls each block twice, but in groups of several blocks that are offloaded the"
            " last one takes the weights away after its first call. Offload with"
            " num_blocks_per_group=1, or leaf by leaf."
        )


def _diffusers_hooks(module: nn.Module) -> dict[str, Any]:
    return getattr(getattr(module, "_diffusers_hook", None), "hooks", {})


def check_stateful_hooks(denoiser: nn.Module, family: Family) -> bool:
    """Reject hooks that keep state across calls, but for the caches that cache_hooks.py knows.

    Returns:
        Whether there is such a cache.

    Raises:
        ValueError: for a cache across steps whose states a weak pass would spoil.
    """
    found = False
    for module in denoiser.modules():
        if type(module).__name__ == "SplitInferenceModule":
            raise ValueError(
                f"guide() needs a {family.model} whose layers are called once per pass, but"
                " FreeNoise's split inference is on. Switch it off, and FreeNoise on again"
                " without it."
            )
        for name, hook in cache_hooks.stateful_hooks(module):
            cache_hooks.cache_kind(name, hook, family)
            found = True
    return found
