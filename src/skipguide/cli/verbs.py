"""The verbs by name, each with the module that has it: a module is imported when its verb is used.

So `skipguide --help` and each verb start without what the others import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer

OPTIONS: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


@dataclass(frozen=True)
class Verb:
    """A verb, or a group of verbs.

    Args:
        help: the line of it in the help of all.
        module: in skipguide.cli.
        name: of the function, or of the Typer of a group, in its module; "" if it is the module's.
        command: "module:class" of its command, in skipguide.cli; "" for typer's own.
    """

    help: str
    module: str
    name: str = ""
    command: str = ""


# A new verb: its file, and its row here.
VERBS = {
    "generate": Verb(
        "Make one video, or of a model that makes pictures one picture.",
        "generate", command="help_groups:GroupedCommand",
    ),
    "compare": Verb(
        "Make CFG and CFG + STG side by side.", "compare", command="help_groups:GroupedCommand"
    ),
    "reproduce": Verb("Make a video or picture again from its record.", "reproduce"),
    "bench": Verb("Measure what guidance adds to one denoising step.", "bench"),
    "families": Verb("List the model families, and the pipelines refused.", "families"),
    "presets": Verb("List published settings with their sources, and your own.", "presets"),
    "evaluate": Verb("Measure the videos or pictures of a folder or of a run.", "evaluate"),
    "metrics": Verb("List the metrics, their networks and their weights.", "metrics"),
    "report": Verb("Write the studio's page of a run and its videos into a folder.", "report"),
    "doctor": Verb("Look at versions, devices, memory, packages and models.", "doctor"),
    "studio": Verb(
        "Show a run in the browser, and vote blind.", "studio", command="help_groups:PanelCommand"
    ),
    "layers": Verb(
        "List the layers of a model and their costs, or rank them.",
        "layers", command="help_groups:PanelCommand",
    ),
    "sweep": Verb(
        "Make all videos of a plan: every prompt, seed and setting.",
        "sweep", command="sweep:SweepCommand",
    ),
    "tune": Verb(
        "Choose layer and scale, or CFG alone, by measurement.", "tune", command="tune:TuneCommand"
    ),
    "lab": Verb("Train and score the small built-in models.", "lab"),
    "paper": Verb("Make the paper's tables and figures with the lab's models.", "paper"),
    "convert": Verb("Write published checkpoints in diffusers' layout.", "convert"),
    "runs": Verb(
        "Look into runs of `skipguide sweep`; tag, track and join them.", "run_verbs", "runs"
    ),
    "votes": Verb("Look into the votes of a blind test in the studio.", "votes"),
}  # fmt: skip


class LazyCommands(Mapping[str, Any]):
    """The commands of VERBS by name; each is made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _make_command(name, VERBS[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


def _make_command(name: str, verb: Verb) -> Any:
    """Import a verb and return its command, as one Typer of all verbs would have it."""
    target = getattr(_module(verb.module), verb.name or name)
    holder = typer.Typer(**OPTIONS)
    if isinstance(target, typer.Typer):
        holder.add_typer(target, name=name)
    else:
        module, _, kind = verb.command.partition(":")
        holder.command(name, cls=getattr(_module(module), kind) if kind else None)(target)
        holder.callback()(lambda: None)  # with one verb alone it would be that verb
    group: Any = typer.main.get_group(holder)
    return group.commands[name]


def _module(name: str) -> Any:
    return import_module(f"skipguide.cli.{name}")
