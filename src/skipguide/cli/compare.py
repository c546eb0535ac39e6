"""skipguide compare: CFG and CFG + STG from the same noise, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipguide.cli import console
from skipguide.cli.options import Config, Json, Overwrite, check_outputs, overlay, read_config, slug, with_settings
from skipguide.settings import Generation, checked, resolve

if TYPE_CHECKING:
    from skipguide.record import Result
    from skipguide.video import Frames

Reader = Callable[["Frames"], "dict[str, str] | None"]


@dataclass(frozen=True)
class Run:
    """One of the two sides for one prompt."""

    method: str
    result: Result
    record: dict[str, Any]
    judge: dict[str, str] | None  # what the lab's judge reads in the video: shape, colour, motion

    def row(self) -> dict[str, Any]:
        """What the table says about it."""
        measured = {name: self.record["measured"][name] for name in ("passes_per_step", "seconds_per_step")}
        return {"prompt": self.record["settings"]["prompt"], "method": self.method, **measured, "judge": self.judge}


@with_settings
def compare(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", show_default=False)] = None,
    out_dir: Annotated[Path, typer.Option("--out-dir", help="The folder for all files.")] = Path("compare"),
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    *,
    given: dict[str, Any],
) -> None:
    """Make CFG and CFG + STG side by side.

    Both start from the same noise. Per prompt: an mp4 of the two, and a PNG strip of their frames.
    """
    file = read_config(config)
    wanted = [checked(overlay(file, given, prompt)) for prompt in dict.fromkeys(prompts or [None])]
    if wanted[0].stg_scale == 0:
        raise ValueError("compare needs an stg_scale above 0, but got 0: both sides would be the same. Leave it out.")
    targets = _targets(wanted, out_dir)
    from skipguide import generation, video

    for target in targets:
        check_outputs([target, video.sidecar(target), target.with_suffix(".png")], overwrite)
    pipe = generation.load_pipeline(wanted[0].model, wanted[0].dtype, wanted[0].device)
    weights = generation.identity(wanted[0].model, pipe)
    read = _reader(wanted[0].model)
    runs: list[Run] = []
    for i, (settings, target) in enumerate(zip(wanted, targets, strict=True)):
        complete = resolve(settings, pipe)
        sides = (complete.model_copy(update={"stg_scale": 0.0}), complete)
        pair = [_run(pipe, side, weights, read, f"prompt {i + 1}/{len(wanted)}") for side in sides]
        _write(target, *pair)
        runs += pair
    files = [str(path) for target in targets for path in (target, target.with_suffix(".png"))]
    _print(runs, files, as_json)


def _targets(wanted: Sequence[Generation], folder: Path) -> list[Path]:
    """One mp4 per prompt; prompts that would share a name are counted."""
    targets: list[Path] = []
    for settings in wanted:
        name = slug(settings.prompt, settings.seed)
        alike = sum(target.stem == name or target.stem.startswith(f"{name}.") for target in targets)
        targets.append(folder / (f"{name}.{alike + 1}.mp4" if alike else f"{name}.mp4"))
    return targets


def _run(pipe: Any, settings: Generation, weights: dict[str, str], read: Reader, title: str) -> Run:
    from skipguide import generation, record

    method = _method(settings)
    with console.progress(f"{title}, {method}") as on_step:
        result = generation.generate(pipe, settings, on_step)
    return Run(method, result, record.build(settings, result, weights), read(result.frames))


def _method(settings: Generation) -> str:
    assert settings.guidance_scale is not None
    assert settings.layers is not None
    cfg = f"CFG {settings.guidance_scale:g}" if settings.guidance_scale > 1 else "no CFG"
    layers = ",".join(map(str, settings.layers))
    return f"{cfg} + STG {settings.stg_scale:g} ({settings.skip} {layers})" if settings.stg_scale else cfg


def _reader(model: str) -> Reader:
    """The lab's judge for the lab's models, ready to read; it knows no other world."""
    from skipguide.lab import models

    if model not in models.NAMES:
        return lambda frames: None
    from skipguide.lab import judge

    judge.load_judge()  # now, so that a missing file shows before the work is done
    return judge.read


def _write(target: Path, left: Run, right: Run) -> None:
    from skipguide import video

    frames = video.side_by_side(left.result.frames, right.result.frames, (left.method, right.method))
    settings = left.record["settings"]
    picture = video.strip({run.method: run.result.frames for run in (left, right)}, settings["prompt"])
    with video.replacing(target.with_suffix(".png")) as (part,):
        picture.save(part, format="PNG")
    video.write(target, frames, settings["fps"], {"format": 1, "runs": [left.record, right.record]})


def _print(runs: Sequence[Run], files: Sequence[str], as_json: bool) -> None:
    if as_json:
        payload = {"runs": [{**run.row(), "record": run.record} for run in runs], "files": list(files)}
        console.tell("", payload, as_json)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("prompt", "method", "passes/step", "s/step", "judge reads")
    for row in map(Run.row, runs):
        reading = " ".join(row["judge"][name] for name in ("colour", "shape", "motion")) if row["judge"] else "-"
        numbers = (f"{row['passes_per_step']:.2f}", f"{row['seconds_per_step']:.2f}")
        table.add_row(Text(row["prompt"]), Text(row["method"]), *numbers, reading)
    Console().print(table)
    typer.echo("\n".join(files))
