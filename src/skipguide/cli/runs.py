"""skipguide runs: list runs, show one. `run_table` compares settings, `run_export` has clips."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipguide.cli import console
from skipguide.cli.annotate import in_words, payload
from skipguide.cli.families import Line, align_columns, print_lines
from skipguide.cli.options import Json, RunFolder
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.runs import Clip, Run, SetMetric
    from skipguide.runs.annotations import Annotations

runs = typer.Typer(
    help="Look into runs of `skipguide sweep`; tag, track and join them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Tag = Annotated[
    str | None, typer.Option("--tag", help="Only what has this tag.", show_default="all")
]


@runs.command("ls")
def ls(
    folder: Annotated[Path, typer.Argument(help="The folder in which the runs are.")] = Path(
        "runs"
    ),
    tag: Tag = None,
    as_json: Json = False,
) -> None:
    """List the runs in a folder."""
    from skipguide.runs.ledger import NAME

    if not folder.is_dir():
        raise ValueError(
            f"a folder of runs is needed, but {folder} is not one. `skipguide sweep` makes runs in"
            " runs/."
        )
    found = [
        _summarize_run(path.parent)
        for path in sorted([*folder.glob(f"*/{NAME}"), *folder.glob(NAME)])
    ]
    if tag is not None:
        found = [row for row in found if tag in row.get("tags", ())]
    if as_json:
        console.print_result("", {"runs": found}, as_json)
        return
    names = [*_LIST_COLUMNS, *(["tags"] if any(row.get("tags") for row in found) else [])]
    cells = [tuple(_LIST_TITLES.get(name, name) for name in names)]
    cells += [
        tuple(map(_list_cell, map(row.get, names)))
        if "error" not in row
        else (row["run"], row["error"])
        for row in found
    ]
    print_lines([("bold" if i == 0 else "", line) for i, line in enumerate(_align_runs(cells))])


_LIST_COLUMNS = ("run", "done", "missing", "failed", "settings", "prompts", "seeds", "models")
_LIST_TITLES = {"missing": "to make"}


def _list_cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _align_runs(cells: Sequence[tuple[str, ...]]) -> list[str]:
    """Align the columns of readable runs; a run that cannot be read shows its error after its
    name."""
    width = len(cells[0])
    sound = iter(align_columns([row for row in cells if len(row) == width]))
    return [next(sound) if len(row) == width else "  ".join(row) for row in cells]


def _summarize_run(folder: Path) -> PlainData:
    from skipguide.runs import Run, annotations

    try:
        with Run.open(folder) as run:
            counts = run.counts()
            return {
                "run": str(folder), "done": counts["done"],
                "missing": counts["pending"] + counts["running"], "failed": counts["failed"],
                "settings": len(run.settings()), "prompts": len(run.prompts()),
                "seeds": len(run.seeds()),
                "models": ", ".join(model.name for model in run.models()),
                "sweeping": run.is_sweeping, **payload(annotations.read(run).run),
            }  # fmt: skip
    except (ValueError, OSError) as error:
        return {"run": str(folder), "error": str(error)}


@runs.command("show")
def show_(
    folder: RunFolder,
    clips: Annotated[bool, typer.Option("--clips", help="Also every clip.")] = False,
    tag: Tag = None,
    as_json: Json = False,
) -> None:
    """Show the settings of a run, measured, and what failed."""
    from skipguide.runs import Run, annotations
    from skipguide.runs.clip_table import clip_table

    with Run.open(folder) as run:
        written = annotations.read(run)
        found = tagged(run.clips(), written, tag)
        rows = _setting_rows(run, found, tag is None)
        failed = [clip for clip in found if clip.status == "failed"]
        if as_json:
            told = {
                "run": str(folder),
                "counts": run.counts(),
                "sweeping": run.is_sweeping,
                "interrupted": run.was_interrupted,
                **payload(written.run),
                "settings": rows,
            }
            every = {"clips": clip_table(run, found)} if clips else {}
            console.print_result(
                "",
                {**told, "failed": [vars(clip) | _plain_fields(clip) for clip in failed], **every},
                as_json,
            )
            return
        lines = list(_run_lines(run, rows, failed))
        if tag is not None and run.set_metrics():
            lines.append(("dim", _SETS_OF_ALL))
        if written.run != annotations.Annotation():
            lines.insert(1, ("", in_words(written.run)))
        if clips:
            more = ("tags", "note") if written.clips else ()
            cells: list[tuple[str, ...]] = [("key", "status", "setting", "seed", "prompt", *more)]
            cells += _clip_cells(run, found, written)
            lines += [("", line) for line in align_columns(cells)]
    print_lines(lines)


_SETS_OF_ALL = (
    "Measures of sets are of all videos of a setting, so --tag leaves them out; without it they are"
    " shown."
)


def _plain_fields(clip: Clip) -> PlainData:
    return {"video": None, "latents": None, "fps": None, "environment": None, "error": clip.error}


def _setting_rows(run: Run, clips: Sequence[Clip], is_whole: bool) -> list[PlainData]:
    """Return one row per setting: how much of it is done, its cost, the means of its metrics.

    Args:
        is_whole: the clips are all of the run. Of a part, settings without a clip are left out, and
            so are measures of sets, which are of all videos of a setting.
    """
    whole = run.set_metrics() if is_whole else []
    rows = []
    for setting in run.settings():
        own = [clip for clip in clips if clip.setting == setting.id]
        if not own and not is_whole:
            continue
        done = [clip for clip in own if clip.status == "done"]
        names = sorted({name for clip in done for name in clip.metrics})
        sets = {m.name: _set_metric_row(m) for m in whole if m.setting == setting.id}
        row: PlainData = {
            "setting": setting.name, "model": setting.model, "given": setting.given,
            "clips": len(own), "done": len(done),
            "failed": sum(clip.status == "failed" for clip in own),
            "passes_per_step": setting.passes_per_step,
            "seconds": _mean(clip.seconds for clip in done),
            "metrics": {name: _mean(clip.metrics.get(name) for clip in done) for name in names},
            "set_metrics": sets,
        }  # fmt: skip
        rows.append(row)
    return rows


def _set_metric_row(metric: SetMetric) -> PlainData:
    return {"value": metric.value, "low": metric.low, "high": metric.high, "videos": metric.count}


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _run_lines(run: Run, rows: Sequence[PlainData], failed: Sequence[Clip]) -> Iterator[Line]:
    counts = run.counts()
    state = "; a sweep is writing to it" if run.is_sweeping else ""
    if run.was_interrupted:
        state = "; its sweep was interrupted, and goes on when it is run again"
    yield (
        "bold",
        f"{run.folder}: {', '.join(f'{n} {status}' for status, n in counts.items() if n)}{state}",
    )
    numbers = list(
        dict.fromkeys(name for row in rows for name in (*row["metrics"], *row["set_metrics"]))
    )
    cells = [("setting", "model", "done", "of", "passes/step", "s/clip", *numbers)]
    for row in rows:
        sets = {name: _format_interval(metric) for name, metric in row["set_metrics"].items()}
        values = {**{name: _format_number(value) for name, value in row["metrics"].items()}, **sets}
        cost = (_format_number(row["passes_per_step"]), _format_number(row["seconds"]))
        cells.append(
            (
                row["setting"],
                row["model"],
                str(row["done"]),
                str(row["clips"]),
                *cost,
                *(values.get(name, "-") for name in numbers),
            )
        )
    for line in align_columns(cells):
        yield "", line
    for clip in failed:
        yield "", f"{clip.key} failed: {(clip.error or '').splitlines()[0]}"


def _format_interval(metric: PlainData) -> str:
    known = metric["low"] is not None and metric["high"] is not None
    interval = f"{metric['low']:.4g} to {metric['high']:.4g}" if known else "no interval"
    return f"{_format_number(metric['value'])} ({interval}, {metric['videos']} clips)"


def _format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def tagged(clips: Sequence[Clip], written: Annotations, tag: str | None) -> list[Clip]:
    """Return the clips that have a tag; all without one.

    Raises:
        ValueError: if none has it.
    """
    found = [clip for clip in clips if tag is None or tag in written.of(clip.key).tags]
    if tag is not None and not found:
        known = ", ".join(written.tags) or "none"
        raise ValueError(
            f"--tag must be a tag of a clip of the run, but got {tag!r}; it has {known}. Take one"
            " of them, or add it with `skipguide runs tag`."
        )
    return found


def _clip_cells(run: Run, clips: Sequence[Clip], written: Annotations) -> Iterator[tuple[str, ...]]:
    settings = {setting.id: setting.name for setting in run.settings()}
    prompts = {prompt.id: prompt.text or prompt.image or "" for prompt in run.prompts()}
    for clip in clips:
        own = written.of(clip.key)
        more = (", ".join(own.tags), " ".join(own.note.split())) if written.clips else ()
        same = (clip.key, clip.status, settings[clip.setting], str(clip.seed))
        yield (*same, prompts[clip.prompt], *more)
