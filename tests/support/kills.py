"""What must hold of a run after its sweep was killed."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

from skipguide.files import video


def consistent(folder: Path) -> dict[str, tuple[Any, ...]]:
    """See that all that the ledger calls done is there and whole, and that there is nothing
    half-written.

    Returns:
        key -> what the ledger says of the clips that are done.
    """
    if not (folder / "ledger.sqlite").exists() or not (folder / "ledger.sqlite").stat().st_size:
        return {}
    db = sqlite3.connect(folder / "ledger.sqlite")
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchall():
            return {}
        query = (
            "SELECT key, video, video_sha256, latents, latents_sha256, finished FROM jobs WHERE"
            " status = 'done'"
        )
        done = {row[0]: row[1:] for row in db.execute(query)}
    finally:
        db.close()
    for name, digest, latents, latents_digest, _ in done.values():
        for path, known in ((name, digest), (latents, latents_digest)):
            assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == known
    for path in folder.glob("videos/[!.]*.mp4"):  # also those that the ledger has not heard of yet
        assert video.read_record(path)["run"]["key"] == path.stem
        assert video.sidecar_path(path).is_file()
        assert (folder / f"latents/{path.stem}.safetensors").is_file()
    return done
