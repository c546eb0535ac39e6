"""List what lies in the hub's cache, and say which models are whole; nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX_FILE = "model_index.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".msgpack")
# Components of these libraries have weights where their configuration is not of a small kind.
_WITHOUT_WEIGHTS = (
    "Scheduler", "Tokenizer", "TokenizerFast", "ImageProcessor", "ImageProcessorFast",
    "ImageProcessorPil", "Processor", "FeatureExtractor", "VideoProcessor", "Guidance",
)  # fmt: skip
_CONFIG_NAMES = (
    "config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json",
    "processor_config.json", "guider_config.json", "guiders_config.json", "spiece.model",
    "tokenizer.json",
)  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """One revision of a repository in the hub's cache."""

    repository: str
    revision: str
    refs: tuple[str, ...]  # branches and tags that point at it
    folder: Path
    bytes: int


@dataclass(frozen=True)
class CacheContents:
    """The models in the hub's cache, by what is in them."""

    folder: Path
    pipelines: tuple[Snapshot, ...]  # with a model_index.json
    others: tuple[Snapshot, ...]  # single components, LoRAs, checkpoints in other layouts
    warnings: tuple[str, ...]  # what of the cache could not be read


def read_hub_cache(folder: Path | None = None) -> CacheContents:
    """List the models in the hub's cache; none where there is no cache.

    Args:
        folder: the cache; None is where $HF_HUB_CACHE or $HF_HOME says, or the usual place.
    """
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    place = Path(folder or constants.HF_HUB_CACHE)
    try:
        found = scan_cache_dir(place)
    except (CacheNotFound, ValueError):
        return CacheContents(place, (), (), _wrong_place(place))
    snapshots = [
        Snapshot(
            repo.repo_id, revision.commit_hash, tuple(sorted(revision.refs)),
            revision.snapshot_path, revision.size_on_disk,
        )
        for repo in sorted(found.repos, key=lambda repo: repo.repo_id.lower())
        if repo.repo_type == "model"
        for revision in sorted(repo.revisions, key=lambda revision: -revision.last_modified)
    ]  # fmt: skip
    whole = [entry for entry in snapshots if (entry.folder / INDEX_FILE).exists()]
    rest = [entry for entry in snapshots if entry not in whole]
    # What the hub says of a link names the file at its end, and not the repository.
    read = {repo.repo_path for repo in found.repos}
    unread = [path for path in sorted(place.glob("*--*")) if path.is_dir() and path not in read]
    reasons = [" ".join(str(warning).split()) for warning in found.warnings]
    broken = [f"{_repository(path)}: {said}" for path in unread if (said := _broken_links(path))]
    others = [reason for reason in reasons if "broken symlink" not in reason or not broken]
    return CacheContents(place, tuple(whole), tuple(rest), (*broken, *others))


def _wrong_place(place: Path) -> tuple[str, ...]:
    """Say that a file stands where the cache or a folder above it must be."""
    wrong = next((path for path in (place, *place.parents) if path.is_file()), None)
    if wrong is None:
        return ()
    return (f"the hub's cache must be a folder, but {wrong} is a file. Set HF_HOME to a folder.",)


def _repository(folder: Path) -> str:
    return "/".join(folder.name.split("--")[1:])


def _broken_links(folder: Path) -> str:
    """Name the links of a repository that lead to nothing; "" if none does."""
    links = [path for path in folder.glob("snapshots/**/*")
             if path.is_symlink() and not path.exists()]  # fmt: skip
    if not links:
        return ""
    more = f" and {len(links) - 1} more" if links[1:] else ""
    return (
        f"{links[0].name}{more} is a link to a file that is gone. Remove {folder} and download it"
        " again."
    )


def read_index(folder: Path) -> dict[str, Any]:
    """Return the model_index.json of a folder.

    Raises:
        ValueError: if there is none, or it is no JSON object.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        raise ValueError(
            f"a model must be a folder with a {INDEX_FILE}, but {folder} has none. Name the folder"
            " that save_pretrained() wrote."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"a {INDEX_FILE} must be JSON, but {path} is not: {error}. Copy the model again."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"a {INDEX_FILE} must be a JSON object, but {path} is none.")
    return content


def missing_files(folder: Path, index: dict[str, Any]) -> list[str]:
    """Name what a folder lacks of what its index lists, by component; nothing where it is whole.

    Shards are looked up in the list that lies beside them, so that a download that was ended is
    seen. What is in the files is not read.
    """
    found = []
    for name, entry in index.items():
        is_component = isinstance(entry, list) and len(entry) == 2
        if name.startswith("_") or not is_component or entry[0] is None or entry[1] is None:
            continue
        found += _missing_of_component(folder / name, str(entry[1]))
    return found


def _missing_of_component(folder: Path, kind: str) -> Iterator[str]:
    if not folder.is_dir():
        yield f"{folder.name}/"
        return
    if not any((folder / name).is_file() for name in _CONFIG_NAMES):
        yield f"{folder.name}/config.json"
    if kind.endswith(_WITHOUT_WEIGHTS):
        return
    lists = sorted(folder.glob("*.index*.json"))
    for path in lists:
        missing = [name for name in _shards(path) if not (folder / name).is_file()]
        yield from (f"{folder.name}/{name}" for name in missing)
    weights = [path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES]
    if not lists and not any(path.is_file() for path in weights):
        yield f"{folder.name}/*.safetensors"


def _shards(path: Path) -> list[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return sorted(set(map(str, content["weight_map"].values())))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return [path.name]  # which is damaged, or a link into nothing


def folder_bytes(folder: Path) -> int:
    """Return the size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
