"""Search a folder with all below it, so that every file in it is either returned or named.

Links are followed: a link to a file is that file, a link to a folder is searched.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_KINDS = (
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class Entry:
    """A file below a folder, or something else with the reason why it is no readable file."""

    path: Path
    problem: str = ""
    is_folder: bool = False  # of a problem


def walk(folder: Path) -> Iterator[Entry]:
    """Yield everything below a folder that is not a folder, in no particular order.

    Folders that are not searched are yielded with a problem: those that cannot be read, and those
    that a link leads to a second time, whose files would count twice.
    """
    searched: dict[tuple[int, int], Path] = {}
    links: list[Path] = []
    yield from _walk(folder, searched, links)
    while links:  # after all folders, so that what is in the folder itself is searched as itself
        link = min(links)
        links.remove(link)
        yield from _walk(link, searched, links)


def _walk(
    folder: Path, searched: dict[tuple[int, int], Path], links: list[Path]
) -> Iterator[Entry]:
    """Search a folder and the folders in it; adds links to folders to `links`."""
    try:
        found = folder.stat()
        if (found.st_dev, found.st_ino) in searched:
            again = f"it is the folder {searched[found.st_dev, found.st_ino]}, searched already"
            yield Entry(folder, again, is_folder=True)
            return
        searched[found.st_dev, found.st_ino] = folder
        with os.scandir(folder) as inside:
            entries = sorted(inside, key=lambda entry: entry.name)
    except OSError as error:
        yield Entry(folder, f"the folder cannot be read ({error.strerror})", is_folder=True)
        return
    for entry in entries:
        path = folder / entry.name
        try:
            mode = path.stat().st_mode
        except OSError as error:
            yield Entry(path, _explain(path, error))
            continue
        if not stat.S_ISDIR(mode):
            problem = next((f"it is {kind}" for test, kind in _KINDS if test(mode)), "")
            yield Entry(path, problem)
        elif path.is_symlink():
            links.append(path)
        else:
            yield from _walk(path, searched, links)


def _explain(path: Path, error: OSError) -> str:
    if path.is_symlink():
        target = os.readlink(path)
        if isinstance(error, FileNotFoundError):
            return f"it is a link to {target}, which does not exist"
        return f"it is a link to {target}, which cannot be followed ({error.strerror})"
    return f"it cannot be read ({error.strerror})"
