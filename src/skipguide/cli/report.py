"""skipguide report: write a run as a folder that a browser opens without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.options import Json, Overwrite, parse_folder


def report(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a run, as skipguide sweep wrote it."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder to write.",
            show_default="RUN-report",
            parser=parse_folder,
            metavar="PATH",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write the studio's page of a run into a folder, with its videos.

    Open it as a file, or put it on any web site.
    """
    from skipguide.runs import Run
    from skipguide.studio import report

    folder = out or run.resolve().with_name(f"{run.resolve().name}-report")
    folder = folder if folder.name else folder.resolve()  # "." has no name of its own
    with Run.open(run) as found:
        written = report.write_report(found, folder, overwrite)
    text = f"{written['page']}: {written['clips']} videos, {written['bytes'] / 1e6:.1f} MB"
    console.print_result(text, written, as_json)
