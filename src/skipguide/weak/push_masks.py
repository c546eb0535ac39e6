"""Put the mask of a term onto the predictions of a denoiser, however its latents lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from skipguide.families.protocols import Inputs
from skipguide.families.schema import Family
from skipguide.method import masks
from skipguide.weak import token_grid

Tensor = torch.Tensor


class PushMasks:
    """The masks of the terms of one denoiser, in the size of its latents.

    Args:
        family: the row of the model.
        terms: all terms, of which some have a mask.

    Raises:
        ValueError: for a mask where the family's latents lie on no grid.
    """

    def __init__(self, family: Family, terms: Sequence[Any]):
        self._family = family
        found = {j: getattr(term, "mask", None) for j, term in enumerate(terms)}
        self._masks = {j: mask for j, mask in found.items() if mask is not None}
        if self._masks and not family.latent_layout:
            raise ValueError(
                f"mask needs a model whose latents lie on one grid of frames, rows and columns, but"
                f" those of {family.name} do not. Leave it out."
            )
        self._grid: token_grid.TokenGrid | None = None
        self._sized: dict[int, Tensor] = {}  # by term: (B, F, H, W) on that grid
        # By term, grid, precision and device: a run makes each of them once.
        self._placed: dict[Any, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._masks)

    def observe_inputs(self, inputs: Inputs) -> None:
        """Read the size of the latents from the inputs of a call.

        Raises:
            ValueError: for a mask whose frames do not go into them, or where it is not known.
        """
        if not self._masks:
            return
        grid = token_grid.latent_grid(self._family.latent_layout, inputs)
        if grid is None:
            raise ValueError(
                f"mask needs the frames, rows and columns of the latents, but this call of a"
                f" {self._family.model} does not tell them. Leave it out."
            )
        if grid != self._grid:
            sized = {j: masks.resize(mask.values, *grid) for j, mask in self._masks.items()}
            self._grid, self._sized, self._placed = grid, sized, {}

    def of_outputs(self, j: int, c: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the mask of a term for each output, as it multiplies that; of sound there is none.

        Args:
            j: the term.
            c: the predictions, the video's first.

        Raises:
            ValueError: for a mask for another number of samples, and for predictions that have
                other tokens than the video.
        """
        sized = self._sized.get(j)
        if sized is None:
            return [None] * len(c)
        video = c[0]
        key = (j, video.dtype, video.device)
        if key not in self._placed:
            placed = lay_out(sized, self._family.latent_layout)
            self._placed[key] = placed.to(video.device, video.dtype)
        found = self._placed[key]
        _check_fits(found, video, self._family)
        return [found, *[None] * (len(c) - 1)]


def lay_out(mask: Tensor, layout: str) -> Tensor:
    """Return a mask `(B, F, H, W)` with the dimensions of latents, 1 for the channels.

    Args:
        layout: of the latents, as for `token_grid.video_token_grid`.
    """
    if layout == "packed":
        return mask.flatten(1).unsqueeze(-1)  # (B, N, 1)
    if "t" not in layout:
        mask = mask[:, 0]
    return mask.unsqueeze(layout.index("c"))


def _check_fits(mask: Tensor, c: Tensor, family: Family) -> None:
    if len(mask) not in (1, len(c)):
        raise ValueError(
            f"mask must have one sample, or as many as the batch, {len(c)}, but got {len(mask)}."
            " Leave its first dimension out for one mask of all."
        )
    pairs = zip(mask.shape[1:], c.shape[1:], strict=False)
    if mask.ndim != c.ndim or any(own not in (1, other) for own, other in pairs):
        raise ValueError(
            f"mask needs predictions that have the latents of the video alone, but those of this"
            f" {family.model} are {tuple(c.shape)} where the mask is {tuple(mask.shape)}"
            " (conditions that stand beside the video are not on its grid). Leave it out."
        )
