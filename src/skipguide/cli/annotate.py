"""skipguide runs tag and note: what people write on a run and on its clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipguide.cli import console
from skipguide.cli.options import Json, RunFolder
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.runs import Run
    from skipguide.runs.annotations import Annotation

# `-bad` is a tag to remove, and no option: there are none of one letter here.
TAG_CONTEXT = {"ignore_unknown_options": True}
_Clips = Annotated[
    list[str] | None,
    typer.Option(
        "--clip",
        metavar="KEY",
        help="A clip, by its key or the beginning of it; repeatable.",
        show_default="the run itself",
    ),
]


def tag(
    folder: RunFolder,
    tags: Annotated[
        list[str] | None,
        typer.Argument(metavar="[+TAG|-TAG]...", help="Tags to add (+good) and remove (-bad)."),
    ] = None,
    clip: _Clips = None,
    as_json: Json = False,
) -> None:
    """Add tags to a run or to clips, and remove them.

    Without tags it prints those that are there. A tag of several words stands in quotes: "+too
    dark". `runs show` and `runs export` take --tag.
    """
    from skipguide.runs import annotations

    words = [word for word in tags or [] if word]
    remove = [word[1:] for word in words if word.startswith("-")]
    add = [word.removeprefix("+") for word in words if not word.startswith("-")]
    with _open(folder, bool(words)) as run:
        keys = _keys(run, clip)
        if words:
            annotations.change(run, keys, add, remove)
        _print(run, folder, keys, as_json)


def note(
    folder: RunFolder,
    text: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help='The new note; "" removes it.', show_default=False),
    ] = None,
    clip: _Clips = None,
    as_json: Json = False,
) -> None:
    """Write a note on a run or on clips; it replaces the one before.

    Without a text it prints the note that is there.
    """
    from skipguide.runs import annotations

    with _open(folder, text is not None) as run:
        keys = _keys(run, clip)
        if text is not None:
            annotations.change(run, keys, note=text)
        _print(run, folder, keys, as_json)


def _open(folder: Path, writable: bool) -> Run:
    from skipguide.runs import Run

    return Run.open(folder, writable)


def _keys(run: Run, given: Sequence[str] | None) -> list[str] | None:
    from skipguide.runs import annotations

    return [annotations.find_key(run, text) for text in given] if given else None


def _print(run: Run, folder: Path, keys: Sequence[str] | None, as_json: bool) -> None:
    """Print what is written on the run, or on these clips, a line each."""
    from skipguide.runs import annotations

    found = annotations.read(run)
    told: PlainData = {"run": str(folder)}
    if keys is None:
        lines, more = [f"{folder}: {in_words(found.run)}"], payload(found.run)
    else:
        lines = [f"{key}: {in_words(found.of(key))}" for key in keys]
        more = {"clips": [{"key": key, **payload(found.of(key))} for key in keys]}
    console.print_result("\n".join(lines), {**told, **more}, as_json)


def payload(annotation: Annotation) -> PlainData:
    """Return an annotation for --json."""
    return {"tags": list(annotation.tags), "note": annotation.note}


def in_words(annotation: Annotation) -> str:
    """Return the tags and the note in one line; several lines where the note has them."""
    tags = ", ".join(annotation.tags) or "no tags"
    return f"{tags}; {annotation.note}" if annotation.note else tags
