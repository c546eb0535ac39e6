"""The formula. Pure functions on tensors; nothing here knows a model or a pipeline.

    D = u + g (c - u) + sum_j s_j (c - p_j)            Eq. 6 + Eq. 13; with two terms, Eq. 20
    c - p_t loses its component along c - p_s          Eq. 21, optional, per sample
    D <- D (phi std(c) / std(D) + 1 - phi)             Algorithm 4, per sample

c: conditional prediction, u: unconditional, p_j: weak (the conditional pass of the weakened model),
g: guidance_scale, s_j: the scale of term j. Equation numbers are those of "Spatiotemporal Skip
Guidance" (CVPR 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Tensor = torch.Tensor
NORMALIZED_RATIO = 0.1  # ||s (c - p)|| / ||c|| of a normalized term whose scale is 1


def skip_guidance(
    c: Tensor,
    weaks: Sequence[Tensor],
    scales: Sequence[float],
    orthogonalize: bool = False,
    channels: int | None = None,
    normalized: Sequence[bool] = (),
) -> Tensor:
    """The skip guidance alone: sum_j s_j (c - p_j), Eq. 13 without its first term.

    Args:
        c: `(B, ...)` conditional prediction. weaks: weak predictions p_j, each shaped like `c`.
        scales: s_j, one per weak prediction. orthogonalize: Eq. 21; terms whose scale is 0 take no
        part. channels: how many, along dimension 1, inner products and norms see; None is all.
        normalized: for each weak prediction whether its difference is made a tenth as long as c
        first; () is none.

    Because it does not depend on u or g, adding it to both rows of a CFG batch passes through any
    pipeline's own `u + g (c - u)` unchanged, whatever g is."""
    rows = zip(weaks, scales, normalized or [False] * len(weaks), strict=True)
    terms = [(c - p, s, norm) for p, s, norm in rows if s != 0]
    differences = [difference for difference, _, _ in terms]
    if orthogonalize:
        differences = orthogonalize_differences(differences, channels)
    delta = torch.zeros_like(c)
    for difference, (_, s, norm) in zip(differences, terms, strict=True):
        delta = delta + s * (_normalize_difference(difference, c, channels) if norm else difference)
    return delta


def _normalize_difference(difference: Tensor, c: Tensor, channels: int | None) -> Tensor:
    """The difference with the length NORM_SHARE ||c||, per sample; a zero one stays zero."""
    far, near = upcast(difference), upcast(c)
    square = inner_product(far, far, channels)
    ratio = (inner_product(near, near, channels) / square.where(square > 0, 1.0)).sqrt()
    return (NORMALIZED_RATIO * ratio * far).to(difference.dtype)


def orthogonalize_differences(
    differences: Sequence[Tensor], channels: int | None = None
) -> list[Tensor]:
    """Eq. 21: each `(B, ...)` loses, per sample, its components along those before it
    (Gram-Schmidt, in this order).

        D_t <- D_t - <D_t, D_s> / <D_s, D_s> D_s

    The first one stays as it is. One that is parallel to the span of those before it vanishes, up
    to rounding; one that is zero stays zero and takes nothing from the others. Half precision is
    computed in float32.

    Args:
        channels: how many, along dimension 1, the inner products see; None is all.
    """
    found: list[Tensor] = []
    for D_t in differences:
        rest = upcast(D_t)
        for D_s in found:
            rest = rest - projection_coefficient(rest, D_s, channels) * D_s
        found.append(rest)
    return [rest.to(D_t.dtype) for rest, D_t in zip(found, differences, strict=True)]


def projection_coefficient(a: Tensor, b: Tensor, channels: int | None = None) -> Tensor:
    """How much of b is in a, <a, b> / <b, b>, per sample in the shape `(B, 1, ...)`; 0 where b is
    zero."""
    square = inner_product(b, b, channels)
    return inner_product(a, b, channels) / square.where(square > 0, 1.0)


def inner_product(a: Tensor, b: Tensor, channels: int | None = None) -> Tensor:
    """<a, b> of some channels, or of all, per sample in the shape `(B, 1, ...)`."""
    return (a[:, :channels] * b[:, :channels]).sum(tuple(range(1, a.ndim)), keepdim=True)


def upcast(value: Tensor) -> Tensor:
    """In float32 at least: squares and their sums are beyond half precision."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def combine(
    c: Tensor,
    u: Tensor | None,
    g: float | Tensor,
    weaks: Sequence[Tensor],
    scales: Sequence[float],
    phi: float = 0.0,
    orthogonalize: bool = False,
    normalized: Sequence[bool] = (),
) -> Tensor:
    """The guided prediction D.

    Args:
        c: `(B, ...)` conditional prediction. u: `(B, ...)` unconditional prediction, or None where
        the pipeline runs without CFG (then g is not used). g: classifier-free guidance scale.
        weaks: weak predictions p_j, each `(B, ...)`. scales: s_j, one per weak prediction. phi:
        rescaling in [0, 1]; 0 is off. orthogonalize, normalized: as for `push`.
    """
    return rescale(
        classifier_free_guidance(c, u, g)
        + skip_guidance(c, weaks, scales, orthogonalize, None, normalized),
        c,
        phi,
    )


def classifier_free_guidance(c: Tensor, u: Tensor | None, g: float | Tensor) -> Tensor:
    """Classifier-free guidance, u + g (c - u); c itself where u is None."""
    return c if u is None else u + g * (c - u)


def rescale(D: Tensor, c: Tensor, phi: float) -> Tensor:
    """Pull the standard deviation of D towards that of c (Algorithm 4; Lin et al. 2023, Eq. 15-16).

    Args:
        D: `(B, ...)` guided prediction.
        c: `(B, ...)` conditional prediction.
        phi: in [0, 1]; 0 returns D untouched, 1 gives D exactly the standard deviation of c.

    The deviation is taken per sample over all other dimensions, so the prompts of a batch do not
    touch each other."""
    if phi == 0:
        return D
    dims = tuple(range(1, D.ndim))
    ratio = c.std(dims, keepdim=True) / D.std(dims, keepdim=True)
    return D * (phi * ratio + (1 - phi))


def is_in_window(start: float, stop: float, step: int, num_steps: int) -> bool:
    """Whether step i of N is inside the window: start <= i/N < stop."""
    return start <= step / num_steps < stop
