"""skipguide votes: who has voted, the votes as a table, raters removed, the power of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.families import align_columns, print_lines
from skipguide.cli.options import Json, Overwrite, RunFolder, check_outputs
from skipguide.cli.run_export import put_rows
from skipguide.method.protocols import PlainData

votes = typer.Typer(
    help="Look into the votes of a blind test in the studio.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@votes.command("show")
def show_(folder: RunFolder, as_json: Json = False) -> None:
    """List the raters of a run, and how much each has judged."""
    from skipguide.runs import Run
    from skipguide.studio import vote_table

    with Run.open(folder) as run:
        rows, removed = vote_table.rater_rows(run), vote_table.removal_rows(run)
    if as_json:
        told = {"run": str(folder), "raters": rows, "removed": removed}
        console.print_result("", told, as_json)
        return
    cells = [
        ("rater", "pairs", "rated clips", "votes", "median s", "newest vote", "changed", "checks"),
        *map(_cells, rows),
    ]
    print_lines([("bold" if i == 0 else "", line) for i, line in enumerate(align_columns(cells))])
    print_lines([("", line) for line in _notes(rows, removed)])


def _cells(row: PlainData) -> tuple[str, ...]:
    seconds = "-" if row["median_seconds"] is None else f"{row['median_seconds']:.1f}"
    counts = (str(row[name]) for name in ("pairs", "ratings", "votes"))
    checks = f"{row['checks_passed']} of {row['checks']}" if row["checks"] else "-"
    return (row["rater"], *counts, seconds, row["newest"] or "-", str(row["changes"]), checks)


def _notes(rows: Sequence[PlainData], removed: Sequence[PlainData]) -> Iterator[str]:
    """Yield what is to be known of single raters."""
    from skipguide.runs.study import RULE

    left_out = [row["rater"] for row in rows if row["left_out"]]
    if left_out:
        yield f"Left out of the results: {', '.join(left_out)}. {RULE}"
    if wishes := [row["rater"] for row in rows if row["asks_for_removal"]]:
        yield f"Asking to be removed: {', '.join(wishes)}. `skipguide votes remove` does it."
    if back := [row["rater"] for row in removed if row["can_be_restored"]]:
        yield f"Removed and kept aside: {', '.join(back)}. `skipguide votes restore` undoes it."


@votes.command("export")
def export(
    folder: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=".csv, .json or .parquet.", show_default="CSV to stdout"),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write the votes of a run as a table.

    One row each: who, on what, which setting won, in how many seconds, under which text of consent.
    """
    from skipguide.runs import Run
    from skipguide.studio import vote_table

    write = None if out is None else vote_table.writer_for(out)
    check_outputs([out] if out else [], overwrite)
    with Run.open(folder) as run:
        rows = vote_table.vote_rows(run)
    put_rows(folder, "votes", rows, vote_table.COLUMNS, out, write, as_json)


Rater = Annotated[
    str | None, typer.Argument(metavar="[RATER]", help="As `show` lists it.", show_default=False)
]
RaterFlag = Annotated[
    str | None, typer.Option("--rater", metavar="NAME", help="The same.", show_default=False)
]


@votes.command("remove")
def remove(
    folder: RunFolder,
    rater: Rater = None,
    name: RaterFlag = None,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", help="Keep neither the name nor the votes: this cannot be undone."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Take all votes of a rater out of the run, and free the name.

    They are kept aside, and `skipguide votes restore` brings them back.
    """
    from skipguide.runs import Run

    rater = _one_name(rater, name)
    with Run.open(folder, writable=True) as run:
        count = run.remove_rater(rater, forget)
    told = {"run": str(folder), "rater": rater, "removed": count, "forgotten": forget}
    how = "removed and forgotten" if forget else "removed"
    undo = "" if forget else ". `skipguide votes restore` undoes it"
    console.print_result(f"{count} votes of {rater} {how}{undo}", told, as_json)


@votes.command("restore")
def restore(
    folder: RunFolder, rater: Rater = None, name: RaterFlag = None, as_json: Json = False
) -> None:
    """Bring back a rater who was removed, with all votes."""
    from skipguide.runs import Run

    rater = _one_name(rater, name)
    with Run.open(folder, writable=True) as run:
        count = run.restore_rater(rater)
    told = {"run": str(folder), "rater": rater, "restored": count}
    console.print_result(f"{count} votes of {rater} restored", told, as_json)


def _one_name(rater: str | None, name: str | None) -> str:
    if (rater is None) == (name is None):
        got = "neither" if rater is None else "both"
        raise ValueError(
            f"a rater must be named once, as RATER or with --rater NAME, but got {got}. Name one."
        )
    return rater if rater is not None else str(name)


@votes.command("power")
def power_(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run whose prompts and settings are taken.",
            show_default=False,
        ),
    ] = None,
    raters: Annotated[int, typer.Option(help="How many people judge.")] = 12,
    tasks: Annotated[int, typer.Option(help="Pairs that each of them judges.")] = 40,
    win_rate: Annotated[float, typer.Option(help="What is to be seen; a tie is half a win.")] = 0.6,
    wanted: Annotated[
        float, typer.Option("--power", help="In which share of studies it is to be seen.")
    ] = 0.8,
    prompts: Annotated[
        int | None, typer.Option(help="How many.", show_default="those of RUN, else 20")
    ] = None,
    settings: Annotated[
        int | None,
        typer.Option(help="That are compared, each with each other.", show_default="RUN's, else 2"),
    ] = None,
    ties: Annotated[float, typer.Option(help="Share of pairs without a difference.")] = 0.1,
    likeness: Annotated[
        float, typer.Option(help="Correlation of two votes on one prompt, 0 to 1.")
    ] = 0.05,
    as_json: Json = False,
) -> None:
    """Say how often a study of a size would see a win rate.

    By simulation, with the interval that the studio prints: clustered by prompt, 95 %.
    """
    from skipguide.stats import power
    from skipguide.studio import study_plan

    known = study_plan.sizes(folder) if folder else {}
    design = power.Design(
        raters,
        tasks,
        prompts or known.get("prompts", 20),
        settings or known.get("settings", 2),
        win_rate,
        ties,
        likeness,
    )
    if not 0 < wanted < 1:
        raise ValueError(f"--power must be between 0 and 1, but got {wanted:g}. Correct it.")
    told = study_plan.estimate_power(design, wanted)
    print_power(told, as_json)


def print_power(told: PlainData, as_json: bool) -> None:
    """Print the power of a study, and what it is taken from."""
    console.print_result("\n".join(told["sentences"]), told, as_json)
