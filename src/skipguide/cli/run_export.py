"""skipguide runs export: write the clips of a run as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipguide.cli import console
from skipguide.cli.options import Json, Overwrite, RunFolder, check_outputs
from skipguide.cli.runs import Tag, tagged

if TYPE_CHECKING:
    from skipguide.files.tables import Rows


def export(
    folder: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=".csv or .parquet.", show_default="CSV to stdout"),
    ] = None,
    tag: Tag = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write the clips of a run as a table.

    One row each, with its setting, prompt, costs, metrics, votes, tags and note, and the metrics of
    all videos of its setting. `skipguide runs compare` has one row per setting and metric.
    """
    from skipguide.files import tables
    from skipguide.runs import Run, annotations
    from skipguide.runs.clip_table import clip_table

    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    write = None if out is None else tables.choose_writer(out, writers)
    check_outputs([out] if out else [], overwrite)
    with Run.open(folder) as run:
        rows = clip_table(run, tagged(run.clips(), annotations.read(run), tag))
    put_rows(folder, "clips", rows, _columns(rows), out, write, as_json)


def put_rows(
    folder: Path,
    what: str,
    rows: Rows,
    columns: Sequence[str] | None,
    out: Path | None,
    write: Callable[[Rows], None] | None,
    as_json: bool,
) -> None:
    """Write rows of a run to a file and say how many, or print them on stdout.

    Args:
        what: they are, as in "clips".
        columns: of the CSV, see `tables.to_csv`.
        write: writes `out`; None prints.
    """
    from skipguide.files import tables

    if write is None:
        told = {"run": str(folder), what: rows}
        console.print_result(tables.to_csv(rows, columns).rstrip("\n"), told, as_json)
        return
    write(rows)
    told = {"run": str(folder), "out": str(out), what: len(rows)}
    console.print_result(f"{out}: {len(rows)} {what}", told, as_json)


def _columns(rows: Rows) -> Sequence[str] | None:
    """Return the columns of a table of clips: all that there are, one for a run without clips."""
    return None if rows else ["key"]


def _write_csv(part: Path, rows: Rows) -> None:
    from skipguide.files import tables

    part.write_text(tables.to_csv(rows, _columns(rows)), encoding="utf-8", newline="")


def _write_parquet(part: Path, rows: Rows) -> None:
    from skipguide.files import tables

    arrow, parquet = tables.import_pyarrow()
    parquet.write_table(arrow.Table.from_pylist(list(rows)), part)
