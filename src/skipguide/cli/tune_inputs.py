"""The inputs of `skipguide tune`: prompts and pictures, metrics with weights, floors, sizes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.cli.prompt_options import read_prompts, read_rows
from skipguide.cli.scan_options import split_commas
from skipguide.files.folders import contents

if TYPE_CHECKING:
    from skipguide.runs.prompt_rows import Prompt


def read_inputs(prompts: Path | None, images: Path | None) -> tuple[list[Prompt], list[str]]:
    """Return the prompts of a tuning, and what is to be said of them.

    Args:
        prompts: a file of texts, or of rows.
        images: a folder of pictures: those that rows name, or one for each row in the order of
            their names, or, without a file of prompts, one video for each.

    Raises:
        ValueError: without either, or for files that cannot be read or do not fit.
    """
    if prompts is None and images is None:
        raise ValueError(
            "a tuning needs prompts, but got none. Pass --prompts with a file of 15 or more (a"
            " third of them measures the answer), or --images for models that need no text."
        )
    pictures = [] if images is None else _pictures(images)
    if prompts is None:
        from skipguide.runs.prompt_rows import Prompt

        return [Prompt(None, path, place=path.name) for path in pictures], []
    if pictures and images is not None:
        return _with_pictures(prompts, images, pictures)
    found, note = read_prompts(prompts)
    return found, [note] if note else []


def _pictures(folder: Path) -> list[Path]:
    from skipguide.files.image import SUFFIXES

    if not folder.is_dir():
        raise ValueError(f"--images must be a folder of pictures, but {folder} is no folder.")
    found = sorted(path for path in contents(folder) if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(
            f"--images must be a folder of pictures ({', '.join(SUFFIXES)}), but {folder} has none."
            " Check the name."
        )
    return found


def _with_pictures(
    file: Path, images: Path, pictures: Sequence[Path]
) -> tuple[list[Prompt], list[str]]:
    """Return prompts with the pictures that they name, or with one each."""
    from skipguide.runs.prompt_rows import describe_columns

    found = read_rows(file)
    columns = describe_columns(found, file.name)
    notes = [columns] if columns else []
    named = [entry for entry in found if entry.image is not None or entry.tags.get("image_name")]
    if named:
        wanted = [
            dataclasses.replace(entry, image=images / _picture_name(entry)) for entry in found
        ]
        missing = [entry for entry in wanted if entry.image is None or not entry.image.is_file()]
        if missing:
            raise ValueError(
                f"the pictures that {file} names must be in {images}, but {missing[0].image} is not"
                f" ({len(missing)} of {len(found)}). Check the names."
            )
        return wanted, notes
    if len(pictures) < len(found):
        raise ValueError(
            f"each prompt needs a picture, but {file} has {len(found)} prompts and {images}"
            f" {len(pictures)} pictures. Add pictures, or name them in a column image."
        )
    pairs = zip(found, pictures, strict=False)
    note = f"each prompt of {file.name} starts from one picture of {images.name}, in their order"
    return [dataclasses.replace(entry, image=path) for entry, path in pairs], [*notes, note]


def _picture_name(entry: Prompt) -> str:
    if entry.image is not None:
        return entry.image.name
    return str(entry.tags.get("image_name") or "a picture that is not named")


def parse_metrics(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return (metric, weight) of "NAME" or "NAME=WEIGHT" each, several separated by commas.

    Raises:
        ValueError: for a weight that is no number.
    """
    return tuple(_parse_pair(part, "--metric", 1.0) for part in split_commas(texts))


def parse_floors(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return (metric, share) of "NAME=SHARE" each, several separated by commas.

    Raises:
        ValueError: for a share that is no number, or missing.
    """
    return tuple(_parse_pair(part, "--floor", None) for part in split_commas(texts))


def _parse_pair(text: str, option: str, default: float | None) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    if not equals and default is not None:
        return text, default
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not name or not equals or value != value:
        example = "motion=0.97" if default is None else "imaging_quality or sharpness=2"
        raise ValueError(
            f"{option} must be a metric and a number, as in {example}, but got {text!r}. Correct"
            " it."
        )
    return name.strip(), value


def parse_size(text: str | None) -> tuple[int, int, int] | None:
    """Return width, height and frames of "480x272x25".

    Raises:
        ValueError: for something else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.strip().lower())
    if found is None or not all(int(number) for number in found.groups()):
        raise ValueError(
            f"--scan-size must be width x height x frames, as in 480x272x25, but got {text!r}."
            " Correct it."
        )
    width, height, frames = (int(number) for number in found.groups())
    return width, height, frames
