# Built by `make comfyui` from src/skipguide/method/cfg_formulas.py; do not edit.
"""The formulas of the rules of cfg_rules.py: pure functions on tensors, each per sample.

In all of them c is the conditional prediction, u the unconditional one and g the guidance_scale, a
number or a tensor that fits them (SVD has one for each frame). Equation numbers are those of the
papers that cfg_rules.py names.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..method.cfg_rules import APG, APGMix
from ..method.formula import (
    DataSpace,
    classifier_free_guidance,
    inner_product,
    projection_coefficient,
    upcast,
)

Tensor = torch.Tensor
_TINY = 1e-30  # keeps a division by a length of zero finite
_BLUR = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # of a pyramid, along each axis


class MomentumBuffer:
    """The running average of APG's differences, for one output of one run."""

    def __init__(self) -> None:
        self.running_average: Tensor | None = None

    def add(self, difference: Tensor, beta: float) -> Tensor:
        """Return the difference with beta times those before it, and keep that; 0 keeps nothing."""
        average = self.running_average
        if not beta:
            return difference
        if average is not None and average.shape == difference.shape:  # a run may change its frames
            difference = difference + beta * average
        self.running_average = difference
        return difference


@dataclass(frozen=True)
class RuleContext:
    """Hold the facts of a step that some rules need beside c, u and g.

    Args:
        momentum: of this output in this run; APG changes it.
        progress: i / N of step i, in the run without restarts.
        time: t / t_max, from 1 at pure noise to 0.
        data: how predictions become estimates of the clean video.
        latents: the noisy latents of the step, shaped like a prediction.
        corrected: c at the point that Rectified-CFG++ predicts, where u is too.
        layout: the dimensions of a prediction, such as "bcthw"; "packed" are rows of tokens.
    """

    momentum: MomentumBuffer
    progress: float = 0.0
    time: float = 1.0
    data: DataSpace | None = None
    latents: Tensor | None = None
    corrected: Tensor | None = None
    layout: str = "bcthw"


# --- APG ------------------------------------------------------------------------------------------


def apg(
    c: Tensor,
    u: Tensor,
    g: float | Tensor,
    rule: APG,
    momentum: MomentumBuffer,
    data: DataSpace | None = None,
) -> Tensor:
    """Return c + (g - 1) (d_across + eta d_along).

    Args:
        c, u: `(B, ...)` predictions.
        momentum: of this output in this run; it is changed.
        data: how predictions become estimates of the clean video, whose difference d then is;
            None takes d from the predictions.
    """
    c_0, b = (c, 1.0) if data is None else (data.estimate(c), data.b)
    return c + ((g - 1) / b * _projected(c_0, b * upcast(c - u), rule, momentum)).to(c.dtype)


def apg_mix(
    c: Tensor,
    u: Tensor,
    g: float | Tensor,
    rule: APGMix,
    momentum: MomentumBuffer,
    progress: float,
) -> Tensor:
    """Return CFG before `rule.start` of the run, then u + w (d_across + eta d_along).

    Args:
        momentum: of this output in this run; it is changed at every step.
        progress: i / N.
    """
    if progress < rule.start:
        momentum.add(upcast(c - u), rule.momentum)
        return classifier_free_guidance(c, u, g)
    return u + (rule.apg_scale * _projected(c, upcast(c - u), rule, momentum)).to(c.dtype)


def _projected(c: Tensor, d: Tensor, rule: APG | APGMix, momentum: MomentumBuffer) -> Tensor:
    """Return d_across + eta d_along of a difference d, with momentum and with its length limited.

    Args:
        c: `(B, ...)`; d's parts are those across and along it.
        d: `(B, ...)` in float32 at least.
    """
    m = momentum.add(d, rule.momentum)
    if rule.norm_threshold:
        m = m * (rule.norm_threshold / inner_product(m, m).sqrt().clamp_min(_TINY)).clamp_max(1.0)
    direction = upcast(c)
    along = projection_coefficient(m, direction) * direction
    return m - along + rule.eta * along


# --- the scale of c - u ---------------------------------------------------------------------------


def control_cfg(c: Tensor, u: Tensor, g: float | Tensor, rate: float, time: float) -> Tensor:
    """Return u + g exp(rate (1 - time)) (c - u) (C2FG, Eq. 14).

    Args:
        time: t / t_max, from 1 at pure noise to 0.
    """
    return classifier_free_guidance(c, u, g * math.exp(rate * (1 - time)))


def magnitude_aware_cfg(c: Tensor, u: Tensor, g: float | Tensor, alpha: float) -> Tensor:
    """Return u + (1 + (g - 1) exp(-alpha r)) (c - u) with r = |c - u| / |u| (MAMBO-G)."""
    d, base = upcast(c - u), upcast(u)
    ratio = (inner_product(d, d) / inner_product(base, base).clamp_min(_TINY)).sqrt()
    return u + ((1 + (g - 1) * torch.exp(-alpha * ratio)) * d).to(c.dtype)


def cfg_zero_star(c: Tensor, u: Tensor, g: float | Tensor) -> Tensor:
    """Return a u + g (c - a u) with the a for which a u is nearest to c."""
    a = projection_coefficient(upcast(c), upcast(u)).to(c.dtype)
    return a * u + g * (c - a * u)


def rectified_cfg(
    c: Tensor, u: Tensor, g: float | Tensor, corrected: Tensor, level: float, gamma: float
) -> Tensor:
    """Return c + (g - 1) (1 - s)^gamma (c' - u) (Rectified-CFG++).

    Args:
        c: `(B, ...)` at the latents of the step.
        u: `(B, ...)` at the point that c predicts.
        corrected: c', at the same point.
        level: s of the latents.
    """
    return c + (g - 1) * (1 - level) ** gamma * (corrected - u)


# --- directions -----------------------------------------------------------------------------------


def tangential_cfg(c: Tensor, u: Tensor, g: float | Tensor) -> Tensor:
    """Return u' + g (c - u'), where u' lacks u's part along the second singular vector of (c, u).

    The vectors come from the 2 x 2 matrix of inner products of c and u: its first eigenvector
    (p, q) gives the first singular vector p c + q u. The closed form is used because
    torch.linalg.eigh waits for the device.
    """
    rows = upcast(torch.stack([c, u], 1).flatten(2))  # (B, 2, N)
    inner_products = rows @ rows.mT
    cc, cu, uu = inner_products[:, 0, 0], inner_products[:, 0, 1], inner_products[:, 1, 1]
    angle = torch.atan2(2 * cu, cc - uu) / 2
    first = torch.stack([angle.cos(), angle.sin()], 1)[:, None]  # (B, 1, 2)
    vector = (first @ rows).reshape(c.shape)
    kept = (projection_coefficient(upcast(u), vector) * vector).to(c.dtype)
    return kept + g * (c - kept)


def amplify_tangential(D: Tensor, latents: Tensor, eta: float) -> Tensor:
    """Return D's part along the latents, and eta times its part across them (TAG, Eq. 7 and 16).

    The paper divides the step that a solver makes of D. Where the step is a x + b D, as in Euler's
    and DDIM's, its part across x is b times D's, so that dividing D is the same; and noise,
    velocity and data differ by multiples of x and a factor, so that all give the same step.
    """
    x, whole = upcast(latents), upcast(D)
    along = projection_coefficient(whole, x) * x
    return (along + eta * (whole - along)).to(D.dtype)


def aligned_cfg(c: Tensor, u: Tensor, g: float | Tensor, latents: Tensor, align: float) -> Tensor:
    """Return u + g (c - u) + align g_align, with the last term of TAG for CFG (Eq. 24-26).

    g_align is c's part along that part of c - u which lies across the latents.
    """
    d, x = upcast(c - u), upcast(latents)
    across = d - projection_coefficient(d, x) * x
    aligned = projection_coefficient(upcast(c), across) * across
    return classifier_free_guidance(c, u, g) + (align * aligned).to(c.dtype)


# --- frequencies ----------------------------------------------------------------------------------


def frequency_decoupled_cfg(
    c: Tensor, u: Tensor, g: float | Tensor, gains: Sequence[float], layout: str = "bcthw"
) -> Tensor:
    """Return u + sum_k w_k (c - u)_k over the bands of a Laplacian pyramid (FDG, Eq. 4-6).

    The pyramid is linear: the bands of c less those of u are those of c - u, and estimates of the
    clean video give the same as predictions.

    Args:
        c, u: `(B, C, F, H, W)`, or as `layout` says; the bands are those of single frames.
        gains: w_k = 1 + gain (g - 1), from the finest band to the coarsest.
        layout: where the height and the width are: "bthwc" has them before the channels.
    """
    d = upcast(c - u)
    if layout.endswith("hwc"):
        d = d.movedim(-1, 1)
    bands = laplacian_pyramid(d, len(gains))
    scaled = [(1 + gain * (g - 1)) * band for gain, band in zip(gains, bands, strict=True)]
    push = collapse_pyramid(scaled)
    return u + (push.movedim(1, -1) if layout.endswith("hwc") else push).to(c.dtype)


def laplacian_pyramid(frames: Tensor, levels: int) -> list[Tensor]:
    """Return the bands of frames `(..., H, W)`, from the finest to the coarsest (Burt 1983).

    As kornia's `build_laplacian_pyramid`, where sides can be halved that often. Other sides, which
    kornia pads to powers of two, are halved downwards and come back as they were.

    Raises:
        ValueError: for frames that are too small.
    """
    check_pyramid(frames.shape, levels)
    bands = []
    for _ in range(levels - 1):
        coarse = _resize(_blur(frames), [side // 2 for side in frames.shape[-2:]])
        bands.append(frames - _expand(coarse, frames.shape[-2:]))
        frames = coarse
    return [*bands, frames]


def collapse_pyramid(bands: Sequence[Tensor]) -> Tensor:
    """Return the frames whose bands are given, from the finest to the coarsest."""
    frames = bands[-1]
    for band in reversed(bands[:-1]):
        frames = _expand(frames, band.shape[-2:]) + band
    return frames


def check_pyramid(shape: Sequence[int], levels: int) -> None:
    """Check that predictions of a shape have frames that a pyramid can be made of.

    Raises:
        ValueError: for rows of tokens, or frames that are too small.
    """
    if len(shape) < 4:
        raise ValueError(
            "FDG needs predictions with a height and a width, such as (B, C, F, H, W), but those of"
            f" this model are rows of tokens, {tuple(shape)}. Use another rule."
        )
    least = 3 * 2 ** (levels - 2)  # a blur by five pixels needs three
    if min(shape[-2:]) < least:
        raise ValueError(
            f"FDG with {levels} bands needs latents of {least} x {least} at least, but got"
            f" {shape[-2]} x {shape[-1]}. Take fewer gains, or a larger video."
        )


def _expand(frames: Tensor, size: Sequence[int]) -> Tensor:
    return _blur(_resize(frames, size))


def _resize(frames: Tensor, size: Sequence[int]) -> Tensor:
    single = frames.reshape(-1, 1, *frames.shape[-2:])
    found = F.interpolate(single, size=tuple(size), mode="bilinear", align_corners=False)
    return found.reshape(*frames.shape[:-2], *size)


def _blur(frames: Tensor) -> Tensor:
    padded = F.pad(frames.reshape(-1, 1, *frames.shape[-2:]), (2, 2, 2, 2), mode="reflect")
    return F.conv2d(padded, _blur_kernel(frames.dtype, frames.device)).reshape(frames.shape)


@functools.lru_cache(maxsize=8)
def _blur_kernel(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the weights `(1, 1, 5, 5)`; made at each step they would wait for the device."""
    with torch.inference_mode(False):
        row = torch.tensor(_BLUR, dtype=dtype, device=device)
        return (row[:, None] * row)[None, None]
