"""A folder of real clips of the lab's world, as long and as fast as those of a lab model.

They are a reference for metrics that compare two sets. Each clip is another scene with one object,
of all combinations; the table beside them has its caption, so that it is a file of prompts too.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from skipguide.files import folders, video
from skipguide.lab import world

CAPTIONS = "captions.csv"
LEAST_SIZE, MOST_SIZE = 16, 1024
MOST_CLIPS = 100_000  # the names have five digits, and all scenes are drawn at once
_CLIP_BYTES, _PIXEL_BYTES = 6000, 0.6  # on the disk: of a clip, and per pixel of one frame of it
_BATCH = 32  # clips in memory at a time


@dataclass(frozen=True)
class ClipFormat:
    """The length and speed of the clips of a lab model, and the part of a path that they show."""

    frames: int
    fps: int
    spans: bool = False


# Written out, because the modules of the models import diffusers, which takes seconds;
# tests/lab/test_real_clips.py compares them with theirs.
FORMATS = {
    "mochi": ClipFormat(world.NUM_FRAMES, world.FPS),
    "svd": ClipFormat(14, 7, spans=True),
    "opensora": ClipFormat(17, world.FPS),
}


@dataclass(frozen=True)
class Order:
    """The clips to write.

    Args:
        folder: a new or empty one.
        model: a key of FORMATS.
        count: of clips.
        seed: of the scenes and captions.
        size: pixels a side, even.
        first_frames: a new folder for the first frame of each clip, to start videos from.
    """

    folder: Path
    model: str = "mochi"
    count: int = 256
    seed: int = 0
    size: int = world.FRAME_SIZE
    first_frames: Path | None = None

    def __post_init__(self) -> None:
        if self.model not in FORMATS:
            raise ValueError(
                f"model must be one of {', '.join(FORMATS)}, but got {self.model!r}. Choose one."
            )
        if not 1 <= self.count <= MOST_CLIPS:
            raise ValueError(
                f"count must be 1 to {MOST_CLIPS}, but got {self.count}. Choose such a number; more"
                " clips go into another folder, with another seed."
            )
        if self.size % 2 or not LEAST_SIZE <= self.size <= MOST_SIZE:
            raise ValueError(
                f"size must be an even number from {LEAST_SIZE} to {MOST_SIZE}, but got"
                f" {self.size}. Choose {world.FRAME_SIZE}, that of the models."
            )
        if self.first_frames is not None and _is_within(self.first_frames, self.folder):
            raise ValueError(
                f"the first frames must not lie among the clips in {self.folder}, where they would"
                " be taken for a video. Name a folder beside it."
            )
        _check_folder("the folder of clips", self.folder)
        if self.first_frames is not None:
            _check_folder("--first-frames", self.first_frames)
        _check_space(self)


def _is_within(inner: Path, outer: Path) -> bool:
    return inner.absolute().is_relative_to(outer.absolute())


def _check_folder(name: str, folder: Path) -> None:
    folders.check_writable(folder, name)
    if not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise ValueError(
            f"clips need a new or an empty folder, but {folder} is not one. Name another, or empty"
            " it."
        )


def _check_space(order: Order) -> None:
    needed = round(order.count * (_CLIP_BYTES + _PIXEL_BYTES * order.size**2))
    if (free := folders.free_bytes(order.folder.absolute().parent)) < needed:
        raise OSError(
            f"the disk must have room for {order.count} clips, about {needed / 1e6:.0f} MB, but"
            f" that of {order.folder} has {free / 1e6:.0f} MB. Ask for fewer or smaller ones, or"
            " name a folder on another disk."
        )


def write(order: Order) -> Generator[int, None, None]:
    """Write the clips and their captions; yields how many there are.

    They are made in folders beside their own, which take their names when all is complete.
    """
    scenes = world.sample_scenes(order.count, order.seed, "all", second_share=0.0)
    captions = world.captions(scenes, order.seed)
    parts = {folder: _part(folder) for folder in (order.folder, order.first_frames) if folder}
    try:
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        yield from _write_clips(order, scenes, captions, parts)
        _write_captions(order, scenes, captions, parts[order.folder])
        for folder, part in parts.items():
            if folder.is_dir():
                folder.rmdir()
            os.replace(part, folder)
    finally:
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)


def _part(folder: Path) -> Path:
    full = folder.absolute()
    return full.with_name(f".{full.name}.part")


def _write_clips(
    order: Order, scenes: world.Scenes, captions: list[str], parts: dict[Path, Path]
) -> Iterator[int]:
    form, attributes = FORMATS[order.model], list(scenes.attributes())
    spans = world.draw_spans(order.count, order.seed) if form.spans else None
    for start in range(0, order.count, _BATCH):
        which = slice(start, start + _BATCH)
        span = None if spans is None else spans[which]
        clips = world.render(scenes[which], form.frames, order.size, span)
        pixels = ((clips + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1)
        for i, frames in enumerate(pixels, start):
            record = {
                "what": "a real clip of skipguide.lab's world", "prompt": captions[i],
                "seed": order.seed, "number": i, "scene": attributes[i],
            }  # fmt: skip
            video.write(parts[order.folder] / clip_name(i), frames.numpy(), form.fps, record)
            if order.first_frames is not None:
                _write_frame(parts[order.first_frames] / _frame_name(i), frames[0])
            yield i + 1


def clip_name(number: int) -> str:
    """Return the name of a clip; names that differ in their number only are all of one prompt."""
    return f"clip-{number:05d}.mp4"


def _frame_name(number: int) -> str:
    return f"frame-{number:05d}.png"


def _write_frame(path: Path, frame: torch.Tensor) -> None:
    from PIL import Image

    Image.fromarray(frame.numpy()).save(path, format="PNG")


def _write_captions(order: Order, scenes: world.Scenes, captions: list[str], folder: Path) -> None:
    """Write the table of captions: `prompt` first, as files of prompts have it."""
    with (folder / CAPTIONS).open("w", newline="", encoding="utf-8") as file:
        words = ("shape", "colour", "size", "motion", "background", "background_colour")
        first = ["prompt", *(["image"] if order.first_frames else []), "video"]
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*first, *words])
        for i, attributes in enumerate(scenes.attributes()):
            row = [captions[i], clip_name(i)]
            if order.first_frames is not None:
                place = os.path.relpath(order.first_frames.absolute(), order.folder.absolute())
                row.insert(1, f"{Path(place).as_posix()}/{_frame_name(i)}")
            writer.writerow([*row, *(attributes[word] for word in words)])
