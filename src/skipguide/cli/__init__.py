"""The command line, one file per verb; torch and diffusers are imported only when needed."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

import skipguide
from skipguide.cli.annotate import TAG_CONTEXT, note, tag
from skipguide.cli.bench import bench
from skipguide.cli.compare import compare
from skipguide.cli.console import VerbGroup, hide_library_notices
from skipguide.cli.convert import convert
from skipguide.cli.doctor import doctor
from skipguide.cli.evaluate import evaluate
from skipguide.cli.families import families
from skipguide.cli.generate import generate
from skipguide.cli.help_groups import GroupedCommand, PanelCommand
from skipguide.cli.lab import lab
from skipguide.cli.layers import layers
from skipguide.cli.merge import merge
from skipguide.cli.metrics import metrics
from skipguide.cli.paper import paper
from skipguide.cli.presets import presets
from skipguide.cli.report import report
from skipguide.cli.reproduce import reproduce
from skipguide.cli.run_export import export
from skipguide.cli.run_table import compare as compare_settings
from skipguide.cli.runs import runs
from skipguide.cli.studio import studio
from skipguide.cli.sweep import SweepCommand, sweep
from skipguide.cli.track import track
from skipguide.cli.tune import TuneCommand, tune
from skipguide.cli.votes import votes

app = typer.Typer(
    cls=VerbGroup, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
# A new verb: its file, its import above, its name here.
for verb in (generate, compare):
    app.command(cls=GroupedCommand)(verb)
for verb in (
    reproduce,
    bench,
    families,
    presets,
    evaluate,
    metrics,
    report,
    doctor,
):
    app.command()(verb)
app.command(cls=PanelCommand)(studio)
app.command(cls=PanelCommand)(layers)
app.add_typer(lab, name="lab")
app.add_typer(paper, name="paper")
app.command(cls=SweepCommand)(sweep)
app.command(cls=TuneCommand)(tune)
app.add_typer(convert, name="convert")
runs.command("compare")(compare_settings)
runs.command("export")(export)
app.add_typer(runs, name="runs")
runs.command("tag", context_settings=TAG_CONTEXT)(tag)
runs.command("note")(note)
runs.command("merge")(merge)
runs.command("track")(track)
app.add_typer(votes, name="votes")


@app.callback(invoke_without_command=True)
def _skipguide(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Spatiotemporal Skip Guidance for diffusers video pipelines, exact and prefix-shared."""
    if version:
        typer.echo(skipguide.__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line: the entry point of `skipguide`."""
    signal.signal(signal.SIGTERM, _interrupt)  # kill cleans up as Ctrl-C does
    hide_library_notices()
    app()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
