"""Load a pipeline: a lab model, a local folder, or a model on the hub."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from skipguide.families import rows
from skipguide.files import hash_cache, packaged
from skipguide.files.hub_cache import INDEX_FILE
from skipguide.files.text import first_line
from skipguide.method.protocols import Pipeline
from skipguide.models import hub, loaded, lora, parts, placement, quantize, weights_file
from skipguide.models.fingerprint import hash_weights, weight_files
from skipguide.models.packages import is_installed
from skipguide.models.parsing import DENOISERS
from skipguide.models.parts import Parts
from skipguide.models.reading import Reading, read_pipeline
from skipguide.models.settings import ModelSettings
from skipguide.models.whole_folder import read_config

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
    is_hub_id = weights_file.is_repository(model)
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
    found = parts.find_parts(settings)
    folder = local_folder(found.base)
    device = device_of(settings)
    check_device(device)
    dtype = dtype_of(settings, device, found.base)
    own = settings.vae_dtype and getattr(torch, settings.vae_dtype)
    chosen = choose_quantization(settings, device)
    how = Reading(dtype, settings.variant, chosen, device, own)
    pipe = _load_from_folder(folder, found, how) if folder else _load_from_hub(found, how, revision)
    restore_text_model(pipe)
    pipe.set_progress_bar_config(disable=True)  # on_step reports instead
    loras = lora.load_loras(pipe, settings.lora) if settings.lora else None
    loaded.remember(pipe, lora=loras, quantize=how.quantize)
    placement.place(pipe, settings, device)
    return pipe


def choose_quantization(settings: ModelSettings, device: str) -> str | None:
    """Return how the denoisers are quantized, with the library; raise ValueError if none can."""
    if settings.quantize is None:
        return None
    named = [entry.partition("=") for entry in settings.component or ()]
    files = [settings.model, *(place for name, _, place in named if name in DENOISERS)]
    if done := next((file for file in files if file.lower().endswith(".gguf")), None):
        raise ValueError(
            f"quantize is for weights that are not quantized yet, but got {settings.quantize!r} for"
            f" {done}. Leave out --quantize."
        )
    chosen = quantize.choose_library(settings.quantize, device)
    placement.check_offload(settings, chosen, device)
    return chosen


def device_of(settings: ModelSettings) -> str:
    """Return the device that the settings name, else the GPU if there is one."""
    return settings.device or ("cuda" if torch.cuda.is_available() else "cpu")


def dtype_of(settings: ModelSettings, device: str, base: str) -> torch.dtype:
    """Return the dtype that the settings name, else that of the device and the model `base`."""
    small = device == "cpu" or base in packaged.NAMES
    return getattr(torch, settings.dtype or ("float32" if small else "bfloat16"))


def check_device(device: str) -> None:
    """Check that torch has a device here.

    Raises:
        ValueError: if it has not.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise ValueError(
            f"device must be one that torch has here, but got {device!r}"
            f" ({first_line(error)}). Try cpu."
        ) from error


def weights_fingerprint(settings: ModelSettings | str, pipe: Pipeline) -> dict[str, str]:
    """Identify the weights of `pipe`: a hash over the files of a local model, or the hub revision,
    and a hash of each component that comes from elsewhere. LoRAs have theirs in the settings.

    Args:
        settings: those that it was loaded with, or the name of its model alone.
    """
    if isinstance(settings, str):
        settings = ModelSettings(model=settings)
    found = parts.find_parts(settings)
    folder = local_folder(found.base)
    elsewhere = loaded.recall(pipe).get("parts", {})
    base = (
        {"sha256": hash_weights(folder, tuple(elsewhere))}
        if folder
        else {"revision": Path(pipe.name_or_path).name}
    )
    return {
        **base,
        **{name: parts.hash_part(path, name) for name, path in sorted(elsewhere.items())},
    }


@contextlib.contextmanager
def hash_meanwhile(settings: ModelSettings) -> Iterator[None]:
    """Hash the files of a local model while it is loaded and run in the block.

    `weights_fingerprint` at the end of the block has little left to wait for; the hashes of files
    that have not changed since are known at once.
    """
    with hash_cache.hash_ahead(_files_to_hash(settings)):
        yield


def _files_to_hash(settings: ModelSettings) -> list[Path]:
    found = parts.find_parts(settings)
    elsewhere = [] if found.file is None else [found.file]
    for name, path in found.named.items():
        elsewhere += parts.files_of(path, name)
    folder = local_folder(found.base)
    if folder is None:
        return elsewhere
    replaced = parts.replaced_names(found, folder / INDEX_FILE)
    return [*weight_files(folder, replaced), *elsewhere]


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
    missing = [name for module, name in packages.items() if not is_installed(module)]
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
        kind = read_config(config).get("tokenizer_class")
        found = any((config.parent / name).is_file() for name in VOCABULARIES)
        if not found and kind not in WITHOUT_VOCABULARY:
            raise ValueError(
                f"{config.parent} must hold the vocabulary of its tokenizer, but has none of"
                f" {', '.join(VOCABULARIES)}. Copy the model again."
            )


# --- reading the files ----------------------------------------------------------------------------


def _load_from_folder(folder: Path, found: Parts, how: Reading) -> Any:
    check_pipeline(folder / INDEX_FILE)
    _check_tokenizers(folder)
    with _hide_progress_bars():
        return read_pipeline(folder, found, how)


def _load_from_hub(found: Parts, how: Reading, revision: str | None) -> Any:
    from huggingface_hub import hf_hub_download

    try:
        # First the small file that says whether the rest can be used here.
        index = Path(hf_hub_download(found.base, INDEX_FILE, revision=revision))
        check_pipeline(index)
        replaced = parts.replaced_names(found, index)
        folder = hub.download(found.base, index, how.variant, replaced, revision)
        return read_pipeline(folder, found, how)
    except OSError as error:
        raise ValueError(hub.describe_error(found.base, revision, error)) from error


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
