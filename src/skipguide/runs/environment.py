"""Describe where and with which software a video was made."""

from __future__ import annotations

import functools
import subprocess
from importlib import metadata
from pathlib import Path

from skipguide.method.protocols import PlainData, ReadOnlyData


def environment(record: ReadOnlyData) -> PlainData:
    """Return versions and machine from a record, the git revision of skipguide, and all
    packages."""
    return {
        "versions": record["versions"],
        "machine": record["machine"],
        "git": revision(),
        "packages": packages(),
    }


@functools.cache
def revision(folder: Path = Path(__file__).parents[1]) -> PlainData | None:
    """Return the commit of the code in a folder and whether it was changed since; None without
    git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if (
        commit is None or _git(folder, "ls-files", "--error-unmatch", ".") is None
    ):  # installed beneath some repository
        return None
    return {"revision": commit, "changed": bool(_git(folder, "status", "--porcelain", "."))}


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def packages() -> dict[str, str]:
    """Return the version of every installed package."""
    found = {
        entry.metadata["Name"]: entry.version
        for entry in metadata.distributions()
        if entry.metadata["Name"]
    }
    return dict(sorted(found.items()))
