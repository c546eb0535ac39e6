"""The answer in sentences with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipguide.tuning.answer.verdicts import CFG_ALONE, USE, Verdict
from skipguide.tuning.race.state import AT_THE_SAME_PRICE, Racer, RaceState
from skipguide.tuning.race.words import interval, prompts

if TYPE_CHECKING:
    from skipguide.tuning.answer.answer import FloorCheck, Gain


def answer(
    verdict: Verdict, winner: Racer, chosen: Racer, baseline: Racer, gain: Gain,
    parts: Sequence[Gain], floors: Sequence[FloorCheck], others: Sequence[tuple[Racer, Gain]],
) -> list[str]:  # fmt: skip
    """Return the answer, the gain, floors, and how the others did, a sentence each."""
    broken = next((one for one in floors if one.is_broken), None)
    found = [_verdict(verdict, winner, chosen, baseline, gain, broken), _gain(winner, gain)]
    found += [
        f"Its {part.metric} changes by {interval(part.difference.estimate)}." for part in parts
    ]
    found += [_floor(one) for one in floors]
    found += [_other(winner, one, difference) for one, difference in others]
    return found


def _verdict(
    verdict: Verdict, winner: Racer, chosen: Racer, baseline: Racer, gain: Gain,
    broken: FloorCheck | None,
) -> str:  # fmt: skip
    sign = gain.sign
    if broken is not None:
        why = f"{winner.name} falls below the floor of {broken.metric}"
    elif sign < 0:
        why = f"{winner.name} is worse than it"
    elif gain.difference.estimate.low is None:
        count = prompts(gain.difference.estimate.count)
        why = (
            f"{count} that chose nothing cannot tell whether {winner.name} is better, and"
            f" {'it' if chosen is baseline else chosen.name} is the cheapest"
        )
    elif sign == 0:
        why = (
            f"the gain of {winner.name} over CFG alone is not distinguishable from 0, and"
            f" {'it' if chosen is baseline else chosen.name} is the cheapest of the tied"
        )
    elif chosen is winner:
        why = f"it has more {gain.metric} than CFG alone"
    else:
        why = f"it has more {gain.metric} than CFG alone and is the cheapest of the tied"
    cost = f"{chosen.passes:g} forward passes a video"
    if verdict == CFG_ALONE:
        at = "" if chosen is baseline else f" as {chosen.name}"
        return f"Use CFG alone{at} ({cost}): {why}."
    if verdict == USE:
        return f"Use {chosen.name} ({cost}; CFG alone takes {baseline.passes:g}): {why}."
    return f"Nothing better than CFG alone was found; {chosen.name} ({cost}): {why}."


def _gain(winner: Racer, gain: Gain) -> str:
    found = gain.difference.estimate
    where = f"on {prompts(found.count)} that chose nothing"
    if found.low is None or found.high is None:
        return (
            f"{winner.name} has {gain.mean:.4g} {where} and CFG alone {gain.baseline:.4g}; the"
            f" difference, {found.value:+.3g}, has no interval: {found.reason}."
        )
    says = {1: "better", -1: "worse", 0: "not distinguishable"}[gain.sign]
    if gain.sign != found.sign:
        return (
            f"The gain of {winner.name} over CFG alone in {gain.metric} is {interval(found)}"
            f" {where}, but one of these prompts carries it: without that one the interval holds 0."
            " It is not counted as a gain."
        )
    half = (found.high - found.low) / 2
    seen = "" if found.sign else f" So many prompts can show differences above {half:.2g}."
    return (
        f"The gain of {winner.name} over CFG alone in {gain.metric} is {interval(found)} {where}:"
        f" {says}.{seen}"
    )


def _floor(one: FloorCheck) -> str:
    found = one.above.estimate
    if found.low is None or found.high is None:
        says = f"the interval is not known: {found.reason}"
    elif one.is_broken:
        says = "it is broken"
    elif found.low >= 0:
        says = "it holds"
    else:
        says = "it is not shown to be broken"
    return f"Floor of {one.metric}: {one.floor:.4g}, and the winner has {one.mean:.4g}; {says}."


def _other(winner: Racer, other: Racer, gain: Gain) -> str:
    found = gain.difference.estimate
    said = {1: "is better than", -1: "is worse than", 0: "is not distinguishable from"}[found.sign]
    what = "CFG alone at the same price" if other.role == AT_THE_SAME_PRICE else other.name
    named = f"{what}, {other.name}" if what != other.name else what
    return (
        f"{winner.name} {said} {named} ({other.passes:g} forward passes a video):"
        f" {interval(found)}."
    )


def nobody(baseline: str, state: RaceState, label: str) -> tuple[str, ...]:
    """Say that nothing is left beside CFG alone."""
    return (
        f"Use CFG alone ({baseline}): nothing that raced against it in {label} is left.",
        *(one.reason for one in state.exits),
    )


def nothing_kept_back(state: RaceState, label: str) -> tuple[str, ...]:
    """Say that no answer was measured, because there is no prompt that chose nothing."""
    raced = f"{state.leader} leads the race in {label}, by the prompts that chose it"
    return (
        f"The answer was not measured: {label} has no value on the prompts that were kept back, so"
        " nothing is recommended.",
        f"{raced if state.leader else 'Nothing raced'}. Give a larger budget or more prompts.",
    )


def not_measured(names: Sequence[str], count: int) -> tuple[str, ...]:
    """Say that nothing was measured, and what there is instead."""
    return (
        "Nothing was measured, for no metric was given, so nothing is recommended.",
        f"{', '.join(names)} were sampled on {prompts(count)} with the same noise: look at them"
        " side by side, or give a --metric, --features with --reference, or --votes.",
    )
