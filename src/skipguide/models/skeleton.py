"""A pipeline without weights, made of the small files of a model: what its settings are checked on.

Denoiser and VAE are of their real classes, on torch's meta device; the scheduler and other small
parts are whole. Text encoders, tokenizers and the like are missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skipguide.files import hub_cache
from skipguide.models import parts


class ReachedMissingPart(BaseException):
    """Raised where a run would need what a skeleton does not have; no error of the settings."""


class MissingPart:
    """The stand-in for a component that is not there: any use of it ends a run of the skeleton."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ReachedMissingPart

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise ReachedMissingPart


def build_skeleton(folder: Path, elsewhere: Mapping[str, Path] | None = None) -> Any:
    """Build the pipeline of a folder in diffusers layout without its weights.

    Args:
        folder: with model_index.json and the configurations of the components.
        elsewhere: folders of components that are not in it.

    Raises:
        Exception: of any kind, for a pipeline that cannot be made without some of its parts.
    """
    index = hub_cache.read_index(folder)
    kind: Any = parts.pipeline_class(folder / hub_cache.INDEX_FILE)
    components = {name: entry for name, entry in index.items() if _is_component(name, entry)}
    places = {name: folder / name for name in components} | dict(elsewhere or {})
    made = {name: _build_part(places[name], entry) for name, entry in components.items()}
    options = {name: index[name] for name in index if name[0] != "_" and name not in components}
    pipe = kind(**made, **options)
    for name, part in made.items():
        if part is None and components[name][0] is not None:
            pipe.__dict__[name] = MissingPart()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _is_component(name: str, entry: Any) -> bool:
    return not name.startswith("_") and isinstance(entry, list) and len(entry) == 2


def _build_part(folder: Path, entry: tuple[str | None, str | None]) -> Any:
    """Return a part of diffusers without weights; None for one of transformers, or for no part."""
    library, name = entry
    if library is None or name is None or library == "transformers":
        return None
    kind: Any = parts.find_class(library, name)
    if kind is None:
        raise ImportError(f"no class {name} of {library}")
    if not hasattr(kind, "from_config"):  # Cosmos' filter, which would be made where there is none
        return MissingPart()
    is_model, config = issubclass(kind, nn.Module), kind.load_config(folder, local_files_only=True)
    with torch.device("meta") if is_model else contextlib.nullcontext():
        made = kind.from_config(config)
    if not is_model:
        return made
    # Some parameters ignore the context above. nn.Module's own to(): that of diffusers warns.
    return nn.Module.to(made, "meta").eval()
