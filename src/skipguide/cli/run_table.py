"""skipguide runs compare: the settings of a run against a baseline, as a table for a paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipguide.cli import console
from skipguide.cli.families import Line, align_columns, print_lines
from skipguide.cli.options import Json, Overwrite, RunFolder, check_outputs

if TYPE_CHECKING:
    from skipguide.metrics.comparison import Comparison
    from skipguide.metrics.comparison.table import Adjust

SUFFIXES = (".md", ".tex", ".csv", ".parquet", ".html")


def compare(
    folder: RunFolder,
    baseline: Annotated[
        str | None,
        typer.Option(help="The setting to compare with.", show_default="the first with CFG alone"),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="As fvd:judge,motion_smoothness; or video, set, votes, cost.",
            show_default="all that was measured",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(help="Names or patterns of settings, as stg*.", show_default="all"),
    ] = None,
    adjust: Annotated[
        str,
        typer.Option(help="Correct p values over the comparisons of the table, metric, or none."),
    ] = "table",
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out", "-o", help=".md, .tex, .csv, .parquet, .html; several times for several."
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare the settings of a run with a baseline.

    One table of all metrics, votes and costs with 95 % intervals, and the differences on the same
    prompts and noise, clustered by prompt, with p values corrected for their number by Holm. LaTeX
    needs booktabs; CSV and Parquet have one row per setting and metric.
    """
    from skipguide.metrics import comparison
    from skipguide.runs import Run

    written = _check_files(out or [], overwrite)
    names, patterns = (
        [name for text in given or [] for name in text.split(",") if name]
        for given in (metrics, settings)
    )
    with Run.open(folder) as run:
        table = comparison.compare(run, baseline, names, patterns, _adjustment(adjust))
    _write_files(table, written)
    if as_json:
        console.print_result("", _payload(table, list(written)), as_json)
        return
    print_lines(_lines(table))
    for path in written:
        typer.echo(path)


def _adjustment(text: str) -> Adjust:
    from skipguide.metrics.comparison.table import ADJUSTMENTS

    for known in ADJUSTMENTS:
        if text == known:
            return known
    raise ValueError(
        f"--adjust must be one of {', '.join(ADJUSTMENTS)}, but got {text!r}. Choose one."
    )


# --- files ----------------------------------------------------------------------------------------

Write = Callable[["Comparison", Path], object]


def _check_files(paths: Sequence[Path], overwrite: bool) -> dict[Path, Write]:
    """Return the function that writes each file, before anything is read.

    Raises:
        ValueError: for another suffix, a file that exists or cannot be written, or Parquet without
            pyarrow.
    """
    found = {path: _writer(path) for path in paths}
    check_outputs(list(found), overwrite)
    return found


def _writer(path: Path) -> Write:
    from skipguide.files import tables
    from skipguide.metrics.comparison import data, latex, markdown, page

    texts: dict[str, Callable[[Comparison], str]] = {
        ".md": markdown.write_markdown, ".tex": latex.write_latex, ".csv": data.write_csv,
        ".html": page.write_page,
    }  # fmt: skip
    ending = path.suffix.lower()
    if ending == ".parquet":
        tables.import_pyarrow()
        return data.write_parquet
    if ending not in texts:
        raise ValueError(
            f"--out must be named {', '.join(SUFFIXES)}, but got {str(path)!r}. Rename it."
        )
    return lambda table, part: part.write_text(texts[ending](table), "utf-8", newline="\n")


def _write_files(table: Comparison, written: dict[Path, Write]) -> None:
    """Write all files, or none."""
    if not written:
        return
    from skipguide.files.atomic import atomic_replace

    with atomic_replace(*written) as parts:
        for part, write in zip(parts, written.values(), strict=True):
            write(table, part)


# --- showing --------------------------------------------------------------------------------------


def _payload(table: Comparison, written: Sequence[Path]) -> dict[str, object]:
    from skipguide.metrics.comparison import layout

    return {
        "run": table.run, "adjust": table.adjust, "comparisons": table.comparisons,
        "rows": [asdict(row) for row in table.rows], "caption": layout.caption(table),
        "notes": list(table.notes), "out": list(map(str, written)),
    }  # fmt: skip


def _lines(table: Comparison) -> list[Line]:
    from skipguide.metrics.comparison import layout

    rows = list(layout.text_lines(table))
    aligned = iter(align_columns([row for row in rows if len(row) > 1]))
    lines: list[Line] = [("", next(aligned)) if len(row) > 1 else ("bold", row[0]) for row in rows]
    lines[0] = ("bold", lines[0][1])
    lines += [("dim", sentence) for sentence in layout.text_caption(table)]
    return lines + [("yellow", note) for note in table.notes]
