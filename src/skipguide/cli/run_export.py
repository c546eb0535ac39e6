"""skipguide runs export: write the clips of a run as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from skipguide.cli import console
from skipguide.cli.options import Json, Overwrite
from skipguide.cli.runs import Folder, Tag, tagged
from skipguide.method.protocols import PlainData


def export(
    folder: Folder,
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
    from skipguide.cli.options import check_outputs
    from skipguide.runs import Run, annotations
    from skipguide.runs.clip_table import clip_table

    write = _choose_writer(out)
    if out is not None:
        check_outputs([out], overwrite)
    with Run.open(folder) as run:
        rows = clip_table(run, tagged(run.clips(), annotations.read(run), tag))
    if out is None:
        console.print_result(_csv(rows).rstrip("\n"), {"run": str(folder), "clips": rows}, as_json)
        return
    from skipguide.files import video

    with video.atomic_replace(out) as (part,):
        write(part, rows)
    told = {"run": str(folder), "out": str(out), "clips": len(rows)}
    console.print_result(f"{out}: {len(rows)} clips", told, as_json)


def _choose_writer(out: Path | None) -> Any:
    """Return the function that writes a table under such a name.

    Raises:
        ValueError: for another suffix, or Parquet without pyarrow.
    """
    ending = ".csv" if out is None else out.suffix.lower()
    if ending == ".csv":
        return lambda part, rows: part.write_text(_csv(rows), encoding="utf-8", newline="")
    if ending != ".parquet":
        raise ValueError(f"--out must be named .csv or .parquet, but got {str(out)!r}. Rename it.")
    from skipguide.files import tables

    arrow, parquet = tables.import_pyarrow()
    return lambda part, rows: parquet.write_table(arrow.Table.from_pylist(rows), part)


def _csv(rows: Sequence[PlainData]) -> str:
    from skipguide.files import tables

    return tables.to_csv(rows, None if rows else ["key"])
