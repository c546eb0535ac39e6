"""The file of a clip, by its suffix: an mp4, or a PNG or WebP of one frame.

Each carries the record of how it was made, and has the same record beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from skipguide.files import picture, video
from skipguide.files.frames import Frames
from skipguide.files.picture import is_picture as is_picture
from skipguide.files.record_text import sidecar_path as sidecar_path
from skipguide.files.sound import Sound
from skipguide.method.protocols import PlainData, ReadOnlyData

VIDEO = ".mp4"
SUFFIXES = (VIDEO, *picture.FORMATS)
MEDIA_TYPES = {VIDEO: "video/mp4", ".png": "image/png", ".webp": "image/webp"}


def noun(paths: Iterable[Path]) -> str:
    """Return "picture" if all files are pictures by their suffixes, and "video" otherwise."""
    found = list(paths)
    return "picture" if found and all(map(is_picture, found)) else "video"


def write(
    path: Path,
    frames: Frames,
    fps: Fraction | int | str | None,
    record: ReadOnlyData,
    sounds: Sequence[Sound] = (),
) -> None:
    """Write a clip with its record inside, and the same record beside it.

    Args:
        fps: frames per second; None for a picture.
        sounds: of a video, as `video.write` takes them.

    Raises:
        ValueError: as `video.write` and `picture.write`.
    """
    if is_picture(path):
        picture.write(path, frames, record)
        return
    assert fps is not None
    video.write(path, frames, fps, record, sounds)


def read(path: Path) -> tuple[Frames, Fraction | None]:
    """Decode a clip into its frames `(F, H, W, 3)`, with its frames per second.

    A picture is one frame, and has no rate.

    Raises:
        ValueError: as `video.read` and `picture.read`.
    """
    return (picture.read(path), None) if is_picture(path) else video.read(path)


def read_record(path: Path) -> PlainData:
    """Read the record of a clip from its file, or else from the sidecar.

    Raises:
        ValueError: as `video.read_record` and `picture.read_record`.
    """
    return picture.read_record(path) if is_picture(path) else video.read_record(path)
