"""Load a pipeline: a lab model, a local folder, or a model on the hub."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from skipguide.families import rows
from skipguide.files import hash_cache, packaged
from skipguide.generate import placement
from skipguide.generate.model_settings import ModelSettings
from skipguide.generate.record import hash_weights, weight_files
from skipguide.method.protocols import Pipeline

INDEX_FILE = "model_index.json"
Dtypes = torch.dtype | dict[str, torch.dtype]  # of all components, or by their names
# Any of these holds the vocabulary of a tokenizer.
VOCABULARIES = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
# The tokenizers that have none: their tokens are bytes.
WITHOUT_VOCABULARY = ("ByT5Tokenizer",)


def local_folder(model: str) -> Path | None:
    """Return the folder of a lab model or a local one; None for a hub id.

    A name such as `models/Wan2.1` is no hub id where a folder `models` has models in it: a search
    of the hub for a mistyped folder would end in words about networks and licences.

    Raises:
        ValueError: for a folder without model_index.json, and for a name that is neither a folder
            nor like a hub id.
    """
    if model in packaged.NAMES:
        return packaged.packaged_path(model)
    path = Path(model)
    if (path / INDEX_FILE).is_file():
        return path
    known = (
        f"{', '.join(packaged.NAMES)}, a folder with a {INDEX_FILE}, or a hub id such as"
        " genmo/mochi-1-preview"
    )
    if path.exists():
        raise ValueError(
            f"model must be {known}, but got {model!r}, and there is no"
            f" {path / INDEX_FILE}. Name the folder that save_pretrained() wrote."
        )
    is_hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", model)
    beside = [str(found.parent) for found in sorted(path.parent.glob(f"*/{INDEX_FILE}"))]
    if not is_hub_id or beside:
        raise ValueError(
            f"model must be {known}, but got {model!r}, and there is no such folder."
            f" {_suggest_model(model, beside)}"
        )
    return None


def _suggest_model(model: str, beside: list[str]) -> str:
    """Name the model that was meant, or those in the folder where it was looked for."""
    by_lower = {name.lower(): name for name in (*beside, *packaged.NAMES)}
    close = difflib.get_close_matches(model.lower(), by_lower, n=3, cutoff=0.7)
    if close:
        return f"Did you mean {' or '.join(by_lower[name] for name in close)}?"
    # A bare word names no folder to look in: other models in the current one are no answer to it.
    names_folder = Path(model).name != model
    return f"There are {', '.join(beside)}." if beside and names_folder else "Check the name."


def load_pipeline(
    model: str, dtype: str | None = None, device: str | None = None, revision: str | None = None
) -> Any:
    """Load a diffusers pipeline.

    Args:
        model: the name of a lab model, a local folder in diffusers layout, or a hub id.
        dtype, device: as `load` takes them.
        revision: of a model on the hub; None is the newest.

    Raises:
        ValueError: if there is no such model or no such device, or a package is missing that its
            pipeline needs.
    """
    named = {"model": model, "dtype": dtype, "device": device}
    return load(ModelSettings.model_validate(named), revision)


def load(settings: ModelSettings, revision: str | None = None) -> Any:
    """Load a diffusers pipeline and put it where it runs.

    Args:
        settings: of which `dtype` None is bfloat16 on a GPU (float32 for the lab's small models),
            float32 elsewhere, and `device` None the GPU if there is one.
        revision: of a model on the hub; None is the newest.

    Raises:
        ValueError: if there is no such model or no such device, a package is missing that its
            pipeline needs, or the model cannot be loaded or placed as the settings ask for.
    """
    folder = local_folder(settings.model)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    small = device == "cpu" or settings.model in packaged.NAMES
    dtype: Any = getattr(torch, settings.dtype or ("float32" if small else "bfloat16"))
    if settings.vae_dtype is not None:
        dtype = {"default": dtype, "vae": getattr(torch, settings.vae_dtype)}
    pipe = (
        _load_from_folder(folder, dtype)
        if folder
        else _load_from_hub(settings.model, dtype, revision)
    )
    restore_text_model(pipe)
    pipe.set_progress_bar_config(disable=True)  # on_step reports instead
    placement.place(pipe, settings, device)
    return pipe


def check_device(device: str) -> None:
    """Check that torch has a device here.

    Raises:
        ValueError: if it has not.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must be one that torch has here, but got {device!r} ({reason}). Try cpu."
        ) from error


def weights_fingerprint(model: str, pipe: Pipeline) -> dict[str, str]:
    """Identify the weights of `pipe`: a hash over the files of a local model, or the hub
    revision."""
    folder = local_folder(model)
    return (
        {"sha256": hash_weights(folder)} if folder else {"revision": Path(pipe.name_or_path).name}
    )


@contextlib.contextmanager
def hash_meanwhile(settings: ModelSettings) -> Iterator[None]:
    """Hash the files of a local model while it is loaded and run in the block.

    `weights_fingerprint` at the end of the block has little left to wait for; the hashes of files
    that have not changed since are known at once.
    """
    folder = local_folder(settings.model)
    with hash_cache.hash_ahead(weight_files(folder) if folder else ()):
        yield


def restore_text_model(pipe: Pipeline) -> None:
    """Give CLIP's text encoders the name `text_model` back, under which pipelines look for parts.

    In transformers 5 the parts belong to the encoder itself; I2VGen-XL, whose clip_skip is 1 unless
    another is given, fails without the old name.
    """
    from transformers.models.clip.modeling_clip import CLIPTextModel

    for encoder in (getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")):
        if isinstance(encoder, CLIPTextModel) and not hasattr(encoder, "text_model"):
            # Not by setattr, which would make the encoder a module of itself.
            encoder.__dict__["text_model"] = encoder


# --- what the pipeline needs ----------------------------------------------------------------------


def check_pipeline(index: Path) -> None:
    """Check that the pipeline of a model can be made here, and import its package.

    The package of a pipeline that diffusers does not have registers itself there.

    Args:
        index: the model_index.json.

    Raises:
        ValueError: if the file names no pipeline, or one that neither package has, or a package is
            missing that the pipeline needs.
    """
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"a {INDEX_FILE} must be JSON, but {index} is not: {error}. Copy the model again."
        ) from None
    named = content.get("_class_name") if isinstance(content, dict) else None
    if isinstance(
        named, list
    ):  # [module, class]: the code lies in the folder, and diffusers asks whether to trust it
        return
    if not isinstance(named, str):
        raise ValueError(
            f"a {INDEX_FILE} must name its pipeline as _class_name, but {index} does not. Check it."
        )
    family = next((family for family in rows.FAMILIES if named in family.pipelines), None)
    _check_class(named, family.package if family else "diffusers", index)
    if family:
        check_packages(named, family.packages)


def _check_class(named: str, package: str, index: Path) -> None:
    if not any(
        hasattr(importlib.import_module(name), named)
        for name in dict.fromkeys((package, "diffusers"))
    ):
        raise ValueError(
            f"the pipeline of a model must be one of diffusers, but {index} names {named!r}, which"
            f" diffusers {version('diffusers')} does not have. Install a newer one."
        )


def check_packages(pipeline: str, packages: Mapping[str, str]) -> None:
    """Check that the packages are there that a pipeline needs beside those of this one.

    Args:
        packages: the names to install by the modules to import, as `Family.packages`.

    Raises:
        ValueError: if any is missing.
    """
    missing = [
        name for module, name in packages.items() if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise ValueError(
            f"{pipeline} needs {' and '.join(missing)}, which skipguide does not install. Install"
            f" with: pip install {' '.join(missing)}"
        )


def _check_tokenizers(folder: Path) -> None:
    """Check that every tokenizer has its vocabulary.

    transformers would make one that knows no words, and every prompt would mean the same.

    Raises:
        ValueError: if the file with the vocabulary is missing.
    """
    for config in sorted(folder.glob("tokenizer*/tokenizer_config.json")):
        kind = json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class")
        found = any((config.parent / name).is_file() for name in VOCABULARIES)
        if not found and kind not in WITHOUT_VOCABULARY:
            raise ValueError(
                f"{config.parent} must hold the vocabulary of its tokenizer, but has none of"
                f" {', '.join(VOCABULARIES)}. Copy the model again."
            )


# --- reading the files ----------------------------------------------------------------------------


def _load_from_folder(folder: Path, dtype: Dtypes) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    check_pipeline(folder / INDEX_FILE)
    _check_tokenizers(folder)
    with _hide_progress_bars():
        return DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)


def _load_from_hub(model: str, dtype: Dtypes, revision: str | None) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from huggingface_hub import hf_hub_download

    try:
        # First the small file that says whether the rest can be used here.
        check_pipeline(Path(hf_hub_download(model, INDEX_FILE, revision=revision)))
        # Downloaded first and loaded from the snapshot, because the name of that folder is the
        # revision.
        snapshot = DiffusionPipeline.download(model, revision=revision)
        return DiffusionPipeline.from_pretrained(snapshot, dtype=dtype)
    except OSError as error:
        raise ValueError(_describe_hub_error(model, revision, error)) from error


def _describe_hub_error(model: str, revision: str | None, error: OSError) -> str:
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


@contextlib.contextmanager
def _hide_progress_bars() -> Iterator[None]:
    """Keep stderr free while a local model loads, which takes seconds only."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggings = [
        log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()
    ]
    for log in loggings:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in loggings:
            log.enable_progress_bar()
