# Built by `make comfyui` from src/skipguide/method/masks.py; do not edit.
"""Masks of a push in space and time: 1 where the term acts in full, 0 where it does not act at all.

A mask has the size of the video or of its latents, or is any picture of it: each latent has the
mean of the mask over the pixels and frames that it stands for. Of the frames of a video whose first
latent is its first frame alone, the others go into latents in groups of equal length."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..method.protocols import PlainData

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PushMask:
    """A mask, read and checked.

    Args:
        values: `(B, F, H, W)` from 0 to 1, float32 on the CPU; B is 1 where all samples have one
            mask, and F where all frames do.
        sha256: of the file, or of the values where there is none.
        file: the name of its file as it was typed; "" without one.
    """

    values: Tensor
    sha256: str
    file: str = ""

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.values.shape))
        return f"{self.file or 'mask'} ({shape}, {self.sha256[:8]})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PushMask):
            return NotImplemented
        return (self.file, self.sha256) == (other.file, other.sha256)

    def __hash__(self) -> int:
        return hash((self.file, self.sha256))

    def to_plain(self) -> PlainData:
        """Return the name of the file and its hash, as JSON and YAML hold them.

        Raises:
            ValueError: for a mask that came as a tensor.
        """
        if not self.file:
            raise ValueError(
                "a mask that is a tensor cannot be written down. Save it as a picture or a video,"
                ' and write mask="file.png".'
            )
        return {"file": self.file, "sha256": self.sha256}


def read_mask(given: Any) -> PushMask:
    """Read a mask.

    Args:
        given: a tensor or array of the shape `(H, W)`, `(F, H, W)` or `(B, F, H, W)`, or what
            broadcasts to one of them, as `(F, 1, 1)`; the name of a picture or video, of which
            white is 1; or what `PushMask.to_plain` returned.

    Raises:
        ValueError: for values outside of 0 to 1, another shape, or a file that cannot be read, or
            that is another one than when its hash was taken.
    """
    if isinstance(given, PushMask):
        return given
    if isinstance(given, Mapping):
        return _read_again(given)
    if isinstance(given, (str, Path)):
        # By its name: the pack for ComfyUI has this room, but no files and no PyAV.
        values, sha256 = importlib.import_module("skipguide.files.masks").read(Path(given))
        return PushMask(_check_values(torch.from_numpy(values)), sha256, str(given))
    try:
        values = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"mask must be a tensor, or the name of a picture or video, but got {given!r}. Write"
            ' mask="hand.mp4".'
        ) from error
    checked = _check_values(values)
    content = hashlib.sha256(f"{tuple(checked.shape)}".encode() + checked.numpy().tobytes())
    return PushMask(checked, content.hexdigest())


def _read_again(given: Mapping[str, Any]) -> PushMask:
    if not {"file"} <= set(given) <= {"file", "sha256"}:
        raise ValueError(
            f"mask must be the name of a file, with its sha256 or without, but got {dict(given)!r}."
            " Write mask: hand.mp4."
        )
    found = read_mask(str(given["file"]))
    if given.get("sha256") not in (None, found.sha256):
        raise ValueError(
            f"mask must be the file that it was, with the sha256 {given['sha256']}, but"
            f" {given['file']} now has {found.sha256}. Put the old file back, or leave sha256 out."
        )
    return found


def _check_values(values: Tensor) -> Tensor:
    """Return a mask as `(B, F, H, W)` in float32 on the CPU."""
    if not 2 <= values.ndim <= 4 or not values.numel() or values.is_complex():
        raise ValueError(
            "mask must have the shape (H, W), (F, H, W) or (B, F, H, W), but got"
            f" {tuple(values.shape)}. Give it these dimensions, 1 where it is the same all along."
        )
    found = values.detach().to("cpu", torch.float32)
    if not bool(((found >= 0) & (found <= 1)).all()):
        raise ValueError(
            "mask must have values from 0 (no push) to 1 (all of it), but got some from"
            f" {found.min():g} to {found.max():g}. Divide by the largest, or clamp them."
        )
    return found.reshape((1,) * (4 - found.ndim) + found.shape).clone()


def resize(values: Tensor, frames: int, rows: int, columns: int) -> Tensor:
    """Return a mask in the size of latents, `(B, frames, rows, columns)`.

    Args:
        values: `(B, F, H, W)`.

    Raises:
        ValueError: where F frames do not go into so many latents.
    """
    batch, count = values.shape[:2]
    in_size = torch.nn.functional.adaptive_avg_pool2d(values, (rows, columns))
    if count in (1, frames):
        return in_size.expand(batch, frames, rows, columns)
    if frames > 1 and count > frames and (count - 1) % (frames - 1) == 0:
        others = in_size[:, 1:].unflatten(1, (frames - 1, -1)).mean(2)
        return torch.cat([in_size[:, :1], others], 1)
    if count % frames == 0:
        return in_size.unflatten(1, (frames, -1)).mean(2)
    raise ValueError(
        f"mask must have the frames of the video, or of its {frames} in the latents, or 1 for all"
        f" of them, but got {count}. Give it one of these numbers of frames."
    )
