"""skipguide generate: one video, with everything needed to make it again inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skipguide.cli import console, options
from skipguide.cli.options import Config, Json, Overwrite
from skipguide.method.protocols import PlainData


@options.accept_settings
def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="What the video shows; not for models that take an image alone.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The mp4.", show_default="PROMPT-SEED.mp4 or IMAGE-SEED.mp4"
        ),
    ] = None,
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    *,
    given: PlainData,
) -> None:
    """Make one video.

    It is an mp4 that carries the record of how it was made; the same record lies beside it as JSON.
    """
    settings = options.build_settings(options.read_config(config), given, prompt)
    target = options.check_suffix(out or Path(f"{options.file_name(settings)}.mp4"), ".mp4")
    from skipguide.files import video

    options.check_outputs([target, video.sidecar_path(target)], overwrite)
    image = options.first_frame(settings)
    from skipguide.generate import loading, notes, preflight, record, run
    from skipguide.generate.resolve import resolve_settings

    preflight.check(settings, image)
    with loading.hash_meanwhile(settings):
        pipe = loading.load(settings)
        asked, settings = settings, resolve_settings(settings, pipe)
        for note in notes.unused_notes(asked, settings):
            notes.tell(note)
        with console.progress("denoising") as on_step:
            result = run.generate(pipe, settings, on_step, image)
        weights = loading.weights_fingerprint(settings.model, pipe)
    made = record.build_record(settings, result, weights)
    video.write(target, result.frames, made["settings"]["fps"], made)
    payload = {
        "video": str(target),
        "sidecar": str(video.sidecar_path(target)),
        **made["measured"],
        "record": made,
    }
    console.print_result(_summary(target, made), payload, as_json)


def _summary(target: Path, made: PlainData) -> str:
    frames, height, width, _ = made["frames"]
    measured, settings = made["measured"], made["settings"]
    return (
        f"{target}: {frames} frames of {width}x{height} at {settings['fps']} fps, seed"
        f" {settings['seed']}\n{measured['passes_per_step']:.2f} passes and"
        f" {measured['seconds_per_step']:.2f} s per step, {measured['seconds']:.1f} s in all;"
        f" skipguide reproduce {target} makes it again"
    )
