# Built by `make comfyui` from src/skipguide/method/cfg_rules.py; do not edit.
"""Rules in the place of plain CFG, u + g (c - u): how far and where to push a prediction away from
u.

    APG (2410.02416)          c + (g - 1) (d_across + eta d_along), d's parts across and along c;
                              d = m min(1, r / |m|),  m = c - u + beta m of the step before
    CFG-Zero* (2503.18886)    a u + g (c - a u),  a = <c, u> / <u, u>; zero in the first steps
    TCFG (2503.18137)         u' + g (c - u'),  u' = u along the first singular vector of (c, u)
    Interval (2404.07724)     u + g (c - u) inside an interval, c outside
    CFGReuse (2312.12487)     c + (g - 1) d, where d is c - u, or continued from earlier steps where
                              u is not computed

Each works per sample. APG speaks of estimates of the clean video, the others of predictions as the
model makes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..method import validate
from ..method.formula import CFG, DataSpace, inner_product, projection_coefficient, upcast
from ..method.reuse import DEFAULT_TOLERANCE, Every, Reuse

Tensor = torch.Tensor


@dataclass(frozen=True)
class APG:
    """Adaptive projected guidance: less of the part along c, which saturates colours; a brake on
    long pushes.

    Args:
        eta: share of the part along c that is kept, >= 0; 1 with the other two off is CFG.
        momentum: beta; negative values push where the step before did not. 0 is off.
        norm_threshold: r, the length up to which d is left alone; 0 is off.
        space: "data", as the paper has it, or "prediction", as diffusers has it.

    Raises:
        ValueError: for a number out of range or another space.
    """

    eta: float = 0.0
    momentum: float = -0.5
    norm_threshold: float = 0.0
    space: str = "data"

    def __post_init__(self) -> None:
        validate.check_number("eta", self.eta, 0.0)
        validate.check_number("momentum", self.momentum, -1.0, 1.0, "0 is off")
        validate.check_number("norm_threshold", self.norm_threshold, 0.0, note="0 is off")
        if self.space not in ("data", "prediction"):
            raise ValueError(
                f'space must be "data" or "prediction", but got {self.space!r}. Choose one of them.'
            )


@dataclass(frozen=True)
class CFGZero:
    """CFG-Zero*: scale u so that it fits c best, and predict zero in the first steps.

    A flow is known least at its beginning, and a prediction of zero leaves the sample where it is.

    Args:
        zero_steps: how many steps at the beginning predict zero, without a weak pass; 0 is none.

    Raises:
        ValueError: for a number out of range.
    """

    zero_steps: int = 1

    def __post_init__(self) -> None:
        validate.check_integer("zero_steps", self.zero_steps, 0, "Usual is 1.")


@dataclass(frozen=True)
class TCFG:
    """Tangential damping: keep of u only its part along the first singular vector of c and u."""


@dataclass(frozen=True)
class Interval:
    """CFG in a part of the run only; elsewhere D = c + push, and u is not computed.

    Args:
        window: (start, stop), fractions of the run: CFG at steps i with start <= i/N < stop.

    Raises:
        ValueError: for an empty window, or one outside of 0 to 1.
    """

    window: tuple[float, float] = (0.1, 0.9)

    def __post_init__(self) -> None:
        window = validate.check_interval("window", self.window, 1.0, "Write (0.1, 0.9).")
        object.__setattr__(self, "window", window)


@dataclass(frozen=True)
class CFGReuse:
    """CFG that computes u at some steps only, and continues c - u in between.

    A step without u costs one forward pass less. Adaptive Guidance (arXiv 2312.12487) leaves u out
    after a gate and goes on with c alone; here the last c - u goes on, as FastVideo has it.

    Args:
        every: compute u at every n-th step; or at a share of the steps, such as 0.75, placed where
            c - u changes most; or "auto", wherever reuse would err by more than `tolerance`.
        gate: from this fraction of the run on u is not computed at all; 1 is never.
        tolerance, extrapolate: as for STG.

    Raises:
        ValueError: for anything outside these ranges, or if u is computed at every step.
    """

    every: Every = 1
    gate: float = 1.0
    tolerance: float = DEFAULT_TOLERANCE
    extrapolate: int | None = None

    def __post_init__(self) -> None:
        self.reuse.check()
        validate.check_number("gate", self.gate, 0.0, 1.0, "it is a fraction of the run")
        if self.gate == 0 or (self.gate == 1 and not self.reuse.is_on):
            raise ValueError(
                "CFGReuse must compute u at some steps and not at others, but got"
                f" every={self.every!r}, gate={self.gate:g}. Write CFGReuse(0.75), or"
                " CFGReuse(gate=0.5)."
            )

    @property
    def reuse(self) -> Reuse:
        """When u is computed, and how c - u is continued in between."""
        return Reuse(self.every, self.tolerance, self.extrapolate)


CFGRule = APG | CFGZero | TCFG | Interval | CFGReuse


class MomentumBuffer:
    """The running average of APG's differences, for one output of one run."""

    def __init__(self) -> None:
        self.running_average: Tensor | None = None


def cfg_function(
    rule: CFGRule, momentum: MomentumBuffer, data: DataSpace | None = None
) -> CFG | None:
    """Return the rule as a function (c, u, g) -> D for `formula.combine`; None is plain CFG.

    Args:
        momentum: APG's, of this output in this run; a call changes it.
        data: of this step; APG with space="data" needs it.
    """
    if isinstance(rule, CFGZero):
        return cfg_zero_star
    if isinstance(rule, TCFG):
        return tangential_cfg
    if isinstance(rule, APG):
        space = None if rule.space == "prediction" else data
        return lambda c, u, g: apg(c, u, g, rule, momentum, space)
    return None


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
    m = b * upcast(c - u)
    if rule.momentum:
        average = momentum.running_average
        if average is not None and average.shape == m.shape:  # some runs change their frames midway
            m = m + rule.momentum * average
        momentum.running_average = m
    if rule.norm_threshold:
        m = m * (rule.norm_threshold / inner_product(m, m).sqrt().clamp_min(1e-30)).clamp_max(1.0)
    direction = upcast(c_0)
    along = projection_coefficient(m, direction) * direction
    return c + ((g - 1) / b * (m - along + rule.eta * along)).to(c.dtype)


def cfg_zero_star(c: Tensor, u: Tensor, g: float | Tensor) -> Tensor:
    """Return a u + g (c - a u) with the a for which a u is nearest to c."""
    a = projection_coefficient(upcast(c), upcast(u)).to(c.dtype)
    return a * u + g * (c - a * u)


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
