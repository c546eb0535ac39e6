"""Folders: which can be written, and what systems put into them by themselves."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

# Of macOS and its copies on other disks, Windows, KDE, network and Unix file systems.
_SYSTEM_NAMES = (
    ".ds_store", "._*", ".localized", "icon\r", ".spotlight-v100", ".trashes", ".fseventsd",
    ".temporaryitems", ".apdisk", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
    "$recycle.bin", "system volume information", ".directory", ".trash-*", ".nfs*", ".snapshot",
    "@eadir", "lost+found",
)  # fmt: skip


def is_system_name(name: str) -> bool:
    """Return whether a file or folder of this name is one that systems make, as .DS_Store is."""
    return any(fnmatchcase(name.lower(), pattern) for pattern in _SYSTEM_NAMES)


def contents(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, without what systems put there."""
    return (path for path in folder.iterdir() if not is_system_name(path.name))


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, which may be still to come."""
    return shutil.disk_usage(_nearest(folder.absolute())).free


def _nearest(place: Path) -> Path:
    """Return a place, or the first around it that exists."""
    return next(path for path in (place, *place.parents) if path.exists())


def find_obstacle(folder: Path) -> str | None:
    """Return the place that keeps files out of a folder, which may be still to come, and why.

    A folder is made there and removed: rights alone do not tell of systems that take no files, and
    for root they are always there.

    Returns:
        "PLACE is not one", with the system's reason where it has one; None if files can be written.
    """
    place = folder
    try:
        place = folder.absolute()
        place = _nearest(place)
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            return f"{place} is not one"
        with tempfile.TemporaryDirectory(prefix=".skipguide-", dir=place):
            return None
    except OSError as error:
        return f"{place} is not one ({error.strerror})"


def check_writable(folder: Path, name: str) -> None:
    """Check that files can be written into a folder, before any work.

    Args:
        name: what the folder is called in the error, such as "--docs".

    Raises:
        ValueError: if they cannot be.
    """
    if obstacle := find_obstacle(folder):
        raise ValueError(
            f"{name} must be a folder that can be written, but {obstacle}. Choose another."
        )
