"""skipguide runs track, and --track: clips, numbers and settings to where people have the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipguide.cli import console
from skipguide.cli.options import Json, RunFolder
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.runs.tracking import Tracking

_PLACES = (
    "wandb, tensorboard or mlflow, each with a place if you like: wandb:PROJECT,"
    " tensorboard:FOLDER, mlflow:URI; repeatable."
)
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TRACKER",
        help=f"Also log clips, numbers and settings to {_PLACES}",
        show_default="none",
    ),
]


def open_tracking(folder: Path, trackers: Sequence[str] | None) -> Tracking:
    """Connect to trackers before any work.

    Raises:
        ValueError: for another tracker, one whose package is missing, or one that refuses.
    """
    from skipguide.runs.tracking import Tracking, parse_targets

    return Tracking(folder, parse_targets(trackers or ()), lambda text: typer.echo(text, err=True))


def tracking_lines(tracking: Tracking) -> list[str]:
    """Return where to look, a line per tracker."""
    return [
        f"{target}: {count} clips logged; {tracking.places[target]}"
        for target, count in tracking.logged.items()
        if target in tracking.places
    ]


def tracking_payload(tracking: Tracking) -> PlainData:
    """Return the same for --json."""
    failed = [str(target) for target in tracking.failed]
    logged = {str(target): count for target, count in tracking.logged.items()}
    return {"tracked": logged, "tracking_failed": failed} if logged else {}


def track(
    folder: RunFolder,
    to: Annotated[
        list[str],
        typer.Option("--to", metavar="TRACKER", help=f"Where: {_PLACES}"),
    ],
    as_json: Json = False,
) -> None:
    """Log a run to a tracker: clips, numbers and settings.

    What is there already is not logged again.
    """
    from skipguide.runs import Run

    Run.open(folder).close()
    with open_tracking(folder, to) as tracking:
        tracking.update()
    told = {"run": str(folder), **tracking_payload(tracking)}
    console.print_result("\n".join(tracking_lines(tracking)), told, as_json)
    if tracking.failed:
        raise typer.Exit(2)
