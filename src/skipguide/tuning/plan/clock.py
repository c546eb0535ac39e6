"""The clock of a tuning in hours: when a stage has to be over, and where the clock has ended one.

That is kept in the run, so that a tuning that goes on ends its races where it ended them before."""

from __future__ import annotations

import json
from pathlib import Path

from skipguide.method.protocols import PlainData
from skipguide.tuning.names import FOLDER
from skipguide.tuning.plan.budget import Plan, Timing

_STOPS = f"{FOLDER}/stops.json"

ANSWER = "answer"  # in the place of a race: on how many prompts it was measured


def stage_seconds(plan: Plan, timing: Timing, stage: str) -> float:
    """Return the seconds after which a stage has to be over, from the beginning of the tuning."""
    until = plan.scan + plan.race
    until += {"scale": 0.5, "window": 1.0}.get(stage, 0.0) * plan.search
    return timing.seconds(until)


def read_stops(folder: Path, hours: float | None) -> dict[str, int]:
    """Return after how many rounds the clock has ended races of a tuning of so many hours.

    With other hours nothing has ended yet.
    """
    path = folder / _STOPS
    if hours is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return _counts(found["rounds"]) if found["hours"] == hours else {}
    except (ValueError, KeyError, TypeError):  # a race that goes on a little longer is no harm
        return {}


def _counts(found: PlainData) -> dict[str, int]:
    """Return the entries that are numbers of rounds."""
    known = {name: count for name, count in dict(found).items() if type(count) is int}
    return {name: count for name, count in known.items() if count >= 0}


def keep_stops(folder: Path, hours: float, rounds: dict[str, int]) -> None:
    """Keep after how many rounds the clock has ended races, so that they end there again.

    Args:
        rounds: by stage; under `ANSWER` the prompts on which the answer is measured.
    """
    from skipguide.runs import storage

    content = json.dumps({"hours": hours, "rounds": rounds}).encode()
    storage.write_file(folder, _STOPS, content)
