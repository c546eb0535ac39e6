"""skipguide generate: one video, with everything needed to make it again inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skipguide.cli import branch_processes, clip_files, console, generate_many, names, options
from skipguide.cli.batch import build_items, is_batch
from skipguide.cli.options import Config, Json, Overwrite
from skipguide.cli.prompt_options import PromptFile, Seeds
from skipguide.cli.result_lines import format_result
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData


@options.accept_settings
def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="What the video or picture shows; not for models that take an image alone.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The mp4, or of models that make pictures the PNG or WebP; with --prompts or"
            " --seeds the folder of all.",
            show_default="PROMPT-SEED.mp4, IMAGE-SEED.mp4 or PROMPT-SEED.png",
        ),
    ] = None,
    prompts: PromptFile = None,
    seeds: Seeds = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out-dir",
            help="The folder of the video or of all videos.",
            show_default="the current one, or FILE-videos with --prompts",
            parser=options.parse_folder,
            metavar="PATH",
        ),
    ] = None,
    config: Config = None,
    parallel: Annotated[
        str | None,
        typer.Option(
            "--parallel",
            help="Under torchrun: branches, the passes of a step on one process or GPU each.",
            show_default="one process",
            metavar="branches",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    *,
    given: PlainData,
) -> None:
    """Make one video, or of a model that makes pictures one picture.

    It is an mp4, a PNG or a WebP that carries the record of how it was made; the same record lies
    beside it as JSON.
    With --prompts or --seeds there are many, of one model that is loaded once. Run it again after
    whatever ended it: what is there stays, the rest is made.
    """
    branch_processes.check(parallel, is_batch(prompts, seeds))
    if parallel is not None and not branch_processes.is_first():
        branch_processes.assist(config, given, prompt)
        return
    file = options.read_config(config)
    if is_batch(prompts, seeds):
        items, note = build_items(file, given, [prompt], prompts, seeds)
        folder = generate_many.choose_folder(out, out_dir, prompts)
        generate_many.generate_many(items, folder, overwrite, as_json, note)
        return
    settings = options.build_settings(file, given, prompt)
    from skipguide.files import clips
    from skipguide.generate import notes, preflight, record, run
    from skipguide.generate.resolve import resolve_settings
    from skipguide.models import loading, telling

    makes = preflight.find_makes(settings)
    if out is None:
        target = _default_path(settings, out_dir, clip_files.choose_suffix(settings, makes))
    else:
        target = (out_dir or Path()) / out
        settings = clip_files.read_format(settings, target, makes)
    options.check_outputs([target, clips.sidecar_path(target)], overwrite)
    image = options.first_frame(settings)
    preflight.check(settings, image)
    with branch_processes.joined(parallel, settings) as group, loading.hash_meanwhile(settings):
        pipe = loading.load(settings)
        asked, settings = settings, resolve_settings(settings, pipe)
        clip_files.check_made(settings, target)
        for note in notes.unused_notes(asked, settings):
            telling.tell(note)
        with console.progress("denoising") as on_step:
            result = run.generate(pipe, settings, on_step, image, group)
        weights = loading.weights_fingerprint(settings, pipe)
    made = record.build_record(settings, result, weights)
    clips.write(target, result.frames, made["settings"]["fps"], made, result.sounds)
    payload = generate_many.video_payload(target, made)
    console.print_result(format_result(target, settings, made), payload, as_json)


def _default_path(settings: GenerationSettings, folder: Path | None, suffix: str) -> Path:
    """Return where a clip goes that has no name: none that a clip of another prompt has."""
    (name,) = names.choose_names([names.Subject(settings)], folder or Path(), (suffix,))
    return (folder or Path()) / f"{name}{suffix}"
