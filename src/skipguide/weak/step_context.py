"""The facts of the step under way that weak passes share: its index, the grid of its
tokens, and what is drawn for it."""

from __future__ import annotations

import functools
import hashlib
import math

import torch

from skipguide.families.protocols import Config, Inputs
from skipguide.weak import token_grid

Tensor = torch.Tensor


def random_permutation(n: int, seed: int, step: int, what: str) -> Tensor:
    """Return a random permutation of n things, `(n,)` on the CPU.

    It is the same on every machine for the same seed, step and name."""
    digest = hashlib.sha256(f"{seed}/{step}/{what}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randperm(n, generator=generator)


class StepContext:
    """The facts of the step under way that the weak passes of one denoiser share.

    Args:
        layout: the layout of the denoiser's latents, as for token_grid.video_token_grid().
        config: the denoiser's.
    """

    def __init__(self, layout: str, config: Config):
        self.step = 0
        self.grid: token_grid.TokenGrid | None = None
        self._layout, self._config = layout, config
        # Made once for each size, and permutations anew for each step.
        self._permutations: dict[tuple[int, int, str, torch.device], Tensor] = {}
        self._blur_matrices: dict[tuple[int, float, bool, torch.device], Tensor] = {}

    def begin_step(self, step: int) -> None:
        """Begin a step, by its index; permutations are drawn anew."""
        self.step = step
        self._permutations.clear()

    def observe_inputs(self, inputs: Inputs) -> None:
        """Read the grid of the tokens from the inputs of a call; only their shapes matter."""
        self.grid = token_grid.video_token_grid(self._layout, self._config, inputs)

    def permutation(self, n: int, seed: int, what: str, device: torch.device) -> Tensor:
        """Return random_permutation() on a device, without waiting for the copy."""
        key = (n, seed, what, device)
        if key not in self._permutations:
            order = random_permutation(n, seed, self.step, what)
            self._permutations[key] = (order.pin_memory() if device.type == "cuda" else order).to(
                device, non_blocking=True
            )
        return self._permutations[key]

    def blur_matrix(self, n: int, sigma: float, device: torch.device) -> Tensor:
        """Return the matrix that blurs a row of tokens, in float32 on a device.

        It is picture_blur_matrix() where there is one frame, and else gaussian_blur_matrix()."""
        is_picture = self.grid is not None and self.grid[0] == 1
        key = (n, sigma, is_picture, device)
        if key not in self._blur_matrices:
            made = (picture_blur_matrix if is_picture else gaussian_blur_matrix)(n, sigma)
            self._blur_matrices[key] = made.float().to(device)
        return self._blur_matrices[key]


@functools.lru_cache(maxsize=64)
def gaussian_blur_matrix(n: int, sigma: float) -> Tensor:
    """Return the matrix `(n, n)` that blurs a row of n values by a sampled Gaussian, in float64.

    The row is mirrored at its ends, the value at the end included, so that rows and columns of the
    matrix sum to 1. So the mean of the queries stays, as SEG's argument requires, and each query
    goes towards it as sigma grows."""
    if sigma > 4 * n:  # the Gaussian is flat to the last bit of float64
        return torch.full((n, n), 1 / n, dtype=torch.float64)
    offsets = _offsets(math.ceil(9 * sigma))
    # Positions in the row and its mirror image, (n, 2 reach + 1).
    places = (torch.arange(n)[:, None] + offsets) % (2 * n)
    return _convolution(torch.where(places < n, places, 2 * n - 1 - places), offsets, sigma)


@functools.lru_cache(maxsize=64)
def picture_blur_matrix(n: int, sigma: float) -> Tensor:
    """Return the matrix `(n, n)` by which SEG's own code blurs a row of n > 1 values, in float64.

    The Gaussian is cut off at 3 sigma, and at half of the row. The row is mirrored at its ends
    without the value at the end, so that the mean of the queries does not quite stay."""
    offsets = _offsets(min(math.ceil(6 * sigma) // 2, n // 2))
    places = (torch.arange(n)[:, None] + offsets).abs()  # (n, 2 reach + 1)
    return _convolution(torch.where(places < n, places, 2 * n - 2 - places), offsets, sigma)


def _offsets(reach: int) -> Tensor:
    return torch.arange(-reach, reach + 1)


def _convolution(places: Tensor, offsets: Tensor, sigma: float) -> Tensor:
    """Return the matrix of a sampled Gaussian whose weights for row i are those of `places[i]`."""
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    n = len(places)
    return torch.zeros(n, n, dtype=torch.float64).scatter_add_(
        1, places, (weights / weights.sum()).expand(n, -1)
    )
