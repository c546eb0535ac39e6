"""Read a pipeline from a folder, with the components that come from elsewhere or are quantized."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skipguide.files.hub_cache import INDEX_FILE
from skipguide.files.text import first_line
from skipguide.models import loaded, parts, quantize, whole_folder
from skipguide.models.parsing import DENOISERS
from skipguide.models.parts import Parts


@dataclass(frozen=True)
class Reading:
    """The way in which the weights of a model are read."""

    dtype: torch.dtype
    variant: str | None = None
    quantize: str | None = None  # with its library
    device: str = "cpu"  # where it will run
    vae_dtype: torch.dtype | None = None  # where the VAE has one of its own

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the dtype of a component."""
        return self.vae_dtype if self.vae_dtype and name == "vae" else self.dtype

    def dtypes(self) -> torch.dtype | dict[str, torch.dtype]:
        """Return the dtype of all components, or those by their names, as diffusers takes it."""
        return {"default": self.dtype, "vae": self.vae_dtype} if self.vae_dtype else self.dtype

    def load_part(self, path: Path, name: str, kind: type[Any], base: Path) -> Any:
        """Load one component from a file or a folder, quantized if it is a denoiser."""
        options: dict[str, Any] = {"variant": self.variant} if self.variant else {}
        wanted = self.quantize if name in DENOISERS else None
        by_diffusers = wanted and quantize.is_done_by_diffusers(wanted, self.device)
        if wanted and by_diffusers and path.is_dir():
            options["quantization_config"] = quantize.build_config(wanted, self.dtype)
            wanted = None
        model = parts.load_part(path, name, kind, base, self.dtype_of(name), options)
        if wanted:
            quantize.quantize_layers(model, wanted, self.dtype)
        if self.quantize and name in DENOISERS:
            quantize.check_layers(model, self.quantize, self.device, self.dtype)
        return model


def read_pipeline(folder: Path, found: Parts, how: Reading) -> Any:
    """Load a pipeline from a folder in diffusers layout.

    A component that comes from elsewhere or is quantized is loaded alone and handed to diffusers,
    which then reads the others. Everything is checked before the first weight is read.

    Raises:
        ValueError: for a variant that the folder does not have, and parts that do not fit.
    """
    if how.variant:
        parts.check_variant(how.variant, folder)
    components = parts.read_components(folder / INDEX_FILE)
    elsewhere = parts.assign_files(found, components, folder)
    whole_folder.check_folder(folder, components, elsewhere, how.variant)
    quantized = [name for name in DENOISERS if name in components and how.quantize]
    alone = {name: folder / name for name in quantized} | elsewhere
    with quantize.quiet():
        given = {
            name: how.load_part(path, name, components[name], folder)
            for name, path in alone.items()
        }
    more = {"variant": how.variant} if how.variant else {}
    with _explained(folder):
        pipe = parts.pipeline_class(folder / INDEX_FILE).from_pretrained(
            folder, dtype=how.dtypes(), local_files_only=True, **more, **given
        )
    loaded.remember(pipe, parts=elsewhere)
    return pipe


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say in words that diffusers cannot read a folder.

    Raises:
        ValueError: for what it says of files and their contents; other errors are left as they are.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        raise ValueError(
            f"a model must be a whole folder in diffusers layout, but {folder} cannot be loaded:"
            f" {first_line(error)[:300]}. Copy or download the model again."
        ) from error
