"""Load one component of a pipeline from a file of weights, with diffusers' own `from_single_file`.

Names and shapes are compared with the component's config.json before a weight is read: diffusers
leaves weights that a file lacks without a value, and says nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skipguide.models import telling
from skipguide.models.weights_file import Shapes, WeightsFile, check_gguf_package, read_header

# Marks of ComfyUI's quantized files, whose weights mean nothing without their scales.
_SCALED = (".scale_weight", ".scale_input", ".weight_scale", ".comfy_quant", "scaled_fp8")


@dataclass(frozen=True)
class Misfit:
    """The differences of the weights of a file from those of a model; nothing where they fit."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()  # name, must be, is

    @property
    def count(self) -> int:
        """The number of weights that differ."""
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def describe(self) -> str:
        """Say what differs, the first weight of each kind by name."""
        said = []
        if self.reshaped:
            name, must, found = self.reshaped[0]
            said.append(f"{name} must be {_size(must)}, but is {_size(found)}")
            said += _and_more(self.reshaped, "other shapes")
        if self.missing:
            said += [f"{self.missing[0]} is missing", *_and_more(self.missing, "missing")]
        if self.unexpected:
            said.append(f"{self.unexpected[0]} has no place")
            said += _and_more(self.unexpected, "without a place")
        return "; ".join(said)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _and_more(listed: tuple[Any, ...], what: str) -> list[str]:
    return [f"{len(listed) - 1} more are {what}"] if len(listed) > 1 else []


# --- does the file fit ----------------------------------------------------------------------------


def find_misfit(header: WeightsFile, kind: type[Any], config: Path) -> Misfit:
    """Compare the weights of a file with those that a component has.

    Args:
        kind: the class of the component, of diffusers or transformers.
        config: its config.json.
    """
    expected, ignored = _expected_shapes(kind, config)
    plain = _compare(header.shapes, expected, ignored)
    converted = _convert(header.shapes, kind, config) if plain.count else None
    if converted is None:
        return plain
    found = _compare(converted, expected, ignored)
    return min(found, plain, key=lambda misfit: misfit.count)


def compare_with_config(shapes: Shapes, kind: type[Any], config: Path) -> Misfit:
    """Compare weights under diffusers' or transformers' own names with those of a component."""
    expected, ignored = _expected_shapes(kind, config)
    return _compare(shapes, expected, ignored)


def check_fit(header: WeightsFile, name: str, kind: type[Any], config: Path, base: str) -> None:
    """Check that a file has the weights of a component.

    Raises:
        ValueError: if it has not, with what was expected and what came.
    """
    misfit = find_misfit(header, kind, config)
    if not misfit.count:
        return
    scaled = next((key for key in header.shapes if key.endswith(_SCALED)), None)
    if scaled is not None:
        raise ValueError(
            f"{name} must have plain weights, but {header.path} is quantized in a way that"
            f" diffusers does not read ({scaled}). Take the file in bf16, fp16 or GGUF, and"
            " --quantize."
        )
    converts = _mapping(kind) is not None
    advice = "" if converts else f" diffusers reads {kind.__name__} under its own names only."
    raise ValueError(
        f"{name} must have the weights of the {kind.__name__} in {base}, but {header.path} does"
        f" not fit: {misfit.describe()}.{advice} Name the model that the file was made for with"
        " --base-model."
    )


def _expected_shapes(kind: type[Any], config: Path) -> tuple[Shapes, Callable[[str], bool]]:
    """Return the shapes of a component's weights, and what tells extra ones that do no harm."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = _build(kind, config)
    patterns = [
        *(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()),
        *(getattr(model, "_keys_to_ignore_on_load_missing", None) or ()),
    ]
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}

    def ignored(name: str) -> bool:
        return name in tied or any(re.search(pattern, name) for pattern in patterns)

    return shapes, ignored


def _build(kind: type[Any], config: Path) -> Any:
    if _is_of_diffusers(kind):
        return kind.from_config(json.loads(config.read_text(encoding="utf-8")))
    return kind(kind.config_class.from_json_file(str(config)))


def _compare(found: Shapes, expected: Shapes, ignored: Callable[[str], bool]) -> Misfit:
    missing = [name for name in expected if name not in found and not ignored(name)]
    unexpected = [name for name in found if name not in expected and not ignored(name)]
    reshaped = [
        (name, expected[name], found[name])
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    return Misfit(tuple(missing), tuple(unexpected), tuple(reshaped))


def _convert(shapes: Shapes, kind: type[Any], config: Path) -> Shapes | None:
    """Return the shapes under diffusers' own names; None if it cannot convert them."""
    convert = _mapping(kind)
    if convert is None:
        return None
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    content = json.loads(config.read_text(encoding="utf-8"))
    try:
        converted = convert(config=content, checkpoint=tensors)
    # Names of another architecture lead diffusers' code anywhere.
    except Exception:
        return None
    return {name: tuple(value.shape) for name, value in converted.items()}


def _mapping(kind: type[Any]) -> Callable[..., dict[str, torch.Tensor]] | None:
    """Return diffusers' conversion of original files of a class; None if it has none."""
    from diffusers.loaders import single_file_model as single

    name = single._get_single_file_loadable_mapping_class(kind) if _is_of_diffusers(kind) else None
    known = single.SINGLE_FILE_LOADABLE_CLASSES.get(name, {}) if name else {}
    return known.get("checkpoint_mapping_fn") if hasattr(kind, "from_single_file") else None


def is_convertible(kind: type[Any]) -> bool:
    """Return whether diffusers reads original files of a class."""
    return isinstance(kind, type) and _mapping(kind) is not None


def _is_of_diffusers(kind: type[Any]) -> bool:
    from diffusers.models.modeling_utils import ModelMixin

    return issubclass(kind, ModelMixin)


# --- loading --------------------------------------------------------------------------------------


def load_file(path: Path, name: str, kind: type[Any], base: Path, dtype: torch.dtype) -> Any:
    """Load a component from a file that fits it.

    Args:
        name: of the component.
        base: the folder of the pipeline; its `name/config.json` describes the component.

    Raises:
        ValueError: for a .gguf file of a component that diffusers does not read from one.
    """
    is_gguf = path.suffix.lower() == ".gguf"
    how: dict[str, Any] = {"dtype": dtype}
    if _mapping(kind) is None:
        if is_gguf:
            raise ValueError(
                f"{name} must be a .safetensors file or a folder, because diffusers reads no GGUF"
                f" files of a {kind.__name__}, but got {path}. Take the .safetensors file."
            )
        with _as_folder(path, base / name / "config.json", _is_of_diffusers(kind)) as folder:
            return kind.from_pretrained(folder, local_files_only=True, **how)
    if is_gguf:
        from diffusers.quantizers.quantization_config import GGUFQuantizationConfig

        check_gguf_package(path)
        how["quantization_config"] = GGUFQuantizationConfig(compute_dtype=dtype)
    # It says that casting all of a model is unwise, which `_restore_float32` mends.
    with telling.only_from(logging.ERROR, "diffusers.models.modeling_utils"):
        model = kind.from_single_file(
            str(path), config=str(base), subfolder=name, local_files_only=True, **how
        )
    if not is_gguf and dtype != torch.float32:
        _restore_float32(model, path, base / name / "config.json")
    return model


def _restore_float32(model: Any, path: Path, config: Path) -> None:
    """Keep in float32 what the model's class says, as `from_pretrained` does.

    `from_single_file` casts all: norms, modulation tables, and the angles of rotary positions.
    """
    from accelerate import init_empty_weights
    from diffusers.models.model_loading_utils import load_state_dict

    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    if not kept:
        return
    with init_empty_weights():
        fresh = _build(type(model), config)
    weights: Any = load_state_dict(str(path))  # mapped, not read
    own = {name for name, _ in model.named_parameters()}
    convert = _mapping(type(model))
    if convert is not None and not own <= set(weights):
        weights = convert(config=json.loads(config.read_text("utf-8")), checkpoint=weights)
    for name, parameter in model.named_parameters():
        if kept.intersection(name.split(".")):
            parameter.data = weights[name].to(torch.float32)
    for name, buffer in fresh.named_buffers():
        if not buffer.is_meta and name not in weights:
            place, _, last = name.rpartition(".")
            model.get_submodule(place).register_buffer(last, buffer, persistent=False)


@contextlib.contextmanager
def _as_folder(path: Path, config: Path, of_diffusers: bool) -> Iterator[str]:
    """Show a file as the folder that `from_pretrained` reads, without a copy of it."""
    weights = "diffusion_pytorch_model.safetensors" if of_diffusers else "model.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(config, folder)
        link = Path(folder, weights)
        try:
            link.symlink_to(path.absolute())
        except OSError:  # Windows, without the right to make one
            os.link(path, link)
        yield folder


def check_file(path: Path, name: str, kind: type[Any], base: Path, shown_base: str) -> None:
    """Check that a file can be the component of that name, before anything is loaded.

    Raises:
        ValueError: if the file is damaged, does not fit, or the base does not describe it.
    """
    config = base / name / "config.json"
    if not config.is_file():
        raise ValueError(
            f"{name} of a single file needs its config.json in the base model, but there is no"
            f" {config}. Copy the base model again; of {name} that file is enough."
        )
    check_fit(read_header(path), name, kind, config, shown_base)
