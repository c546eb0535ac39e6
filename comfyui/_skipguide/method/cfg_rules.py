# Built by `make comfyui` from src/skipguide/method/cfg_rules.py; do not edit.
"""Rules in the place of plain CFG, u + g (c - u): how far and where to push a prediction away from
u.

    APG (2410.02416)          c + (g - 1) (d_across + eta d_along), d's parts across and along c;
                              d = m min(1, r / |m|),  m = c - u + beta m of the step before
    APGMix (HunyuanImage 2.1) CFG in the first steps, then u + w (d_across + eta d_along)
    C2FG (2603.08155)         u + g exp(lambda (1 - t)) (c - u), t the time of the run, from 1 to 0
    CFG-Zero* (2503.18886)    a u + g (c - a u),  a = <c, u> / <u, u>; zero in the first steps
    FDG (2506.19713)          u + sum_k w_k (c - u)_k over the bands of a Laplacian pyramid
    MAMBO-G (2508.03442)      u + (1 + (g - 1) exp(-alpha |c - u| / |u|)) (c - u)
    Rectified-CFG++           c + (g - 1) (1 - t)^gamma (c' - u'), both at a point that is predicted
      (2510.07631)            with c
    TAG (2510.04533)          D_along + eta D_across, D's parts along and across the latents
    TCFG (2503.18137)         u' + g (c - u'),  u' = u along the first singular vector of (c, u)
    Interval (2404.07724)     u + g (c - u) inside an interval, c outside
    CFGReuse (2312.12487)     c + (g - 1) d, where d is c - u, or continued from earlier steps where
                              u is not computed

Each works per sample. APG speaks of estimates of the clean video, the others of predictions as the
model makes them. Here is what a user writes; cfg_formulas.py has the formulas, and rule_table.py a
row for each rule: its equation, its passes and what it is tested against.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..method import validate
from ..method.reuse import DEFAULT_TOLERANCE, Every, Reuse


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
        _check_apg(self)
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
class APGMix:
    """CFG at the beginning, and APG with a scale of its own afterwards, as in HunyuanImage 2.1.

    Args:
        apg_scale: w of the later steps, in u + w (d_across + eta d_along), in the place of g.
        start: the fraction of the run from which it is used. Before it D is CFG's, and c - u goes
            into the momentum alone.
        eta, momentum, norm_threshold: as for APG, with c and u as the model predicts them.

    Raises:
        ValueError: for a number out of range.
    """

    apg_scale: float = 10.0
    start: float = 0.12
    eta: float = 0.0
    momentum: float = -0.5
    norm_threshold: float = 10.0

    def __post_init__(self) -> None:
        validate.check_number("apg_scale", self.apg_scale, 0.0)
        validate.check_number("start", self.start, 0.0, 1.0, "it is a fraction of the run")
        _check_apg(self)


@dataclass(frozen=True)
class C2FG:
    """Control CFG: a scale that grows from g at pure noise to g e^rate at no noise.

    The scores with and without the prompt part from each other as the noise vanishes, at most
    exponentially.

    Args:
        rate: lambda, >= 0; 0 is CFG. The paper has 0.2 for text to image, ln 2 for classes.

    Raises:
        ValueError: for a number out of range.
    """

    rate: float = 0.2

    def __post_init__(self) -> None:
        validate.check_number("rate", self.rate, 0.0, note="0 is plain CFG")


@dataclass(frozen=True)
class FDG:
    """Frequency-decoupled guidance: a scale for each band of a Laplacian pyramid over H and W.

    Coarse structure takes guidance badly (colours saturate, videos grow alike), detail well.

    Args:
        gains: one for each band, from the finest to the coarsest, at least two: a band is pushed by
            w = 1 + gain (g - 1) instead of g. The scales (10, 5) of a paper, for a g of 5, are the
            gains (2.25, 1).

    Raises:
        ValueError: for less than two, or something else than numbers >= 0.
    """

    gains: tuple[float, ...] = (1.0, 0.5)

    def __post_init__(self) -> None:
        gains = tuple(self.gains) if isinstance(self.gains, (list, tuple)) else ()
        if len(gains) < 2 or not all(validate.is_number(gain) and gain >= 0 for gain in gains):
            raise ValueError(
                "gains must be two numbers >= 0 or more, from the finest band to the coarsest, but"
                f" got {self.gains!r}. Write (1.0, 0.5)."
            )
        object.__setattr__(self, "gains", tuple(map(float, gains)))


@dataclass(frozen=True)
class MAMBOG:
    """Magnitude-aware guidance: a shorter push where c - u is long beside u, as in the first steps.

    Args:
        alpha: how fast the push shrinks, >= 0; 0 is CFG.

    Raises:
        ValueError: for a number out of range.
    """

    alpha: float = 8.0

    def __post_init__(self) -> None:
        validate.check_number("alpha", self.alpha, 0.0, note="0 is plain CFG")


@dataclass(frozen=True)
class TAG:
    """Tangential amplifying guidance: more of what moves the latents along their sphere.

    It acts on D as a whole, pushes of terms included, and so also in runs without CFG. What it is
    does not depend on whether the model predicts noise, a velocity or data.

    Args:
        eta: the gain of the part of D across the latents, >= 0; 1 leaves D as it is. The paper has
            1.05 (Stable Diffusion 3) to 1.2.
        align: the gain of c's part along the tangential part of c - u, which is added to D (the
            paper's TAG for CFG); 0 is off.

    Raises:
        ValueError: for a number out of range, or if both are off.
    """

    eta: float = 1.05
    align: float = 0.0

    def __post_init__(self) -> None:
        validate.check_number("eta", self.eta, 0.0, note="1 leaves D as it is")
        validate.check_number("align", self.align, 0.0, note="0 is off")
        if self.eta == 1 and not self.align:
            raise ValueError(
                "TAG must change something, but got eta=1 and align=0. Write TAG(1.05), or"
                " TAG(1, align=1)."
            )


@dataclass(frozen=True)
class RectifiedCFG:
    """Rectified-CFG++: follow c, and correct by c - u at a point that c predicts. One pass more.

    For flow matching, whose samples move in straight lines: the prediction at x is c, and u and a
    second c are computed at x' = x + reach (s' - s) c, where the step goes from s to s'.

    Args:
        reach: how far the predicted point lies, as a part of the step, above 0 and up to 1: 0.5 in
            the paper, 1 in the authors' code.
        gamma: the correction is weighted by (1 - s)^gamma, >= 0; 0 in the authors' code. Its length
            is that of CFG, g - 1; the paper's lambda_max.

    Raises:
        ValueError: for a number out of range.
    """

    reach: float = 0.5
    gamma: float = 0.0

    def __post_init__(self) -> None:
        validate.check_number("reach", self.reach, 0.0, 1.0, "it is a part of the step")
        validate.check_number("gamma", self.gamma, 0.0, note="0 is off")
        if self.reach == 0:
            raise ValueError("reach must be above 0, for at 0 this is CFG, but got 0. Write 0.5.")


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


CFGRule = (
    APG | APGMix | C2FG | CFGReuse | CFGZero | FDG | Interval | MAMBOG | RectifiedCFG | TAG | TCFG
)


def _check_apg(rule: APG | APGMix) -> None:
    validate.check_number("eta", rule.eta, 0.0)
    validate.check_number("momentum", rule.momentum, -1.0, 1.0, "0 is off")
    validate.check_number("norm_threshold", rule.norm_threshold, 0.0, note="0 is off")
