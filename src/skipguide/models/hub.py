"""Download a model from the hub, and say in words what kept it from coming."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from skipguide.files.hub_cache import INDEX_FILE
from skipguide.models import parts


def download(
    model: str, index: Path, variant: str | None, replaced: Collection[str], revision: str | None
) -> Path:
    """Return the folder of a model, whose name is the revision.

    Args:
        index: its model_index.json.
        replaced: components that come from elsewhere; of these only config.json is downloaded.
    """
    from huggingface_hub import hf_hub_download

    for name in sorted(replaced):
        hf_hub_download(model, f"{name}/config.json", revision=revision)
    more = {"variant": variant} if variant else {}
    left_out = dict.fromkeys(replaced)  # diffusers downloads nothing of what it is given
    kind = parts.pipeline_class(index)
    return Path(kind.download(model, revision=revision, **more, **left_out))


def describe_error(model: str, revision: str | None, error: OSError) -> str:
    """Say in words what kept a model from being downloaded."""
    from huggingface_hub import errors

    kinds: tuple[tuple[type[Exception], str], ...] = (
        (
            errors.GatedRepoError,
            "the hub gives it only to users who accepted its licence. Accept it on"
            f" https://huggingface.co/{model}, then run: hf auth login",
        ),
        (
            errors.RepositoryNotFoundError,
            "the hub has no public model of that name. Check the name; for a private model run:"
            " hf auth login",
        ),
        (
            errors.RevisionNotFoundError,
            f"it has no revision {revision!r} on the hub. Check the revision.",
        ),
        (
            errors.LocalEntryNotFoundError,
            "it is not in the cache, and the hub cannot be reached. Check the network, or name a"
            " local folder.",
        ),
        (
            errors.EntryNotFoundError,
            f"it has no {INDEX_FILE} on the hub, so it is no diffusers pipeline. Name a repository"
            " in diffusers layout, often one whose name ends in -diffusers.",
        ),
    )
    start = f"model must be a local folder or a model on the hub, but {model!r} is no folder, and"
    for cause in (error, error.__cause__, error.__context__):
        for kind, words in kinds:
            if isinstance(cause, kind):
                return f"{start} {words}"
    reason = str(error.__cause__ or error).rstrip(". ")  # diffusers wraps it in a story
    return f"{start} the hub says: {reason}. Check the name and the network."
