"""skipguide lab: train the built-in models from nothing, score them, put them into the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.options import Json

lab = typer.Typer(help="Train and score the small built-in models.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="mochi or svd.")]
Folder = Annotated[Path, typer.Option("--folder", help="Where the training keeps its checkpoints and results.")]


@lab.command()
def train(
    model: Model,
    folder: Folder = Path("runs/lab-mochi"),
    device: Annotated[str | None, typer.Option(help="cpu, cuda.", show_default="the GPU if there is one")] = None,
    stage: Annotated[str | None, typer.Option(help="Only this stage.", show_default="all that are not done")] = None,
) -> None:
    """Train a lab model from nothing. Stop it whenever you like: the same command goes on where it was."""
    _check(model)
    import torch

    from skipguide.generation import check_device
    from skipguide.lab import train as stages

    if device is not None:
        check_device(device)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with console.training() as report:
        for name, progress in stages.train(model, folder, place, stage):
            report(name, progress)
    typer.echo(f"done: {folder}; score it with: skipguide lab score {model} --folder {folder}")


@lab.command()
def score(
    model: Model = "mochi",
    folder: Annotated[
        Path | None, typer.Option("--folder", help="A training folder.", show_default="the packaged model")
    ] = None,
    clips: Annotated[int, typer.Option(min=2, help="Generated clips per setting.")] = 512,
    guidance_scale: Annotated[
        list[float] | None, typer.Option(help="CFG scales to try.", show_default="1 2 3 4.5")
    ] = None,
    layers: Annotated[list[int] | None, typer.Option(help="Also CFG + STG with each of these layers.")] = None,
    stg_scale: Annotated[float, typer.Option(help="Scale for --layers.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Also write the scores there, as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a lab model: reconstruction, the judge on real clips, and what the judge reads in generated ones."""
    _check(model)
    from skipguide.lab import score

    scores = score.score(folder, clips, guidance_scale or [1.0, 2.0, 3.0, 4.5], layers or [], stg_scale, _note)
    if out is not None:
        out.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    console.tell(score.table(scores), scores, as_json)


@lab.command()
def pack(
    model: Model,
    folder: Folder = Path("runs/lab-mochi"),
    machine: Annotated[str, typer.Option(help="Class of machine that trained it, for the card.")] = "2 CPU cores",
    docs: Annotated[Path | None, typer.Option(help="Also write the card into this folder.")] = None,
) -> None:
    """Put a trained and scored model into the package, with its model card."""
    _check(model)
    from skipguide.lab import pack

    typer.echo("\n".join(map(str, pack.pack(folder, machine, docs))))


def _check(model: str) -> None:
    if model not in ("mochi", "svd"):
        raise ValueError(f"a lab model to train or score must be mochi, but got {model!r}. Write mochi.")


def _note(text: str) -> None:
    typer.echo(f"  {text}", err=True)
