"""The record of a clip as text: inside its file, and beside it, for web sites strip metadata."""

from __future__ import annotations

import json
from pathlib import Path

from skipguide.method.protocols import PlainData

METADATA_TAG = "skipguide"


def sidecar_path(path: Path) -> Path:
    """Return the path of the record beside a clip: star.mp4.json."""
    return path.with_name(path.name + ".json")


def parse_record(path: Path, tag: str | None, what: str = "video") -> PlainData:
    """Return the record of a clip from its own tag, or else from the sidecar.

    Args:
        path: of the clip.
        tag: the text that was found inside of it.
        what: the clip is, for errors.

    Raises:
        ValueError: if neither place has a readable record.
    """
    if tag is not None:
        return _parse(tag, path)
    beside = sidecar_path(path)
    if not beside.is_file():
        raise ValueError(
            f'a {what} must carry a skipguide record (metadata tag "{METADATA_TAG}" or the file'
            f" {beside.name} beside it), but {path} has neither. Use a {what} that skipguide"
            " wrote, or put its .json back."
        )
    return _parse(beside.read_text(encoding="utf-8", errors="replace"), beside)


def _parse(text: str, where: Path) -> PlainData:
    try:
        record = json.loads(text)
    except json.JSONDecodeError:
        record = None
    if not isinstance(record, dict):
        raise ValueError(
            f"a record must be a JSON object, but that of {where} starts with {text[:20]!r}. Use"
            " an undamaged file."
        )
    return record
