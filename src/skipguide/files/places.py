"""Text and records without the folders of a machine: what is sent to others names none."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import av

from skipguide.files import picture, video
from skipguide.files.frames import ffmpeg_name
from skipguide.files.text import dump_json

_END = r"\s'\"`,;()\[\]{}<>|"  # what ends a path in a text
# Two parts at least: "and/or" and "4/5" are no paths, nor is what follows "https:", two slashes.
_PATHS = (
    re.compile(rf"(?:(?<!\w)file:/*|(?<![\w./]))/(?!/)(?:[^/{_END}]+/+)+[^/{_END}]*"),
    re.compile(rf"/(?:home|Users|root)/[^{_END}]*"),
    re.compile(rf"(?<!\w)~[\w.-]*/[^{_END}]*"),
    re.compile(rf"(?<!\w)[A-Za-z]:[\\/]+(?:[^\\/{_END}]+[\\/]+)*[^\\/{_END}]*"),
    re.compile(rf"(?<!\w)\\\\[^\\{_END}]+\\[^{_END}]*"),
)
_WHOLE = re.compile(r"(?:file:/*|/|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\)[^\n]*[\\/][^\n]*|/[^/\n]+")
_SPOKEN = ("prompt", "negative_prompt", "note")  # what people have said is no path


def without_folders(text: str) -> str:
    """Return a text in which paths with folders are their last part alone.

    A text that is one path may have spaces in it.
    """
    if _WHOLE.fullmatch(text):
        return _last_part(text)
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?=[/\\])", "~", text)
    for pattern in _PATHS:
        text = pattern.sub(lambda found: _last_part(found[0]), text)
    return text


def _last_part(path: str) -> str:
    parts = [part for part in re.split(r"[\\/]+", path) if part]
    return parts[-1] if parts else path


def data_without_folders(content: Any, spoken: Collection[str] = _SPOKEN) -> Any:
    """Return plain data in which every text is as `without_folders` returns it.

    Args:
        spoken: the names whose texts stay.
    """
    if isinstance(content, str):
        return without_folders(content)
    if isinstance(content, dict):
        return {
            name: value if name in spoken else data_without_folders(value, spoken)
            for name, value in content.items()
        }
    if isinstance(content, list):
        return [data_without_folders(value, spoken) for value in content]
    return content


def clip_without_folders(path: Path) -> bytes:
    """Return an mp4, PNG or WebP whose record names no folder; the file as it is where it names
    none already.

    The frames of a video are copied as they are encoded.

    Raises:
        ValueError: if the file is no clip, or has no readable record.
        OSError: if it cannot be read.
    """
    is_picture = picture.is_picture(path)
    record = (picture if is_picture else video).read_record(path)
    cleaned = data_without_folders(record)
    if cleaned == record:
        return path.read_bytes()
    if is_picture:
        return picture.encode(picture.read(path), path.suffix, dump_json(cleaned, indent=2))
    with tempfile.TemporaryDirectory(prefix="skipguide-") as folder:
        copy = Path(folder) / "copy.mp4"  # a file: the index is moved to its front at the end
        _copy_stream(path, copy, dump_json(cleaned, indent=2))
        return copy.read_bytes()


def _copy_stream(path: Path, copy: Path, record: str) -> None:
    options = {"movflags": "+faststart+use_metadata_tags"}
    with (
        av.open(ffmpeg_name(path)) as source,
        av.open(ffmpeg_name(copy), "w", format="mp4", options=options) as target,
    ):
        target.metadata[video.METADATA_TAG] = record
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:  # the last one is empty
                packet.stream = stream
                target.mux(packet)


def json_without_folders(text: str) -> str:
    """Return JSON in which no text names a folder, in the spelling of the ledger."""
    cleaned = data_without_folders(json.loads(text))
    return json.dumps(cleaned, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
