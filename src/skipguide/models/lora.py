"""Put LoRAs on a loaded pipeline with diffusers' own `load_lora_weights`, or refuse them in words.

diffusers says nothing of a LoRA that fits no layer, and the video is then that of the bare model.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skipguide.files.hash_cache import known_sha256
from skipguide.files.text import first_line
from skipguide.method import validate
from skipguide.method.protocols import Pipeline
from skipguide.models import parts, telling, weights_file
from skipguide.models.packages import is_installed
from skipguide.models.parsing import DENOISERS
from skipguide.models.settings import Lora

_USUAL_NAME = "pytorch_lora_weights.safetensors"  # that diffusers' training scripts write
# The end of a weight's name, after the layer that it is for.
_WEIGHT = re.compile(r"\.(lora_|lora\.|lokr_|alpha$|dora_scale|diff_b|diff$).*$")
_TRIGGERS = ("modelspec.trigger_phrase", "trigger_words", "trigger_word", "ss_trigger_words")
_MAX_TAGS = 3


@dataclass(frozen=True)
class _Layer:
    """The part of a LoRA for one layer, with the number of its inputs; None if unknown."""

    component: str
    name: str
    takes: int | None
    gives: int | None


def load_loras(pipe: Pipeline, loras: Sequence[Lora]) -> tuple[Lora, ...]:
    """Put LoRAs on a pipeline; return them with what is known of their files now.

    A LoRA goes on every denoiser of the pipeline, unless `component` or its name (high noise, low
    noise) says on which of two.

    Raises:
        ValueError: if a file is not there, damaged or no LoRA, if it fits no layer of this
            pipeline, or if the pipeline takes none.
    """
    _check_pipeline(pipe)
    found, scales = [], {}
    for number, lora in enumerate(loras, 1):
        file, header, target = _find(pipe, lora)
        names = [target] if target else _targets(pipe)
        for name in names:
            adapter = f"lora_{number}"
            with _explained(file):
                _load(pipe, file, adapter, name)
            scales[adapter] = lora.scale
        known = {"sha256": known_sha256(file), "trigger_words": read_trigger_words(header.metadata)}
        if target:
            known["component"] = target
        found.append(lora.model_copy(update=known))
    pipe.set_adapters(list(scales), list(scales.values()))
    return tuple(found)


def check_loras(pipe: Pipeline, loras: Sequence[Lora]) -> None:
    """Check that LoRAs fit a pipeline, which may be one without weights.

    Raises:
        ValueError: as `load_loras`.
    """
    _check_pipeline(pipe)
    for lora in loras:
        _find(pipe, lora)


def _find(pipe: Pipeline, lora: Lora) -> tuple[Path, weights_file.WeightsFile, str | None]:
    """Return the file of a LoRA that fits, its header, and the denoiser that it is for."""
    file = find_lora_file(lora.path)
    header = weights_file.read_header(file)
    target = lora.component or parts.side_of(file.name, _targets(pipe))
    _check_component(pipe, target)
    _check_layers(pipe, file, lora, target)
    return file, header, target


def _load(pipe: Pipeline, file: Path, adapter: str, name: str) -> None:
    into = {"load_into_transformer_2": True} if name == "transformer_2" else {}
    pipe.load_lora_weights(
        str(file.parent), weight_name=file.name, adapter_name=adapter, local_files_only=True, **into
    )


def _targets(pipe: Pipeline) -> list[str]:
    """Return the denoisers of a pipeline that can have LoRAs."""
    taken = getattr(pipe, "_lora_loadable_modules", ())
    return [name for name in DENOISERS if name in taken and getattr(pipe, name, None) is not None]


# --- the file -------------------------------------------------------------------------------------


def find_lora_file(path: str) -> Path:
    """Return the file of a LoRA: of a file, a folder with one, or a repository of the hub.

    Raises:
        ValueError: if there is none, or several of which none has the usual name.
    """
    _check_scale(path)
    _check_target(path)
    if weights_file.is_file_name(path) and not Path(path).is_dir():
        file = weights_file.find_file(path, "lora")
        if file.suffix.lower() != ".safetensors":
            raise ValueError(f"lora must be a .safetensors file, but got {path!r}. Convert it.")
        return file
    folder = Path(path)
    if folder.is_dir():
        names = sorted(file.name for file in folder.glob("*.safetensors"))
        return folder / _choose(names, path)
    if not weights_file.is_repository(path):
        raise ValueError(
            f"lora must be a .safetensors file, a folder or a hub id, but got {path!r}, and there"
            " is no such file. Check the name."
        )
    return weights_file.download(path, _choose(_files_on_hub(path), path), "lora")


def _check_target(path: str) -> None:
    """Check that NAME= before a path is not the name of no denoiser, which was left in the path."""
    name, equals, rest = path.partition("=")
    if equals and re.fullmatch(r"\w+", name) and not Path(path).exists():
        known = list(DENOISERS)
        raise ValueError(
            f"the component of a lora must be one of {', '.join(known)}, but got {name!r} for"
            f" {rest}. {validate.did_you_mean(name, known, 'Leave it out.')}"
        )


def _check_scale(path: str) -> None:
    """Check that what follows the last colon of a path is not a scale that is no number."""
    place, colon, scale = path.rpartition(":")
    is_place = (
        place.lower().endswith(".safetensors")
        or weights_file.is_repository(place)
        or (len(place) > 1 and Path(place).exists())  # C:x is a path on Windows
    )
    if colon and is_place and not Path(path).exists():
        raise ValueError(
            f"the scale of a lora must be a finite number, but got {scale!r} for {place}. Write"
            f" {place}:0.8, or {place} alone for a scale of 1."
        )


def _files_on_hub(repository: str) -> list[str]:
    from huggingface_hub import list_repo_files, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repository, _USUAL_NAME), str):
        return [_USUAL_NAME]
    try:
        return [name for name in list_repo_files(repository) if name.endswith(".safetensors")]
    except OSError as error:
        raise ValueError(
            f"lora must be a file, a folder or a hub id, but {repository!r} is no folder, and the"
            f" hub says: {first_line(error)}. Check the name and the network."
        ) from error


def _choose(names: Sequence[str], place: str) -> str:
    if _USUAL_NAME in names or len(names) == 1:
        return _USUAL_NAME if _USUAL_NAME in names else names[0]
    has = f"{len(names)}: {', '.join(names[:5])}" if names else "none"
    advice = f"Name one, as in {place}/{names[0]}." if names else "Check the name."
    raise ValueError(
        f"lora must name a place with one .safetensors file, but {place} has {has}. {advice}"
    )


def read_trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the words with which a LoRA was trained, of the metadata of its file; None if unknown.

    They are named there, or are the tags of most of the pictures that it was trained on (kohya's
    `ss_tag_frequency`).
    """
    for name in _TRIGGERS:
        if words := metadata.get(name, "").strip():
            return tuple(dict.fromkeys(filter(None, map(str.strip, words.split(",")))))
    try:
        by_folder = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for tags in by_folder.values():
            counts.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    except (ValueError, AttributeError, TypeError):
        return None
    if not counts:
        return None
    most = max(counts.values())
    found = [tag for tag, count in counts.most_common() if tag and count >= 0.9 * most]
    return tuple(found[:_MAX_TAGS])


# --- does it fit ----------------------------------------------------------------------------------


def _check_pipeline(pipe: Pipeline) -> None:
    if not is_installed("peft"):
        raise ValueError(
            "lora needs the package peft, which is not installed. Install it with: pip install peft"
        )
    if not hasattr(pipe, "load_lora_weights") or not _targets(pipe):
        raise ValueError(
            f"lora needs a pipeline that takes LoRAs, but diffusers has none for"
            f" {type(pipe).__name__}. Leave out --lora."
        )


def _check_component(pipe: Pipeline, target: str | None) -> None:
    if target is not None and target not in _targets(pipe):
        raise ValueError(
            f"the component of a lora must be {' or '.join(_targets(pipe))} with"
            f" {type(pipe).__name__}, but got {target!r}. Leave it out, or name another."
        )


def _check_layers(pipe: Pipeline, file: Path, lora: Lora, target: str | None) -> None:
    """Check that a LoRA fits the pipeline, and tell if it does so in part.

    Raises:
        ValueError: if none of its layers is one of the model.
    """
    layers = _read_layers(pipe, file)
    components = {name: getattr(pipe, name, None) for name in {layer.component for layer in layers}}
    if target is not None and "transformer" in components:
        components["transformer"] = getattr(pipe, target)
    modules = {
        name: dict(component.named_modules()) if component is not None else {}
        for name, component in components.items()
    }
    known = [layer for layer in layers if layer.name in modules[layer.component]]
    _check_sizes(
        [(layer, modules[layer.component][layer.name]) for layer in known], file, type(pipe)
    )
    if not known:
        shown = ", ".join(layer.name for layer in layers[:2]) or "no layer at all"
        own = _example_layers(pipe)
        raise ValueError(
            f"lora must be made for the model, but none of the {len(layers)} layers of {lora.path}"
            f" is one of {type(pipe).__name__}: it has {shown}, and the model {own}. Take a LoRA"
            " for this model."
        )
    if len(known) < len(layers):
        missing = next(layer.name for layer in layers if layer not in known)
        telling.tell(
            f"the LoRA {file.name} fits in part: {len(known)} of its {len(layers)} layers are"
            f" layers of the model ({missing} is not). The others have no effect."
        )


def _read_layers(pipe: Pipeline, file: Path) -> list[_Layer]:
    """Return the layers that a LoRA is for, under diffusers' own names."""
    with _explained(file):
        state = type(pipe).lora_state_dict(str(file.parent), weight_name=file.name)  # type: ignore[attr-defined]
    weights: Mapping[str, torch.Tensor] = state[0] if isinstance(state, tuple) else state
    _check_finite(weights, file)
    found: dict[tuple[str, str], dict[str, int]] = {}
    for key, weight in weights.items():
        layer, sep, _ = key.partition(".") if _WEIGHT.search(key) else ("", "", "")
        name = _WEIGHT.sub("", key)[len(layer) + len(sep) :]
        sizes = found.setdefault((layer, name), {})
        if re.search(r"lora_A|lora_down|lora\.down", key) and weight.ndim > 1:
            sizes["takes"] = weight.shape[1]
        if re.search(r"lora_B|lora_up|lora\.up", key) and weight.ndim > 1:
            sizes["gives"] = weight.shape[0]
    return [
        _Layer(component, name, sizes.get("takes"), sizes.get("gives"))
        for (component, name), sizes in found.items()
        if component
    ]


def _check_finite(weights: Mapping[str, torch.Tensor], file: Path) -> None:
    # of float8 torch does not say it
    wrong = [name for name, weight in weights.items() if not bool(weight.float().isfinite().all())]
    if wrong:
        raise ValueError(
            f"lora must hold finite numbers, but {file} has inf or nan in {len(wrong)} of its"
            f" {len(weights)} weights ({wrong[0]}). Take another file: this one is damaged, or its"
            " training failed."
        )


def _check_sizes(
    pairs: Sequence[tuple[_Layer, torch.nn.Module]], file: Path, kind: type[Any]
) -> None:
    for layer, module in pairs:
        takes = getattr(module, "in_features", None) or getattr(module, "in_channels", None)
        gives = getattr(module, "out_features", None) or getattr(module, "out_channels", None)
        for must, is_, verb in ((takes, layer.takes, "takes"), (gives, layer.gives, "gives")):
            if None not in (must, is_) and must != is_:
                raise ValueError(
                    f"lora must be made for a model of this size, but {file.name} is not:"
                    f" {layer.name} of {kind.__name__} {verb} {must} numbers, and the LoRA is for"
                    f" {is_}. Take a LoRA for this model."
                )


def _example_layers(pipe: Pipeline) -> str:
    denoiser = getattr(pipe, _targets(pipe)[0])
    names = [
        name for name, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear)
    ]
    return ", ".join([*(name for name in names if "attn" in name), *names][:2])


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Say in words that diffusers cannot read a LoRA, and keep its own remarks off stderr."""
    try:
        with telling.only_from(logging.CRITICAL, "diffusers"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    # diffusers takes a file apart by its names, and fails in many ways where they are others.
    except Exception as error:
        lacks = "it has no " if isinstance(error, KeyError) else ""
        raise ValueError(
            f"lora must be one that diffusers can read, but {file} is not:"
            f" {lacks}{first_line(error)[:300]}. Take another file, made for this model."
        ) from error
