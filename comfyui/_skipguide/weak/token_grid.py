# Built by `make comfyui` from src/skipguide/weak/token_grid.py; do not edit.
"""Find the grid of frames, rows and columns on which the tokens of a video lie, columns fastest."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ..families.protocols import Config, Inputs

TokenGrid = tuple[int, ...]
_grids: MutableMapping[torch.Tensor, TokenGrid] = WeakIdKeyDictionary()


def video_token_grid(layout: str, config: Config, inputs: Inputs) -> TokenGrid | None:
    """Return (frames, rows, columns) of the tokens that a denoiser makes of its input.

    Args:
        layout: the dimensions of the denoiser's first input, as "bcthw"; without "t" it is an
            image, one frame, which may come as a video of one frame all the same. "packed" means
            that the pipeline makes the tokens, and that the call has num_frames, height and width,
            or the sizes or positions of an image; "" that the tokens lie on no grid.
        config: the denoiser's. It may have `patch_size`, one number or one for each of frames, rows
            and columns, and beside one or two numbers `patch_size_t`. A UNet has none of them.
        inputs: of the denoiser's call, in the order of its signature.

    Returns:
        The grid, or None where it is not known.
    """
    if layout == "packed":
        return _packed_grid(inputs)
    if not layout:
        return None
    shape = next(iter(inputs.values())).shape
    layout = "bcthw" if layout == "bchw" and len(shape) == 5 else layout
    lengths = dict(zip(layout, shape, strict=True))
    patch = config.get("patch_size") or 1
    if not isinstance(patch, Sequence):
        patch = (patch, patch)
    patches = (config.get("patch_size_t") or 1, *patch)[-3:]
    return tuple(
        -(-lengths.get(name, 1) // size) for name, size in zip("thw", patches, strict=True)
    )


def _packed_grid(inputs: Inputs) -> TokenGrid | None:
    """Return the grid of tokens that the pipeline makes.

    None where tokens of other pictures are beside those of the image."""
    if inputs.get("img_shapes"):  # Qwen-Image
        of_sample = inputs["img_shapes"][0]
        grid: Any = of_sample[0] if len(of_sample) == 1 else None
    elif inputs.get("img_ids") is not None:  # Flux
        grid = _grid_of_positions(inputs["img_ids"])
    elif inputs.get("position_ids") is not None:  # Krea 2; those of the text are 0
        grid = _grid_of_positions(inputs["position_ids"])
    else:
        grid = [inputs.get(name) for name in ("num_frames", "height", "width")]
        return None if None in grid else tuple(int(size) for size in grid)
    tokens = inputs["hidden_states"].shape[1]
    return tuple(grid) if grid and math.prod(grid) == tokens else None


def _grid_of_positions(positions: torch.Tensor) -> TokenGrid:
    """Return the grid of positions `(..., tokens, axes)`, rows and columns in the second and third.

    This looks at the device, once for each tensor: a run has one."""
    if positions not in _grids:
        last = positions[..., 1:3].flatten(0, -2).amax(0)
        _grids[positions] = (1, *(int(size) + 1 for size in last.tolist()))
    return _grids[positions]


def latent_grid(layout: str, inputs: Inputs) -> TokenGrid | None:
    """Return (frames, rows, columns) of the latents that a denoiser gets, before it makes tokens.

    Args:
        layout: as for video_token_grid(); tokens that the pipeline makes are latents.
        inputs: of the denoiser's call, in the order of its signature.
    """
    return video_token_grid(layout, {}, inputs)


def attention_token_grid(
    video: TokenGrid | None, axis: str | None, tokens: int
) -> TokenGrid | None:
    """Return the grid of the video's tokens among those that one attention sees.

    Args:
        video: the grid of all tokens of the video.
        axis: "temporal" for attention along time, "spatial" for attention within a frame, None for
            all of the video.
        tokens: how many the attention sees. In a UNet rows and columns were halved a few times,
            and the number tells how often.

    Returns:
        The grid, or None where there is none with so many tokens.
    """
    if video is None or axis is None:
        return video
    frames, rows, columns = video
    if axis == "temporal":
        return (frames,)
    levels = (tuple(math.ceil(size / 2**level) for size in (rows, columns)) for level in range(16))
    return next((grid for grid in levels if math.prod(grid) == tokens), None)
