# Built by `make comfyui` from src/skipguide/method/perturbations.py; do not edit.
"""The ways to weaken a layer, which are the values of `skip`, as data. Nothing here needs torch.

name        what happens in the chosen layers                          source
residual    the block returns its input                                STG-R, CVPR 2025, Eq. 15
attention   the map of the self-attention is the identity              STG-A, Eq. 17; 2403.17377
soft        that map goes a part of the way towards the identity       SoftPAG, 2506.10978
blur        queries are blurred over the video's grid                  SEG, 2408.00760
frames      a token of the video sees its own frame and the text only  CAG, 2506.17220
tokens      a token of the video sees itself and the text only         PAG for SD3, 2403.17377
shuffle     the block sees the video's tokens in another order         TPG, 2506.10036
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from ..method import validate


@dataclass(frozen=True)
class StrengthRange:
    """The meaning and range of `strength` for a kind of skip: above 0, up to `maximum`."""

    meaning: str
    maximum: float
    default: float | None  # None is a value of its own: an infinite one


@dataclass(frozen=True)
class Perturbation:
    """One way to weaken a layer."""

    description: str
    source: str
    required_traits: tuple[str, ...] = ()  # of MISSING_TRAIT_REASONS
    strength: StrengthRange | None = None
    uses_seed: bool = False  # whether `seed` plays a part


PERTURBATIONS = {
    "residual": Perturbation(
        "the block returns its input, all streams of it", "Hyung et al. 2025, Eq. 15 (STG-R)"
    ),
    "attention": Perturbation(
        "the map of the self-attention is the identity", "Hyung et al. 2025, Eq. 17 (STG-A)",
        ("attention",),
    ),
    "soft": Perturbation(
        "the map of the self-attention is (1 - strength) of itself and strength of the identity",
        "SoftPAG, arXiv 2506.10978", ("attention", "softmax"),
        StrengthRange("share of the identity", 1.0, 0.5),
    ),
    "blur": Perturbation(
        "the queries of the video's tokens are blurred over (frames, rows, columns)",
        "SEG, Hong 2024, arXiv 2408.00760", ("attention", "softmax", "grid"),
        StrengthRange("sigma of the Gaussian, in tokens", math.inf, None),
    ),
    "frames": Perturbation(
        "each token of the video sees its own frame and the text only",
        "CAG, arXiv 2506.17220", ("attention", "softmax", "grid", "time", "joint"),
    ),
    "tokens": Perturbation(
        "each token of the video sees itself and the text only",
        "PAG for SD3, diffusers' PAGJointAttnProcessor2_0; arXiv 2403.17377",
        ("attention", "softmax", "grid", "text"),
    ),
    "shuffle": Perturbation(
        "the block sees the tokens of the video in another order", "TPG, arXiv 2506.10036",
        uses_seed=True,
    ),
}  # fmt: skip

# The weak model of `Modality`, which is no kind of `skip`: video and sound do not see each other.
ISOLATION = "isolation"

# What a family may lack, and the reason it gives.
MISSING_TRAIT_REASONS = {
    "attention": "its attention has no map that could be another one",
    "softmax": "its attention is linear, without queries that a softmax compares with keys",
    "grid": "its tokens are not those of one grid of frames, rows and columns",
    "text": 'its self-attention sees no text, so that this is skip="attention"',
    "time": "it makes images, which are one frame",
    "joint": (
        'it attends within a frame and along time in turn; what cuts time there is skip="attention"'
        ' with axis="temporal"'
    ),
}


def available_skips(traits: Set[str]) -> tuple[str, ...]:
    """Return the kinds of skip that a family with these traits can have."""
    return tuple(
        name for name, kind in PERTURBATIONS.items() if traits >= set(kind.required_traits)
    )


def unsupported_reason(skip: str, traits: Set[str]) -> str:
    """Return why a family with these traits cannot have a kind; "" where it can."""
    return next(
        (
            MISSING_TRAIT_REASONS[need]
            for need in PERTURBATIONS[skip].required_traits
            if need not in traits
        ),
        "",
    )


def changes_attention(skip: str) -> bool:
    """Return whether a kind acts on the map of a self-attention, which each head has for itself."""
    return "attention" in PERTURBATIONS[skip].required_traits


def resolve_strength(skip: str, strength: float | None) -> float | None:
    """Return the strength of a kind: what was given, or its default.

    None stands for no strength, and for an infinite one.
    """
    number = None if skip == ISOLATION else PERTURBATIONS[skip].strength
    if number is None:
        return None
    found = number.default if strength is None else strength
    return None if found == math.inf else found


def check_skip(skip: Any, strength: Any, seed: Any) -> None:
    """Check that a kind of skip exists, and that strength and seed are for it.

    Raises:
        ValueError: if not.
    """
    if skip not in PERTURBATIONS:
        raise ValueError(
            f"skip must be one of {', '.join(PERTURBATIONS)}, but got {skip!r}. Choose one of them."
        )
    validate.check_integer("seed", seed, 0, "Leave it out for 0.")
    number = PERTURBATIONS[skip].strength
    if strength is None or (number is not None and strength == number.maximum == math.inf):
        return
    if number is None:
        numbered = ", ".join(name for name, kind in PERTURBATIONS.items() if kind.strength)
        raise ValueError(
            f'strength must be left out for skip="{skip}", which has none, but got {strength!r}. It'
            f" is for {numbered}."
        )
    validate.check_number("strength", strength, 0.0, number.maximum, f"{number.meaning}, above 0")
    if strength == 0:
        raise ValueError(
            f"strength must be above 0 ({number.meaning}), but got {strength!r}, which weakens"
            " nothing. Choose a larger one, or scale=0 to switch the term off."
        )
