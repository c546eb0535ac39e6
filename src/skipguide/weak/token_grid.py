"""Where the tokens of a video lie: on a grid of frames, rows and columns, the last one counted
fastest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

TokenGrid = tuple[int, ...]


def video_token_grid(
    layout: str, config: Mapping[str, Any], inputs: Mapping[str, Any]
) -> TokenGrid | None:
    """(frames, rows, columns) of the tokens that a denoiser makes of its input; None where that is
    not known.

    Args:
        layout: dimensions of the denoiser's first input, as "bcthw"; "packed" where its tokens are
            made by the pipeline, and its call says num_frames, height and width; "" where they lie
            on no grid.
        config: the denoiser's, with `patch_size` (one number, or one for each of frames, rows and
            columns) and, beside one number, `patch_size_t`. A UNet has none of them.
        inputs: of the denoiser's call, in the order of its signature.
    """
    if layout == "packed":
        sizes = [inputs.get(name) for name in ("num_frames", "height", "width")]
        return None if None in sizes else tuple(int(size) for size in sizes if size is not None)
    if not layout:
        return None
    lengths = dict(zip(layout, next(iter(inputs.values())).shape, strict=True))
    patch = config.get("patch_size") or 1
    patches = (
        patch if isinstance(patch, Sequence) else (config.get("patch_size_t") or 1, patch, patch)
    )
    return tuple(
        -(-lengths.get(name, 1) // size) for name, size in zip("thw", patches, strict=True)
    )


def attention_token_grid(
    video: TokenGrid | None, axis: str | None, tokens: int
) -> TokenGrid | None:
    """The grid of the tokens that one attention sees, or of those of the video among them; None for
    no such grid.

    Args:
        axis: "temporal" for attention along time, "spatial" for attention within a frame, None for
            all of the video.
        tokens: how many it sees. In a UNet rows and columns have been halved once or several times.
    """
    if video is None or axis is None:
        return video
    frames, rows, columns = video
    if axis == "temporal":
        return (frames,)
    levels = (tuple(math.ceil(size / 2**level) for size in (rows, columns)) for level in range(16))
    return next((grid for grid in levels if math.prod(grid) == tokens), None)
