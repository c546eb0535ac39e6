"""Read what a file of weights says of itself, without reading a weight: names, shapes, metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from skipguide.files.text import first_line
from skipguide.models.packages import is_installed

SUFFIXES = (".safetensors", ".gguf")
_PICKLED = (".ckpt", ".pt", ".pth", ".bin")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class WeightsFile:
    """The header of a .safetensors or .gguf file."""

    path: Path
    shapes: Shapes  # of each tensor, by its name; of a quantized one the shape that it stands for
    metadata: Mapping[str, str]


def is_file_name(name: str) -> bool:
    """Return whether a name is that of a file of weights, and not of a folder or a hub id."""
    suffix = Path(name).suffix.lower()
    return suffix in SUFFIXES or suffix in _PICKLED


def find_file(name: str, setting: str) -> Path:
    """Return the path of a file of weights; OWNER/NAME/FILE that is no local file is of the hub.

    Args:
        setting: that names the file, for the error message.

    Raises:
        ValueError: if there is no such file, or it is of a format that can hold code.
    """
    path = Path(name)
    if path.suffix.lower() in _PICKLED:
        raise ValueError(
            f"{setting} must be a .safetensors or .gguf file, but got {name!r}: a {path.suffix}"
            " file can run code when it is read. Convert it to .safetensors."
        )
    if path.is_file():
        return path
    parts = path.parts
    repository = "/".join(parts[:2])
    is_local = path.is_absolute() or Path(parts[0]).exists()
    if is_local or len(parts) < 3 or not is_repository(repository):
        raise ValueError(
            f"{setting} must be a file, but got {name!r}, and there is no such file. Check the"
            " name."
        )
    return download(repository, "/".join(parts[2:]), setting)


def is_repository(name: str) -> bool:
    """Return whether a name can be that of a repository of the hub: OWNER/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not name.startswith((".", "/"))


def download(repository: str, file: str, setting: str) -> Path:
    """Return a file of the hub, from the cache if it is there.

    Raises:
        ValueError: if it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file))
    except OSError as error:
        raise ValueError(
            f"{setting} must be a local file or one of the hub, but {repository}/{file} is no"
            f" local file, and cannot be had from the hub: {first_line(error)}. Check the name and"
            " the network."
        ) from error


def read_header(path: Path) -> WeightsFile:
    """Read the names and shapes of the tensors in a file, and its metadata.

    Raises:
        ValueError: if the file is damaged, or another format than its name says; for a .gguf file
            without the package that reads them.
    """
    return _read_gguf(path) if path.suffix.lower() == ".gguf" else _read_safetensors(path)


def check_gguf_package(path: Path) -> None:
    """Check that GGUF files can be read here.

    Raises:
        ValueError: if the package is missing.
    """
    if not is_installed("gguf"):
        raise ValueError(
            f"a .gguf file needs the package gguf, which is not installed, but got {path}. Install"
            " it with: pip install 'gguf>=0.10'"
        )


def _read_safetensors(path: Path) -> WeightsFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return WeightsFile(path, shapes, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, "safetensors", error) from error


def _read_gguf(path: Path) -> WeightsFile:
    check_gguf_package(path)
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        shapes = {
            tensor.name: tuple(int(size) for size in reversed(tensor.shape.tolist()))
            for tensor in reader.tensors
        }
    # What the reader raises depends on where the file ends.
    except (OSError, ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise _damaged(path, "GGUF", error) from error
    return WeightsFile(path, shapes, {})


def _damaged(path: Path, kind: str, error: Exception) -> ValueError:
    return ValueError(
        f"{path} must be a whole {kind} file, but cannot be read: {first_line(error)}. It may be"
        f" cut off ({path.stat().st_size:,} bytes); copy or download it again."
    )
