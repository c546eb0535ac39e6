"""The sentences of a race, with numbers."""

from __future__ import annotations

from skipguide.files.text import format_count
from skipguide.stats.estimate import Estimate


def prompts(count: int) -> str:
    """Return "1 prompt" or "8 prompts"."""
    return format_count(count, "prompt")


def interval(found: Estimate) -> str:
    """Return "+0.031 (0.01 to 0.05)", or the value alone where there is no interval."""
    if found.low is None or found.high is None:
        return f"{found.value:+.3g}"
    return f"{found.value:+.3g} ({found.low:.3g} to {found.high:.3g})"


def behind(name: str, leader: str, label: str, found: Estimate, count: int) -> str:
    """Say that a candidate is worse than the leader."""
    return (
        f"{name} went after {prompts(count)}: its {label} differs from that of {leader} by"
        f" {interval(found)}, an interval that holds at any time and lies below 0."
    )


def below_floor(name: str, metric: str, share: float, found: Estimate, count: int) -> str:
    """Say that a candidate is below a floor."""
    return (
        f"{name} went after {prompts(count)}: its {metric} is {interval(found)} from its floor,"
        f" {share:.4g} of that of CFG alone, an interval that holds at any time and lies below 0."
    )


def set_aside(name: str, leader: str, found: Estimate | None, count: int, places: int) -> str:
    """Say that a candidate gets no more of the budget."""
    ahead = "" if found is None else f" Its difference to {leader} is {interval(found)}."
    return (
        f"{name} was set aside after {prompts(count)}, so that what is left of the budget is for"
        f" the best {places}; this does not show that it is worse.{ahead}"
    )


def no_values(name: str, count: int) -> str:
    """Say that no clip of a candidate could be measured."""
    return f"{name} went: none of its clips on {prompts(count)} has a value."


def nobody_left(baseline: str) -> str:
    """Say that CFG alone is left."""
    return f"All candidates went; {baseline}, CFG alone, is left."


def one_left(name: str) -> str:
    """Say that the race is decided."""
    return f"{name} is the only candidate left beside CFG alone."


def prompts_over(count: int) -> str:
    """Say that all prompts have raced."""
    return f"All {prompts(count)} of the race have been used."


def hours_over(count: int) -> str:
    """Say that the time of the race is over."""
    return f"The race ended after {prompts(count)}, because the hours for it are used up."


def budget_over(limit: float, cost: float) -> str:
    """Say that the budget is spent."""
    return (
        f"The budget of {limit:,.0f} forward passes is spent: another prompt for all who are in"
        f" takes {cost:,.0f}."
    )
