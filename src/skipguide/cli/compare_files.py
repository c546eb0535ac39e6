"""The files of a comparison: one of all videos side by side, and each video by itself.

NAME.mp4 and NAME.png have the videos of one prompt and seed side by side. METHOD/NAME.mp4 is one
of them with a record of its own, and ledger.sqlite makes a run of these, for the studio and for
`skipguide evaluate`. Of models that make sound, NAME.mp4 has the sound of each video as a track:
players play that of the first, on the left, unless another is chosen. Of pictures NAME.png (or
NAME.webp) is all there is side by side.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.cli import batch, names
from skipguide.cli.batch import Item
from skipguide.generate.describe import describe_method
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData, ReadOnlyData

if TYPE_CHECKING:
    import PIL.Image

    from skipguide.files.sound import Sound
    from skipguide.generate.record import GenerationResult
    from skipguide.runs.prompt_rows import Prompt

_MAX_METHOD = 50  # characters of the name of a folder


@dataclass(frozen=True)
class Column:
    """One of the videos for one prompt and seed: what it shall be, and its file."""

    method: str
    settings: GenerationSettings  # complete
    base: GenerationSettings  # complete, without what the row of its prompt says
    clip: Path


@dataclass(frozen=True)
class ComparisonColumn:
    """One of the videos for one prompt and seed, made."""

    method: str
    record: PlainData  # without the image
    image: dict[str, str] | None  # of the record; all runs have the same
    judge: dict[str, str] | None  # what the lab's judge reads in the video, by what it is of
    clip: Path

    def row(self) -> PlainData:
        """Return the cells of the table for this video."""
        measured = {
            name: self.record["measured"][name] for name in ("passes_per_step", "seconds_per_step")
        }
        named = {name: self.record["settings"][name] for name in ("prompt", "image")}
        return {**named, "method": self.method, **measured, "judge": self.judge}

    def title(self) -> str:
        """Return the prompt, or the name of the image."""
        settings = self.record["settings"]
        return settings["image"] if settings["prompt"] is None else settings["prompt"]


def column_settings(complete: GenerationSettings) -> list[GenerationSettings]:
    """Return the settings of each video, from CFG alone to everything that is asked for.

    Spatial and temporal STG come one after the other (Table 4).
    """
    from skipguide.method.request import GuidanceRequest

    request = complete.request
    axes = {getattr(term, "axis", None) for term in request.terms}
    columns = [GuidanceRequest(), request]
    if {"spatial", "temporal"} <= axes:
        spatial = tuple(term for term in request.terms if term.axis != "temporal")
        columns.insert(1, dataclasses.replace(request, terms=spatial, orthogonalize=False))
    return [complete.model_copy(update={"guidance": column}) for column in columns]


def plan_columns(
    complete: GenerationSettings, base: GenerationSettings, target: Path
) -> list[Column]:
    """Return the columns of one comparison.

    Args:
        complete: the settings that are asked for, filled in.
        base: the same without what the row of the prompt says.
        target: the file of all of them.
    """
    columns, bases = column_settings(complete), column_settings(base)
    if len(bases) != len(columns):  # a row that has an axis of its own
        bases = columns
    methods = [describe_method(settings) for settings in columns]
    return [
        Column(method, settings, plain, target.parent / folder_name(method) / target.name)
        for method, settings, plain in zip(methods, columns, bases, strict=True)
    ]


def folder_name(method: str) -> str:
    """Return the folder of a method, as "cfg-4.5-stg-1-residual-8".

    A long one is cut, and has a hash of all of it.
    """
    written = "".join(letter if letter.isalnum() or letter == "." else "-" for letter in method)
    name = "-".join(part for part in written.lower().split("-") if part)
    if len(name) <= _MAX_METHOD:
        return name
    return f"{name[:_MAX_METHOD].strip('-.')}-{hashlib.sha256(method.encode()).hexdigest()[:6]}"


def files_beside(target: Path) -> list[Path]:
    """Return the files of a comparison beside the one of all videos: their strip. Of pictures there
    is none."""
    return [] if target.suffix.lower() != ".mp4" else [target.with_suffix(".png")]


def write(
    target: Path,
    item: Item,
    columns: Sequence[ComparisonColumn],
    results: Sequence[GenerationResult],
) -> None:
    """Write all files of one comparison, the one of all videos last."""
    from skipguide.files import clips, video

    fps = columns[0].record["settings"]["fps"]
    for column, own in zip(columns, results, strict=True):
        clips.write(column.clip, own.frames, fps, clip_record(column, item), own.sounds)
    methods = [column.method for column in columns]
    named = {name: own.frames for name, own in zip(methods, results, strict=True)}
    for strip in files_beside(target):
        with video.atomic_replace(strip) as (part,):
            video.make_frame_strip(named, columns[0].title()).save(part, format="PNG")
    combined = combine_records([clip_record(column, item) for column in columns])
    joined = video.place_side_by_side(named)
    clips.write(target, joined, fps, combined, titled_sounds(methods, results))


def titled_sounds(methods: Sequence[str], results: Sequence[GenerationResult]) -> list[Sound]:
    """Return the sounds of videos side by side, each called as its video; the first is played."""
    return [
        dataclasses.replace(sound, title=method)
        for method, own in zip(methods, results, strict=True)
        for sound in own.sounds
    ]


def clip_record(column: ComparisonColumn, item: Item) -> PlainData:
    """Return the record of one video by itself."""
    record = dict(column.record)
    if column.image:
        record["image"] = column.image
    return {**record, **({"tags": item.tags} if item.tags else {})}


def combine_records(records: Sequence[ReadOnlyData]) -> PlainData:
    """Return the record of a comparison: those of its videos, and once the image they all start
    from."""
    from skipguide.generate.record import RECORD_FORMAT

    image = records[0].get("image")
    return {
        "format": RECORD_FORMAT,
        **({"image": image} if image else {}),
        "runs": [{name: run[name] for name in run if name != "image"} for run in records],
    }


# --- what is there already ------------------------------------------------------------------------


def find_made(
    target: Path,
    columns: Sequence[Column],
    weights: ReadOnlyData,
    image: PIL.Image.Image | None,
) -> tuple[list[ComparisonColumn], list[str]]:
    """Return a comparison that is there, and in what it differs from what would be made.

    Returns:
        The columns, without what the judge read, and what differs; no columns where something is
        missing or differs.
    """
    if not target.is_file():
        return [], []
    record = names.read_record(target) or {}
    runs = record.get("runs")
    if not isinstance(runs, list) or len(runs) != len(columns):
        return [], ["the number of videos"]
    whole = [{**run, **({"image": record["image"]} if "image" in record else {})} for run in runs]
    changes = [
        change
        for run, column in zip(whole, columns, strict=True)
        for change in batch.same_as_made(run, column.settings, weights, image)
    ]
    files = [*files_beside(target), *(column.clip for column in columns)]
    if changes or not all(path.is_file() for path in files):
        return [], list(dict.fromkeys(changes))
    return [
        ComparisonColumn(column.method, run, record.get("image"), None, column.clip)
        for run, column in zip(runs, columns, strict=True)
    ], []


def is_same(column: Column, weights: ReadOnlyData, image: PIL.Image.Image | None) -> bool:
    """Return whether a single video is there and would be made the same."""
    if not column.clip.is_file():
        return False
    return not batch.same_as_made(names.read_record(column.clip), column.settings, weights, image)


def is_left_over(sidecar: Path) -> bool:
    """Return whether a file is the record of a comparison, whose video is gone."""
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and isinstance(record.get("runs"), list)


def collect(
    folder: Path,
    made: Sequence[tuple[Item, Sequence[Column], Sequence[ComparisonColumn]]],
    weights: dict[str, str],
) -> None:
    """Make a run of the single videos of comparisons."""
    from skipguide.runs import collect as collecting

    clips = [
        collecting.FinishedClip(
            describe_method(plan.base), plan.base, plan.settings,
            _prompt(item),
            clip_record(column, item), column.clip,
        )
        for item, plans, columns in made
        for plan, column in zip(plans, columns, strict=True)
    ]  # fmt: skip
    if clips:
        collecting.collect(folder, clips, weights)


def write_grid(
    folder: Path, made: Sequence[tuple[Item, Sequence[Column], Sequence[ComparisonColumn]]]
) -> Path | None:
    """Write one sheet of all pictures of several comparisons; None of videos and of nothing."""
    from skipguide.runs import picture_grid

    return picture_grid.write(folder) if made else None


def _prompt(item: Item) -> Prompt:
    from skipguide.runs.prompt_rows import Prompt

    image = None if item.settings.image is None else Path(item.settings.image)
    row = item.row or Prompt(None)
    return dataclasses.replace(row, text=item.settings.prompt, image=image)
