"""The rules that `skipguide paper rules` compares, as data."""

from __future__ import annotations

from typing import Any

from skipguide import (
    APG,
    C2FG,
    FDG,
    MAMBOG,
    NAG,
    TAG,
    TCFG,
    APGMix,
    CFGReuse,
    CFGZero,
    Interval,
    RectifiedCFG,
    Restart,
)
from skipguide.paper.reuse.rows import PLAIN, Row

MODEL = "mochi"
SIGMA = (0.5, 0.9)  # of the restarts, on lab-mochi, half of whose steps lie above 0.97
MASK = 0.25


def _rule(name: str, rule: Any) -> Row:
    return Row(name, None, dict(cfg=rule), is_main=True)


def _restart(name: str, **more: Any) -> Row:
    return Row(name, None, dict(restart=Restart(sigma=SIGMA, **more)), is_main=True)


RULES = (
    _rule("FDG", FDG()),
    _rule("MAMBO-G", MAMBOG()),
    _rule("TAG", TAG()),
    _rule("C2FG", C2FG()),
    _rule("Rectified-CFG++", RectifiedCFG()),
    Row("CFG, 1.5 times the steps", None, steps=1.5, is_main=True),
    _rule("TAG for CFG", TAG(1.0, 1.0)),
    _rule("FDG, detail more", FDG((1.5, 1.0))),
    _rule("APG, mix, w = 4.5", APGMix(4.5)),
    _rule("APG", APG()),
    _rule("CFG-Zero*", CFGZero()),
    _rule("TCFG", TCFG()),
    _rule("interval", Interval()),
    _rule("reuse", CFGReuse(0.75)),
)
RESTARTS = (
    _restart("restart"),
    _restart("restart, mask", mask=MASK),
    _restart("restart, twice", repeats=2),
    _restart("restart, twice, mask", repeats=2, mask=MASK),
)
# The negative prompt is the empty text, from which NAG leads away as CFG does.
NAG_ROWS = (
    Row("NAG", None, is_main=True, nag=NAG()),
    Row("STG + NAG", is_main=True, nag=NAG()),
)
# The newest ones are made first.
ROWS = (
    Row(PLAIN, None, is_main=True),
    Row("STG", is_main=True),
    *RULES[:6],
    *RESTARTS,
    *RULES[6:],
    *NAG_ROWS,
)
# What stands in the first row is what the others are compared with, and in the second how far they
# move.
WITHOUT_CFG = (
    Row("no CFG", None, is_main=True, cfg=False),
    Row("no CFG, STG", is_main=True, cfg=False),
    Row("no CFG, NAG", None, is_main=True, cfg=False, nag=NAG()),
    Row("no CFG, STG + NAG", is_main=True, cfg=False, nag=NAG()),
)
