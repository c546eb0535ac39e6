"""docs/open-prompts.md: a template whose every number is a field, filled from the numbers' file.

    [[value SETTING ROW MEASURE]]         0.906 (0.880 to 0.930)
    [[gain SETTING ROW BASE MEASURE]]     the same of a difference; of "excess" in per cent of it
    [[table SETTING]]                     all rows, and below them what they are less CFG
    [[progress KIND]]                     CFG + STG less CFG, after each part of the training
    [[errors]]                            what each push does to the errors on own trajectories
    [[prompts KIND]]                      the prompts of the picture
    [[plan NAME]]                         clips, steps, dtype

The sentences around the fields are written by hand, in page.md beside this file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from skipguide.lab import training_loop
from skipguide.paper import directions
from skipguide.paper.analysis import Measure
from skipguide.paper.open import errors, measures, numbers, picture, study
from skipguide.paper.open.numbers import Numbers
from skipguide.paper.tables import ARROWS, NOT_YET, format_estimate, markdown_table
from skipguide.paper.why_page import FIELD
from skipguide.stats.estimate import Estimate


def write(docs: Path) -> Path:
    """Fill the template from the numbers that are in a folder."""
    path = docs / "open-prompts.md"
    with training_loop.atomic_path(path) as part:
        part.write_text(fill(docs), encoding="utf-8")
    return path


def fill(docs: Path) -> str:
    """Return the page, from the numbers that are in a folder."""
    found = numbers.read(docs)
    moves = directions.directions_table(directions.read_directions(errors.path(docs))[study.MODEL])
    folder = resources.files("skipguide.paper.open")
    template = folder.joinpath("page.md").read_text(encoding="utf-8")
    template = template.replace("[[errors]]", moves)
    return FIELD.sub(lambda match: _field(found, match.group(1).split()), template)


def _field(found: Numbers, words: Sequence[str]) -> str:
    verb, *rest = words
    if verb == "plan":
        value = found.data["plan"][rest[0]]
        return f"{value:,}" if isinstance(value, int) else str(value)
    if verb == "table":
        return "\n".join(_table(found, rest[0]))
    if verb == "prompts":
        return "\n".join(f"- {text or '(empty)'}" for text in picture.captions(rest[0]))
    if verb == "progress":
        return "\n".join(_progress(found, rest[0]))
    if verb == "value":
        return format_estimate(found.value(*rest), _known(rest[0])[rest[2]].digits)
    if verb == "gain":
        return _format_gain(found, *rest)
    raise ValueError(f"page.md has a field of an unknown kind: {' '.join(words)}")


def _known(setting: str) -> dict[str, Measure]:
    """Return the measures of a setting, by name."""
    return measures.measures(setting.partition("-")[0])


def _format_gain(found: Numbers, setting: str, row: str, base: str, name: str) -> str:
    one = found.gain(setting, row, base, name)
    if name != "excess":
        return format_estimate(one, _known(setting)[name].digits, signed=True)
    return format_estimate(_percent(one), 0, signed=True).replace(" (", " % (", 1)


def _percent(one: Estimate | None) -> Estimate | None:
    if one is None:
        return None
    low, high = (None if end is None else 100 * end for end in (one.low, one.high))
    return Estimate(100 * one.value, low, high, one.count)


def _table(found: Numbers, setting: str) -> Iterator[str]:
    rows, known = found.data["settings"].get(setting, {}), _known(setting)
    if not rows:
        yield f"{NOT_YET}."
        return
    titles = [one.title + ARROWS[one.better] for one in known.values()]
    cells = [
        [
            row["label"],
            *(format_estimate(found.value(setting, name, one), known[one].digits) for one in known),
            _passes(row),
        ]
        for name, row in rows.items()
    ]
    yield from markdown_table(["", *titles, "passes"], cells)
    yield from ("", f"Less {rows['cfg']['label']}, on the same prompts and noise:", "")
    differences = [
        [row["label"], *(_difference(found, setting, name, one) for one in known)]
        for name, row in rows.items()
        if "cfg" in row["less"]
    ]
    yield from markdown_table(["", *titles], differences)


def _passes(row: dict[str, object]) -> str:
    passes = row["passes"]
    return f"{passes:.2f}" if isinstance(passes, float) else "-"


def _difference(found: Numbers, setting: str, row: str, name: str) -> str:
    text, one = (
        _format_gain(found, setting, row, "cfg", name),
        found.gain(setting, row, "cfg", name),
    )
    return f"**{text}**" if one is not None and one.sign else text


def _progress(found: Numbers, kind: str) -> Iterator[str]:
    """Yield the lines of CFG + STG less CFG after each part of the training."""
    known, rows = _known(kind), []
    for step in (*study.PROGRESS, None):
        setting = study.Setting(kind, step).name
        if not found.data["settings"].get(setting):
            continue
        title = "the end" if step is None else f"{step:,} steps"
        excess = format_estimate(found.value(setting, "cfg", "excess"), 1)
        rows.append(
            [title, excess, *(_difference(found, setting, "cfg+stg", one) for one in known)]
        )
    titles = [one.title + ARROWS[one.better] for one in known.values()]
    yield from markdown_table(["after", "excess of CFG", *titles], rows) if rows else [NOT_YET]
