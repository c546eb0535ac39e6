"""What the generation of a video asks of a pipeline, as a type."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch

from skipguide.method.protocols import Pipeline

_Self = TypeVar("_Self")


class LoadedPipeline(Pipeline, Protocol):
    """A diffusers pipeline with its weights on a device.

    What some pipelines lack is asked for with `getattr`, or after a look at what is there.
    """

    name_or_path: str
    scheduler: Any
    guider: Any
    unet: Any
    vae_scale_factor: int
    vae_scale_factor_spatial: int

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its weights."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Set the arguments of its progress bar."""
        ...

    def to(self: _Self, device: str) -> _Self:
        """Move it to a device."""
        ...
