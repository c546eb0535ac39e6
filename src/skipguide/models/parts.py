"""Find the parts of a model: a base in diffusers layout, and files or folders in the
place of some of its components."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from skipguide.families import rows
from skipguide.files.folders import is_system_name
from skipguide.files.hash_cache import known_sha256
from skipguide.method import validate
from skipguide.models import single_file, weights_file
from skipguide.models.parsing import DENOISERS
from skipguide.models.settings import ModelSettings
from skipguide.models.whole_folder import read_config

_CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Parts:
    """The base of a model, and what is taken from elsewhere."""

    base: str  # a lab model, a folder or a hub id
    file: Path | None = None  # the single file that was named as the model
    named: Mapping[str, Path] = field(default_factory=dict)  # --component: files and folders


def find_parts(settings: ModelSettings) -> Parts:
    """Find the files that the settings name.

    Raises:
        ValueError: for a file without a base model, a base model without a file, and a file or
            folder that is not there.
    """
    named = {}
    for entry in settings.component or ():
        name, _, place = entry.partition("=")
        is_folder = Path(place).is_dir()
        named[name] = Path(place) if is_folder else weights_file.find_file(place, "component")
    if not weights_file.is_file_name(settings.model) or Path(settings.model).is_dir():
        if settings.base_model is not None:
            raise ValueError(
                "base_model is for a model that is a .safetensors or .gguf file, but model is"
                f" {settings.model!r}. Leave out --base-model, or name the file as --model."
            )
        return Parts(settings.model, None, named)
    file = weights_file.find_file(settings.model, "model")
    if settings.base_model is None:
        raise ValueError(
            f"a single file needs base_model for the rest, but got {settings.model!r} alone: it has"
            " no text encoder and no scheduler. Name a folder in diffusers layout or a hub id of"
            " the same model, as in --base-model Wan-AI/Wan2.1-T2V-1.3B-Diffusers."
        )
    return Parts(settings.base_model, file, named)


# --- the components of the base -------------------------------------------------------------------


def read_components(index: Path) -> dict[str, type[Any]]:
    """Return the components of a pipeline with their classes.

    Args:
        index: its model_index.json.
    """
    content = json.loads(index.read_text(encoding="utf-8"))
    entries = {name: entry for name, entry in content.items() if isinstance(entry, list)}
    found = {name: find_class(*entry) for name, entry in entries.items() if len(entry) == 2}
    return {
        name: kind for name, kind in found.items() if kind is not None and not name.startswith("_")
    }


def pipeline_class(index: Path) -> Any:
    """Return the class of a pipeline; diffusers' general one for code that lies in the folder.

    The general one would read components such as Wan's transformer from the folder in spite of
    those that it is given.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    named = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    family = next((family for family in rows.FAMILIES if named in family.pipelines), None)
    modules = [family.package, "diffusers"] if family else ["diffusers"]
    found = [find_class(module, named) for module in modules]
    return next((kind for kind in found if kind is not None), DiffusionPipeline)


def find_class(library: Any, name: Any) -> type[Any] | None:
    """Return a class that a model_index.json names; None where there is none.

    Args:
        library: a package, or the module of one of diffusers' own pipelines.
    """
    if not isinstance(library, str) or not isinstance(name, str):
        return None
    for module in (f"diffusers.pipelines.{library}", library):  # in diffusers' own order
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            continue
        if isinstance(found, type):
            return found
    return None


def assign_files(parts: Parts, components: Mapping[str, type[Any]], base: Path) -> dict[str, Path]:
    """Return which component is read from which file or folder, each of them checked.

    A file that is named as the model is the denoiser; the VAE too where it has its weights, as
    LTX's files have. Of two denoisers (Wan 2.2) it is the second if its name says low noise.

    Raises:
        ValueError: for a component that the pipeline does not have, and a file or folder that does
            not fit.
    """
    own = {name: kind for name, kind in components.items() if name in DENOISERS}
    if unknown := [name for name in parts.named if name not in components]:
        advice = validate.did_you_mean(unknown[0], list(components), "Take one of these.")
        raise ValueError(
            f"component must be one of {', '.join(components)} with {parts.base}, but got"
            f" {unknown[0]!r}. {advice}"
        )
    found = dict(parts.named)
    for name, path in parts.named.items():
        _check_place(path, name, components[name], base, parts.base)
    if parts.file is not None:
        name = _denoiser_of(parts, own)
        single_file.check_file(parts.file, name, own[name], base, parts.base)
        found = {name: parts.file, **_others_inside(parts, components, base), **found}
    return found


def _denoiser_of(parts: Parts, own: Mapping[str, type[Any]]) -> str:
    """Return which denoiser of the base the single file is."""
    assert parts.file is not None
    free = [name for name in DENOISERS if name in own and name not in parts.named]
    if not free:
        raise ValueError(
            f"model must be the denoiser of {parts.base}, but got {str(parts.file)!r}, and"
            f" --component gives {' and '.join(parts.named)} as well. Leave one of them out."
        )
    return side_of(parts.file.name, free) or free[0]


def replaced_names(parts: Parts, index: Path) -> set[str]:
    """Return the components that are certain to come from elsewhere, before any file is read."""
    if parts.file is None:
        return set(parts.named)
    components = read_components(index)
    return {*parts.named, _denoiser_of(parts, components)}


def side_of(file: str, denoisers: list[str] | tuple[str, ...]) -> str | None:
    """Return which of Wan 2.2's two denoisers the name of a file means: high noise comes first."""
    if len(denoisers) < 2:
        return None
    plain = file.lower().replace("-", "").replace("_", "").replace(" ", "")
    sides = {"highnoise": denoisers[0], "lownoise": denoisers[1]}
    meant = [name for word, name in sides.items() if word in plain]
    return meant[0] if len(meant) == 1 else None


def _others_inside(
    parts: Parts, components: Mapping[str, type[Any]], base: Path
) -> dict[str, Path]:
    """Return the other components of which a single file has the weights."""
    assert parts.file is not None
    header = weights_file.read_header(parts.file)
    candidates = {
        name: kind
        for name, kind in components.items()
        if name not in (*DENOISERS, *parts.named)
        and single_file.is_convertible(kind)
        and (base / name / "config.json").is_file()
    }
    return {
        name: parts.file
        for name, kind in candidates.items()
        if not single_file.find_misfit(header, kind, base / name / "config.json").count
    }


def _check_place(path: Path, name: str, kind: type[Any], base: Path, shown: str) -> None:
    if path.is_dir():
        _check_folder(folder_of(path, name), name, kind)
    else:
        single_file.check_file(path, name, kind, base, shown)


def folder_of(path: Path, name: str) -> Path:
    """Return the folder of a component: the one that was named, or the one in a whole model."""
    return path if any((path / config).is_file() for config in _CONFIGS) else path / name


def _check_folder(folder: Path, name: str, kind: type[Any]) -> None:
    config = next((folder / config for config in _CONFIGS if (folder / config).is_file()), None)
    if config is None:
        raise ValueError(
            f"component {name} must be a file or a folder that save_pretrained() wrote, but"
            f" {folder} has no {' or '.join(_CONFIGS)}. Name the folder of the component."
        )
    content = read_config(config)
    holds = content.get("_class_name") or next(iter(content.get("architectures") or ()), None)
    if holds not in (None, kind.__name__):
        raise ValueError(
            f"component {name} must be a {kind.__name__}, but {folder} holds a {holds}. Name"
            " another folder."
        )


# --- the fingerprint ------------------------------------------------------------------------------


def hash_part(path: Path, name: str) -> str:
    """Return the sha256 of a file, or one over the names and contents of a component's folder."""
    if path.is_file():
        return known_sha256(path)
    total = hashlib.sha256()
    for file in files_of(path, name):
        total.update(f"{file.name} {known_sha256(file)}\n".encode())
    return total.hexdigest()


def files_of(path: Path, name: str) -> list[Path]:
    """Return the file itself, or those in a component's folder but for what systems put there."""
    if path.is_file():
        return [path]
    files = folder_of(path, name).glob("*")  # none where there is no such folder
    return sorted(file for file in files if file.is_file() and not is_system_name(file.name))


# --- loading --------------------------------------------------------------------------------------


def load_part(
    path: Path, name: str, kind: Any, base: Path, dtype: torch.dtype, how: dict[str, Any]
) -> Any:
    """Load a component from its file or folder.

    Args:
        how: further arguments for diffusers: a quantization_config, a variant.
    """
    if path.is_file():
        return single_file.load_file(path, name, kind, base, dtype)
    folder = folder_of(path, name)
    if torch.nn.Module not in kind.__mro__:  # a tokenizer, a scheduler
        return kind.from_pretrained(folder, local_files_only=True)
    if "variant" in how and not any(folder.glob(f"*.{how['variant']}[.-]*")):
        how = {key: value for key, value in how.items() if key != "variant"}
    return kind.from_pretrained(folder, dtype=dtype, local_files_only=True, **how)


def check_variant(variant: str, folder: Path) -> None:
    """Check that a model has files of a variant.

    Raises:
        ValueError: if it has none, with those that it has.
    """
    names = {path.name for path in folder.glob("*/*.safetensors")}
    # weights.safetensors, weights.fp16.safetensors, weights.fp16-00001-of-00002.safetensors
    middles = {name.removesuffix(".safetensors").partition(".")[2] for name in names}
    found = sorted({middle.split("-")[0] for middle in middles if middle})
    if variant not in found:
        has = f"only {', '.join(found)}" if found else "none: its files have no such word"
        instead = f"Take --variant {found[0]}" if found else "Leave out --variant"
        raise ValueError(
            f"variant must be one that {folder} has, but got {variant!r}, and it has {has}."
            f" {instead}; --dtype says in which dtype the model runs."
        )
