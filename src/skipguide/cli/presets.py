"""skipguide presets: list every published setting, converted into this library's terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.families import Line, align_columns, print_lines
from skipguide.cli.options import Json
from skipguide.method.protocols import PlainData


def presets(
    model: Annotated[
        str, typer.Option(help="Only models or names that contain this, as in wan.")
    ] = "",
    pipeline: Annotated[
        str, typer.Option(help="Only pipelines that contain this, as in WanPipeline.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the published settings of STG and SLG with their sources.

    STG.preset() and SLG.preset() pick the ones with a star. The window is a part of the run, or in
    a schedule a range of sigma."""
    from skipguide.families import tables

    rows = tables.preset_rows(model, pipeline)
    if as_json:
        console.print_result("", {"presets": rows}, as_json)
    else:
        print_lines(list(_lines(rows)))


def _lines(rows: list[PlainData]) -> Iterator[Line]:
    from skipguide.families import tables

    cells = [tables.preset_cells(row) for row in rows]
    heading, *rest = align_columns(
        [tables.PRESET_COLUMNS, *(line for lines in cells for line in lines)]
    )
    yield "bold", heading
    texts = iter(rest)
    for row, lines in zip(rows, cells, strict=True):
        for _ in lines:
            yield "", next(texts)
        yield "dim", f"    {row['model']}. {row['source']}"
        if row["note"]:
            yield "dim", f"    {row['note']}"
