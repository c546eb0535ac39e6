"""Rules that stand in the place of u + g (c - u): how far, and in which direction, a prediction is
pushed away from u.

    APG (2410.02416)          c + (g - 1) (d_across + eta d_along), the parts of d across and along c;
                              d = m min(1, r / |m|),  m = c - u + beta m of the step before
    CFG-Zero* (2503.18886)    a u + g (c - a u),  a = <c, u> / <u, u>; zero in the first steps
    TCFG (2503.18137)         u' + g (c - u'),  u' = u along the first singular vector of (c, u)
    Interval (2404.07724)     u + g (c - u) inside an interval, c outside

All are per sample. APG speaks of estimates of the data, and the others of predictions as the model
makes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from skipguide.method import validate
from skipguide.method.formula import inner_product, projection_coefficient, upcast

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
    """CFG-Zero*: u is scaled to fit c best, and a flow stands still in its first steps, where it is
    known least.

    Args:
        zero_steps: steps at the beginning whose prediction is zero, without a pass of a weak model;
            0 is none.

    Raises:
        ValueError: for a number out of range.
    """

    zero_steps: int = 1

    def __post_init__(self) -> None:
        validate.check_integer("zero_steps", self.zero_steps, 0, "Usual is 1.")


@dataclass(frozen=True)
class TCFG:
    """Tangential damping: of u only the part along what c and u have in common, their first
    singular vector."""


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


CFGRule = APG | CFGZero | TCFG | Interval


class MomentumBuffer:
    """What APG remembers of the steps before, for one output of one run."""

    def __init__(self) -> None:
        self.running_average: Tensor | None = None


def apg(
    c: Tensor, u: Tensor, g: float, rule: APG, memory: MomentumBuffer, c_0: Tensor, b: float
) -> Tensor:
    """D before the push.

    Args:
        c, u: `(B, ...)` predictions.
        memory: of this output in this run; it is changed.
        c_0: the estimate of the data that c is, or c itself (then b is 1).
        b: of x_0 = a x + b F, so that b (c - u) is the difference of the estimates.
    """
    m = b * upcast(c - u)
    if rule.momentum:
        if (
            memory.running_average is not None and memory.running_average.shape == m.shape
        ):  # some runs change their frames midway
            m = m + rule.momentum * memory.running_average
        memory.running_average = m
    if rule.norm_threshold:
        m = m * (rule.norm_threshold / inner_product(m, m).sqrt().clamp_min(1e-30)).clamp_max(1.0)
    direction = upcast(c_0)
    along = projection_coefficient(m, direction) * direction
    return c + ((g - 1) / b * (m - along + rule.eta * along)).to(c.dtype)


def cfg_zero_star(c: Tensor, u: Tensor, g: float | Tensor) -> Tensor:
    """a u + g (c - a u) with the a for which a u is nearest to c."""
    a = projection_coefficient(upcast(c), upcast(u)).to(c.dtype)
    return a * u + g * (c - a * u)


def tangential_cfg(c: Tensor, u: Tensor, g: float | Tensor) -> Tensor:
    """u' + g (c - u'), u' being u without its part along the second singular vector of the two rows
    (c, u).

    The vectors are found from the 2 x 2 matrix of inner products: its first eigenvector (p, q)
        gives p c + q u. In
    closed form, for torch.linalg.eigh waits for the device.
    """
    rows = upcast(torch.stack([c, u], 1).flatten(2))  # (B, 2, N)
    inner_products = rows @ rows.mT
    cc, cu, uu = inner_products[:, 0, 0], inner_products[:, 0, 1], inner_products[:, 1, 1]
    angle = torch.atan2(2 * cu, cc - uu) / 2
    first = torch.stack([angle.cos(), angle.sin()], 1)[:, None]  # (B, 1, 2)
    vector = (first @ rows).reshape(c.shape)
    kept = (projection_coefficient(upcast(u), vector) * vector).to(c.dtype)
    return kept + g * (c - kept)
