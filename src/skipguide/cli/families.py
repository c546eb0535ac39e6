"""skipguide families: list the supported pipelines, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.options import Json
from skipguide.method.protocols import PlainData

Line = tuple[str, str]  # style, text


def families(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the model families, and the pipelines refused.

    Depths are those of the public checkpoint; c and u are the conditional and the unconditional
    prediction."""
    if markdown and as_json:
        raise ValueError("the output must be --markdown or --json, but got both. Leave one out.")
    from skipguide.families import tables

    rows, refused = tables.family_rows(), tables.refused_pipelines()
    if as_json:
        console.print_result("", {"families": rows, "refused": refused}, as_json)
    elif markdown:
        typer.echo(tables.families_markdown(), nl=False)
    else:
        print_lines([*_family_lines(rows), ("bold", "refused"), *_refused_lines(refused)])


def _family_lines(rows: list[PlainData]) -> Iterator[Line]:
    from skipguide.families.tables import describe_stacks

    cells = [
        (
            row["title"],
            row["makes"],
            describe_stacks(row),
            ", ".join([*row["skips"], *row["axes"]]),
            row["cfg"],
        )
        for row in rows
    ]
    heading, *lines = align_columns([("family", "makes", "layers", "skips, axes", "CFG"), *cells])
    yield "bold", heading
    for row, line in zip(rows, lines, strict=True):
        yield "", line
        yield "dim", f"    {', '.join(row['pipelines'])}"
        for preset in row["presets"]:
            yield (
                "dim",
                (
                    f"    {preset['name']} ({preset['model']}): {preset['setting']}."
                    f" {preset['source']}"
                ),
            )
        if row["notes"]:
            yield "dim", f"    {row['notes']}"


def _refused_lines(refused: dict[str, list[str]]) -> Iterator[Line]:
    for reason, pipelines in refused.items():
        yield "", ", ".join(pipelines)
        yield "dim", f"    {reason}"


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Join cells into lines of text, with each column but the last as wide as its longest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        "  ".join(
            [*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]
        )
        for row in rows
    ]


def print_lines(lines: Sequence[Line]) -> None:
    """Print lines on stdout, in style where that is a terminal, without breaking long ones."""
    from rich.console import Console
    from rich.text import Text

    out = Console()
    for style, text in lines:
        out.print(Text(text.rstrip(), style=style), soft_wrap=True)
