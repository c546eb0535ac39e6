"""skipguide votes: show who has voted in a run, write the votes as a table, remove a rater."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.families import align_columns, print_lines
from skipguide.cli.options import Json, Overwrite
from skipguide.method.protocols import PlainData

votes = typer.Typer(
    help="Look into the votes of a blind test in the studio.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")]


@votes.command("show")
def show_(folder: Folder, as_json: Json = False) -> None:
    """List the raters of a run, with how much each has judged."""
    from skipguide.runs import Run
    from skipguide.studio import vote_table

    with Run.open(folder) as run:
        rows = vote_table.rater_rows(run)
    if as_json:
        console.print_result("", {"run": str(folder), "raters": rows}, as_json)
        return
    cells = [
        ("rater", "pairs", "rated videos", "votes", "median s", "newest vote"),
        *map(_cells, rows),
    ]
    print_lines([("bold" if i == 0 else "", line) for i, line in enumerate(align_columns(cells))])


def _cells(row: PlainData) -> tuple[str, ...]:
    seconds = "-" if row["median_seconds"] is None else f"{row['median_seconds']:.1f}"
    counts = (str(row[name]) for name in ("pairs", "ratings", "votes"))
    return (row["rater"], *counts, seconds, row["newest"] or "-")


@votes.command("export")
def export(
    folder: Folder,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=".csv or .json.", show_default="CSV to stdout"),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write the votes of a run as a table.

    One row each: who, on what, which setting won, in how many seconds.
    """
    from skipguide.cli.options import check_outputs
    from skipguide.files import video
    from skipguide.runs import Run
    from skipguide.studio import vote_table

    if out is not None:
        if out.suffix.lower() not in (".csv", ".json"):
            raise ValueError(f"--out must be named .csv or .json, but got {str(out)!r}. Rename it.")
        check_outputs([out], overwrite)
    with Run.open(folder) as run:
        rows = vote_table.vote_rows(run)
    text = vote_table.to_csv(rows)
    if out is None:
        console.print_result(text.rstrip("\n"), {"run": str(folder), "votes": rows}, as_json)
        return
    if out.suffix.lower() == ".json":
        text = json.dumps({"votes": rows}, indent=1, ensure_ascii=False) + "\n"
    with video.atomic_replace(out) as (part,):
        part.write_text(text, encoding="utf-8", newline="")
    told = {"run": str(folder), "out": str(out), "votes": len(rows)}
    console.print_result(f"{out}: {len(rows)} votes", told, as_json)


@votes.command("remove")
def remove(
    folder: Folder,
    rater: Annotated[str, typer.Argument(metavar="RATER", help="As `show` lists it.")],
    as_json: Json = False,
) -> None:
    """Remove all votes of a rater, and free the name.

    `skipguide votes export` keeps them elsewhere first.
    """
    from skipguide.runs import Run

    with Run.open(folder, writable=True) as run:
        count = run.remove_rater(rater)
    told = {"run": str(folder), "rater": rater, "removed": count}
    console.print_result(f"{count} votes of {rater} removed", told, as_json)
