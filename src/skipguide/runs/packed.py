"""A run in one file: what `skipguide report --zip` writes, opened as the folder that it was."""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from skipguide.runs.ledger import NAME


def is_packed(path: Path) -> bool:
    """Return whether a path is a file that may be a packed run."""
    return path.is_file() and path.suffix.lower() == ".zip"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Yield the folder of a run; that of a .zip lies in a temporary folder until the block ends.

    Raises:
        ValueError: if the file is no .zip with one run in it, or is damaged.
    """
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="skipguide-report-") as around:
        yield _unpack(path, Path(around))


def _unpack(path: Path, around: Path) -> Path:
    try:
        with zipfile.ZipFile(path) as packed:
            names = [PurePosixPath(name) for name in packed.namelist()]
            runs = [name.parent for name in names if name.name == NAME and len(name.parts) == 2]
            if len(runs) == 1:
                packed.extractall(around)  # which takes no name out of its folder
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise ValueError(
            f"a packed run must be a sound .zip, but {path} is not: {error}. Ask for it again."
        ) from None
    if len(runs) != 1:
        raise ValueError(
            "a packed run must be a .zip that `skipguide report --zip` wrote, with one run in it,"
            f" but {path} has {len(runs)}. Name another file, or the folder of a run."
        )
    return around / runs[0]
