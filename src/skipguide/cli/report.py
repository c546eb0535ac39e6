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
            help="Folder to write, or with --zip a file.",
            show_default="RUN-report, RUN-report.zip",
            parser=parse_folder,
            metavar="PATH",
        ),
    ] = None,
    as_zip: Annotated[
        bool,
        typer.Option(
            "--zip",
            help="One file to send, with tables, votes, plans, tags and notes; it names no folder"
            " of this machine, and no rater.",
        ),
    ] = False,
    with_names: Annotated[
        bool, typer.Option("--with-names", help="With --zip: keep the names of raters.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write the studio's page of a run and its videos into a folder.

    Open it as a file, or put it on any web site. With --zip it is one file to send, which
    `skipguide studio` and `skipguide runs merge` take too.
    """
    from skipguide.runs import Run
    from skipguide.studio import report

    if as_zip:
        _write_zip(run, out, overwrite, with_names, as_json)
        return
    if with_names:
        raise ValueError(
            "--with-names is for --zip, but it is missing; a folder has the names. Add --zip."
        )
    folder = out or run.resolve().with_name(f"{run.resolve().name}-report")
    folder = folder if folder.name else folder.resolve()  # "." has no name of its own
    with Run.open(run) as found:
        written = report.write_report(found, folder, overwrite)
    text = f"{written['page']}: {written['clips']} clips, {written['bytes'] / 1e6:.1f} MB"
    console.print_result(text, written, as_json)


def _write_zip(
    run: Path, out: Path | None, overwrite: bool, with_names: bool, as_json: bool
) -> None:
    from skipguide.runs import Run
    from skipguide.studio import report_zip

    file = out or run.resolve().with_name(f"{run.resolve().name}-report.zip")
    with Run.open(run) as found:
        written = report_zip.write_zip(found, file, overwrite, with_names)
    votes = f", {written['votes']} votes" if written["votes"] else ""
    text = f"{file}: {written['clips']} clips{votes}, {written['bytes'] / 1e6:.1f} MB"
    console.print_result(text, written, as_json)
