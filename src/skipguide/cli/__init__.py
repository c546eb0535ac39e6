"""The command line, one file per verb; torch and diffusers are imported only when needed."""

from __future__ import annotations

import signal
from typing import Annotated, Any

import typer

import skipguide
from skipguide.cli.console import VerbGroup, hide_library_notices
from skipguide.cli.verbs import OPTIONS, VERBS, LazyCommands


class AllVerbs(VerbGroup):
    """The group of all verbs, which imports a verb when it is used."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        commands: Any = LazyCommands()  # none is added or removed later
        self.commands = commands

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, in the order of VERBS."""
        return list(VERBS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the line of each verb without importing it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in VERBS.items()])


app = typer.Typer(cls=AllVerbs, **OPTIONS)


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
