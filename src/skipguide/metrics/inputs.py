"""The videos to measure: files, folders of frames, or tensors.

Videos that cannot be measured are listed with the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from skipguide.files import image, video

Tensor = torch.Tensor
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".mts",
    ".m2ts", ".wmv", ".flv", ".asf", ".ogv", ".3gp", ".3g2", ".qt", ".f4v", ".vob",
)  # fmt: skip
UNSUPPORTED_SUFFIXES = (
    ".divx", ".dv", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2v", ".mjpeg", ".mjpg", ".mxf",
    ".ogm", ".rm",
    ".rmvb", ".y4m", ".yuv",
)  # fmt: skip  # videos too, but untested, or without time stamps
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
Videos = str | Path | Mapping[str, Tensor] | Tensor


@dataclass(frozen=True)
class Clip:
    """A decoded video: frames `(F, 3, H, W)` uint8, and its frames per second (None if unknown)."""

    frames: Tensor
    fps: float | None


@dataclass(frozen=True)
class Source:
    """A video that can be read: its name within its set, and a function that reads it."""

    name: str
    read: Callable[[], Clip]  # raises ValueError if it cannot be read


@dataclass(frozen=True, order=True)
class SkippedVideo:
    """A video that a metric, or all of them, had to leave out."""

    video: str
    side: str  # "generated" or "reference"
    metric: str  # or "all"
    reason: str


def find_videos(videos: Videos, fps: float | None = None) -> list[Source]:
    """Find the videos of a set, sorted by name.

    Args:
        videos: a folder, searched recursively for video files and for folders that hold images but
            no videos, which are the frames of a video in the order of the numbers in their names;
            or tensors `(F, 3, H, W)` uint8 by name; or one tensor `(N, F, 3, H, W)`.
        fps: frames per second of frame folders and tensors; files know their own.

    Raises:
        ValueError: if there is no such folder, or nothing in it.
    """
    if isinstance(videos, Tensor):
        videos = {f"{i:06d}": clip for i, clip in enumerate(videos)}
    if isinstance(videos, Mapping):
        return [_tensor_source(name, clip, fps) for name, clip in sorted(videos.items())]
    folder = Path(videos)
    if not folder.is_dir():
        raise ValueError(f"videos must be a folder, but {folder} is not one. Check the name.")
    sources = sorted(_find_in_folder(folder, fps), key=lambda source: source.name)
    if not sources:
        raise ValueError(
            f"a folder of videos must hold {', '.join(VIDEO_SUFFIXES)} files or folders of"
            f" images, but {folder} has none. Check the name."
        )
    return sources


def _find_in_folder(folder: Path, fps: float | None) -> Iterator[Source]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    yield from (file_source(path.relative_to(folder).as_posix(), path) for path in videos)
    for path in files:
        if path.suffix.lower() in UNSUPPORTED_SUFFIXES:
            reason = (
                f"a video must be a {', '.join(VIDEO_SUFFIXES)} file, but it is a {path.suffix}."
                " Convert it."
            )
            yield unreadable_source(path.relative_to(folder).as_posix(), reason)
    frames: dict[Path, list[Path]] = {}
    for path in files:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            frames.setdefault(path.parent, []).append(path)
    names = {parent.relative_to(folder).as_posix() for parent in frames}
    # Images in a folder with videos are previews of them.
    for parent in frames.keys() - {path.parent for path in videos}:
        name = parent.relative_to(folder).as_posix()
        # The folder's own name says more than ".", but must not hide a subfolder of that name.
        if parent == folder and folder.resolve().name not in names:
            name = folder.resolve().name
        yield Source(name, lambda paths=frames[parent]: _read_frames(paths, fps))


def file_source(name: str, path: Path) -> Source:
    """Return the source of a video file."""
    return Source(name, lambda: _decode(path))


def unreadable_source(name: str, reason: str) -> Source:
    """Return the source of a video that cannot be measured, so that it is listed as skipped."""

    def read() -> Clip:
        raise ValueError(reason)

    return Source(name, read)


def _decode(path: Path) -> Clip:
    frames, rate = video.read(path)
    return Clip(torch.from_numpy(frames).permute(0, 3, 1, 2), float(rate))


def _read_frames(paths: list[Path], fps: float | None) -> Clip:
    frames = [np.asarray(image.read(path)) for path in sorted(paths, key=_natural_sort_key)]
    sizes = Counter(frame.shape for frame in frames)
    if len(sizes) > 1:
        found = " and ".join(f"{shape[0]} x {shape[1]}" for shape in sizes)
        raise ValueError(
            f"frames must have one size, but {paths[0].parent} has {found}. Resize them."
        )
    return Clip(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), fps)


def _natural_sort_key(path: Path) -> list[tuple[int, str]]:
    """Sort frame_9 before frame_10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d+)", path.name)
    ]


def _tensor_source(name: str, frames: Tensor, fps: float | None) -> Source:
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3 or len(frames) == 0:
        raise ValueError(
            f"videos must be (F, 3, H, W) uint8 with F >= 1, but {name} is {tuple(frames.shape)}"
            f" {frames.dtype}. Convert it first."
        )
    return Source(name, lambda: Clip(frames, fps))


def prompt_from_name(name: str) -> str:
    """Return the part of a name before its number, "a red star" of "a red star-3.mp4".

    VBench and `skipguide generate` name videos this way.
    """
    return re.sub(r"-\d+$", "", re.sub(r"\.[A-Za-z0-9]+$", "", name))
