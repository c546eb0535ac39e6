"""What the weak passes of one denoiser know of the step under way: its index, its tokens' grid,
draws."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch

from skipguide.weak import token_grid

Tensor = torch.Tensor


def random_permutation(n: int, seed: int, step: int, what: str) -> Tensor:
    """A permutation of n things, `(n,)` on the CPU: the same on every machine for the same seed,
    step and name."""
    digest = hashlib.sha256(f"{seed}/{step}/{what}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randperm(n, generator=generator)


class StepContext:
    """What the weak passes of one denoiser have to know of the step under way.

    Args:
        layout, config: as for `grids.of_video`.
    """

    def __init__(self, layout: str, config: Mapping[str, Any]):
        self.step, self.grid = 0, None
        self._layout, self._config = layout, config
        self._permutations: dict[Any, Tensor] = {}  # of this step
        self._blur_matrices: dict[Any, Tensor] = {}

    def begin_step(self, step: int) -> None:
        """A step begins."""
        self.step = step
        self._permutations.clear()

    def observe_inputs(self, inputs: Mapping[str, Any]) -> None:
        """The denoiser is called with these inputs, of which the shape counts."""
        self.grid = token_grid.video_token_grid(self._layout, self._config, inputs)

    def permutation(self, n: int, seed: int, what: str, device: torch.device) -> Tensor:
        """`order_of` on a device, without waiting for it."""
        key = (n, seed, what, device)
        if key not in self._permutations:
            order = random_permutation(n, seed, self.step, what)
            self._permutations[key] = (order.pin_memory() if device.type == "cuda" else order).to(
                device, non_blocking=True
            )
        return self._permutations[key]

    def blur_matrix(self, n: int, sigma: float, device: torch.device) -> Tensor:
        """`gaussian` on a device, made once."""
        key = (n, sigma, device)
        if key not in self._blur_matrices:
            self._blur_matrices[key] = gaussian_blur_matrix(n, sigma).float().to(device)
        return self._blur_matrices[key]


@functools.lru_cache(maxsize=64)
def gaussian_blur_matrix(n: int, sigma: float) -> Tensor:
    """The matrix `(n, n)` that blurs a row of n values by a sampled Gaussian, in float64.

    The row goes on mirrored at its ends (the value at the end twice), so that rows and columns sum
    to 1: the mean of the queries stays, which SEG rests on, and with growing sigma each of them
    becomes it. (SEG's code mirrors without repeating the end and cuts the Gaussian off at 3 sigma;
    inside of a large picture that is the same but for 0.3 %.)"""
    if sigma > 4 * n:  # flat to the last bit of float64
        return torch.full((n, n), 1 / n, dtype=torch.float64)
    reach = math.ceil(9 * sigma)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    places = (torch.arange(n)[:, None] + offsets) % (
        2 * n
    )  # (n, 2 reach + 1), in the row and its mirror image
    places = torch.where(places < n, places, 2 * n - 1 - places)
    return torch.zeros(n, n, dtype=torch.float64).scatter_add_(
        1, places, (weights / weights.sum()).expand(n, -1)
    )
