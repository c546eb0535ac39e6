"""Find the weights of the metrics' networks in a folder of the user or the hub's cache.

Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from skipguide.files import packaged
from skipguide.files.folders import contents
from skipguide.files.hash_cache import known_sha256
from skipguide.metrics.catalog import WEIGHTS


class MissingWeights(ValueError):
    """Weights that are missing, or may not be used."""


class WeightsRecord(TypedDict):
    """The entry of a weights file in the JSON of a result."""

    name: str
    path: str
    sha256: str
    as_published: bool | None
    licence: str
    commercial: bool


@dataclass(frozen=True)
class WeightsFile:
    """A file or folder of weights, as a result records it."""

    name: str
    path: Path
    sha256: str
    as_published: bool | None  # None if the publisher states no sha256
    licence: str
    commercial: bool

    def record(self) -> WeightsRecord:
        """Return the entry for JSON, without the folder, which other machines do not have."""
        return {
            "name": self.name,
            "path": self.path.name,
            "sha256": self.sha256,
            "as_published": self.as_published,
            "licence": self.licence,
            "commercial": self.commercial,
        }


def find_weights(name: str, folder: Path | None, non_commercial: bool = False) -> Path:
    """Return the path of the weights of this row of `catalog.WEIGHTS`.

    Args:
        folder: searched first, then the hub's cache.
        non_commercial: whether weights whose licence forbids commercial use may be used.

    Raises:
        MissingWeights: if they are missing, or not allowed.
    """
    row = WEIGHTS[name]
    if not row.commercial and not non_commercial:
        raise MissingWeights(
            f"{row.files[0]} is licensed under {row.licence}, so its use must be requested, but it"
            " was not. Pass --non-commercial (non_commercial=True) if you may use it."
        )
    if row.packaged:
        return packaged.packaged_path(row.packaged) / row.files[0]
    for file in row.files:
        if folder is not None and (folder / file).exists():
            return folder / file
    if (cached := _find_in_hub_cache(name)) is not None:
        return cached
    where = "no folder of weights was given" if folder is None else f"{folder} has no such file"
    raise MissingWeights(
        f"{name} needs {' or '.join(row.files)}, but {where}, and neither has the hub's cache. Get"
        f" it from {row.where}, and pass its folder with --weights."
    )


def _find_in_hub_cache(name: str) -> Path | None:
    row = WEIGHTS[name]
    if row.repo is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    # A repository named like the weights is a transformers folder: find it by its config.
    if row.repo.endswith(tuple(f"/{file}" for file in row.files)):
        config = try_to_load_from_cache(row.repo, "config.json")
        return Path(config).parent if isinstance(config, str) else None
    path = try_to_load_from_cache(row.repo, row.files[0])
    return Path(path) if isinstance(path, str) else None


def identify(name: str, path: Path) -> WeightsFile:
    """Hash weights and compare them with the published hash, if there is one.

    The hash of a folder covers the names and contents of its files.
    """
    row, found = WEIGHTS[name], known_sha256(path) if path.is_file() else _folder_digest(path)
    stated = bool(row.sha256) and path.name == row.files[0]
    return WeightsFile(
        name,
        path,
        found,
        found.startswith(row.sha256) if stated else None,
        row.licence,
        row.commercial,
    )


def _folder_digest(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(
        file for file in contents(folder) if file.suffix in (".safetensors", ".bin", ".json")
    ):
        total.update(f"{file.name} {known_sha256(file)}\n".encode())
    return total.hexdigest()
