"""Conditions: images and clips that a generated video starts from, ends with, or is edited from.

Open-Sora 1.2 generates given and new frames side by side, in latents: the given ones stay as they
are and are shown to the transformer as frames without noise. Its "mask strategy"
(opensora/utils/inference_utils.py) says which latent frames of which reference go where. All
positions count latent frames; a chunk of 17 frames is 5 latent frames.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Tensor = torch.Tensor
Array = NDArray[np.floating[Any]]
Frames = (
    Image.Image | Sequence[Image.Image] | Array | Tensor
)  # an image or a clip, as users have it
Clip = list[Image.Image] | Array | Tensor  # (F, H, W, 3) if an array, (F, 3, H, W) if a tensor


@dataclasses.dataclass(frozen=True, eq=False)
class OpenSoraCondition:
    """Latent frames of a reference that replace frames of the video.

    Give either `frames` or `latents`.

    Args:
        frames: an image or a clip: a PIL image, a list of them, or floats in [0, 1], as an array
            (H, W, 3) or (F, H, W, 3) or a tensor (3, H, W) or (F, 3, H, W). Frames of another size
            are resized to fill the video, and what sticks out is cropped.
        latents: (C, f, h, w), as the transformer takes them.
        reference_start: first latent frame of the reference; negative ones count from its end.
        target_start: first latent frame in the video; negative ones count from its end.
        length: how many latent frames, at most as many as exist and have room. An image is 1, 17
            frames are 5.
        edit_ratio: 0 keeps the frames; above it they get noise when a share of `edit_ratio` of the
            noise is left, and are generated anew from there; 1 ignores them.
        loop: which part of a video of several loops, from 0.

    Raises:
        ValueError: for both or none of `frames` and `latents`, and for numbers out of range.
    """

    frames: Frames | None = None
    latents: Tensor | None = None
    reference_start: int = 0
    target_start: int = 0
    length: int = 1
    edit_ratio: float = 0.0
    loop: int = 0

    def __post_init__(self) -> None:
        if (self.frames is None) == (self.latents is None):
            came = "neither" if self.frames is None else "both"
            raise ValueError(
                f"OpenSoraCondition needs either frames or latents, but got {came}. Pass one."
            )
        if self.latents is not None and self.latents.ndim != 4:
            shape = tuple(self.latents.shape)
            raise ValueError(
                f"latents of a condition must be (C, f, h, w), but got shape {shape}. Pass one"
                " reference."
            )
        if self.frames is not None:
            to_clip(self.frames)
        for name, least in {
            "reference_start": None,
            "target_start": None,
            "length": 1,
            "loop": 0,
        }.items():
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int)
                or (least is not None and value < least)
            ):
                required = "a whole number" + (f" from {least}" if least is not None else "")
                raise ValueError(
                    f"{name} of a condition must be {required}, but got {value!r}. Count in latent"
                    " frames."
                )
        if not 0 <= self.edit_ratio <= 1:
            raise ValueError(
                "edit_ratio of a condition must be from 0 (keep) to 1 (ignore), but got"
                f" {self.edit_ratio!r}. Pass 0 to keep the frames."
            )


def parse_mask_strategy(text: str, references: Sequence[Frames]) -> list[OpenSoraCondition]:
    """Parse conditions as Open-Sora's command line writes them.

    Args:
        text: "LOOP,REFERENCE,REFERENCE_START,TARGET_START,LENGTH,EDIT_RATIO;..."; numbers left out
            at the end of a condition are 0,0,0,0,1,0. An empty text is no condition.
        references: the images or clips that REFERENCE counts, from 0, as
            `OpenSoraCondition.frames`.

    Raises:
        ValueError: for a malformed text, or a reference that does not exist.
    """
    return [_parse_condition(part, references) for part in text.split(";")] if text else []


def _parse_condition(part: str, references: Sequence[Frames]) -> OpenSoraCondition:
    numbers = part.split(",")
    whole = all(re.fullmatch(r"\s*-?\d+\s*", number) for number in numbers[:5])
    ratio = re.fullmatch(r"\s*\d*\.?\d+\s*", "".join(numbers[5:]) or "0")
    if not whole or not ratio or len(numbers) > 6:
        raise ValueError(
            "a mask strategy must be up to six numbers,"
            " LOOP,REFERENCE,REFERENCE_START,TARGET_START,LENGTH,EDIT_RATIO, of which all but the"
            f" last are whole, but got {part!r}. Write 0 for a given first frame."
        )
    given = list(map(int, numbers[:5]))
    loop, index, reference_start, target_start, length = given + [0, 0, 0, 0, 1][len(given) :]
    if not 0 <= index < len(references):
        raise ValueError(
            f"the mask strategy {part!r} needs reference {index}, but got {len(references)}"
            " references, counted from 0. Pass more, or another number."
        )
    edit = float(numbers[5]) if len(numbers) == 6 else 0.0
    return OpenSoraCondition(
        references[index], None, reference_start, target_start, length, edit, loop
    )


def apply_mask_strategy(
    latents: Tensor,
    conditions: Sequence[Sequence[OpenSoraCondition]],
    loop: int = 0,
    align: int | None = 5,
) -> tuple[Tensor, Tensor]:
    """Put the conditions of a loop into the noise of a video; later ones override earlier ones.

    Args:
        latents: (B, C, f, h, w), noise.
        conditions: those of each row, all with latents.
        loop: conditions of other loops are left out.
        align: starts are moved to a multiple of it: the next one below, or the one above if that is
            nearer and not within the last group. The VAE encodes groups of 5 latent frames
            separately, and an image is the first of a group. None leaves starts as they are.

    Returns:
        Latents (B, C, f, h, w) and edit ratios (B, f) in float32: 1 for new frames.

    Raises:
        ValueError: for a start that lies outside, and for latents of another size than the video's.
    """
    latents = latents.clone()
    ratios = [[1.0] * latents.shape[2] for _ in conditions]
    for row, own in enumerate(conditions):
        for condition in own:
            if condition.loop != loop:
                continue
            reference = condition.latents
            assert reference is not None
            check_size(reference.shape, latents.shape)
            start = _align_start(
                "reference_start", condition.reference_start, reference.shape[1], align
            )
            target = _align_start("target_start", condition.target_start, latents.shape[2], align)
            length = min(condition.length, latents.shape[2] - target, reference.shape[1] - start)
            latents[row, :, target : target + length] = reference[:, start : start + length].to(
                latents
            )
            ratios[row][target : target + length] = [condition.edit_ratio] * length
    return latents, torch.tensor(ratios, device=latents.device)


def check_size(reference: Sequence[int], latents: Sequence[int]) -> None:
    """Check that latents of shape (C, f, h, w) fit into a video's of shape (B, C, f, h, w).

    Raises:
        ValueError: for other channels, heights or widths.
    """
    sizes = [(shape[-4], *shape[-2:]) for shape in (reference, latents)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "latents of a condition must have the channels, height and width of the video's"
            f" latents, (C, h, w) = {sizes[1]}, but got {sizes[0]}. Pass frames instead, which are"
            " resized."
        )


def check_start(name: str, start: int, total: int) -> None:
    """Check that a start lies within `total` latent frames.

    Raises:
        ValueError: if it does not.
    """
    if not -total <= start < total:
        raise ValueError(
            f"{name} of a condition must be within its {total} latent frames, from {-total} to"
            f" {total - 1}, but got {start}. Pass 0 for the first one, -1 for the last one."
        )


def _align_start(name: str, start: int, total: int, align: int | None) -> int:
    check_start(name, start, total)
    start = start % total
    if align is None:
        return start
    group, beyond = divmod(start, align)
    nearer = beyond > align / 2 and group < total // align - 1
    return (group + nearer) * align


def add_continuation(
    conditions: Sequence[Sequence[OpenSoraCondition]],
    before: Tensor,
    loop: int,
    length: int,
    edit_ratio: float,
) -> list[list[OpenSoraCondition]]:
    """Add to the conditions of each row that the clip starts with the end of the one before.

    Args:
        before: latents (B, C, f, h, w) of that clip, of which the last `length` frames are used.
        loop: the one that starts with them.
    """
    added = [OpenSoraCondition(None, own, -length, 0, length, edit_ratio, loop) for own in before]
    return [[*row, one] for row, one in zip(conditions, added, strict=True)]


# --- frames as users have them --------------------------------------------------------------------


def collect_conditions(
    image: Any, video: Any, conditions: Any, prompts: int, last: dict[str, Any], frames: int
) -> list[list[OpenSoraCondition]]:
    """Return the conditions of each prompt.

    Args:
        image: a given first frame, or one per prompt.
        video: a clip to continue, or one per prompt.
        conditions: for all prompts, or a list per prompt.
        prompts: the number of prompts.
        last: `length` and `edit_ratio` for the end of a video that is continued.
        frames: how many frames this end has.

    Raises:
        ValueError: for more than one of the three, for a number that does not match the prompts, or
            for something that is not frames.
    """
    given = {"image": image, "video": video, "conditions": conditions}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(
            "at most one of image, video and conditions may be given, but got"
            f" {' and '.join(names)}. Express all of them as conditions."
        )
    if image is not None:
        own = [[OpenSoraCondition(frames=one)] for one in list_images(image)]
    elif video is not None:
        own = [
            [OpenSoraCondition(frames=_last_frames(clip, frames), **last)]
            for clip in list_clips(video)
        ]
    else:
        own = _nest_conditions(conditions)
    if len(own) not in (1, prompts):
        raise ValueError(
            f"{names[0]} must be one for all prompts or one per prompt, {prompts}, but got"
            f" {len(own)}. Pass one per prompt."
        )
    return own if len(own) == prompts else own * prompts


def _nest_conditions(conditions: Any) -> list[list[OpenSoraCondition]]:
    if conditions is None:
        return [[]]
    listed = list(conditions) if isinstance(conditions, (list, tuple)) else [conditions]
    nested = [list(entry) if isinstance(entry, (list, tuple)) else [entry] for entry in listed]
    if not all(isinstance(one, OpenSoraCondition) for entry in nested for one in entry):
        raise ValueError(
            "conditions must be OpenSoraCondition, a list of them, or a list of lists, one per"
            f" prompt, but got {conditions!r:.80}. Read a mask strategy with parse_mask_strategy()."
        )
    return (
        nested
        if any(isinstance(entry, (list, tuple)) for entry in listed)
        else [[one for (one,) in nested]]
    )


def _last_frames(clip: Clip, frames: int) -> Clip:
    if len(clip) < frames:
        raise ValueError(
            f"video must have at least {frames} frames to be continued, but got {len(clip)}. Pass"
            " more, or an image."
        )
    return clip[-frames:]


def to_clip(frames: object) -> Clip:
    """Return an image or a clip as a clip, checked.

    A clip is a list of PIL images, an array (F, H, W, 3) or a tensor (F, 3, H, W).

    Raises:
        ValueError: for anything else.
    """
    if isinstance(frames, Image.Image):
        return [frames]
    if isinstance(frames, (Tensor, np.ndarray)) and frames.ndim == 3:
        frames = frames[None]
    return _check_clip(frames)


def list_images(given: Any) -> list[Clip]:
    """List one image, or several in a list, an array (N, H, W, 3) or a tensor (N, 3, H, W)."""
    several = isinstance(given, (list, tuple)) or _ndim(given) == 4
    return [to_clip(image) for image in given] if several else [to_clip(given)]


def list_clips(given: Any) -> list[Clip]:
    """List one clip, or several in a list, an array (N, F, H, W, 3) or a tensor (N, F, 3, H, W)."""
    first = given[0] if isinstance(given, (list, tuple)) and given else None
    if _ndim(given) == 5 or isinstance(first, (list, tuple)) or _ndim(first) == 4:
        return [_check_clip(clip) for clip in given]
    return [_check_clip(given)]


def _check_clip(clip: Any) -> Clip:
    """Check a clip; lists of arrays or tensors of single frames are stacked."""
    if isinstance(clip, (list, tuple)) and clip:
        if all(isinstance(frame, Image.Image) for frame in clip):
            return list(clip)
        if all(isinstance(frame, Tensor) and frame.ndim == 3 for frame in clip):
            clip = torch.stack(list(clip))
        elif all(isinstance(frame, np.ndarray) and frame.ndim == 3 for frame in clip):
            clip = np.stack(clip)
    found: Any = clip
    channels = {Tensor: 1, np.ndarray: -1}.get(type(found))
    if channels is None or found.ndim != 4 or found.shape[channels] != 3 or len(found) == 0:
        came = (
            f"{type(found).__name__} of shape {tuple(found.shape)}"
            if _ndim(found)
            else f"{found!r:.60}"
        )
        raise ValueError(
            "frames must be PIL images, an array ([F,] H, W, 3) or a tensor ([F,] 3, H, W), but"
            " got " + came + ". Convert them."
        )
    if not (
        found.is_floating_point()
        if isinstance(found, Tensor)
        else np.issubdtype(found.dtype, np.floating)
    ):
        raise ValueError(
            f"arrays and tensors of frames must be floats in [0, 1], but got {found.dtype}. Divide"
            " by 255."
        )
    return found


def _ndim(value: object) -> int:
    return value.ndim if isinstance(value, (Tensor, np.ndarray)) else 0
