"""A folder of real clips or pictures of the lab's world, such as a lab model makes.

They are a reference for metrics that compare two sets. Each clip is another scene, of all
combinations, with one object except in the open world; the table beside them has its caption, so
that it is a file of prompts too.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skipguide.files import clips as files
from skipguide.files import folders
from skipguide.lab import open_captions, stills, world, worlds
from skipguide.lab.open_captions import Caption

CAPTIONS = "captions.csv"
LEAST_SIZE, MOST_SIZE = 16, 1024
MOST_CLIPS = 100_000  # the names have five digits, and all scenes are drawn at once
_CLIP_BYTES, _PIXEL_BYTES = 6000, 0.6  # on the disk: of a clip, and per pixel of one frame of it
_BATCH = 32  # clips in memory at a time


@dataclass(frozen=True)
class ClipFormat:
    """The length and speed of the clips of a lab model, and what they show.

    Args:
        frames, fps: of a clip; a picture has one frame and no rate.
        spans: whether a clip shows parts of the path of an object, not all of it.
        world: of the scenes.
        empty: the words of a caption that names nothing.
    """

    frames: int
    fps: int | None
    spans: bool = False
    world: worlds.World = worlds.CLOSED
    empty: str = open_captions.CLIPS[0]

    @property
    def suffix(self) -> str:
        """The suffix of its files."""
        return files.VIDEO if self.fps else ".png"


# Written out, because the modules of the models import diffusers, which takes seconds;
# tests/lab/test_real_clips.py compares them with theirs.
FORMATS = {
    "mochi": ClipFormat(world.NUM_FRAMES, world.FPS),
    "mochi-2": ClipFormat(world.NUM_FRAMES, world.FPS, world=worlds.OPEN),
    "svd": ClipFormat(14, 7, spans=True),
    "opensora": ClipFormat(17, world.FPS),
    "sd3": ClipFormat(1, None, world=worlds.STILLS, empty=stills.WORDING.nothing[0]),
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
        named: what the captions of mochi-2 and sd3 name, a key of the prompts of their world; None
            is "half".
    """

    folder: Path
    model: str = "mochi"
    count: int = 256
    seed: int = 0
    size: int = world.FRAME_SIZE
    first_frames: Path | None = None
    named: str | None = None

    def __post_init__(self) -> None:
        if self.model not in FORMATS:
            raise ValueError(
                f"model must be one of {', '.join(FORMATS)}, but got {self.model!r}. Choose one."
            )
        _check_named(self)
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

    @property
    def kind(self) -> str:
        """The word for what is written."""
        return "clips" if FORMATS[self.model].fps else "pictures"

    @property
    def world(self) -> worlds.World:
        """The world of the clips."""
        return FORMATS[self.model].world


def _check_named(order: Order) -> None:
    kinds = order.world.prompts
    if order.named is None or (len(kinds) > 1 and order.named in kinds):
        return
    if len(kinds) > 1:
        raise ValueError(
            f"what captions name must be {', '.join(kinds)}, but got {order.named!r}. Choose one."
        )
    open_ones = " or ".join(name for name, form in FORMATS.items() if len(form.world.prompts) > 1)
    raise ValueError(
        f"captions leave out things only for {open_ones}, but got --named"
        f" {order.named} for {order.model}. Leave it out, or pass --model {open_ones}."
    )


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
    scenes = order.world.draw_prompted(order.count, order.seed)
    captions = _captions(order, scenes)
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


def _captions(order: Order, scenes: Any) -> list[Caption]:
    """Return captions as prompts: the empty one, which a file of prompts cannot hold, has words."""
    kinds = order.world.prompts
    named = kinds[order.named] if order.named else None
    found = order.world.caption(scenes, order.seed, named)
    return [Caption(one.text or FORMATS[order.model].empty, one.named) for one in found]


def _part(folder: Path) -> Path:
    full = folder.absolute()
    return full.with_name(f".{full.name}.part")


def _write_clips(
    order: Order, scenes: Any, captions: list[Caption], parts: dict[Path, Path]
) -> Iterator[int]:
    form, words = FORMATS[order.model], order.world.describe(scenes)
    spans = world.draw_spans(order.count, order.seed) if form.spans else None
    for start in range(0, order.count, _BATCH):
        which = slice(start, start + _BATCH)
        span = [] if spans is None else [spans[which]]
        clips = form.world.render(scenes[which], form.frames, order.size, *span)
        pixels = ((clips + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1)
        for i, frames in enumerate(pixels, start):
            record = {
                "what": "a real clip of skipguide.lab's world", "prompt": captions[i].text,
                "seed": order.seed, "number": i, "scene": words[i],
            }  # fmt: skip
            path = parts[order.folder] / clip_name(i, form.suffix)
            files.write(path, frames.numpy(), form.fps, record)
            if order.first_frames is not None:
                _write_frame(parts[order.first_frames] / _frame_name(i), frames[0])
            yield i + 1


def clip_name(number: int, suffix: str) -> str:
    """Return the name of a clip; names that differ in their number only are all of one prompt."""
    return f"clip-{number:05d}{suffix}"


def _frame_name(number: int) -> str:
    return f"frame-{number:05d}.png"


def _write_frame(path: Path, frame: torch.Tensor) -> None:
    from PIL import Image

    Image.fromarray(frame.numpy()).save(path, format="PNG")


def _write_captions(order: Order, scenes: Any, captions: list[Caption], folder: Path) -> None:
    """Write the table of captions: `prompt` first, as files of prompts have it.

    Of the open world it has the words of all slots, and in `named` the slots that a caption names.
    """
    is_open = len(order.world.prompts) > 1
    words, columns = order.world.describe(scenes), order.world.columns
    with (folder / CAPTIONS).open("w", newline="", encoding="utf-8") as file:
        first = ["prompt", *(["image"] if order.first_frames else []), "video"]
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*first, *columns, *(["named"] if is_open else [])])
        for i, (caption, own) in enumerate(zip(captions, words, strict=True)):
            row = [caption.text, clip_name(i, FORMATS[order.model].suffix)]
            if order.first_frames is not None:
                place = os.path.relpath(order.first_frames.absolute(), order.folder.absolute())
                row.insert(1, f"{Path(place).as_posix()}/{_frame_name(i)}")
            named = [slot for slot in order.world.slots if slot in caption.named]
            row += [own[name] for name in columns]
            writer.writerow([*row, *([" ".join(named)] if is_open else [])])
