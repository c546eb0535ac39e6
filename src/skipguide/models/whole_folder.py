"""Check that the folder of a model is whole before a weight is read: configurations and weights of
every component that is read from it.

diffusers and transformers name other files than those that are missing, or leave weights that a
file lacks at random values."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from skipguide.method.protocols import PlainData
from skipguide.models import single_file, weights_file

_CONFIGS = (
    "config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json",
    "generation_config.json",
)  # fmt: skip
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_AGAIN = "Copy or download the model again."


def check_folder(
    folder: Path,
    components: Mapping[str, type[Any]],
    elsewhere: Collection[str] = (),
    variant: str | None = None,
) -> None:
    """Check the files of a pipeline in diffusers layout, as far as headers and names tell.

    Args:
        components: with their classes, as `parts.read_components` returns them.
        elsewhere: components that are not read from this folder.
        variant: of the files that are read.

    Raises:
        ValueError: for a file that is missing, damaged or for another model.
    """
    for name, kind in components.items():
        if name in elsewhere:
            continue
        place = folder / name
        if not place.is_dir():
            raise ValueError(f"{folder} must have the folder {name}/, but has none. {_AGAIN}")
        for config in _CONFIGS:
            if (place / config).is_file():
                read_config(place / config)
        if _is_network(kind):
            _check_network(place, name, kind, variant)


def read_config(path: Path) -> PlainData:
    """Return the configuration of a component.

    Raises:
        ValueError: if it is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON, but is not: {error}. {_AGAIN}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object, but is none. {_AGAIN}")
    return content


def _is_network(kind: type[Any]) -> bool:
    """Return whether a class is one whose files have the usual names."""
    from diffusers.models.modeling_utils import ModelMixin
    from transformers import PreTrainedModel

    return issubclass(kind, (ModelMixin, PreTrainedModel))


def _check_network(place: Path, name: str, kind: type[Any], variant: str | None) -> None:
    config = place / "config.json"
    if not config.is_file():
        raise ValueError(f"{name} must have its config.json, but there is no {config}. {_AGAIN}")
    quantized = "quantization_config" in read_config(config)
    files = _weight_files(place, name, variant)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= weights_file.read_header(file).shapes
    if files and not quantized:
        _check_shapes(shapes, name, kind, config)


def _weight_files(place: Path, name: str, variant: str | None) -> list[Path]:
    """Return the files of weights; none where they are of a format whose header is not read.

    Raises:
        ValueError: if any is missing.
    """
    middles = ([f".{variant}"] if variant else []) + [""]
    for middle in middles:
        for stem in _STEMS:
            index = place / f"{stem}.safetensors.index{middle}.json"
            if index.is_file():
                return _shards(index, name)
            if (single := place / f"{stem}{middle}.safetensors").is_file():
                return [single]
    if any(place.glob("*.bin")):
        return []
    there = sorted(path.name for path in place.glob("*.safetensors"))
    has = f"only {', '.join(there)}" if there else "no .safetensors file"
    words = sorted({path.split(".")[1].split("-")[0] for path in there if path.count(".") > 1})
    advice = f"Take --variant {words[0]}." if words and variant is None else _AGAIN
    raise ValueError(f"{name} must have its weights, but {place} has {has}. {advice}")


def _shards(index: Path, name: str) -> list[Path]:
    listed = read_config(index).get("weight_map")
    if not isinstance(listed, dict):
        raise ValueError(f"{index} must have a weight_map, but has none. {_AGAIN}")
    files = sorted({index.parent / str(file) for file in listed.values()})
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"{name} must have all {len(files)} files that {index} lists, but"
            f" {len(missing)} {'is' if len(missing) == 1 else 'are'} missing:"
            f" {', '.join(missing[:3])}{', ...' if missing[3:] else ''}. {_AGAIN}"
        )
    return files


def _check_shapes(shapes: weights_file.Shapes, name: str, kind: type[Any], config: Path) -> None:
    """Compare weights with the configuration beside them.

    Names of older versions are renamed when they are loaded: a missing weight is a fault only where
    no other name stands in its place.

    Raises:
        ValueError: for weights of other shapes, or too few.
    """
    try:
        misfit = single_file.compare_with_config(shapes, kind, config)
    # A configuration that does not make a model is told of when it is loaded.
    except Exception:
        return
    if misfit.reshaped or (misfit.missing and not misfit.unexpected):
        raise ValueError(
            f"the weights of {name} must fit {config}, but they do not: {misfit.describe()}."
            f" {_AGAIN}"
        )
