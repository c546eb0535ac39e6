"""skipguide presets: list every published setting and those of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from skipguide.cli import console, own_presets
from skipguide.cli.families import Line, align_columns, print_lines
from skipguide.cli.options import Json, Overwrite
from skipguide.method.protocols import PlainData


def presets(
    model: Annotated[
        str, typer.Option(help="Only models or names that contain this, as in wan.")
    ] = "",
    pipeline: Annotated[
        str, typer.Option(help="Only pipelines that contain this, as in WanPipeline.")
    ] = "",
    add: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Copy a file that skipguide tune wrote to your own presets, so that --preset NAME"
            " finds it.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="With --add: what it is called.", show_default="as the file"),
    ] = None,
    remove: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Remove one of your own.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
    recommended: Annotated[
        bool, typer.Option("--recommended", help="Only the ones with a star.")
    ] = False,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="N,...",
            help="Say instead what each becomes in runs of so many steps without CFG, as in 4,6,8:"
            " the steps that it guides, and forward passes a step.",
            show_default=False,
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="With --steps: print the table as Markdown.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List published settings with their sources, and your own.

    STG.preset() and SLG.preset() pick the ones with a star. The window is a part of the run, or in
    a schedule a range of sigma. Your own are the files in ~/.config/skipguide/presets; none is
    used unless you name it."""
    shown = model + pipeline or ("--recommended" if recommended else "") or steps or ""
    _check_options(add, name, remove, overwrite, shown)
    if markdown and (as_json or steps is None):
        came = "--json came too" if as_json else "--steps did not come"
        raise ValueError(
            f"--markdown prints the table of --steps, but {came}. Write --steps 4,6,8 --markdown."
        )
    if add is not None:
        _add(add, name, overwrite, as_json)
    elif remove is not None:
        gone = own_presets.remove(remove)
        console.print_result(f"removed {gone}", {"removed": remove, "file": str(gone)}, as_json)
    elif steps is not None:
        _list_in_steps(model, pipeline, recommended, _parse_steps(steps), markdown, as_json)
    else:
        _list(model, pipeline, recommended, as_json)


def _check_options(
    add: Path | None, name: str | None, remove: str | None, overwrite: bool, asked: str
) -> None:
    """Check which options stand together.

    Raises:
        ValueError: for one that has no meaning beside the others.
    """
    if add is not None and remove is not None:
        raise ValueError(
            f"--add and --remove cannot be combined, but got {add} and {remove}. Do one after the"
            " other."
        )
    if add is None and (name is not None or overwrite):
        raise ValueError(
            f"{'--name' if name is not None else '--overwrite'} is for --add, but there is none."
            " Add it, or leave the other out."
        )
    if asked and (add is not None or remove is not None):
        raise ValueError(
            "--model, --pipeline, --recommended and --steps say what is listed, but nothing is with"
            " --add or --remove. Leave them out."
        )


def _add(source: Path, name: str | None, overwrite: bool, as_json: bool) -> None:
    target, file = own_presets.add(source, name, overwrite)
    told = {"added": target.stem, "file": str(target)}
    python = "" if file.is_cfg_alone else f", and STG.preset(pipe, file={target.stem!r})"
    said = f"{target}: {file.describe()}, for {file.row.model}"
    console.print_result(f"{said}\n--preset {target.stem} uses it{python}", told, as_json)


def _parse_steps(text: str) -> list[int]:
    found = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in found):
        raise ValueError(
            f"--steps must be whole numbers above 0, as in 4,6,8, but got {text!r}. Correct it."
        )
    return [int(part) for part in found]


def _list_in_steps(
    model: str,
    pipeline: str,
    recommended: bool,
    steps: Sequence[int],
    markdown: bool,
    as_json: bool,
) -> None:
    """Print what presets become in runs of few steps without CFG; those without a row are none."""
    from skipguide.bench import preset_steps
    from skipguide.families import presets, tables

    names = {row["name"] for row in tables.preset_rows(model, pipeline)}
    found = [row for row in presets.load_presets() if row.name in names and row.pipelines]
    found = [row for row in found if row.recommended or not recommended]
    if markdown:
        typer.echo(preset_steps.markdown(found, steps), nl=False)
        return
    if as_json:
        rows = [{"name": row.name, "runs": preset_steps.to_plain(row, steps)} for row in found]
        console.print_result("", {"presets": rows}, as_json)
        return
    heading, *lines = align_columns(
        [preset_steps.columns(steps), *(preset_steps.cells(row, steps) for row in found)]
    )
    print_lines([("bold", heading), *(("", line) for line in lines)])


def _list(model: str, pipeline: str, recommended: bool, as_json: bool) -> None:
    from skipguide.families import tables

    own = [] if recommended else own_presets.list_own(model, pipeline)
    try:
        rows = tables.preset_rows(model, pipeline)
        rows = [row for row in rows if row["recommended"] or not recommended]
    except ValueError:
        if not own:
            raise
        rows = []
    if as_json:
        console.print_result("", {"presets": rows, "own": own}, as_json)
        return
    readable = [row for row in own if "error" not in row]
    lines = list(_lines([*rows, *readable], len(rows))) if rows or readable else []
    print_lines([*lines, *(("red", row["error"]) for row in own if "error" in row)])


def _lines(rows: Sequence[PlainData], published: int) -> Iterator[Line]:
    """Yield the lines of a table, in which one's own presets follow the published ones."""
    from skipguide.families import tables
    from skipguide.families.preset_folder import preset_folder

    cells = [tables.preset_cells(row) for row in rows]
    heading, *rest = align_columns(
        [tables.PRESET_COLUMNS, *(line for lines in cells for line in lines)]
    )
    yield "bold", heading
    texts = iter(rest)
    for number, (row, lines) in enumerate(zip(rows, cells, strict=True)):
        if number == published:
            yield "bold", f"your own, in {preset_folder()}"
        for _ in lines:
            yield "", next(texts)
        yield "dim", f"    {row['model']}. {row['source']}"
        for said in (row["note"], row.get("measured"), row.get("sentence")):
            if said:
                yield "dim", f"    {said}"
