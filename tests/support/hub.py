"""A cache of the hub as huggingface_hub lays it out: blobs, refs, and snapshots of links."""

from __future__ import annotations

import hashlib
from pathlib import Path


def add_to_cache(cache: Path, repository: str, source: Path, revision: str, ref: str = "") -> Path:
    """Put a folder into a cache as one revision of a repository; return its snapshot."""
    repo = cache / f"models--{repository.replace('/', '--')}"
    snapshot = repo / "snapshots" / revision
    for folder in (repo / "blobs", repo / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    if ref:
        (repo / "refs" / ref).write_text(revision)
    for path in sorted(source.rglob("*")):
        if not path.is_file():
            continue
        content, link = path.read_bytes(), snapshot / path.relative_to(source)
        blob = repo / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * len(link.relative_to(repo).parts[:-1]), "blobs", blob.name))
    return snapshot
