"""The verdicts of an answer: those of a preset's file, and one for where nothing was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from skipguide.families.preset_schema import CFG_ALONE, TIED, USE

__all__ = ["CFG_ALONE", "NOT_MEASURED", "TIED", "TITLES", "USE", "Verdict"]

NOT_MEASURED = "not measured"
Verdict: TypeAlias = str  # one of TITLES

TITLES: Mapping[str, str] = {
    USE: "Use it",
    TIED: "Not distinguishable",
    CFG_ALONE: "Use CFG alone",
    NOT_MEASURED: "Not measured",
}
