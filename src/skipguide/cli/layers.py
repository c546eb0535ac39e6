"""skipguide layers: list the layers of a model, and what a weak pass costs that skips one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.families import Line, align_columns, print_lines
from skipguide.cli.options import Json
from skipguide.method.protocols import PlainData

COLUMNS = ("layer", "attention", "share", "weak pass: residual", "attention")


def layers(
    model: Annotated[
        str,
        typer.Argument(
            help="A family (svd), a lab model (lab-svd), a folder in diffusers layout, or a hub id."
        ),
    ],
    height: Annotated[
        int | None, typer.Option(help="Height in pixels.", show_default="the model's")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Width in pixels.", show_default="the model's")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option(help="Frames of the video.", show_default="the model's")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the layers of a model, and what skipping them costs.

    For each layer: its address, its kind of attention, its share of a forward pass, and the cost of
    a weak pass that starts there, as a part of a forward pass. All are floating point operations; a
    family is counted without weights."""
    from skipguide.bench import layer_cost

    found = layer_cost.measure_layers(model, height=height, width=width, num_frames=num_frames)
    found["skips"] = _available_skips(found["family"])
    if as_json:
        console.print_result("", found, as_json)
    else:
        print_lines(list(_lines(found)))


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
