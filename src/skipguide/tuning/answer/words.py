"""The answer in sentences with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipguide.tuning.answer.verdicts import CFG_ALONE, USE, Verdict
from skipguide.tuning.race.state import AT_THE_SAME_PRICE, BASELINE, Racer, RaceState
from skipguide.tuning.race.words import interval, prompts

if TYPE_CHECKING:
    from skipguide.tuning.answer.result import BestSTG, FloorCheck, Gain


def answer(
    verdict: Verdict, winner: Racer, chosen: Racer, baseline: Racer, gain: Gain,
    parts: Sequence[Gain], floors: Sequence[FloorCheck], others: Sequence[tuple[Racer, Gain]],
    best: BestSTG | None, own: Gain,
) -> list[str]:  # fmt: skip
    """Return the answer, the gain, floors, and how the others did, a sentence each.

    Args:
        gain, own: of the winner of the race, and of the chosen one.
    """
    broken = next((one for one in floors if not one.is_held), None)
    found = [
        _verdict(verdict, winner, chosen, baseline, gain, broken, own),
        _gain(winner, baseline, gain),
    ]
    found += [
        f"Its {part.metric} changes by {interval(part.difference.estimate)}." for part in parts
    ]
    found += [_floor(one) for one in floors]
    if winner.role.startswith(BASELINE):
        found.append(_best_stg(best, winner, gain))
        others = [(one, own) for one, own in others if best is None or one.name != best.name]
    found += [_other(winner, one, difference) for one, difference in others]
    return found


def _named(one: Racer) -> str:
    """Return what sentences call a setting, with its name in the run where that is another."""
    return one.name if one.title == one.name else f"{one.title} ({one.name})"


def _reference(one: Racer, baseline: Racer) -> str:
    """Return what a setting is compared with: another CFG alone needs the name of this one."""
    return baseline.name if one.role.startswith(BASELINE) else "CFG alone"


def _best_stg(best: BestSTG | None, winner: Racer, gain: Gain) -> str:
    """Say what STG gains where CFG alone, of whatever scale and steps, is the best of the race."""
    where = f"{prompts(gain.difference.estimate.count)} that chose nothing"
    if best is None or best.over_winner is None:
        return f"No setting with STG was measured on the {where}."
    over, ahead = (one.difference.estimate for one in (best.over_cfg, best.over_winner))
    return (
        f"The best STG measured there, {best.name}, gains {interval(over)} over CFG alone, and"
        f" {interval(ahead)} over {winner.title}."
    )


def _verdict(
    verdict: Verdict, winner: Racer, chosen: Racer, baseline: Racer, gain: Gain,
    broken: FloorCheck | None, own: Gain,
) -> str:  # fmt: skip
    sign, over = gain.sign, _reference(winner, baseline)
    it = "it" if chosen is baseline else chosen.title
    if broken is not None:
        why = f"{winner.title} falls below the floor of {broken.metric}"
        if verdict == USE:
            why = f"it has {_more(gain.metric)} than {over}, and {why}"
    elif sign <= 0 < own.sign and chosen is not baseline:
        more = f"it has {_more(gain.metric)} than {_reference(chosen, baseline)}"
        why = f"{more}, {interval(own.difference.estimate)}, which {winner.title} has not"
    elif sign < 0:
        why = f"{winner.title} is worse than {'it' if chosen is baseline else over}"
    elif gain.difference.estimate.low is None:
        count = prompts(gain.difference.estimate.count)
        why = (
            f"{count} that chose nothing cannot tell whether {winner.title} is better, and"
            f" {it} is the cheapest"
        )
    elif sign == 0:
        why = (
            f"the gain of {winner.title} over {over} is not distinguishable from 0, and"
            f" {it} is the cheapest of the tied"
        )
    elif chosen is winner:
        why = f"it has {_more(gain.metric)} than {_reference(chosen, baseline)}"
    else:
        more = f"it has {_more(gain.metric)} than {_reference(chosen, baseline)}"
        why = f"{more} and is the cheapest of the tied"
    cost = f"{chosen.passes:g} forward passes a clip"
    if verdict == CFG_ALONE:
        if chosen is baseline:
            return f"Use CFG alone ({cost}): {why}."
        cost = f"{cost}; {baseline.name} takes {baseline.passes:g}"
        return f"Use {chosen.title} ({chosen.name}, {cost}): {why}."
    if verdict == USE:
        return f"Use {chosen.name} ({cost}; CFG alone takes {baseline.passes:g}): {why}."
    return f"Nothing better than CFG alone was found; {chosen.name} ({cost}): {why}."


def _gain(winner: Racer, baseline: Racer, gain: Gain) -> str:
    found, over = gain.difference.estimate, _reference(winner, baseline)
    where = f"on {prompts(found.count)} that chose nothing"
    if found.low is None or found.high is None:
        return (
            f"{_named(winner)} has {gain.mean:.4g} {where} and {over} {gain.baseline:.4g}; the"
            f" difference, {found.value:+.3g}, has no interval: {found.reason}."
        )
    says = {1: "better", -1: "worse", 0: "not distinguishable"}[gain.sign]
    if gain.sign != found.sign:
        return (
            f"The gain of {_named(winner)} over {over} in {gain.metric} is {interval(found)}"
            f" {where}, but {_carried(gain)} It is not counted as a gain."
        )
    half = (found.high - found.low) / 2
    seen = "" if found.sign else f" So many prompts can show differences above {half:.2g}."
    return (
        f"The gain of {_named(winner)} over {over} in {gain.metric} is {interval(found)} {where}:"
        f" {says}.{seen}"
    )


def _more(metric: str) -> str:
    """Return "more sharpness", or "less flicker" where its weight is below 0."""
    alone = metric.removeprefix("- ")
    if alone == metric:
        return f"more {metric}"
    is_sum = " + " in alone or " - " in alone
    return f"a larger {metric}" if is_sum else f"less {alone}"


def _carried(gain: Gain) -> str:
    """Say why a gain whose interval leaves out 0 is none."""
    without = gain.without_best
    if without is not None and without.estimate.low is None:
        return "with one of them left out, so few have no interval, and it may be that one alone."
    return "one of these prompts carries it: without that one the interval holds 0."


def _floor(one: FloorCheck) -> str:
    found = one.above.estimate
    if found.low is None or found.high is None:
        says = f"the interval is not known: {found.reason}"
    elif one.is_broken:
        says = "it is broken"
    elif found.low >= 0:
        says = "it holds"
    elif one.is_held:
        says = "it holds on these prompts, but the interval reaches below it"
    else:
        says = "it is broken on these prompts, but the interval reaches above it"
    return f"Floor of {one.metric}: {one.floor:.4g}, and the winner has {one.mean:.4g}; {says}."


def _other(winner: Racer, other: Racer, gain: Gain) -> str:
    found = gain.difference.estimate
    said = {1: "is better than", -1: "is worse than", 0: "is not distinguishable from"}[found.sign]
    if found.low is None:
        said = "cannot be told apart, for there is no interval, from"
    priced = ", at the same price" if other.role == AT_THE_SAME_PRICE else ""
    return (
        f"{winner.title} {said} {_named(other)}{priced} ({other.passes:g} forward passes a clip):"
        f" {interval(found)}."
    )


def nobody(baseline: str, state: RaceState, label: str) -> tuple[str, ...]:
    """Say that nothing is left beside CFG alone."""
    return (
        f"Use CFG alone ({baseline}): nothing that raced against it in {label} is left.",
        *(one.reason for one in state.exits),
    )


def cfg_leads(baseline: str, label: str) -> tuple[str, ...]:
    """Say that CFG alone leads the race, so that nobody was left to be compared with it."""
    return (
        f"Use CFG alone ({baseline}): it leads the race in {label}, so that no gain over it was"
        " measured on prompts that chose nothing.",
    )


def nothing_kept_back(
    state: RaceState, left: Sequence[Racer], label: str, count: int, has_baseline: bool
) -> tuple[str, ...]:
    """Say that no answer was measured on the prompts that chose nothing, and why.

    Args:
        left: who was still in the race.
        count: how many prompts there are.
        has_baseline: whether CFG alone has values on them.
    """
    raced = f"{state.leader} leads the race in {label}, by the prompts that chose it"
    if not count:
        why = "the budget pays for none of the prompts that were kept back"
    elif has_baseline:
        names = ", ".join(one.name for one in left)
        why = f"of those left in the race ({names}) none has a value on {_kept(count)}"
    else:
        why = f"{label} of CFG alone has no value on {_kept(count)}"
    return (
        f"The answer was not measured: {why}, so nothing is recommended.",
        f"{raced if state.leader else 'Nothing raced'}. Give a larger budget or more prompts.",
    )


def _kept(count: int) -> str:
    return f"the {prompts(count)} that {'was' if count == 1 else 'were'} kept back"


def not_measured(names: Sequence[str], count: int) -> tuple[str, ...]:
    """Say that nothing was measured, and what there is instead."""
    return (
        "Nothing was measured, for no metric was given, so nothing is recommended.",
        f"{', '.join(names)} were sampled on {prompts(count)} with the same noise: look at them"
        " side by side, or give a --metric, --features with --reference, or --votes.",
    )
