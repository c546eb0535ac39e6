"""The report of a tuning: one HTML file that needs nothing else, `report.html` in the run.

It is made from the files of the run alone, and can be made again at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import skipguide
from skipguide.files.text import displayable, format_duration
from skipguide.method.protocols import PlainData
from skipguide.runs import Clip, Run, storage
from skipguide.tuning.answer import verdicts
from skipguide.tuning.names import FOLDER, PRESET, REPORT
from skipguide.tuning.report import map as report_map
from skipguide.tuning.report import race as report_race
from skipguide.tuning.report import shown
from skipguide.tuning.report import strips as report_strips
from skipguide.tuning.report.html import Child, Markup, el, join, number, sentence

_SET_ASIDE = " was set aside after "  # of the reasons in a run that does not have their kinds


def write_report(run_folder: Path) -> Path:
    """Write the report of a tuning into its run, and return its path; all of it or nothing.

    What is not there yet is left out, and the report says so.

    Raises:
        ValueError: if the folder has no run, or `skipguide tune` has written nothing into it.
        OSError: if it cannot be written.
    """
    folder = Path(run_folder)
    with Run.open(folder) as run:
        found = shown.read(run)
        if found is None:
            raise ValueError(
                "a report needs a run into which `skipguide tune` has written, but"
                f" {folder} has no {FOLDER}/. Name the folder of a tuning."
            )
        page = _page(run, found)
    storage.write_file(folder, REPORT, page.encode("utf-8", "backslashreplace"))
    return folder / REPORT


def _page(run: Run, found: PlainData) -> str:
    name = displayable(run.folder.resolve().name)
    sections = [(title, content) for title, content in _sections(run, found) if content]
    parts = [
        el("section", el("h2", title, id=_anchor(title)), content) for title, content in sections
    ]
    links = el("nav", [el("a", title, href=f"#{_anchor(title)}") for title, _ in sections])
    style = (resources.files(__package__ or "") / "report.css").read_text(encoding="utf-8")
    body = join([el("h1", f"skipguide tune: {name}"), _answer(run, found), links, parts])
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    )
    title = el("title", f"skipguide tune: {name}")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}{title}<style>{style}</style></head>\n'
        f"<body>{body}</body>\n</html>\n"
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _sections(run: Run, found: PlainData) -> Iterator[tuple[str, Child]]:
    race, answer = found["race"] or {}, found["answer"] or {}
    yield "Side by side", report_strips.strips(run, found)
    yield "Quality against cost", report_race.quality_and_cost(answer) if answer else None
    yield "The race", [_about_race(race), report_race.race_table(race)] if race else None
    yield "Map of the layers", report_map.layer_map(found["map"]) if found["map"] else None
    yield "How it was measured", [el("p", text) for text in _measured(found)]
    yield "Provenance", _provenance(run, found)


# --- the answer -----------------------------------------------------------------------------------


def _answer(run: Run, found: PlainData) -> Markup:
    answer = found["answer"]
    problems = [el("p", text) for text in found["problems"]]
    if not answer:
        waiting = (found["race"] or {}).get("waiting")
        goes_on = "The same command, started again, goes on from where it is."
        said = el("p", sentence(waiting or f"There is no answer yet. {goes_on}"), class_="first")
        return el("section", said, problems, class_="answer")
    first, *others = answer.get("sentences") or ["There is no answer."]
    verdict = answer.get("verdict", "")
    return el(
        "section",
        el("span", verdicts.TITLES.get(verdict, verdict), class_="verdict"),
        el("p", sentence(first), class_="first"),
        [el("p", sentence(text)) for text in others],
        _line(run, answer),
        problems,
        class_="answer",
    )


def _line(run: Run, answer: PlainData) -> list[Child]:
    """Return the line to type, and the preset that it names."""
    if not answer.get("command"):
        return []
    preset = run.folder / (answer.get("preset") or PRESET)
    text = preset.read_text(encoding="utf-8", errors="replace") if preset.is_file() else ""
    return [
        el("code", answer["command"], class_="line"),
        el("details", el("summary", preset.name), el("pre", text)) if text else None,
    ]


# --- how it was measured --------------------------------------------------------------------------


def _about_race(race: PlainData) -> Markup:
    metric, rounds = race.get("metric") or {}, race.get("rounds") or 0
    if metric.get("kind") == "none":
        return el("p", "Nothing was measured: no metric was given. Look at the videos.")
    after = f" after {rounds} round{'s' * (rounds != 1)}" if rounds else ""
    what = "win rate in blind pairs" if metric.get("kind") == "votes" else metric.get("name")
    return el(
        "p",
        f"The difference of {what or 'the objective'} to CFG alone{after}, on the same prompts and"
        " noise; to the right is better. Settings that won here look better here than they are:"
        " the answer is measured on other prompts.",
    )


def _measured(found: PlainData) -> Iterator[str]:
    race = found["race"] or {}
    metric, prompts = race.get("metric") or {}, race.get("prompts") or {}
    if metric.get("what"):
        yield f"Objective: {metric['what'].rstrip('.')}."
    chosen, kept = len(prompts.get("race") or []), len(prompts.get("held_back") or [])
    if chosen or kept:
        yield (
            f"{chosen} prompt{'s' * (chosen != 1)} could choose, and {kept} chose nothing: the"
            " answer comes from those alone, so that it is not better because it was chosen."
        )
    if metric.get("kind") == "votes":
        yield (
            "Intervals of the race are those of the posterior of Bradley and Terry's model with a"
            " deviation of each setting on each prompt. A setting went when its probability of"
            " being the best fell below 5 % divided by the number of settings. These probabilities"
            " do not depend on when one looks; they hold on average over strengths as the prior has"
            " them."
        )
    elif metric.get("kind") not in (None, "none"):
        yield (
            "Intervals of the race are 95 % confidence sequences of paired differences per prompt:"
            " they hold at all moments together, so that looking after every round costs nothing. A"
            " setting went when its interval lay below the leader or below a floor, or when none of"
            " its videos had a value. The reason stands below each."
        )
        yield from _halved(race)
    yield from race.get("not_searched") or ()
    if floors := metric.get("floors"):
        yield f"Floors, as a share of what CFG alone has: {_floors(floors)}."
    if kept and metric.get("kind") != "none":
        yield (
            "The interval of the answer is the 95 % interval of a mean of paired differences over"
            " the prompts that chose nothing (Student's t, for one look). Where it holds 0 the"
            " two are not distinguishable, and the cheapest of the tied is recommended."
        )
    yield (
        "Ranks of the map have intervals over resamples of its prompts. A cost is counted in"
        " forward passes of one sample through the denoiser."
    )


def _halved(race: PlainData) -> Iterator[str]:
    """Say that the budget was shared by halving, where somebody was set aside by it."""
    rows = race.get("candidates") or []
    aside = [
        one["name"]
        for one in rows
        if one.get("out_kind") == "set aside" or _SET_ASIDE in (one.get("out_reason") or "")
    ]
    if not aside:
        return
    yield (
        "The budget did not suffice for all settings on all prompts, so it was shared by halving:"
        " after each of several equal parts of it the half that stood lower was set aside, but"
        " nobody for whom the rest sufficed (sequential halving; Karnin, Koren and Somekh 2013)."
        f" {', '.join(aside)} {'was' if len(aside) == 1 else 'were'} set aside so, on few prompts,"
        " which does not show that they are worse."
    )


def _floors(floors: Any) -> str:
    pairs = floors.items() if isinstance(floors, dict) else floors
    return ", ".join(f"{name} {number(share)}" for name, share in pairs)


# --- provenance -----------------------------------------------------------------------------------


def _provenance(run: Run, found: PlainData) -> list[Child]:
    rows = [(name, said) for name, said in _facts(run, found) if said]
    plan = (found["race"] or {}).get("plan") or []
    notes = (found["race"] or {}).get("notes") or []
    options = _options(run.folder)
    return [
        el("dl", [[el("dt", name), el("dd", said)] for name, said in rows]),
        _listed("The plan", plan),
        _listed("Notes", notes),
        el("details", el("summary", "All options"), el("pre", options)) if options else None,
    ]


def _listed(title: str, said: Sequence[str]) -> Markup | None:
    if not said:
        return None
    items = el("ul", [el("li", sentence(text)) for text in said])
    return el("details", el("summary", title), items)


def _facts(run: Run, found: PlainData) -> Iterator[tuple[str, str]]:
    clips = run.clips("done")
    for model in run.models():
        weights = ", ".join(f"{name} {value}" for name, value in model.weights.items())
        yield "Model", f"{model.name} ({weights})" if weights else model.name
    if found["map"]:
        layers = found["map"]
        yield "Denoiser", f"{layers['denoiser']}, {layers['depth']} layers"
    budget = (found["race"] or {}).get("budget") or {}
    spent = [f"{len(clips)} videos"]
    if budget.get("passes_used"):
        spent.append(f"{number(round(budget['passes_used']))} forward passes")
    seconds = budget.get("seconds_used") or sum(clip.seconds or 0 for clip in clips)
    spent.append(f"{format_duration(seconds)} of sampling")
    yield "Spent", ", ".join(spent) + _of_scan(found, budget)
    yield "Made with", _software(clips)
    yield "On", _machine(clips)
    yield "Report by", f"skipguide {skipguide.__version__}"


def _of_scan(found: PlainData, budget: PlainData) -> str:
    """Return what the scan took beside its videos; a run of before did not count it."""
    scanned = budget.get("scan_passes")
    if scanned is not None:
        return f"; {number(round(scanned))} of the passes are the scan's own" if scanned else ""
    weak = (found["map"] or {}).get("forwards")
    return f"; the scan's weak passes, {number(round(weak))}, are not in it" if weak else ""


def _software(clips: Sequence[Clip]) -> str:
    versions = next((clip.environment.get("versions") for clip in clips if clip.environment), None)
    return ", ".join(f"{name} {value}" for name, value in (versions or {}).items())


def _machine(clips: Sequence[Clip]) -> str:
    machine = next((clip.environment.get("machine") for clip in clips if clip.environment), None)
    kept = {name: value for name, value in (machine or {}).items() if name != "hostname"}
    return ", ".join(f"{name} {value}" for name, value in kept.items() if value)


def _options(folder: Path) -> str:
    path = folder / FOLDER / "options.json"
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=1)
    except (OSError, ValueError):
        return ""
