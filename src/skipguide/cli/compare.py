"""skipguide compare: CFG alone and guided videos from the same noise, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipguide.cli import console, options
from skipguide.cli.options import Config, Json, Overwrite
from skipguide.generate.describe import describe_rule, describe_terms
from skipguide.generate.settings import GenerationSettings, uses_guidance
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    import PIL.Image

    from skipguide.files.video import Frames
    from skipguide.generate.record import GenerationResult
    from skipguide.method.protocols import Pipeline

Reader = Callable[["Frames"], "dict[str, str] | None"]
_NO_READING = (
    "The judge reads colour, shape and motion in videos of the built-in models, and of models that"
    " `skipguide lab train` made. It knows no others: `skipguide evaluate` measures those, and in"
    " `skipguide studio` people judge them."
)


@dataclass(frozen=True)
class ComparisonColumn:
    """One of the videos for one prompt."""

    method: str
    result: GenerationResult
    record: PlainData  # without the image
    image: dict[str, str] | None  # of the record; all runs have the same
    judge: dict[str, str] | None  # what the lab's judge reads in the video: shape, colour, motion

    def row(self) -> PlainData:
        """Return the cells of the table for this video."""
        measured = {
            name: self.record["measured"][name] for name in ("passes_per_step", "seconds_per_step")
        }
        named = {name: self.record["settings"][name] for name in ("prompt", "image")}
        return {**named, "method": self.method, **measured, "judge": self.judge}

    def title(self) -> str:
        """Return the prompt, or the name of the image."""
        settings = self.record["settings"]
        return settings["image"] if settings["prompt"] is None else settings["prompt"]


@options.accept_settings
def compare(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", show_default=False)
    ] = None,
    out_dir: Annotated[
        Path,
        typer.Option(
            "--out-dir",
            help="The folder for all files.",
            parser=options.parse_folder,
            metavar="PATH",
        ),
    ] = Path("compare"),
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    *,
    given: PlainData,
) -> None:
    """Make CFG and CFG + STG side by side.

    Both start from the same noise. Per prompt: an mp4 of the two, and a PNG strip of their frames.
    With a spatial and a temporal scale there are three: CFG, CFG + spatial STG, CFG + both. A rule
    for CFG and restarts are in all but the first one."""
    file = options.read_config(config)
    titles = dict.fromkeys(prompts or [None])
    wanted = [options.build_settings(file, given, prompt) for prompt in titles]
    if not uses_guidance(wanted[0]):
        raise ValueError(
            "compare needs guidance beside CFG, but got a scale of 0: all videos would be the same."
            " Leave the scale out."
        )
    targets = _output_paths(wanted, out_dir)
    from skipguide.files import video
    from skipguide.generate import loading, notes, preflight
    from skipguide.generate.resolve import resolve_settings
    from skipguide.runs import prompt_cache

    for target in targets:
        options.check_outputs(
            [target, video.sidecar_path(target), target.with_suffix(".png")], overwrite
        )
    image = options.first_frame(wanted[0])
    for settings in wanted:
        preflight.check(settings, image)
    with loading.hash_meanwhile(wanted[0]):
        pipe = loading.load(wanted[0])
        weights = loading.weights_fingerprint(wanted[0].model, pipe)
    prompt_cache.encode_once(pipe)
    read = _judge_reader(pipe)
    for note in notes.unused_notes(wanted[0], resolve_settings(wanted[0], pipe)):
        notes.tell(note)
    runs: list[ComparisonColumn] = []
    for i, (settings, target) in enumerate(zip(wanted, targets, strict=True)):
        title = f"video {i + 1}/{len(wanted)}"
        columns = [
            _generate_column(pipe, side, image, weights, read, title)
            for side in _column_settings(resolve_settings(settings, pipe))
        ]
        _write_comparison(target, columns)
        runs += columns
    files = [str(path) for target in targets for path in (target, target.with_suffix(".png"))]
    _print_comparison(runs, files, as_json)


def _output_paths(wanted: Sequence[GenerationSettings], folder: Path) -> list[Path]:
    """Return one mp4 per prompt; prompts that would share a name are numbered."""
    targets: list[Path] = []
    for settings in wanted:
        name = options.file_name(settings)
        alike = sum(target.stem == name or target.stem.startswith(f"{name}.") for target in targets)
        targets.append(folder / (f"{name}.{alike + 1}.mp4" if alike else f"{name}.mp4"))
    return targets


def _column_settings(complete: GenerationSettings) -> list[GenerationSettings]:
    """Return the settings of each video, from CFG alone to everything that is asked for.

    Spatial and temporal STG come one after the other (Table 4).
    """
    from skipguide.method.request import GuidanceRequest

    request = complete.request
    axes = {getattr(term, "axis", None) for term in request.terms}
    columns = [GuidanceRequest(), request]
    if {"spatial", "temporal"} <= axes:
        spatial = tuple(term for term in request.terms if term.axis != "temporal")
        columns.insert(1, dataclasses.replace(request, terms=spatial, orthogonalize=False))
    return [complete.model_copy(update={"guidance": column}) for column in columns]


def _generate_column(
    pipe: Pipeline,
    settings: GenerationSettings,
    image: PIL.Image.Image | None,
    weights: dict[str, str],
    read: Reader,
    title: str,
) -> ComparisonColumn:
    from skipguide.generate import record
    from skipguide.generate import run as generation

    method = _describe_method(settings)
    with console.progress(f"{title}, {method}") as on_step:
        result = generation.generate(pipe, settings, on_step, image)
    made = record.build_record(settings, result, weights)
    shared = made.pop("image", None)
    return ComparisonColumn(method, result, made, shared, read(result.frames))


def _describe_method(settings: GenerationSettings) -> str:
    """Return a title, as in "CFG 4.5 + STG 1 (residual 8)", "no CFG + restart"."""
    assert settings.guidance_scale is not None
    first = "" if settings.min_guidance_scale is None else f"{settings.min_guidance_scale:g} to "
    cfg = f"CFG {first}{settings.guidance_scale:g}" if settings.guidance_scale > 1 else "no CFG"
    return " + ".join([cfg + describe_rule(settings.request), *describe_terms(settings.request)])


def _judge_reader(pipe: Pipeline) -> Reader:
    """Load the judge for models of the lab, its own and those that a user trained with it."""
    from skipguide.lab import judge

    if not judge.knows_model(pipe):
        return lambda frames: None
    judge.load_judge()  # now, so that a missing file shows before the work is done
    return judge.read


def _write_comparison(target: Path, columns: Sequence[ComparisonColumn]) -> None:
    from skipguide.files import video

    frames = {run.method: run.result.frames for run in columns}
    with video.atomic_replace(target.with_suffix(".png")) as (part,):
        video.make_frame_strip(frames, columns[0].title()).save(part, format="PNG")
    fps = columns[0].record["settings"]["fps"]
    video.write(target, video.place_side_by_side(frames), fps, _combined_record(columns))


def _combined_record(columns: Sequence[ComparisonColumn]) -> PlainData:
    """Return the record of a comparison: those of its videos, and once the image they all start
    from."""
    from skipguide.generate.record import RECORD_FORMAT

    image = columns[0].image
    return {
        "format": RECORD_FORMAT,
        **({"image": image} if image else {}),
        "runs": [run.record for run in columns],
    }


def _print_comparison(
    runs: Sequence[ComparisonColumn], files: Sequence[str], as_json: bool
) -> None:
    judged = any(run.judge for run in runs)
    if as_json:
        payload = {
            "runs": [{**run.row(), "record": run.record} for run in runs],
            "files": list(files),
            **({} if judged else {"notes": [_NO_READING]}),
        }
        console.print_result("", payload, as_json)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kind = "image" if runs[0].record["settings"]["prompt"] is None else "prompt"
    table = Table(kind, "method", "passes/step", "s/step", *["judge reads"] * judged)
    for run in runs:
        row = run.row()
        numbers = (f"{row['passes_per_step']:.2f}", f"{row['seconds_per_step']:.2f}")
        table.add_row(Text(run.title()), Text(row["method"]), *numbers, *_reading(run))
    Console().print(table)
    if not judged:
        typer.echo(_NO_READING)
    typer.echo("\n".join(files))


def _reading(column: ComparisonColumn) -> list[str]:
    """Return the cell with what the judge read; none where it read nothing."""
    words = column.judge
    return (
        [] if words is None else [" ".join(words[name] for name in ("colour", "shape", "motion"))]
    )
