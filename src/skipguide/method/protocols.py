"""Types for the objects of other libraries (pipelines, schedulers, guiders), and for plain data.

The parts of a diffusers pipeline are attributes that it gets when it is loaded, so a Protocol
cannot name them. These say which kind of thing is meant, and fit every such object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

PlainData = dict[str, Any]  # what JSON and YAML can hold: text, numbers, lists, dicts, None
ReadOnlyData = Mapping[str, Any]  # the same, where it is only read
Inputs = dict[str, Any]  # of a call, by name: tensors, and what else a denoiser or pipeline takes
ReadOnlyInputs = Mapping[str, Any]


class Pipeline(Protocol):
    """A diffusers pipeline, or one of ours: components and options are its attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline."""
        ...

    def __getattr__(self, name: str) -> Any:
        """Return a component or an option."""
        ...

    def __setattr__(self, name: str, value: Any) -> None:
        """Set one of them."""
        ...


class Scheduler(Protocol):
    """A diffusers scheduler: `timesteps`, `config`, `step` and, for most, `sigmas`."""

    def __getattr__(self, name: str) -> Any:
        """Return one of these."""
        ...

    def __setattr__(self, name: str, value: Any) -> None:
        """Set one of these."""
        ...


class Guider(Protocol):
    """A guider of diffusers, or `SkipGuidance`."""

    def __getattr__(self, name: str) -> Any:
        """Return one of its settings."""
        ...

    def __setattr__(self, name: str, value: Any) -> None:
        """Set one of its settings, or put a function in front of a method."""
        ...
