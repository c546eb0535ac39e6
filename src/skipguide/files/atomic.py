"""Write files under temporary names, which replace their own only when all are complete."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from skipguide.files import folders

DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OutputError(OSError):
    """An error of the system while an output was written, in words; it keeps its number."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextlib.contextmanager
def atomic_replace(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield temporary names in the same folders, which replace `paths` if the block succeeds.

    Folders that are missing are made, and removed again if the block fails.

    Raises:
        OutputError: if the disk is full, or a folder cannot be written.
    """
    parts = tuple(
        path.with_name(f"{_part_prefix(path)}{os.getpid()}-{i}.part")
        for i, path in enumerate(paths)
    )
    new = [folder for path in paths for folder in (path.parent, *path.parent.parents)
           if not folder.exists()]  # fmt: skip
    try:
        with _in_words(paths, parts):
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                _remove_parts_of_the_dead(path)
            yield parts
            for part, path in zip(parts, paths, strict=True):
                os.replace(part, path)
    except BaseException:
        _remove(parts, new)
        raise
    _remove(parts, ())


def _remove(parts: Sequence[Path], made: Sequence[Path]) -> None:
    for part in parts:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    for folder in made:
        with contextlib.suppress(OSError):  # not empty, or gone
            folder.rmdir()


@contextlib.contextmanager
def _in_words(paths: Sequence[Path], parts: Sequence[Path]) -> Iterator[None]:
    """Say what the system says of these files in words."""
    try:
        yield
    except OSError as error:
        folder = paths[0].parent
        if error.errno in DISK_FULL_ERRORS:
            raise OutputError(
                error.errno,
                f"the disk must have room for {paths[0]}, but that of {folder} is full"
                f" ({folders.free_bytes(folder)} bytes are free). Free some space, or choose a"
                " folder on another disk; files that were finished stay.",
            ) from error
        named = str(error.filename or "").removeprefix("file:")
        ours = {str(place) for path in (*paths, *parts) for place in (path, *path.parents)}
        if error.errno is None or named not in ours:
            raise
        raise OutputError(
            error.errno,
            f"the output must lie in a folder that can be written, but {folder} cannot:"
            f" {os.strerror(error.errno)}. Choose another one.",
        ) from error


def _part_prefix(path: Path) -> str:
    """Return how the temporary names of an output begin: no two outputs share it."""
    # A file name may have 255 bytes, so a long name is cut before anything is added to it.
    return f".{path.name[:50]}.{zlib.crc32(path.name.encode()):08x}."


def _remove_parts_of_the_dead(path: Path) -> None:
    """Remove the temporary files of an output whose processes were killed."""
    prefix = _part_prefix(path)
    for left in path.parent.glob(f"{glob.escape(prefix)}*-*.part"):
        number = left.name[len(prefix) :].partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            left.unlink(missing_ok=True)
