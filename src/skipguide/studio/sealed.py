"""Videos and pictures as raters get them: without the record, and with nothing that tells two
apart.

A record names the settings of a clip, and equal bytes, sizes or times would tell a clip beside
itself, an attention check, from two clips. So each name has a copy of its own, with a random number
of bytes behind the video, or in the picture, that players pass over. The frames are the same: who
decodes them and compares them can still tell.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

import av

from skipguide.files import picture, video

_MOST_BYTES = 1 << 30  # of copies that are kept
_SHORTEST_RECORD = 32  # bytes
_MOMENT = 0  # of all copies


class SealedVideos:
    """Makes and keeps the copies; they are gone when the server is."""

    def __init__(self) -> None:
        self._around: Path | None = None
        self._made: dict[tuple[str, int, int], Path] = {}
        self._bytes, self._lock = 0, threading.Lock()

    def copy(self, name: str, path: Path) -> Path:
        """Return the copy of a video for raters under this name.

        Raises:
            OSError: if it cannot be read, or the disk is full.
        """
        stat = path.stat()
        version = name, stat.st_mtime_ns, stat.st_size
        with self._lock:
            if version not in self._made:
                self._make_room(stat.st_size)
                self._made[version] = self._write(path)
            return self._made[version]

    def _write(self, path: Path) -> Path:
        content = _sealed(path)
        if self._around is None:
            self._around = Path(tempfile.mkdtemp(prefix="skipguide-study-"))
            weakref.finalize(self, shutil.rmtree, self._around, ignore_errors=True)
        copy = self._around / f"{secrets.token_hex(16)}{path.suffix}"
        copy.write_bytes(content)
        os.utime(copy, (_MOMENT, _MOMENT))
        self._bytes += len(content)
        return copy

    def _make_room(self, needed: int) -> None:
        """Forget the oldest copies; who is being sent one gets the rest of it on systems that keep
        what is open."""
        while self._made and self._bytes + needed > _MOST_BYTES:
            oldest = self._made.pop(next(iter(self._made)))
            self._bytes -= oldest.stat().st_size
            oldest.unlink(missing_ok=True)


def _sealed(path: Path) -> bytes:
    size = path.stat().st_size
    if not picture.is_picture(path):
        return _without_record(path) + _padding(size)
    # A picture is written anew: random letters stand where its record stood.
    letters = secrets.token_hex(secrets.randbelow(max(size // 16, 2048)) + 1)
    return picture.encode(picture.read(path), path.suffix, letters)


def _without_record(path: Path) -> bytes:
    """Return the bytes of a video with blanks in place of its record, so that nothing moves."""
    content = path.read_bytes()
    try:
        with av.open(str(path)) as container:
            tags = dict(container.metadata)
    except (OSError, ValueError):  # damaged: the browser says so
        return content
    for name, text in tags.items():
        written = text.encode()
        # A short one, as {}, says nothing, and its letters stand in the pictures as well.
        if name.lower() == video.METADATA_TAG and len(written) >= _SHORTEST_RECORD:
            content = content.replace(written, b" " * len(written))
    return content


def _padding(size: int) -> bytes:
    """Return a box of MP4 that players skip, of a random size up to an eighth of the video."""
    inside = secrets.token_bytes(secrets.randbelow(max(size // 8, 4096)))
    return (8 + len(inside)).to_bytes(4, "big") + b"free" + inside
