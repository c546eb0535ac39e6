"""One example per family: the config and the inputs of its denoiser, in three sizes.

The benchmark, `skipguide layers` and the tests build denoisers from here alone, so a new family
needs its row in `families/rows.py` and one module in this folder (docs/add-a-family.md). The module
has the family's name, with underscores for other signs, and an `EXAMPLE`:

    narrow   as deep as the public checkpoint, 256 channels wide, about 600 tokens: a CPU runs it in
             part of a second, and the shares of the layers are near the real ones
    small    a few layers and channels, for tests
    full     the size of the public checkpoint, for a large GPU; not every family has it

Modules here need torch only. The classes of diffusers are looked up when a denoiser is built.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from skipguide.families import rows
from skipguide.families.schema import Family

Scale = Literal["narrow", "small", "full"]
Config = Mapping[str, Any]  # arguments of a denoiser's class
Inputs = dict[str, Any]  # arguments of its forward pass

# Arguments that set how many blocks a stack has, in the order of the stacks.
DEPTH_ARGUMENTS = ("num_layers", "num_single_layers", "num_visual_blocks")


@dataclass(frozen=True)
class Size:
    """The size of one sample: of its latents, and of its text in tokens."""

    frames: int
    height: int
    width: int
    text: int

    @property
    def latents(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        return self.frames, self.height, self.width

    @property
    def tokens(self) -> int:
        """The number of latents of a frame, times the number of frames."""
        return self.frames * self.height * self.width


MakeInputs = Callable[[Config, Size, int], Inputs]
MakeTensor = Callable[[Config, Size, int], torch.Tensor]


@dataclass(frozen=True)
class Workload:
    """One forward pass of a denoiser, and what is skipped in it."""

    config: Config
    inputs: Callable[[int], Inputs]  # for a batch of so many rows
    layer: int | str
    terms: tuple[Mapping[str, Any], ...] = ({},)


@dataclass(frozen=True)
class Example:
    """The denoiser of a family in three sizes.

    Args:
        narrow: arguments of the denoiser's class, complete but for those whose default serves.
        inputs: makes the inputs of a forward pass from such arguments, a size and a batch.
        layer: the layer to skip: the published choice, or the one at 0.7 of the depth where
            nothing is published.
        small: arguments that differ from `narrow`'s in the small size. The depth need not be
            among them: it is 4 blocks, or 2 and 3 where there are two stacks.
        full: arguments that differ from the defaults of the class in the public checkpoint, and
            those that `inputs` reads; None where the full size is not offered.
        terms: what else is published of each STG term; all of them skip `layer`.
    """

    narrow: Config
    inputs: MakeInputs
    layer: int | str
    narrow_size: Size = Size(4, 24, 24, 64)
    small: Config = field(default_factory=dict)
    small_size: Size = Size(2, 4, 4, 8)
    full: Config | None = None
    full_size: Size | None = None
    terms: tuple[Mapping[str, Any], ...] = ({},)

    def config(self, scale: Scale) -> dict[str, Any]:
        """Return the arguments of the denoiser's class in one of the sizes.

        Raises:
            ValueError: for the full size of a family that does not have it.
        """
        if scale == "narrow":
            return dict(self.narrow)
        if scale == "small":
            return {**self.narrow, **_small_depths(self.narrow), **self.small}
        if self.full is None:
            raise ValueError(
                "the full size is offered for some families only, and this one is not among them."
                " Use the narrow one."
            )
        return dict(self.full)

    def workload(self, scale: Scale = "narrow") -> Workload:
        """Return a forward pass in one of the sizes.

        In the small one the first layers of a stack are all there is, so the second of them is
        skipped, or the first where that is the choice.

        Raises:
            ValueError: for the full size of a family that does not have it.
        """
        config, size = self.config(scale), getattr(self, f"{scale}_size")
        layer = _second_at_most(self.layer) if scale == "small" else self.layer
        return Workload(config, functools.partial(self.inputs, config, size), layer, self.terms)


def _small_depths(config: Config) -> dict[str, int]:
    names = [name for name in DEPTH_ARGUMENTS if name in config]
    return dict(zip(names, (4,) if len(names) == 1 else (2, 3), strict=False))


def _second_at_most(layer: int | str) -> int | str:
    if isinstance(layer, int):
        return min(layer, 1)
    stack, index = layer.split(":")
    return f"{stack}:{min(int(index), 1)}"


# --- finding one, and building from it ------------------------------------------------------------


@functools.cache
def example_of(family: str) -> Example:
    """Return the example of a family.

    Raises:
        ValueError: if there is no family of that name.
    """
    names = [row.name for row in rows.FAMILIES]
    if family not in names:
        raise ValueError(
            f"a family must be one of {', '.join(names)}, but got {family!r}. Choose one of them."
        )
    module = importlib.import_module(f"{__name__}.{re.sub(r'[^a-z0-9]', '_', family)}")
    return module.EXAMPLE


def denoiser_class(family: Family) -> type[nn.Module]:
    """Return the class of a family's denoiser; this imports the package that has it."""
    return getattr(importlib.import_module(family.package), family.model)


# --- what inputs are made of ----------------------------------------------------------------------


def noise(*shape: int) -> torch.Tensor:
    """Draw numbers of a normal distribution, as latents and embeddings are."""
    return torch.randn(*shape)


def timesteps(*shape: int) -> torch.Tensor:
    """Return the timestep in the middle of a run, for every row."""
    return torch.full(shape, 500.0)


def text_mask(size: Size, batch: int) -> torch.Tensor:
    """Return a mask `(B, text tokens)` by which every token of the text counts."""
    return torch.ones(batch, size.text, dtype=torch.long)


def video_inputs(
    text_width: str, channels: str = "in_channels", layout: str = "bcthw", **more: MakeTensor | None
) -> MakeInputs:
    """Return a function that makes latents, a timestep and a text.

    Args:
        text_width: the argument of the denoiser that says how wide embeddings of the text are.
        channels: the argument that says how many channels the latents have.
        layout: the dimensions of the latents.
        more: further inputs, each from the config, the size and the batch; None passes None.
    """

    def inputs(config: Config, size: Size, batch: int) -> Inputs:
        lengths = dict(zip("thw", size.latents, strict=True), b=batch, c=config[channels])
        found: Inputs = dict(
            hidden_states=noise(*(lengths[dimension] for dimension in layout)),
            timestep=timesteps(batch),
            encoder_hidden_states=noise(batch, size.text, config[text_width]),
        )
        made = {name: make and make(config, size, batch) for name, make in more.items()}
        return {**found, **made}

    return inputs


def image_inputs(
    text_width: str, channels: str = "in_channels", **more: MakeTensor | None
) -> MakeInputs:
    """Return a function that makes latents of an image, a timestep and a text.

    Args:
        text_width, channels, more: as for video_inputs().
    """

    def inputs(config: Config, size: Size, batch: int) -> Inputs:
        made = video_inputs(text_width, channels, "bcthw", **more)(config, size, batch)
        return {**made, "hidden_states": made["hidden_states"].squeeze(2)}

    return inputs


def with_text_mask(config: Config, size: Size, batch: int) -> torch.Tensor:
    """Make the mask of the text, as one of `more` of video_inputs()."""
    return text_mask(size, batch)


HEADS: dict[str, Any] = dict(num_attention_heads=4, attention_head_dim=64)  # 256 channels
