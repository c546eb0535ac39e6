"""Tell models apart by a hash over the files of their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.files import hash_cache
from skipguide.files.folders import is_system_name
from skipguide.files.hub_cache import INDEX_FILE

if TYPE_CHECKING:
    import torch

_SAMPLES = 64  # of each tensor


def hash_weights(folder: Path, without: Collection[str] = ()) -> str:
    """Hash the names and contents of the model's index and of all files of its components.

    What systems put into folders, as .DS_Store, is no part of a model. Files that are as they were
    when they were hashed before are not read again.

    Args:
        without: components that come from elsewhere; of these only config.json counts.
    """
    total = hashlib.sha256()
    for path in weight_files(folder, without):
        digest = hash_cache.known_sha256(path)
        total.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()


def weight_files(folder: Path, without: Collection[str] = ()) -> list[Path]:
    """Return the files that `hash_weights` covers, the model's index first."""
    files = sorted(
        path
        for path in folder.glob("*/*")
        if path.is_file()
        and not any(map(is_system_name, path.relative_to(folder).parts))
        and (path.parent.name not in without or path.name == "config.json")
    )
    return [folder / INDEX_FILE, *files]


def hash_parameters(pipe: Any) -> str:
    """Hash the weights of a loaded pipeline by a few values of each tensor, evenly spaced.

    That tells checkpoints apart, and adapters that were fused, without reading everything back from
    a device. It is no hash of the files.
    """
    total = hashlib.sha256()
    for name, part in sorted(pipe.components.items()):
        for key, tensor in getattr(part, "state_dict", dict)().items():
            shape = tuple(getattr(tensor, "shape", ()))
            total.update(f"{name}.{key} {shape} {getattr(tensor, 'dtype', '')}\n".encode())
            total.update(_sample(tensor))
    return total.hexdigest()


def _sample(tensor: torch.Tensor) -> bytes:
    if not getattr(tensor, "numel", int)() or tensor.device.type == "meta":  # offloaded
        return b""
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // _SAMPLES)
    return flat[::step].double().cpu().numpy().tobytes()
