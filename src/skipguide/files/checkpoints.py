"""Read published checkpoints without running code, rename their keys, and fit them exactly."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

Tensor = torch.Tensor
Network = TypeVar("Network", bound=nn.Module)
# (pattern to find in a key, its replacement or None to drop the key)
RenameRules = Sequence[tuple[str, str | None]]

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
# under which a checkpoint of a training run keeps the network's weights
WEIGHT_KEYS = ("state_dict", "model", "module")
# Batch norms count batches; old checkpoints lack the counter, and inference does not need it.
BATCH_COUNTER = "num_batches_tracked"
MAX_LISTED_KEYS = 12  # keys that an error names; it gives their total as well


def read(path: Path) -> dict[str, Tensor]:
    """Return the weights `(key: tensor)` of a file, or of a transformers folder.

    A pickle is read with `weights_only`. Whatever a training run keeps beside the weights is left
    out, and so is the `module.` that DataParallel puts before every key.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything that runs code when it is read, or no weights.
    """
    file = _find_file(path)
    found = _read_pickle(file) if file.suffix != ".safetensors" else _read_safetensors(file)
    parts = (found.get(key) for key in WEIGHT_KEYS)
    inner = next((part for part in parts if isinstance(part, Mapping)), found)
    weights = {
        str(key).removeprefix("module."): value
        for key, value in inner.items()
        if isinstance(value, Tensor)
    }
    if not weights:
        raise ValueError(
            f"{file} must hold tensors by name, but has none. Save only the network's state dict."
        )
    return weights


def rename_keys(weights: Mapping[str, Tensor], rules: RenameRules) -> dict[str, Tensor]:
    """Rename the keys of some weights.

    Every rule is applied, in order. A key that no rule matches keeps its name.
    """
    result: dict[str, Tensor] = {}
    for key, value in weights.items():
        new = _rename_key(key, rules)
        if new is not None:
            result[new] = value
    return result


def fuse_weights(
    weights: Mapping[str, Tensor], parts: Sequence[str], whole: str
) -> dict[str, Tensor]:
    """Stack the matrices (or biases) that `parts` name within a key, as `whole`."""
    result = {
        key: value for key, value in weights.items() if not any(part in key for part in parts)
    }
    for key in weights:
        names = [key.replace(parts[0], part) for part in parts]
        if parts[0] in key and all(name in weights for name in names):
            result[key.replace(parts[0], whole)] = torch.cat([weights[name] for name in names])
    return result


def build_with_weights(
    build: Callable[[], Network], weights: Mapping[str, Tensor], path: Path
) -> Network:
    """Build a network with exactly these weights: float32, in eval mode, without gradients.

    Raises:
        ValueError: If keys are missing, unexpected or of another shape; all of them are counted,
            the first named.
    """
    network = build()
    expected = {
        key: value for key, value in network.state_dict().items() if not key.endswith(BATCH_COUNTER)
    }
    given = {key: value for key, value in weights.items() if not key.endswith(BATCH_COUNTER)}
    wrong = describe_mismatch(expected, given)
    if wrong:
        raise ValueError(
            f"{path} must hold the weights of {type(network).__name__}, but got {wrong}. Use the"
            " file that `skipguide metrics` names."
        )
    network.load_state_dict(
        {key: given[key].to(expected[key].dtype) for key in expected}, strict=False
    )
    return network.eval().requires_grad_(False)


def describe_mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Say how some weights differ from the expected ones, by key and number; "" if they do not."""
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected.keys() & given.keys()
        if given[key].shape != expected[key].shape
    ]
    found: dict[str, Iterable[str]] = {
        "missing": expected.keys() - given.keys(),
        "unexpected": given.keys() - expected.keys(),
        "of another shape": shapes,
    }
    return "; ".join(
        f"{len(list(keys))} {what}: {list_keys(keys)}" for what, keys in found.items() if keys
    )


def list_keys(keys: Iterable[str]) -> str:
    """Join the first keys in order, and say how many are left out."""
    names = sorted(keys)
    return ", ".join(names[:MAX_LISTED_KEYS]) + (
        f" and {len(names) - MAX_LISTED_KEYS} more" if len(names) > MAX_LISTED_KEYS else ""
    )


def _rename_key(key: str, rules: RenameRules) -> str | None:
    for pattern, replacement in rules:
        if replacement is None:
            if re.search(pattern, key):
                return None
        else:
            key = re.sub(pattern, replacement, key)
    return key


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = next((path / name for name in FOLDER_FILES if (path / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"weights must be a file, or a folder with {' or '.join(FOLDER_FILES)}, but got {path}."
            " Check the name."
        )
    return found


def _read_safetensors(file: Path) -> dict[str, object]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except SafetensorError as error:
        raise ValueError(
            f"{file} must be a safetensors file, but got {error}. Download it again."
        ) from error


def _read_pickle(file: Path) -> dict[str, object]:
    if _is_torchscript(file):
        raise ValueError(
            f"{file} must hold only weights, but it is a TorchScript program. Use a file with its"
            " weights instead."
        )
    try:
        with torch.serialization.safe_globals(_numpy_scalar_types()):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{file} must hold only tensors, but it is damaged or has objects that run code when"
            " they are read. Download it again, or, if you trust it, save its state dict with"
            " safetensors."
        ) from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{file} must hold tensors by name, but got a {type(found).__name__}.")
    return dict(found)


def _numpy_scalar_types() -> list[Any]:
    """Return the types that make up a numpy scalar, which optimizers keep in their checkpoints.

    The constructor is allowed under the name that it had before numpy 2 as well.
    """
    scalar = np.float64(0).__reduce__()[0]
    return [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, type(np.dtype(np.float64))]


def _is_torchscript(file: Path) -> bool:
    """Tell whether the file is a TorchScript archive, i.e. a zip with a program in it.

    torch would warn, and then read it or not, depending on its version.
    """
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
