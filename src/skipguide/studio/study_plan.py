"""A study before it starts: what it asks, whether the run has as much, and what it can see."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.runs.study import RULE, Kind, Study
from skipguide.stats import power
from skipguide.studio import attention, blind_test

MOST_CONSENT = 20_000  # letters of a text of consent
MOST_TASKS, MOST_CHECKS = 1000, 50
_TASKS_PER_CHECK, _FEWEST_CHECKS = 10, 2


def plan_study(
    run: Run,
    kind: Kind,
    settings: Sequence[str],
    tasks: int | None,
    checks: int | None,
    consent: str | None,
    most_raters: int,
) -> Study:
    """Return the study of a run that was asked for.

    One that asks the same as that which goes on has its number and its checks: its raters keep
    their tasks, also where the run has more videos by now or the text of consent is another one.

    Args:
        settings: names of those that are compared; none for all.
        tasks: of each rater; None for all there are.
        checks: attention checks of each rater; None for one per ten tasks, at least two.

    Raises:
        ValueError: if the run has not as many tasks, no such settings, or a number is out of range.
    """
    chosen = _find_settings(run, settings)
    every = blind_test.find_tasks(run.clips("done"), kind, chosen, "")
    if not every:
        noun = "picture" if any(clip.is_picture for clip in run.clips("done")) else "video"
        needs = f"two finished {noun}s of one prompt and seed" if kind == "pair" else f"a {noun}"
        raise ValueError(f"a study needs {needs} of its settings, but {run.folder} has none.")
    tasks = min(len(every), MOST_TASKS) if tasks is None else tasks
    if not 1 <= tasks <= min(len(every), MOST_TASKS):
        raise ValueError(
            f"--tasks must be from 1 to {min(len(every), MOST_TASKS)}, which is what the run has"
            f" for these settings, but got {tasks}. Lower it, or sweep more prompts or seeds."
        )
    if checks is None:
        checks = max(_FEWEST_CHECKS, tasks // _TASKS_PER_CHECK)
    if not 0 <= checks <= MOST_CHECKS:
        raise ValueError(f"--checks must be from 0 to {MOST_CHECKS}, but got {checks}. Correct it.")
    clips = [clip for clip in run.clips("done") if clip.setting in chosen]
    made = attention.choose_checks(clips, kind, checks)
    digest = None if consent is None else hashlib.sha256(consent.encode()).hexdigest()
    study = Study(kind, tuple(chosen), tasks, made, digest, most_raters)
    before = run.study.current()
    if before is not None and _asks_same(study, before):
        return replace(study, id=before.id, checks=before.checks)
    return study


def _asks_same(one: Study, other: Study) -> bool:
    def asked(study: Study) -> object:
        return study.kind, study.settings, study.tasks, len(study.checks)

    return asked(one) == asked(other)


def _find_settings(run: Run, names: Sequence[str]) -> list[int]:
    known = run.settings()
    if not names:
        return [setting.id for setting in known]
    missing = [name for name in names if name not in {setting.name for setting in known}]
    if missing:
        raise ValueError(
            f"--setting must be one of {', '.join(repr(setting.name) for setting in known)}, but"
            f" got {missing[0]!r}. Choose one of these."
        )
    return [setting.id for setting in known if setting.name in names]


def read_consent(path: Path) -> str:
    """Return the text of consent in a .txt or .md file.

    Raises:
        ValueError: if it is not such a file, empty, too long, or not UTF-8.
    """
    needs = "--consent must be a text file named .md or .txt"
    if path.suffix.lower() not in (".md", ".txt"):
        raise ValueError(f"{needs}, but got {str(path)!r}. Rename it.")
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{needs} in UTF-8, but {path} cannot be read: {error}.") from None
    if not 0 < len(text) <= MOST_CONSENT:
        raise ValueError(
            f"{needs} with 1 to {MOST_CONSENT} letters, but {path} has {len(text)}. Change it."
        )
    return text


def describe(run: Run) -> PlainData | None:
    """Return the study that goes on as the studio shows it; None if there is none."""
    study = run.study.current()
    if study is None:
        return None
    names = {setting.id: setting.name for setting in run.settings()}
    return {
        "number": study.id,
        "kind": study.kind,
        "settings": [names[setting] for setting in study.settings],
        "tasks": study.tasks,
        "checks": len(study.checks),
        "consent": study.consent,
        "most_raters": study.most_raters,
        "begun_by": len(run.study.raters(study.id)),
        "rule": RULE,
    }


def sizes(folder: Path) -> dict[str, int]:
    """Return of how many prompts and settings the study of a run is, or would be.

    Raises:
        ValueError: if there is no run, or nothing in it can be compared.
    """
    with Run.open(folder) as run:
        study = run.study.current()
        if study is None or study.kind != "pair":
            study = plan_study(run, "pair", [], None, 0, None, 1)
        every = blind_test.find_tasks(run.clips("done"), "pair", study.settings, "")
        prompts = {task.first.prompt for task in every}
        settings = {clip.setting for task in every for clip in task.clips_in_order}
    return {"prompts": len(prompts), "settings": max(len(settings), 2)}


def estimate_power(design: power.Design, wanted: float = 0.8) -> PlainData:
    """Return how often a design sees its win rate, and how many raters see it often enough, in
    numbers and sentences."""
    found, needed = power.power(design), power.raters_needed(design, wanted)
    pairs = design.settings * (design.settings - 1) // 2
    of = f", {pairs} pairs of settings" if pairs > 1 else ""
    return {
        **asdict(design),
        "power": found,
        "wanted": wanted,
        "raters_needed": needed,
        "sentences": [
            power.describe(design, found),
            power.describe_needed(needed, wanted, design.prompts),
            f"Taken from {design.prompts} prompts{of}, {design.ties:.0%} of ties, and a correlation"
            f" of {design.likeness:g} of the votes on one prompt.",
        ],
    }
