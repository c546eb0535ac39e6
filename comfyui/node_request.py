"""The guidance that a node asks for, and the noise levels at which it acts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ._skipguide.method.formula import combine, skip_guidance
from ._skipguide.method.parsing import parse_layers, split_heads
from ._skipguide.method.request import GuidanceRequest
from ._skipguide.method.terms import MAX_OUTPUTS, SLG, STG, Bin, Modality, Schedule

Tensor = torch.Tensor
Term = STG | SLG
SKIPS = ["residual", "attention"]
SPACES = ["prediction", "data"]


def read_layers(layers: str | Sequence[int | str]) -> tuple[int | str, ...]:
    """Return layers as a term takes them. ComfyUI calls "double" what the library calls "dual".

    Raises:
        ValueError: for something that is no list of layers.
    """
    found = parse_layers(layers)
    named = next((layer for layer in found if split_heads(layer)[1]), None)
    if named is not None:
        raise ValueError(
            f"layers must be whole ones in ComfyUI, but got {named!r}, which names heads of one."
            " Leave out what is behind the @."
        )
    return tuple(
        layer.replace("dual:", "double:") if isinstance(layer, str) else layer for layer in found
    )


def read_levels(text: str) -> tuple[float, ...]:
    """Return the levels of noise that a text lists, as 0.95, 0.8.

    Raises:
        ValueError: for something else.
    """
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(
            f"levels must be numbers such as 0.95, 0.8, 0.6, 0.3, but got {text!r}. Correct it."
        ) from None


@dataclass(frozen=True)
class ActiveTerm:
    """A term at one step, with the settings of the node or bin that it comes from.

    `rescale`, and `audio_rescale` for the sound, is what follows its push: 0 for all terms of a
    node but the last.
    """

    term: Term
    rescale: float = 0.0
    rescale_space: str = "prediction"
    share_prefix: bool = True
    audio_rescale: float = 0.0


@dataclass(frozen=True)
class NodeRequest:
    """The guidance that one node asks for.

    Args:
        guidance: its terms, or its schedule.
        sigmas: (low, high): the terms act at noise levels low < sigma <= high. The bins of a
            schedule have noise levels of their own, low <= sigma < high, as they are published.
        percents: (start, end) of a run, in the place of `sigmas`. Which levels they are is known
            when it runs: a node behind this one may shift the levels.
    """

    guidance: GuidanceRequest
    sigmas: tuple[float, float] = (-math.inf, math.inf)
    percents: tuple[float, float] | None = None

    def resolved(self, percent_to_sigma: Callable[[float], float]) -> NodeRequest:
        """Return the request with the noise levels of its percents."""
        if self.percents is None:
            return self
        high, low = (float(percent_to_sigma(percent)) for percent in self.percents)
        return replace(self, sigmas=(low, high), percents=None)

    def active(self, sigma: float) -> list[ActiveTerm]:
        """Return the terms that change something at this noise level."""
        asked = self.guidance
        if asked.schedule is not None:
            entry = asked.schedule.at(sigma)
            found, phi = ([], 0.0) if entry is None else (terms_of(entry), entry.rescale)
        else:
            inside = self.sigmas[0] < sigma <= self.sigmas[1]
            found, phi = (asked.terms if inside else ()), asked.rescale
        found = [term for term in found if isinstance(term, SLG) or any(term.scales(MAX_OUTPUTS))]
        pushes = [number for number, term in enumerate(found) if isinstance(term, STG)]
        audio_phi = phi if asked.audio_rescale is None else asked.audio_rescale
        return [
            ActiveTerm(term, phi * last, asked.rescale_space, asked.share_prefix, audio_phi * last)
            for number, term in enumerate(found)
            for last in [number in pushes[-1:]]
        ]

    def guidance_scale(self, sigma: float) -> float | None:
        """Return the CFG scale that a schedule has for this noise level; None leaves it alone."""
        schedule = self.guidance.schedule
        entry = None if schedule is None else schedule.at(sigma)
        return None if entry is None else entry.guidance_scale


def schedule_request(schedule: Schedule) -> NodeRequest:
    """Return the request of a schedule."""
    terms = tuple(term for entry in schedule.bins for term in terms_of(entry))
    return NodeRequest(GuidanceRequest(terms=terms, schedule=schedule))


def terms_of(entry: Bin) -> list[STG]:
    """Return the term of a bin, if it has one."""
    return [entry.term()] if entry.scale > 0 else []


def push_estimate(
    D: Tensor, c: Tensor, p: Tensor, origin: Tensor, active: ActiveTerm, sizes: Sequence[int] = ()
) -> Tensor:
    """Push an estimate of the clean video away from a weak one, and rescale it.

    Args:
        D: what CFG and other nodes made of the estimates, `(B, C, F, H, W)` or `(B, C, H, W)`; of a
            video with sound `(B, 1, N)`, the numbers of both one after the other.
        c: the conditional estimate, shaped like D.
        p: the weak estimate, shaped like D.
        origin: a x of x_0 = a x + b F, the estimate where the model predicts F = 0.
        sizes: how many of the N are the video's and how many the sound's.

    ComfyUI speaks of estimates x_0 where the library speaks of predictions F. The push is the same
    for both, as all have the same a and b. The deviations of the rescaling are not: to take those
    of predictions, a x is subtracted, which leaves b F.
    """
    assert isinstance(active.term, STG)
    scales = active.term.scales(max(1, len(sizes)))
    if len(sizes) < 2:
        return _push((D, c, p, origin), active, scales[0], active.rescale)
    parts = zip(*(value.split(list(sizes), -1) for value in (D, c, p, origin)), strict=True)
    phis = (active.rescale, active.audio_rescale)
    rows = zip(parts, scales, phis, strict=True)
    return torch.cat([_push(part, active, scale, phi) for part, scale, phi in rows], -1)


def _push(values: Sequence[Tensor], active: ActiveTerm, scale: float, phi: float) -> Tensor:
    """Return D with the push of one output of the model, of whose values D, c, p, origin are."""
    D, c, p, origin = values
    assert isinstance(active.term, STG)
    if active.term.normalize:  # to a tenth of the length of the prediction
        push = skip_guidance(c - origin, [p - origin], [scale], normalized=[True])
    else:
        push = skip_guidance(c, [p], [scale])
    D = combine(c, D, 1.0, push, cfg=_keep_given)
    if phi == 0:
        return D
    shift = origin if active.rescale_space == "prediction" else 0.0
    return shift + combine(c - shift, D - shift, 1.0, cfg=_keep_given, phi=phi)


def _keep_given(c: Tensor, D: Tensor, g: float | Tensor) -> Tensor:
    """Return D: ComfyUI has applied CFG, in whatever form its nodes give it."""
    return D


def describe_terms(terms: Sequence[Term]) -> str:
    """Return terms in words for the log: layers block:9, scale 1."""
    return "; ".join(map(_describe_term, terms))


def _describe_term(term: Term) -> str:
    if isinstance(term, Modality) and not term.layers:
        return f"video and sound apart, scale {term.scale:g}"
    layers = term.layers if isinstance(term.layers, Sequence) else ()
    names = [f"block:{layer}" if isinstance(layer, int) else layer for layer in layers]
    end = "in the unconditional pass" if isinstance(term, SLG) else f"scale {term.scale:g}"
    return f"layers {'+'.join(names)}, {end}"
