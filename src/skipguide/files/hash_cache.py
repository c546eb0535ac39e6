"""Hash the files of a model once: what was hashed is known again by path, size and times.

Beside the sha256 of a large file lies what its system says of it: size, time of change, number.
Where any of these differs the file is read again. A file that changed within the last seconds may
change once more without a new time, for file systems count in steps of up to two seconds; it is
hashed, and known only when it has rested. Each file has an entry of its own, written beside and
renamed, so that processes need no lock, and what is damaged is one entry, which is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "SKIPGUIDE_CACHE"
# Below this a file is read as fast as its entry.
SMALL = 1 << 20  # bytes
# A change and another one this close to it can have the same time (FAT: 2 s).
RESTING = 3_000_000_000  # ns
MAX_ENTRIES = 4096
_STAT_FIELDS = ("size", "mtime_ns", "ctime_ns", "inode")
# What `hash_ahead` is hashing, by absolute path.
_ahead: dict[Path, Future[str]] = {}


def cache_folder() -> Path:
    """Return the folder of caches of this package: $SKIPGUIDE_CACHE, or that of the system."""
    if own := os.environ.get(FOLDER_VARIABLE):
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "skipguide"


def read_sha256(path: Path, stop: Callable[[], bool] = lambda: False) -> str:
    """Return the sha256 of the content of a file, read now.

    Args:
        stop: asked after each block; where it answers true, InterruptedError is raised.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if stop():
                raise InterruptedError(f"hashing {path} was given up")
    return digest.hexdigest()


def known_sha256(path: Path) -> str:
    """Return the sha256 of the content of a file, from its entry where the file is as it was.

    For files that are to be verified this is the wrong function: it trusts their times.
    """
    ahead = _ahead.get(path.absolute())
    if ahead is not None:
        return ahead.result()
    return _find_or_read(path, lambda: False)


def _find_or_read(path: Path, stop: Callable[[], bool]) -> str:
    began, before = time.time_ns(), path.stat()
    if before.st_size < SMALL:
        return read_sha256(path, stop)
    try:
        entry = _entry_path(path)
    except (OSError, RuntimeError):  # no home, no working directory
        return read_sha256(path, stop)
    known = _read_entry(entry, before)
    if known is not None:
        return known
    digest = read_sha256(path, stop)
    after = path.stat()
    rested = began - max(before.st_mtime_ns, before.st_ctime_ns) > RESTING
    if rested and _facts(before) == _facts(after):
        _write_entry(entry, {"path": str(path.absolute()), **_facts(after), "sha256": digest})
    return digest


@contextlib.contextmanager
def hash_ahead(paths: Iterable[Path]) -> Iterator[None]:
    """Hash files in threads during the block, in which `known_sha256` waits for what they find.

    A model can be loaded and run meanwhile; hashing holds no lock of Python. What is unfinished at
    the end of the block is given up, so that an error before is not kept waiting.
    """
    ended, listed = threading.Event(), [path.absolute() for path in paths]
    workers = max(1, min(4, (os.cpu_count() or 1) // 2))
    with ThreadPoolExecutor(workers, "hashing") as pool:
        for path in listed:
            _ahead[path] = pool.submit(_find_or_read, path, ended.is_set)
        try:
            yield
        finally:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for path in listed:
                _ahead.pop(path, None)


def _entry_path(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return cache_folder() / "hashes" / f"{name}.json"


def _facts(found: os.stat_result) -> dict[str, int]:
    values = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return dict(zip(_STAT_FIELDS, values, strict=True))


def _read_entry(entry: Path, found: os.stat_result) -> str | None:
    """Return the hash in an entry; None if there is none, it is damaged, or for another state."""
    try:
        content: Any = json.loads(entry.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    if any(content.get(name) != value for name, value in _facts(found).items()):
        return None
    digest = content.get("sha256")
    is_digest = isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)
    return digest if is_digest else None


def _write_entry(entry: Path, content: dict[str, Any]) -> None:
    """Write an entry; a disk that is full or may not be written is no error."""
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        number, part = tempfile.mkstemp(dir=entry.parent, suffix=".part")
        try:
            with open(number, "w", encoding="utf-8") as file:
                json.dump(content, file)
            os.replace(part, entry)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        _prune(entry.parent)


def _prune(folder: Path) -> None:
    """Forget the older half of the entries where there are too many."""
    entries = [Path(found.path) for found in os.scandir(folder)]
    if len(entries) > MAX_ENTRIES:
        by_age = sorted(entries, key=lambda entry: entry.stat().st_mtime_ns)
        for entry in by_age[: MAX_ENTRIES // 2]:
            entry.unlink(missing_ok=True)
