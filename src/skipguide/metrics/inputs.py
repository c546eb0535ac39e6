"""The videos to measure: files, folders of frames, or tensors.

Videos that cannot be measured are listed with the reason.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from skipguide.files import clips, image, search, sound
from skipguide.files.folders import is_system_name
from skipguide.files.frames import Frames, VideoFile
from skipguide.files.sound import Sound
from skipguide.files.text import format_count

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


# Beside videos, and no videos: records, prompts, results. They are not listed as left out.
COMPANION_SUFFIXES = (
    ".json", ".jsonl", ".txt", ".md", ".rst", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".log",
    ".html", ".pdf", ".safetensors", ".srt", ".vtt", ".py", ".sh", ".sqlite", ".db",
)  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """A video whose frames are decoded one after the other, as often as they are asked for."""

    count: int  # of the frames; a few files turn out to have another number
    height: int
    width: int
    fps: float | None  # None if unknown
    # an iterator over functions, each of which converts one frame to (3, H, W) uint8
    frames: Callable[[], Iterator[Callable[[], Tensor]]]
    notes: tuple[str, ...] = ()  # what a player would show otherwise, in words
    sound: Callable[[], Sound | None] = lambda: None  # decodes it; None if it has none

    def stack(self) -> Tensor:
        """Return all frames at once: `(F, 3, H, W)` uint8."""
        return torch.stack([convert() for convert in self.frames()])


@dataclass(frozen=True)
class Source:
    """A video that can be read: its name within its set, and a function that opens it."""

    name: str
    read: Callable[[], Clip]  # raises ValueError if it cannot be read
    problem: str = ""  # why it cannot, if that is known before it is opened
    text: Callable[[], str | None] = lambda: None  # its prompt, where that is known


@dataclass(frozen=True, order=True)
class SkippedVideo:
    """A video that a metric, or all of them, had to leave out."""

    video: str
    side: str  # "generated" or "reference"
    metric: str  # or "all"
    reason: str


def find_videos(videos: Videos, fps: float | None = None, pictures: bool = False) -> list[Source]:
    """Find the videos of a set, sorted by name.

    Args:
        videos: a folder, searched recursively, also through links, for video files and for folders
            that hold images but no videos, which are the frames of a video in the order of the
            numbers in their names; what is there and cannot be measured becomes a source that
            says why; or tensors `(F, 3, H, W)` uint8 by name; or one tensor `(N, F, 3, H, W)`.
        fps: frames per second of frame folders and tensors; files know their own.
        pictures: each image file is a picture by itself, and videos are left out.

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
    found = _find_pictures(folder) if pictures else _find_in_folder(folder, fps)
    sources = sorted(found, key=lambda source: source.name)
    if all(source.problem for source in sources):
        found = "; ".join(f"{source.name}: {source.problem}" for source in sources[:3])
        if pictures:
            raise ValueError(
                f"a folder of pictures must hold {', '.join(IMAGE_SUFFIXES)} files, but {folder}"
                f" has none. Check the name. {found}"
            )
        raise ValueError(
            f"a folder of videos must hold {', '.join(VIDEO_SUFFIXES)} files or folders of"
            f" images, but {folder} has none. Check the name. {found}"
        )
    return sources


def _find_in_folder(folder: Path, fps: float | None) -> Iterator[Source]:
    entries = [entry for entry in search.walk(folder) if _is_wanted(entry)]
    videos = [entry for entry in entries if _suffix(entry) in VIDEO_SUFFIXES]
    for entry in entries:
        name, suffix = _name(entry.path, folder), _suffix(entry)
        if entry.problem and (entry.is_folder or suffix not in IMAGE_SUFFIXES):
            yield unreadable_source(name, f"{entry.problem}. Correct or remove it.")
        elif entry.path.name.startswith("."):
            yield unreadable_source(name, "its name starts with a dot. Rename it to measure it.")
        elif suffix in VIDEO_SUFFIXES:
            yield file_source(name, entry.path)
    yield from _image_sources(
        folder, entries, {entry.path.parent for entry in videos if not entry.is_folder}, fps
    )
    yield from _other_files(folder, entries)


def _find_pictures(folder: Path) -> Iterator[Source]:
    for entry in search.walk(folder):
        if not _is_wanted(entry) or entry.path.name.startswith("."):
            continue
        name = _name(entry.path, folder)
        if entry.problem:
            yield unreadable_source(name, f"{entry.problem}. Correct or remove it.")
        elif _suffix(entry) in IMAGE_SUFFIXES:
            yield file_source(name, entry.path)
        elif not entry.is_folder:
            yield unreadable_source(name, "it is no picture. Leave out --pictures for videos.")


def _is_wanted(entry: search.Entry) -> bool:
    """Leave out what nobody takes for a video: companions, files of the system, hidden ones."""
    if is_system_name(entry.path.name) and not entry.problem:
        return False
    if entry.path.name.startswith(".") and not entry.is_folder:
        return _suffix(entry) in (*VIDEO_SUFFIXES, *UNSUPPORTED_SUFFIXES)
    return _suffix(entry) not in COMPANION_SUFFIXES


def _suffix(entry: search.Entry) -> str:
    return "" if entry.is_folder else entry.path.suffix.lower()


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _image_sources(
    folder: Path, entries: Sequence[search.Entry], previewed: set[Path], fps: float | None
) -> Iterator[Source]:
    """Yield the folders of frames, and those whose images are previews of videos beside them."""
    frames: dict[Path, list[Path]] = {}
    for entry in entries:
        if _suffix(entry) in IMAGE_SUFFIXES and not entry.path.name.startswith("."):
            frames.setdefault(entry.path.parent, []).append(entry.path)
    names = {_name(parent, folder) for parent in frames}
    for parent, paths in frames.items():
        name = _name(parent, folder)
        if parent in previewed:
            yield unreadable_source(
                _name(parent / "*", folder) + " (images)",
                f"{format_count(len(paths), 'image')} beside videos are taken for previews of them."
                " Put frames of a video into a folder of their own.",
            )
            continue
        # The folder's own name says more than ".", but must not hide a subfolder of that name.
        if parent == folder and folder.resolve().name not in names:
            name = folder.resolve().name
        yield frames_source(name, paths, fps)


def _other_files(folder: Path, entries: Sequence[search.Entry]) -> Iterator[Source]:
    """Name what is neither a video nor an image by its suffix, once for each folder and suffix."""
    others: dict[tuple[Path, str], list[Path]] = {}
    for entry in entries:
        if entry.problem or _suffix(entry) in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES):
            continue
        if _suffix(entry) in UNSUPPORTED_SUFFIXES:
            reason = (
                f"a video must be a {', '.join(VIDEO_SUFFIXES)} file, but it is a"
                f" {entry.path.suffix}. Convert it."
            )
            yield unreadable_source(_name(entry.path, folder), reason)
        else:
            others.setdefault((entry.path.parent, _suffix(entry)), []).append(entry.path)
    for (parent, suffix), paths in others.items():
        name = _name(paths[0] if len(paths) == 1 else parent / f"*{suffix}", folder)
        kind = f"{suffix} files" if suffix else "files without a suffix"
        yield unreadable_source(
            name,
            f"{kind} are not read ({format_count(len(paths), 'file')}). Videos need one of the"
            f" suffixes {', '.join(VIDEO_SUFFIXES)}.",
        )


def file_source(name: str, path: Path) -> Source:
    """Return the source of a video file, or of a picture, which is a video of one frame.

    Its prompt is what its record says.
    """
    read = _read_picture if path.suffix.lower() in IMAGE_SUFFIXES else _decode
    return Source(name, lambda: read(path), text=lambda: _recorded_prompt(path))


def _recorded_prompt(path: Path) -> str | None:
    try:
        prompt = clips.read_record(path).get("settings", {}).get("prompt")
    except (ValueError, AttributeError):
        return None
    return prompt if isinstance(prompt, str) else None


def _read_picture(path: Path) -> Clip:
    return _read_frames([path], None)


def unreadable_source(name: str, reason: str) -> Source:
    """Return the source of a video that cannot be measured, so that it is listed as skipped."""

    def read() -> Clip:
        raise ValueError(reason)

    return Source(name, read, reason)


def _decode(path: Path) -> Clip:
    file = VideoFile.open(path)
    rate = None if file.rate is None else float(file.rate)

    def frames() -> Iterator[Callable[[], Tensor]]:
        for convert in file.frames():
            yield lambda convert=convert: _to_tensor(convert())

    return Clip(
        file.count, file.height, file.width, rate, frames, file.notes,
        functools.cache(functools.partial(sound.read, path)),
    )  # fmt: skip


def find_prompt(path: Path) -> str:
    """Return the prompt of a video file, from its own record or else from its name."""
    return _recorded_prompt(path) or prompt_from_name(path.name)


def _to_tensor(frame: Frames) -> Tensor:
    return torch.from_numpy(frame).permute(2, 0, 1)


def frames_source(name: str, paths: Sequence[Path], fps: float | None) -> Source:
    """Return the source of a video that is a folder of images, one for each frame."""
    return Source(name, lambda: _read_frames(sorted(paths, key=_natural_sort_key), fps))


def _read_frames(paths: Sequence[Path], fps: float | None) -> Clip:
    height, width = np.asarray(image.read(paths[0])).shape[:2]

    def read(path: Path) -> Tensor:
        frame = np.array(image.read(path))
        if frame.shape[:2] != (height, width):
            raise ValueError(
                f"frames must have one size, but {path.parent} has {height} x {width} and"
                f" {frame.shape[0]} x {frame.shape[1]}. Resize them."
            )
        return _to_tensor(frame)

    def frames() -> Iterator[Callable[[], Tensor]]:
        return (functools.partial(read, path) for path in paths)

    return Clip(len(paths), height, width, fps, frames)


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
    count, _, height, width = frames.shape
    clip = Clip(count, height, width, fps, lambda: (lambda one=one: one for one in frames))
    return Source(name, lambda: clip)


def prompt_from_name(name: str) -> str:
    """Return the part of a name before its number, "a red star" of "a red star-3.mp4".

    VBench and `skipguide generate` name videos this way.
    """
    return re.sub(r"-\d+$", "", re.sub(r"\.[A-Za-z0-9]+$", "", name))


def run_name(prompt: int, text: str, seed: int) -> str:
    """Return the name under which a clip of a run is measured, of which its prompt can be read."""
    return f"{prompt} {text}-{seed}"


def is_run_name(name: str) -> bool:
    """Return whether a name is that of a clip of a run, which nobody has chosen."""
    return re.fullmatch(r"\d+ .*-\d+", name, re.DOTALL) is not None
