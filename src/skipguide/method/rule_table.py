"""One row for each rule of CFG: its name, formula, source, passes, and what it is tested against.

The names are those of the command line and of YAML. `docs/rules.md` has the rows as a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from skipguide.method import cfg_formulas, cfg_rules
from skipguide.method.cfg_formulas import RuleContext
from skipguide.method.formula import CFG

Tensor = torch.Tensor
Formula = Callable[[Tensor, Tensor, "float | Tensor", Any, RuleContext], Tensor]
Finish = Callable[[Tensor], Tensor]  # D with its pushes -> D


@dataclass(frozen=True)
class RuleRow:
    """One rule.

    Args:
        name: on the command line and in YAML.
        kind: its class.
        passes: forward passes of a step with CFG, without weak ones.
        source: the paper.
        equation: what D is, in the words of the table.
        oracle: what its formula is tested against.
        use: when to use it.
        formula: (c, u, g, rule, context) -> D; None leaves plain CFG.
        needs: what of RuleContext it has to know: "latents" or "time".
    """

    name: str
    kind: type[cfg_rules.CFGRule]
    passes: str
    source: str
    equation: str
    oracle: str
    use: str
    formula: Formula | None = None
    needs: frozenset[str] = frozenset()


ROWS = (
    RuleRow(
        "apg", cfg_rules.APG, "2", "2410.02416",
        "c + (g - 1) (d_across + eta d_along)", "diffusers' AdaptiveProjectedGuidance",
        "colours burn out at high CFG",
        lambda c, u, g, rule, known: cfg_formulas.apg(
            c, u, g, rule, known.momentum, known.data if rule.space == "data" else None
        ),
    ),
    RuleRow(
        "apg-mix", cfg_rules.APGMix, "2", "HunyuanImage 2.1's code",
        "CFG, later u + w (d_across + eta d_along)", "diffusers' AdaptiveProjectedMixGuidance",
        "as APG, for a model that was published with it",
        lambda c, u, g, rule, known: cfg_formulas.apg_mix(
            c, u, g, rule, known.momentum, known.progress
        ),
    ),
    RuleRow(
        "c2fg", cfg_rules.C2FG, "2", "2603.08155, Eq. 14",
        "u + g exp(rate (1 - t / t_max)) (c - u)", "closed form",
        "a low CFG that shall be stronger on details",
        lambda c, u, g, rule, known: cfg_formulas.control_cfg(c, u, g, rule.rate, known.time),
        frozenset({"time"}),
    ),
    RuleRow(
        "cfg-zero", cfg_rules.CFGZero, "2", "2503.18886",
        "a u + g (c - a u); 0 in the first steps", "diffusers' ClassifierFreeZeroStarGuidance",
        "early steps of a flow go astray (Wan)",
        lambda c, u, g, rule, known: cfg_formulas.cfg_zero_star(c, u, g),
    ),
    RuleRow(
        "fdg", cfg_rules.FDG, "2", "2506.19713, Eq. 4-6",
        "u + sum_k w_k (c - u)_k, bands of a pyramid",
        "diffusers' FrequencyDecoupledGuidance with kornia, and the pyramid as matrices",
        "saturated colours or videos that are all alike, with detail that needs CFG",
        lambda c, u, g, rule, known: cfg_formulas.frequency_decoupled_cfg(
            c, u, g, rule.gains, known.layout
        ),
    ),
    RuleRow(
        "interval", cfg_rules.Interval, "2 inside, 1 outside", "2404.07724",
        "u + g (c - u) inside, c outside", "separate passes by hand",
        "stiff, over-guided results; less time",
    ),
    RuleRow(
        "mambo-g", cfg_rules.MAMBOG, "2", "2508.03442",
        "u + (1 + (g - 1) exp(-alpha r)) (c - u), r = |c - u| / |u|",
        "diffusers' MagnitudeAwareGuidance",
        "high CFG in few steps, whose first ones overshoot",
        lambda c, u, g, rule, known: cfg_formulas.magnitude_aware_cfg(c, u, g, rule.alpha),
    ),
    RuleRow(
        "rectified", cfg_rules.RectifiedCFG, "3", "2510.07631, predictor and corrector",
        "c + (g - 1) (1 - s)^gamma (c' - u'), both at the predicted point",
        "the passes by hand in pipelines",
        "artifacts of CFG in flow models with Euler steps, where time matters less",
        lambda c, u, g, rule, known: cfg_formulas.rectified_cfg(
            c, u, g, _known(known.corrected), known.time, rule.gamma
        ),
        frozenset({"time"}),
    ),
    RuleRow(
        "reuse", cfg_rules.CFGReuse, "1 to 2", "2312.12487",
        "c + (g - 1) d, d = c - u or continued", "separate passes by hand",
        "time is short",
    ),
    RuleRow(
        "tag", cfg_rules.TAG, "2, 1 without CFG", "2510.04533, Eq. 7 and 24-26",
        "P D + eta (D - P D), P onto the latents; D with align g_align",
        "steps of diffusers' schedulers, divided as in its Algorithms 2 and 3",
        "objects that melt into each other, also without CFG",
        lambda c, u, g, rule, known: cfg_formulas.aligned_cfg(
            c, u, g, _known(known.latents), rule.align
        ),
        frozenset({"latents"}),
    ),
    RuleRow(
        "tcfg", cfg_rules.TCFG, "2", "2503.18137",
        "u' + g (c - u'), u' along the first singular vector of (c, u)",
        "diffusers' TangentialClassifierFreeGuidance", "u pulls into strange directions",
        lambda c, u, g, rule, known: cfg_formulas.tangential_cfg(c, u, g),
    ),
)  # fmt: skip
_BY_KIND = {row.kind: row for row in ROWS}


def row_of(rule: cfg_rules.CFGRule) -> RuleRow:
    """Return the row of a rule."""
    return _BY_KIND[type(rule)]


def cfg_function(rule: cfg_rules.CFGRule, context: RuleContext) -> CFG | None:
    """Return the rule as a function (c, u, g) -> D for `formula.combine`; None is plain CFG."""
    known = row_of(rule).formula
    if known is None or (isinstance(rule, cfg_rules.TAG) and not rule.align):
        return None
    return lambda c, u, g: known(c, u, g, rule, context)


def finish_function(rule: cfg_rules.CFGRule, context: RuleContext) -> Finish | None:
    """Return what a rule does to D after the pushes were added to it, or None."""
    if not isinstance(rule, cfg_rules.TAG) or rule.eta == 1:
        return None
    latents, eta = _known(context.latents), rule.eta
    return lambda D: cfg_formulas.amplify_tangential(D, latents, eta)


def _known(value: Tensor | None) -> Tensor:
    assert value is not None  # the run has it, for the row says that it is needed
    return value
