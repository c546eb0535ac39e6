"""From what a user wrote to the blocks of a model, and whether the model is in a state in which they can be skipped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from skipguide import guidance, kinds, weakening
from skipguide.family import Family
from skipguide.prefix import Place
from skipguide.terms import SLG, STG, Random

Term = STG | SLG


def resolve(family: Family, places: Sequence[Place], term: Term) -> list[int]:
    """The layers of a term as sorted positions in the chain of blocks; of a Random all that may be drawn.

    Raises:
        ValueError: for a layer out of range, an unknown stack, or a skip or axis that the family does not have.
    """
    _check_axis(family, term)
    _check_skip(family, term)
    if isinstance(term, STG) and term.audio_scale is not None and "audio" not in family.outputs:
        raise ValueError(
            f"audio_scale is for models that make sound, but {family.name} makes none. Leave audio_scale=None."
        )
    if isinstance(term.layers, Random):
        return _middle(family, places, term)
    found = [k for layer in term.layers for k in _positions(family, places, layer, term.axis)]
    twice = next((k for k in found if found.count(k) > 1), None)
    if twice is not None:
        name = places[twice].address if len(family.stacks) > 1 else places[twice].index
        raise ValueError(f"each layer may be named once, but {name} is named repeatedly. Remove the copies.")
    return sorted(found)


def _check_skip(family: Family, term: Term) -> None:
    reason = kinds.reason_against(term.skip, family.traits)
    if reason:
        raise ValueError(
            f"skip must be one that {family.name} has ({', '.join(kinds.available(family.traits))}), but got "
            f'{term.skip!r}: {reason}. Use skip="residual".'
        )


def _middle(family: Family, places: Sequence[Place], term: Term) -> list[int]:
    """What a Random may draw: all blocks (of its axis) but the first and the last of each stack that runs in turn."""
    if family.unet:
        raise ValueError(
            f"a Random draws from blocks that are alike, but the layers of {family.model} differ in size. Name some, "
            'as in layers=["up:0"].'
        )
    mine = [k for k, place in enumerate(places) if term.axis in (None, place.axis)]
    ranks = {k: places[k].index if family.paired else k for k in mine}
    found = [k for k in mine if min(ranks.values()) < ranks[k] < max(ranks.values())]
    if not found:
        raise ValueError(
            f"a Random needs blocks between the first and the last one, but this {family.model} has {len(mine)}. Name "
            "layers."
        )
    return found


def drawn(middle: Sequence[int], count: int, term: STG, step: int) -> tuple[int, ...]:
    """The positions that a Random skips at a step, sorted.

    Args:
        middle: what `resolve` returned.
        count: of all blocks of the term's axis.
    """
    assert isinstance(term.layers, Random)
    number = min(max(1, round(term.layers.share * count)), len(middle))
    order = weakening.order_of(len(middle), term.seed, step, "layers")
    return tuple(sorted(middle[int(i)] for i in order[:number]))


def _positions(family: Family, places: Sequence[Place], layer: int | str, axis: str | None) -> list[int]:
    """Where a layer is in the chain: one place, or one of each axis where those of space and time run in turn."""
    if isinstance(layer, str):
        names, index = [layer.split(":")[0]], int(layer.split(":")[1])
    elif family.unet:
        raise ValueError(
            f"a layer of a UNet must be written with its part (down, mid or up), but got {layer}. Write "
            f'layers=["up:{layer}"], for example; `skipguide layers` lists them.'
        )
    elif family.paired:
        names, index = [name for name, stack in family.stacks.items() if axis in (None, stack.axis)], layer
    else:
        names, index = [next(iter(family.stacks))], layer
    for name in names:
        _check_stack(family, layer, name, index, axis)
    found = [k for k, place in enumerate(places) if place.name in names and place.index == index]
    if len({places[k].name for k in found}) < len(names):
        name = next(name for name in names if name not in {places[k].name for k in found})
        count = len({place.index for place in places if place.name == name})
        raise ValueError(
            f"layers of this {family.model} must be from 0 to {count - 1} ({count} {name}), but got {index}. "
            "Layers count from 0."
        )
    wanted = [k for k in found if axis in (None, places[k].axis)]
    if not wanted:
        has = " and ".join(str(places[k].axis) for k in found)
        raise ValueError(
            f'the layers of axis="{axis}" must have {axis} attention, but {layer!r} of this {family.model} is {has} '
            "only. Choose another; `skipguide layers` lists them."
        )
    return wanted


def _check_stack(family: Family, layer: int | str, name: str, index: int, axis: str | None) -> None:
    if name not in family.stacks:
        known = ", ".join(family.stacks)
        raise ValueError(
            f"a layer's stack must be one that {family.name} has ({known}), but got {name}. "
            f'Write layers=["{next(iter(family.stacks))}:{index}"], for example.'
        )
    if axis is not None and not family.unet and family.stacks[name].axis != axis:
        raise ValueError(
            f'the layers of axis="{axis}" must be in a {axis} stack, but {layer!r} is not. Leave axis=None, or '
            f"write layers=[{index}]."
        )


def _check_axis(family: Family, term: Term) -> None:
    if term.axis is not None and term.axis not in family.axes:
        known = ", ".join(f'"{axis}"' for axis in family.axes) or "none, its attention is joint over space and time"
        raise ValueError(f"axis must be one that {family.name} has ({known}), but got {term.axis!r}. Leave axis=None.")


def check_disjoint(terms: Sequence[Term], skipped: Sequence[list[int]], places: Sequence[Place]) -> None:
    """See that no two SLG terms skip the same layer: there is one unconditional pass.

    Raises:
        ValueError: if two do.
    """
    seen: set[int] = set()
    for where in (where for term, where in zip(terms, skipped, strict=True) if isinstance(term, SLG)):
        if both := seen & set(where):
            place = places[min(both)]
            raise ValueError(
                f"SLG terms share the one unconditional pass, so each layer may be in one of them, but "
                f'"{place.address}" is in two. Merge them.'
            )
        seen |= set(where)


def check_window(window: tuple[float, float], num_steps: int) -> None:
    """See that the window of a term, or of a rule, selects a step of a run.

    Raises:
        ValueError: if it selects none.
    """
    start, stop = window
    if not any(guidance.selects(start, stop, i, num_steps) for i in range(num_steps)):
        raise ValueError(
            f"the window start={start}, stop={stop} must select a step, but selects none of the "
            f"{num_steps} of this run (step i of N is guided when start <= i/N < stop). Widen it."
        )


def check_backends(places: Sequence[Place], changed: Collection[int]) -> None:
    """See that the attentions of these places end in torch's own, which is where a weakening meets them.

    Raises:
        ValueError: for one that is set to another backend.
    """
    for k in changed:
        for (owner, name), _ in places[k].attention():
            backend = getattr(getattr(owner._modules[name], "processor", None), "_attention_backend", None)
            chosen = str(getattr(backend, "value", backend or "native"))
            if "native" not in chosen:
                raise ValueError(
                    f'"soft", "blur" and "frames" need attention by torch itself, but that of "{places[k].address}" is '
                    f'by {chosen}. Call .set_attention_backend("native"), or use another skip.'
                )


def check_guider(guider: Any) -> int:
    """How many predictions the guider of a pipeline combines at this step: 1 without CFG, 2 with it.

    Raises:
        ValueError: for a guider whose combination a constant shift does not pass through.
    """
    name = type(guider).__name__
    if name != "ClassifierFreeGuidance" or getattr(guider, "guidance_rescale", 0):
        detail = "one with guidance_rescale" if name == "ClassifierFreeGuidance" else f"a {name}"
        raise ValueError(
            f"guide() needs a pipeline whose guider is a plain ClassifierFreeGuidance, but got {detail}. Put "
            "skipguide.guider.SkipGuidance in its place instead, or use ClassifierFreeGuidance with guidance_rescale=0."
        )
    return guider.num_conditions


def predicts_variance(pipe: Any) -> bool:
    """Whether the denoiser returns a variance behind its prediction: twice as many channels as the latents have."""
    config = pipe.transformer.config
    latents = getattr(getattr(pipe, "vae", None), "config", {}).get("latent_channels", config["in_channels"])
    return config.get("out_channels") == 2 * latents


def check_company(denoiser: nn.Module, family: Family) -> None:
    """See that nothing on the model would be spoilt by a second pass, or spoil it.

    Raises:
        ValueError: for a cache across steps.
    """
    for module in denoiser.modules():
        if type(module).__name__ == "SplitInferenceModule":
            raise ValueError(
                f"guide() needs a {family.model} whose layers are called once per pass, but FreeNoise's split "
                "inference is on. Switch it off, and FreeNoise on again without it."
            )
        registry = getattr(module, "_diffusers_hook", None)
        for name, hook in getattr(registry, "hooks", {}).items():
            if getattr(hook, "_is_stateful", False):
                raise ValueError(
                    f"guide() needs a {family.model} without a cache across steps, but {name} is on. A weak pass would "
                    "read and overwrite what it kept for the conditional one, and start from a state that is not that "
                    "of its layer. Switch it off: .disable_cache(), or HookRegistry's remove_hook() after apply_*()."
                )
