"""The files that systems put into folders by themselves; they change nothing."""

from __future__ import annotations

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
