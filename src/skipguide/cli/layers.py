"""skipguide layers: list the layers of a model, what skipping one costs, and a map of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.families import Line, align_columns, print_lines
from skipguide.cli.options import Config, Json, accept_some_settings, parse_folder, read_config
from skipguide.cli.prompt_options import PROMPT_FORMATS
from skipguide.cli.scan_options import (
    COMMON,
    MODEL,
    SCAN,
    Axes,
    Layers,
    Skips,
    images_option,
    parse_scan,
)
from skipguide.method.protocols import PlainData
from skipguide.models.fields import flag_name

MAP = "The map"
SIZES = ("height", "width", "num_frames")
# Settings of the videos whose trajectories are scanned; the model is an argument.
SETTINGS = (
    *SIZES, "guidance_scale", "seed", "image",
    *(name for name in COMMON if name not in (*SIZES, "model")),
)  # fmt: skip
MapPrompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help=f"{PROMPT_FORMATS}; the first of them are scanned.",
        show_default="four built in",
        rich_help_panel=MAP,
    ),
]
COLUMNS = ("layer", "attention", "share", "weak pass: residual", "attention")


@accept_some_settings(SETTINGS, MODEL)
def layers(
    model: Annotated[
        str,
        typer.Argument(
            help="A family (svd), a lab model (lab-svd), a folder in diffusers layout, or a hub id."
        ),
    ],
    map_: Annotated[
        bool,
        typer.Option(
            "--map",
            help="Scan all layers on the model's own trajectories, and rank them.",
            rich_help_panel=MAP,
        ),
    ] = False,
    prompts: MapPrompts = None,
    images: Annotated[Path | None, images_option("gradients", MAP)] = None,
    num_prompts: Annotated[
        int, typer.Option(min=1, help="How many are scanned.", rich_help_panel=MAP)
    ] = 4,
    skips: Skips = None,
    axes: Axes = None,
    some: Layers = None,
    levels: Annotated[
        str | None,
        typer.Option(
            help="Shares of noise at which is looked.",
            show_default="0.95,0.8,0.6,0.3",
            rich_help_panel=SCAN,
        ),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Compare the map with layers that somebody found best by search (Mochi).",
            rich_help_panel=MAP,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of map.csv, map.json, map.png and of what was scanned; run again, the"
            " scan goes on.",
            show_default="none",
            parser=parse_folder,
            metavar="PATH",
            rich_help_panel=MAP,
        ),
    ] = None,
    config: Config = None,
    as_json: Json = False,
    *,
    given: PlainData,
) -> None:
    """List the layers of a model and their costs, or rank them.

    For each layer: its address, its kind of attention, its share of a forward pass, and the cost of
    a weak pass that starts there, as a part of a forward pass. All are floating point operations; a
    family is counted without weights.

    --map skips each layer in turn, at four noise levels of videos that the model makes, and ranks
    the layers by what the skip pushes: in minutes, with the uncertainty of the ranks."""
    if map_:
        scan = parse_scan(skips, axes, some, levels)
        from skipguide.cli.layers_map import MapCommand

        command = MapCommand(
            model, read_config(config), given, scan, num_prompts, out, published, as_json
        )
        command.run(prompts, images)
        return
    _refuse_map_options(given, prompts, images, skips, axes, some, levels, published, out, config)
    from skipguide.bench import layer_cost

    found = layer_cost.measure_layers(model, **{name: given.get(name) for name in SIZES})
    found["skips"] = _available_skips(found["family"])
    if as_json:
        console.print_result("", found, as_json)
    else:
        print_lines(list(_lines(found)))


def _refuse_map_options(given: PlainData, *others: object) -> None:
    """Reject what only --map uses.

    Raises:
        ValueError: if any of it is there.
    """
    names = ("--prompts", "--images", "--skips", "--axes", "--layers", "--levels", "--published",
             "--out", "--config")  # fmt: skip
    used = [name for name, value in zip(names, others, strict=True) if value]
    used += [flag_name(name) for name in given if name not in SIZES]
    if used:
        raise ValueError(
            f"{', '.join(used)} {'is' if len(used) == 1 else 'are'} for the map of the layers, but"
            " --map is not there. Add it, or leave the rest out."
        )


def _available_skips(name: str) -> list[str]:
    """Return the kinds of skip that a family has."""
    from skipguide.families import rows
    from skipguide.method import perturbations

    return list(
        perturbations.available_skips(next(row for row in rows.FAMILIES if row.name == name).traits)
    )


def _lines(found: PlainData) -> Iterator[Line]:
    yield "dim", f"{found['model']}: {found['denoiser']} ({found['family']}), {found['size']}"
    yield (
        "dim",
        (
            f"{found['flops']:.3g} floating point operations in a forward pass, counted"
            f" {found['counted']}"
        ),
    )
    if found["same"]:
        yield "dim", f"{' and '.join(found['same'])} have the same layers."
    heading, *lines = align_columns([COLUMNS, *map(_cells, found["layers"])])
    yield "bold", heading
    for line in lines:
        yield "", line
    yield "", f"the rest (embeddings, resnets, output): {_format_percent(found['rest'])}"
    yield "", f"skips: {', '.join(found['skips'])}"


def _cells(row: PlainData) -> tuple[str, ...]:
    halves = " + ".join(_format_percent(half["share"]) for half in row["halves"].values())
    share = _format_percent(row["share"]) + (f" ({halves})" if halves else "")
    return (
        row["layer"],
        " + ".join(row["axes"]),
        share,
        _format_cost(row["residual"]),
        _format_cost(row["attention"]),
    )


def _format_percent(share: float) -> str:
    return f"{share:.2%}"


def _format_cost(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:.3f}"
