"""skipguide lab: train the built-in models from nothing, score them, put them into the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.options import Json, Overwrite, check_outputs, check_suffix, parse_folder
from skipguide.files import folders
from skipguide.method.protocols import PlainData

lab = typer.Typer(help="Train and score the small built-in models.", no_args_is_help=True)

MODELS = ("mochi", "mochi-2", "svd", "opensora", "sd3")
Model = Annotated[str, typer.Argument(help="mochi, mochi-2, svd, opensora or sd3.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        help="Where the training keeps its results.",
        show_default="runs/lab-MODEL",
        parser=parse_folder,
        metavar="PATH",
    ),
]


@lab.command()
def train(
    model: Model,
    folder: Folder = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda.", show_default="the GPU if there is one")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Only this stage.", show_default="all that are not done")
    ] = None,
) -> None:
    """Train a lab model from nothing.

    Stop it whenever you like: the same command continues where it stopped.
    """
    folder = _training_folder(model, folder)
    folders.check_writable(folder, "--folder")
    import torch

    from skipguide.lab import train as stages
    from skipguide.models.loading import check_device

    if device is not None:
        check_device(device)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with console.training_progress() as report:
        for name, progress in stages.train(model, folder, place, stage):
            report(name, progress)
    typer.echo(f"done: {folder}; score it with: skipguide lab score {model} --folder {folder}")


@lab.command()
def score(
    model: Model = "mochi",
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="A training folder.", show_default="the packaged model"),
    ] = None,
    clips: Annotated[int, typer.Option(min=2, help="Generated clips per setting.")] = 512,
    guidance_scale: Annotated[
        list[float] | None,
        typer.Option(help="All but svd: CFG scales to try.", show_default="1 2 3 4.5"),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "mochi, mochi-2, sd3, opensora (spatial:4; several: spatial:4,temporal:4): also"
                " CFG + STG with each of these. svd: the layers to skip."
            ),
            show_default="svd: up:0",
        ),
    ] = None,
    stg_scale: Annotated[
        float, typer.Option(help="Scale for --layers; of svd that of STG-R.")
    ] = 1.0,
    skip: Annotated[
        str | None,
        typer.Option(help="All but svd: of --layers: attention.", show_default="residual"),
    ] = None,
    spatial_scale: Annotated[
        float | None, typer.Option(help="svd: of the spatial term.", show_default="2")
    ] = None,
    temporal_scale: Annotated[
        float | None, typer.Option(help="svd: of the temporal term.", show_default="0.5")
    ] = None,
    rescale: Annotated[float | None, typer.Option(help="svd: phi.", show_default="0.7")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the scores there, as JSON.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure a lab model.

    Reconstruction, the judge on real clips, and what the judge reads in generated ones. Of mochi-2
    and sd3 each setting runs on prompts that name everything, half of it, and nothing.
    """
    _check_model(model)
    check_outputs([out] if out else [], overwrite)
    of_svd = {
        "--spatial-scale": spatial_scale,
        "--temporal-scale": temporal_scale,
        "--rescale": rescale,
    }
    if model == "svd":
        _reject_options("svd", {"--guidance-scale": guidance_scale, "--skip": skip})
        from skipguide.lab import score_svd

        spatial, temporal, phi = (
            usual if given is None else given
            for given, usual in zip(of_svd.values(), (2.0, 0.5, 0.7), strict=True)
        )
        scores = score_svd.score(
            folder, clips, layers or ["up:0"], spatial, temporal, stg_scale, phi, _print_note
        )
        table = score_svd.format_table(scores)
    else:
        _reject_options(model, of_svd)
        from skipguide import STG
        from skipguide.lab import score_text

        how: PlainData = dict(scale=stg_scale, skip=skip or "residual")
        terms = [STG(_parse_layers(model, layer), **how) for layer in layers or []]
        scores = score_text.score(
            folder, clips, guidance_scale or [1, 2, 3, 4.5], terms, _print_note, model
        )
        table = score_text.format_table(scores, model)
    console.print_result(table, scores, as_json)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        from skipguide.lab import training_loop

        with training_loop.atomic_path(out) as part:
            part.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


@lab.command()
def pack(
    model: Model,
    folder: Folder = None,
    machine: Annotated[
        str, typer.Option(help="Kind of machine that trained it, for the card.")
    ] = "2 CPU cores",
    docs: Annotated[
        Path | None,
        typer.Option(
            help="Also write the card into this folder.", parser=parse_folder, metavar="PATH"
        ),
    ] = None,
) -> None:
    """Put a trained model into the package, with its card."""
    folder = _training_folder(model, folder)
    if docs is not None:
        folders.check_writable(docs, "--docs")
    from skipguide.lab import model_card

    typer.echo("\n".join(map(str, model_card.pack(model, folder, machine, docs))))


@lab.command()
def frame(
    out: Annotated[Path, typer.Argument(help="The PNG.")],
    shape: Annotated[str | None, typer.Option(help="star, moon, ...", show_default="any")] = None,
    colour: Annotated[str | None, typer.Option(help="red, cyan, ...", show_default="any")] = None,
    motion: Annotated[
        str | None, typer.Option(help="What the object is about to do.", show_default="any")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything not specified.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw a first frame for lab-svd to start from."""
    check_outputs([check_suffix(out, ".png")], overwrite)
    from skipguide.lab import world
    from skipguide.lab.training_loop import atomic_path

    scenes = world.find_scenes(1, seed, shape=shape, colour=colour, motion=motion)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as part:
        world.render_first_frame(scenes).save(part, format="PNG")
    typer.echo(
        f"{out}; make a video that starts from it: skipguide generate --model lab-svd --image {out}"
    )


@lab.command()
def clips(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder.", parser=parse_folder)
    ],
    model: Annotated[
        str,
        typer.Option(
            help="mochi, mochi-2, svd, opensora: clips as long and fast as its. sd3: pictures."
        ),
    ] = "mochi",
    named: Annotated[
        str | None,
        typer.Option(
            help=(
                "mochi-2, sd3: what the captions name: closed (all), half (at random, as in"
                " training) or open (nothing)."
            ),
            show_default="half",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Of clips, each of another scene.")] = 256,
    size: Annotated[int, typer.Option(help="Pixels a side.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes and captions.")] = 0,
    first_frames: Annotated[
        Path | None,
        typer.Option(
            help="Also write first frames into this new folder, to start videos from.",
            show_default="none",
            parser=parse_folder,
            metavar="PATH",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write real clips or pictures of the lab's world, for metrics.

    Beside them captions.csv has the caption and the scene of each, and is a file of prompts.
    """
    from skipguide.lab import real_clips

    order = real_clips.Order(
        folder, model.removeprefix("lab-"), count, seed, size, first_frames, named
    )
    done = 0
    for done in real_clips.write(order):
        if done % 100 == 0:
            _print_note(f"{done} of {count} {order.kind}")
    captions = folder / real_clips.CAPTIONS
    text = (
        f"{folder}: {done} {order.kind}, captions in {captions}; compare with them: skipguide"
        f" evaluate {order.kind.upper()} --reference {folder} --features {order.world.reader.name}"
    )
    told: PlainData = {"folder": str(folder), "clips": done, "captions": str(captions)}
    frames = None if first_frames is None else str(first_frames)
    console.print_result(text, {**told, "first_frames": frames}, as_json)


@lab.command()
def methods(
    out: Annotated[Path, typer.Argument(help="The PNG.")],
    prompt: Annotated[
        str, typer.Option(help="Of the clip.")
    ] = "a small red star orbiting over a blue background",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw one prompt under every method of guidance.

    From the same noise, with the cost of each, by lab-mochi.
    """
    check_outputs([check_suffix(out, ".png")], overwrite)
    from skipguide.files import video
    from skipguide.lab import gallery
    from skipguide.models import loading

    pipe = loading.load_pipeline("lab-mochi")
    pipe.set_progress_bar_config(disable=True)
    rows, costs = {}, {}
    for caption, made in gallery.compare_methods(pipe, prompt, seed):
        _print_note(caption)
        rows[caption], costs[caption] = made.to_uint8(), made.passes_per_step
    out.parent.mkdir(parents=True, exist_ok=True)
    with video.atomic_replace(out) as (part,):
        video.make_frame_strip(rows, prompt, columns=6).save(part, format="PNG", optimize=True)
    console.print_result(str(out), {"file": str(out), "passes": costs}, as_json)


def _check_model(model: str) -> None:
    if model not in MODELS:
        known = f"{', '.join(MODELS[:-1])} or {MODELS[-1]}"
        raise ValueError(
            f"a lab model to train or score must be {known}, but got {model!r}. Choose one of them."
        )


def _reject_options(model: str, options: Mapping[str, object]) -> None:
    """Reject options that the model does not use."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{model} does not use {name}, but got {value}. Leave it out.")


def _training_folder(model: str, folder: Path | None) -> Path:
    _check_model(model)
    return folder or Path(f"runs/lab-{model}")


def _parse_layers(model: str, layers: str) -> tuple[int | str, ...]:
    """Parse the layers that one row of the scores skips.

    They are the number of a block of lab-mochi or lab-mochi-2, or one or more numbers or addresses
    of the other models.
    """
    from skipguide.method.parsing import parse_layers

    found = parse_layers(layers)
    if model in ("mochi", "mochi-2") and not (len(found) == 1 and isinstance(found[0], int)):
        raise ValueError(
            f"layers of lab-{model} must be numbers, but got {layers}. Write --layers 5."
        )
    return found


def _print_note(text: str) -> None:
    typer.echo(f"  {text}", err=True)
