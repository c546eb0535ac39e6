"""Print what was evaluated: one table, and what there is to know of its numbers."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.cli.families import Line, align_columns

if TYPE_CHECKING:
    from skipguide.metrics.aggregate import ResultRow
    from skipguide.metrics.results import Result
    from skipguide.metrics.selection import UnavailableMetric

Titled = Sequence[tuple[str, "Result"]]
_ARROWS = {"higher": " ^", "lower": " v"}


@dataclass(frozen=True)
class Command:
    """The part of a command that measures more which it shares with the one that was given."""

    source: Path
    reference: Path | None = None
    features: str = ""
    weights: Path | None = None
    non_commercial: bool = False
    device: str = "cpu"
    pictures: bool = False

    def line(self, metrics: Sequence[str], needs: Sequence[str]) -> str:
        """Return the command that measures these metrics, or all, once all needs are there."""
        from skipguide.metrics.selection import NON_COMMERCIAL, REFERENCE

        words = ["skipguide", "evaluate", str(self.source)]
        if self.reference or REFERENCE in needs:
            words += ["--reference", str(self.reference or "DIR")]
        words += ["--metrics", ",".join(metrics)] if metrics else []
        words += ["--features", self.features] if self.features and not metrics else []
        if self.weights or _files(needs):
            words += ["--weights", str(self.weights or "FOLDER")]
        if self.non_commercial or NON_COMMERCIAL in needs:
            words.append("--non-commercial")
        words += ["--pictures"] if self.pictures else []
        words += [] if self.device == "cpu" else ["--device", self.device]
        return shlex.join(words)


def result_lines(found: Titled, theirs: Mapping[str, float], command: Command) -> Iterator[Line]:
    """Yield the table of all results and the remarks on them, each once.

    Args:
        found: by the name of the setting, of a run; a folder has one result, without a name.
        theirs: numbers of VBench's own scorer.
    """
    rows = _folder_rows(found[0][1]) if not found[0][0] else _run_rows(found)
    rows += [(f"{name}, by VBench", f"{value:.4f}") for name, value in theirs.items()]
    width = max(map(len, rows))
    aligned = align_columns([(*row, *[""] * (width - len(row))) for row in rows])
    yield "bold", aligned[0]
    yield from (("", line) for line in aligned[1:])
    yield from _remarks(found)
    yield from _not_run(found, command)


# --- the table ------------------------------------------------------------------------------------


def _folder_rows(result: Result) -> list[tuple[str, ...]]:
    """Return a row for each metric."""
    rows: list[tuple[str, ...]] = [
        ("metric", "value", "95 % interval", f"{result.readings.noun}s", "reference", "better")
    ]
    for row in result.rows:
        reference = "" if row.reference is None else str(row.reference)
        interval = "-" if row.low is None else f"{row.low:.4g} to {row.high:.4g}"
        better = f"{row.better}"
        rows.append((row.metric, f"{row.value:.5g}", interval, str(row.videos), reference, better))
    if result.quality_score is not None:
        rows.append(("quality score", f"{result.quality_score:.5g}"))
    return rows


def _run_rows(found: Titled) -> list[tuple[str, ...]]:
    """Return a row for each setting, with a column for each metric."""
    better = {row.metric: row.better for _, result in found for row in result.rows}
    usual = {title: _usual_count(result) for title, result in found}
    scores = any(result.quality_score is not None for _, result in found)
    heading = [
        "setting",
        f"{_noun(found)}s",
        *(name + _ARROWS[way] for name, way in better.items()),
    ]
    rows = [(*heading, *(["quality score ^"] if scores else []))]
    for title, result in found:
        by_name = {row.metric: row for row in result.rows}
        cells = [_cell(by_name.get(name), usual[title]) for name in better]
        if scores:
            score = result.quality_score
            cells.append("-" if score is None else f"{score:.5g}")
        rows.append((title, str(usual[title]), *cells))
    return rows


def _noun(found: Titled) -> str:
    """Return what was measured, in a word."""
    return found[0][1].readings.noun if found else "video"


def _usual_count(result: Result) -> int:
    """Return of how many videos most numbers of a result are."""
    counts = Counter(row.videos for row in result.rows)
    return counts.most_common(1)[0][0] if counts else 0


def _cell(row: ResultRow | None, usual: int) -> str:
    if row is None:
        return "-"
    interval = "" if row.low is None else f" ({row.low:.4g} to {row.high:.4g})"
    return f"{row.value:.5g}{interval}" + ("" if row.videos == usual else f" of {row.videos}")


# --- remarks --------------------------------------------------------------------------------------


def _remarks(found: Titled) -> Iterator[Line]:
    """Yield what is said of the numbers, once for all settings of which it is said."""
    if found[0][0]:
        references = {row.reference for _, result in found for row in result.rows} - {None}
        if references:
            yield (
                "",
                f"reference: {', '.join(map(str, sorted(references, key=str)))} {_noun(found)}s",
            )
        if any(row.low is not None for _, result in found for row in result.rows):
            yield "", "in brackets 95 % intervals; ^ more is better, v less is better"
    for text, names in _by_text(found, _warnings).items():
        yield "yellow", f"{names}: {text}"
    for text, names in _by_text(found, _splits).items():
        yield "", f"{names}: {text}"
    for text, names in _by_text(found, _skipped).items():
        yield "yellow", f"skipped, {text}: {names}"
    for text, names in _by_text(found, _notes).items():
        yield "yellow", f"note, {text}: {names}"
    for name, entry in {k: v for _, result in found for k, v in result.weights.items()}.items():
        published = " (not the published one)" if entry["as_published"] is False else ""
        yield (
            "dim",
            f"{name}: {entry['path']}, sha256 {entry['sha256'][:12]}{published}, licence:"
            f" {entry['licence']}",
        )


Remark = tuple[str, str]  # the text, and the metric or video that it is about


def _warnings(result: Result) -> Iterator[Remark]:
    return ((text, row.metric) for row in result.rows for text in row.warnings)


def _splits(result: Result) -> Iterator[Remark]:
    for row in result.rows:
        if row.splits:
            form = "mean {mean:.4g}, deviation {std:.4g} over {splits:.0f} parts"
            yield form.format(**row.splits), row.metric


def _skipped(result: Result) -> Iterator[Remark]:
    return ((f"{one.metric}: {one.reason}", f"{one.side} {one.video}") for one in result.skipped)


def _notes(result: Result) -> Iterator[Remark]:
    for side, rows in result.readings.notes.items():
        for video, texts in sorted(rows.items()):
            yield from ((text, f"{side} {video}") for text in texts)


def _by_text(found: Titled, remarks: Callable[[Result], Iterator[Remark]]) -> dict[str, str]:
    """Return of each text what it is said of, with the settings where these are not all."""
    about: dict[str, dict[str, list[str]]] = {}
    for title, result in found:
        for text, name in remarks(result):
            titles = about.setdefault(text, {}).setdefault(name, [])
            titles += [title] if title not in titles else []
    return {text: "; ".join(_join(names, len(found))) for text, names in about.items()}


def _join(names: Mapping[str, Sequence[str]], settings: int) -> Iterator[str]:
    """Yield names together that the same settings have."""
    together: dict[tuple[str, ...], list[str]] = {}
    for name, titles in names.items():
        together.setdefault(tuple(titles), []).append(name)
    for titles, own in together.items():
        where = "" if len(titles) == settings else f" of {', '.join(titles)}"
        yield f"{', '.join(own)}{where}"


# --- what was not run -----------------------------------------------------------------------------


def _not_run(found: Titled, command: Command) -> Iterator[Line]:
    """Yield what was not run and for want of what, and the command that runs it then."""
    every = list({one: None for _, result in found for one in result.not_run})
    groups: dict[tuple[str, ...], list[str]] = {}
    for one in every:
        if one.needs:
            groups.setdefault(one.needs, []).append(one.metric)
    if groups:
        yield "dim", "not run, with what each needs:"
        cells = [(f"  {', '.join(own)}", _describe_needs(needs)) for needs, own in groups.items()]
        yield from (("dim", line) for line in align_columns(cells))
        needs = [need for group in groups for need in group]
        where = " (`skipguide metrics` says where files are)" if _files(needs) else ""
        yield "dim", f"to run them{where}: {command.line([], needs)}"
    yield from _lab_hint(found, every, command)
    for text, names in _by_text(found, _failed).items():
        yield "dim", f"not run: {names}. {text}"


def _failed(result: Result) -> Iterator[Remark]:
    return ((one.reason, one.metric) for one in result.not_run if not one.needs)


def _files(needs: Iterable[str]) -> list[str]:
    from skipguide.metrics.catalog import WEIGHTS

    return [name for name in needs if name in WEIGHTS]


def _describe_needs(needs: Sequence[str]) -> str:
    from skipguide.metrics.catalog import WEIGHTS
    from skipguide.metrics.selection import NON_COMMERCIAL, REFERENCE

    parts = ["real videos"] if REFERENCE in needs else []
    parts += [" or ".join(WEIGHTS[name].files) for name in _files(needs)]
    parts += ["a use that is not commercial"] if NON_COMMERCIAL in needs else []
    return ", ".join(parts)


def _lab_hint(
    found: Titled, not_run: Sequence[UnavailableMetric], command: Command
) -> Iterator[Line]:
    """Say how clips of the lab's models are measured, whose judge comes with the package."""
    from skipguide.lab import readers

    others = [one.metric for one in not_run if one.needs and ":" in one.metric]
    models = [title.split(" ")[0] for title, _ in found]
    known = [readers.OF_MODEL.get(model) for model in models]
    reader = known[0] if known else None
    if not others or reader is None or any(one is not reader for one in known):
        return
    metrics = [f"{name.partition(':')[0]}:{reader.name}" for name in others]
    by_other = any(_files(one.needs) for one in not_run if one.metric in others)
    what = "or by the judge of the lab, which comes with the package"
    yield "dim", f"{what if by_other else 'with real clips of the lab'}:"
    if command.reference is None:
        model = models[0].removeprefix("lab-")
        yield "dim", f"  skipguide lab clips DIR --model {model}"
    yield "dim", f"  {command.line(metrics, [] if command.reference else ['reference'])}"
