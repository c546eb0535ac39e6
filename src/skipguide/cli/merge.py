"""skipguide runs merge: join runs into a new one."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.options import Json, parse_folder


def merge(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN...", help="Run directories, or the .zip of `skipguide report --zip`."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="The new run directory.", parser=parse_folder, metavar="PATH"
        ),
    ],
    as_json: Json = False,
) -> None:
    """Join runs into a new one.

    A clip that several have is there once. What was renamed, or differs, is said. The runs stay as
    they are.
    """
    from skipguide.runs import merge as merging
    from skipguide.runs import packed

    with contextlib.ExitStack() as unpacked:
        folders = [unpacked.enter_context(packed.opened(source)) for source in sources]
        merged = merging.merge(folders, out)
    shared = f", {merged.shared} of them in several" if merged.shared else ""
    votes = f", {merged.votes} votes" if merged.votes else ""
    summary = (
        f"{out}: {merged.done} of {merged.clips} clips done{shared}, {merged.settings}"
        f" settings{votes}"
    )
    told = {**asdict(merged), "folder": str(out), "notes": list(merged.notes)}
    console.print_result("\n".join([*merged.notes, summary]), told, as_json)
