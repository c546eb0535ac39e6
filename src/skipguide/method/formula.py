"""The formula: every guided prediction D is made here, and only here. Pure functions on tensors.

    D = u + g (c - u) + sum_j s_j (c - p_j)            Eq. 6 + Eq. 13; with two terms, Eq. 20
    c - p_t loses its component along c - p_s          Eq. 21, optional, per sample
    s_j (c - p_j) is multiplied by a mask of term j    optional, per place
    D <- D (phi std(c) / std(D) + 1 - phi)             Algorithm 4, per sample

c is the conditional prediction, u the unconditional one, p_j a weak one (the conditional pass of
the weakened model), g the guidance_scale and s_j the scale of term j. Equation numbers are those of
"Spatiotemporal Skip Guidance" (CVPR 2025). `combine` is the formula; the other functions are its
parts, in the order in which it needs them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Tensor = torch.Tensor
CFG = Callable[[Tensor, Tensor, "float | Tensor"], Tensor]  # (c, u, g) -> D without skip guidance
NORMALIZED_RATIO = 0.1  # ||s (c - p)|| / ||c|| of a normalized term whose scale is 1


@dataclass(frozen=True)
class DataSpace:
    """The step from a prediction F to an estimate of the clean video: x_0 = a x + b F.

    Args:
        x: the noisy latents of the step, shaped like a prediction.
        a, b: the coefficients at the step's noise level.
    """

    x: Tensor
    a: float
    b: float

    def estimate(self, F: Tensor) -> Tensor:
        """Return x_0 for a prediction, in the prediction's precision."""
        return self.a * self.x.to(F.dtype) + self.b * F


# --- D --------------------------------------------------------------------------------------------


def combine(
    c: Tensor,
    u: Tensor | None,
    g: float | Tensor,
    push: Tensor | None = None,
    *,
    cfg: CFG | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    phi: float = 0.0,
    data: DataSpace | None = None,
    variance: bool = False,
) -> Tensor:
    """Return the guided prediction D.

    Args:
        c: `(B, ...)` conditional prediction.
        u: `(B, ...)` unconditional prediction, or None where there is no CFG; then g is not used.
        g: classifier-free guidance scale.
        push: `(B, ...)`, the sum over the terms that `skip_guidance` returns; None without terms.
        cfg: a rule in the place of u + g (c - u), such as those of `cfg_rules`; None is plain CFG.
        finish: what a rule makes of D with its push, before the rescaling; None leaves it.
        phi: rescaling in [0, 1]; 0 is off.
        data: rescale estimates of the clean video instead of predictions.
        variance: the second half of the channels is a variance that the model has learned. It takes
            part in plain CFG and in the push, but neither in a rule nor in the rescaling.
    """
    if u is None:
        D = c
    elif cfg is None:
        D = classifier_free_guidance(c, u, g)
    elif variance:
        prediction, learned = c.chunk(2, dim=1)
        D = torch.cat([cfg(prediction, u.chunk(2, dim=1)[0], g), learned], dim=1)
    else:
        D = cfg(c, u, g)
    if push is not None:
        D = D + push
    if finish is not None and variance:
        prediction, learned = D.chunk(2, dim=1)
        D = torch.cat([finish(prediction), learned], dim=1)
    elif finish is not None:
        D = finish(D)
    if phi == 0:
        return D
    if variance:
        (prediction, learned), (c, _) = D.chunk(2, dim=1), c.chunk(2, dim=1)
        return torch.cat([rescale(prediction, c, phi, data), learned], dim=1)
    return rescale(D, c, phi, data)


def classifier_free_guidance(c: Tensor, u: Tensor, g: float | Tensor) -> Tensor:
    """Return u + g (c - u)."""
    return u + g * (c - u)


# --- skip guidance --------------------------------------------------------------------------------


def skip_guidance(
    c: Tensor,
    weaks: Sequence[Tensor],
    scales: Sequence[float],
    orthogonalize: bool = False,
    channels: int | None = None,
    normalized: Sequence[bool] = (),
    masks: Sequence[Tensor | None] = (),
) -> Tensor:
    """Return the push away from the weak predictions: sum_j s_j (c - p_j), Eq. 13 without c.

    Args:
        c: `(B, ...)` conditional prediction.
        weaks: weak predictions p_j, each shaped like `c`.
        scales: s_j, one per weak prediction.
        orthogonalize: Eq. 21; terms whose scale is 0 take no part.
        channels: how many channels, along dimension 1, inner products and norms see; None is all.
        normalized: for each weak prediction, whether its difference is first given a tenth of the
            length of c; () is none.
        masks: for each weak prediction what multiplies its push at each place, broadcastable to
            `c`; () and None are 1 everywhere. Lengths and inner products are those of the whole
            differences, so that a mask changes nothing where it is 1.

    The push depends on neither u nor g. Added to both rows of a CFG batch it therefore passes
    unchanged through any pipeline's own `u + g (c - u)`, whatever g is.
    """
    count = len(weaks)
    rows = zip(weaks, scales, normalized or [False] * count, masks or [None] * count, strict=True)
    terms = [(c - p, s, norm, mask) for p, s, norm, mask in rows if s != 0]
    differences = [difference for difference, *_ in terms]
    if orthogonalize:
        differences = orthogonalize_differences(differences, channels)
    delta = torch.zeros_like(c)
    for difference, (_, s, norm, mask) in zip(differences, terms, strict=True):
        pushed = s * (_normalize_difference(difference, c, channels) if norm else difference)
        delta = delta + (pushed if mask is None else mask * pushed)
    return delta


def _normalize_difference(difference: Tensor, c: Tensor, channels: int | None) -> Tensor:
    """Give a difference the length NORMALIZED_RATIO ||c||, per sample; a zero one stays zero."""
    far, near = upcast(difference), upcast(c)
    square = inner_product(far, far, channels)
    ratio = (inner_product(near, near, channels) / square.where(square > 0, 1.0)).sqrt()
    return (NORMALIZED_RATIO * ratio * far).to(difference.dtype)


def orthogonalize_differences(
    differences: Sequence[Tensor], channels: int | None = None
) -> list[Tensor]:
    """Take from each `(B, ...)` its components along those before it (Eq. 21, Gram-Schmidt).

        D_t <- D_t - <D_t, D_s> / <D_s, D_s> D_s

    The first one stays as it is. One that is parallel to the span of those before it vanishes, up
    to rounding. A zero one stays zero and takes nothing from the others. Half precision is computed
    in float32.

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


# --- rescaling ------------------------------------------------------------------------------------


def rescale(D: Tensor, c: Tensor, phi: float, data: DataSpace | None = None) -> Tensor:
    """Pull the deviation of D towards that of c (Algorithm 4; Lin et al. 2023, Eq. 15-16).

    Args:
        D: `(B, ...)` guided prediction.
        c: `(B, ...)` conditional prediction.
        phi: in [0, 1]; 0 returns D untouched, 1 gives D exactly the standard deviation of c.
        data: take the deviations of the estimates of the clean video that D and c are; None takes
            those of the predictions.

    The deviation is taken per sample over all other dimensions, so that the prompts of a batch do
    not touch each other.
    """
    if phi == 0:
        return D
    if data is not None:
        c = upcast(c)
        x_0 = data.estimate(c)
        return (c + (rescale(x_0 + data.b * (D - c), x_0, phi) - x_0) / data.b).to(D.dtype)
    dims = tuple(range(1, D.ndim))
    ratio = c.std(dims, keepdim=True) / D.std(dims, keepdim=True)
    return D * (phi * ratio + (1 - phi))


# --- guidance in attention ------------------------------------------------------------------------


def normalized_attention_push(
    Z: Tensor, Z_negative: Tensor, scale: float, tau: float, alpha: float
) -> Tensor:
    """Return what Normalized Attention Guidance adds to Z (NAG, arXiv 2505.21179, Algorithm 1).

        Z~ = Z + (scale - 1) (Z - Z-)                  away from the negative prompt
        Z^ = Z~ min(1, tau ||Z||_1 / ||Z~||_1)         per token, at most tau times as long as Z
        Z <- Z + alpha (Z^ - Z)                        the second term is returned

    Args:
        Z: `(B, N, D)`, what the tokens of the video get of the prompt: the heads of an attention,
            joined, before their projection W_o.
        Z_negative: the same of the negative prompt.
        scale: as in the authors' code; the paper's phi is scale - 1. With 1 nothing is added.
        tau: the limit, from 1.
        alpha: the part of the way that is gone, from 0 to 1.

    Equal Z and Z- give exactly zero. Norms are computed in float32 at least, the rest in the
    precision of Z, which holds a token's features and not their sum.
    """
    extrapolated = Z + (scale - 1) * (Z - Z_negative)
    longest = tau * _absolute_sum(Z)
    length = _absolute_sum(extrapolated)
    factor = torch.where(length > longest, longest / length, 1.0)
    return alpha * (extrapolated * factor.to(Z.dtype) - Z)


def _absolute_sum(Z: Tensor) -> Tensor:
    """Return ||Z||_1 per token as `(B, N, 1)`, without a copy of Z in another precision."""
    precision = torch.promote_types(Z.dtype, torch.float32)
    return torch.linalg.vector_norm(Z, ord=1, dim=-1, keepdim=True, dtype=precision)


# --- inner products -------------------------------------------------------------------------------


def projection_coefficient(a: Tensor, b: Tensor, channels: int | None = None) -> Tensor:
    """Return <a, b> / <b, b> per sample in the shape `(B, 1, ...)`; 0 where b is zero."""
    square = inner_product(b, b, channels)
    return inner_product(a, b, channels) / square.where(square > 0, 1.0)


def inner_product(a: Tensor, b: Tensor, channels: int | None = None) -> Tensor:
    """Return <a, b> over some channels, or over all, per sample in the shape `(B, 1, ...)`."""
    return (a[:, :channels] * b[:, :channels]).sum(tuple(range(1, a.ndim)), keepdim=True)


def upcast(value: Tensor) -> Tensor:
    """Return the tensor in float32 at least: half precision cannot hold sums of squares."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def equal_but_for_rounding(c: Tensor, p: Tensor, tolerance: float = 1e-5) -> bool:
    """Return whether a weak prediction is the conditional one: c - p is rounding, or nothing.

    A weak pass that differs at all does so by a thousandth of the length of c and more. A c of
    zeros says nothing, and counts as one that differs.

    Args:
        c, p: `(B, ...)`.
        tolerance: length of c - p for a c of length 1.
    """
    c, p = upcast(c), upcast(p)
    length = c.norm()
    return bool((length > 0) & ((c - p).norm() <= tolerance * length))  # one wait for the device


# --- windows --------------------------------------------------------------------------------------


def is_in_window(start: float, stop: float, step: int, num_steps: int) -> bool:
    """Return whether step i of N lies in the window: start <= i/N < stop."""
    return start <= step / num_steps < stop


def steps_in_window(start: float, stop: float, num_steps: int) -> list[int]:
    """Return the steps of a run that lie in the window."""
    return [i for i in range(num_steps) if is_in_window(start, stop, i, num_steps)]


def nearest_window(start: float, stop: float, num_steps: int) -> tuple[float, float]:
    """Return a window of one step, for one that holds none: that in whose part its middle lies.

    Step i of N goes from i/N to (i + 1)/N of the run, so that a narrow window of a long run lies
    within one step of a short run. Bounds are rounded down to four digits, which keeps the step.
    """
    step = min(int((start + stop) / 2 * num_steps), num_steps - 1)
    low, high = (math.floor(edge / num_steps * 1e4) / 1e4 for edge in (step, step + 1))
    return low, high
