"""The one-dimensional search of the winner's scale, and then of its window.

Each is a small race on the prompts of the race, whose clips of CFG alone and of the winner are
there. Scales stand on a geometric grid around the winner's: half and twice of it, and where an end
of the grid leads, the next beyond it once. A finer grid would ask for differences that no budget of
a tuning resolves (docs/decisions/086)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from skipguide.tuning.race.candidates import PUSH, Candidate, Model, Scanned, with_cell
from skipguide.tuning.race.state import RaceState

Stage = Literal["scale", "window"]
STAGES: tuple[Stage, ...] = ("scale", "window")
Window = tuple[float, float]

FACTOR = 2.0
# A run without its end, its second half, and its beginning: where STG is off the step costs less.
WINDOWS: tuple[Window, ...] = ((0.0, 0.75), (0.0, 0.5), (0.1, 1.0), (0.25, 1.0))


def around(stage: Stage, best: Candidate, entry: Scanned, model: Model) -> list[Candidate]:
    """Return what to try around the best setting.

    Args:
        best: a candidate that skips the cell of `entry`.
        entry: the cell, with its cost.
        model: the facts on which candidates depend.
    """
    if stage == "scale":
        return _with_scales(best, entry, model, (best.scale / FACTOR, best.scale * FACTOR))
    known = {_steps_on(model, (best.start, best.stop))}
    found = []
    for window in WINDOWS:
        steps = _steps_on(model, window)
        if steps and steps not in known:  # of few steps, windows are the same or empty
            known.add(steps)
            found.append(_with(best, entry, model, best.scale, window))
    return found


def beyond(
    tried: Sequence[Candidate], state: RaceState, entry: Scanned, model: Model
) -> list[Candidate]:
    """Return the scale beyond the end of the grid that leads; nothing where no end does.

    Args:
        tried: all candidates of the search of the scale that skip the cell, the first one too.
        state: of the race among them.
    """
    leader = next((one for one in tried if one.name == state.leader), None)
    scales = sorted(one.scale for one in tried)
    if leader is None or len(scales) < 2 or leader.scale not in (scales[0], scales[-1]):
        return []
    step = FACTOR if leader.scale == scales[-1] else 1 / FACTOR
    return _with_scales(leader, entry, model, (leader.scale * step,))


def not_paid(stage: Stage, name: str) -> str:
    """Say that the budget leaves nothing for a search."""
    return (
        f"The {stage} of {name} was not searched: what is left of the budget does not pay for a"
        " round of it beside the answer."
    )


def too_late(stage: Stage, name: str) -> str:
    """Say that the hours leave no time for a search."""
    return f"The {stage} of {name} was not searched: the hours for it are used up."


BY_VOTES = "Scale and window were not searched: a race by votes has neither."


def not_around(stage: Stage, leader: Candidate | None) -> str:
    """Say why there is no search: only a cell of the scan has a scale and a window of its own."""
    said = f"The {stage} of STG was not searched:"
    if leader is None:
        return f"{said} the race has no leader."
    if leader.role == "preset":
        return f"{said} the published preset leads the race, and it is taken as it was published."
    return f"{said} {leader.title} leads the race, and has none."


def nothing_else(stage: Stage, name: str, steps: int) -> str:
    """Say that there is nothing else to try: of few steps all windows are the same."""
    return f"The {stage} of {name} was not searched: {steps} steps have no other one to try."


def beside(everyone: Sequence[Candidate], cells: int) -> str:
    """Say which cells of the scan were tried, and with what.

    Args:
        everyone: all that raced, of searches too.
        cells: how many the scan has ranked.
    """
    raced = {one.cell for one in everyone if one.role == "scan"}
    searched = sorted({one.cell.name for one in everyone if one.role == "search" and one.cell})
    tried = f"Of the {cells} cells that the scan ranked, {len(raced)} raced, at scale {PUSH:g} over"
    tried += " the whole run."
    if searched:
        tried += f" Another scale or window was tried of {' and '.join(searched)} alone."
    left = cells - len(raced)
    if left:
        tried += f" The other {left} were not sampled: they are not in the shortlist."
    return tried


def _with_scales(
    best: Candidate, entry: Scanned, model: Model, scales: Iterable[float]
) -> list[Candidate]:
    return [_with(best, entry, model, scale, (best.start, best.stop)) for scale in scales]


def _with(best: Candidate, entry: Scanned, model: Model, scale: float, window: Window) -> Candidate:
    return with_cell(model, entry, best.guidance_scale, scale, window, role="search")


def _steps_on(model: Model, window: Window) -> tuple[int, ...]:
    """Return the steps of a run that lie in a window."""
    start, stop = window
    return tuple(i for i in range(model.steps) if start <= i / model.steps < stop)
