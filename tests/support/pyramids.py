"""Laplacian pyramids as products of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def blur_matrix(size: int) -> np.ndarray:
    """The five-tap binomial filter with mirrored ends."""
    found = np.zeros((size, size))
    for i in range(size):
        for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
            j = abs(i + offset)
            found[i, j if j < size else 2 * size - 2 - j] += weight / 16
    return found


def halve_matrix(size: int) -> np.ndarray:
    """The mean of each two neighbours."""
    return np.kron(np.eye(size // 2), np.full((1, 2), 0.5))


def double_matrix(size: int) -> np.ndarray:
    """Linear between the middles of pixels, constant beyond the outer ones."""
    found = np.zeros((2 * size, size))
    for i in range(2 * size):
        near, far = i // 2, i // 2 + (1 if i % 2 else -1)
        found[i, near] += 0.75
        found[i, min(max(far, 0), size - 1)] += 0.25
    return found


def take_apart(frames: np.ndarray, levels: int) -> list[np.ndarray]:
    """The bands of frames `(..., H, W)`, from the finest; both sides can be halved that often."""
    bands = []
    for _ in range(levels - 1):
        down = [halve_matrix(size) @ blur_matrix(size) for size in frames.shape[-2:]]
        coarse = down[0] @ frames @ down[1].T
        bands.append(frames - expand(coarse))
        frames = coarse
    return [*bands, frames]


def put_together(bands: Sequence[np.ndarray]) -> np.ndarray:
    frames = bands[-1]
    for band in reversed(bands[:-1]):
        frames = expand(frames) + band
    return frames


def expand(frames: np.ndarray) -> np.ndarray:
    up = [blur_matrix(2 * size) @ double_matrix(size) for size in frames.shape[-2:]]
    return up[0] @ frames @ up[1].T


def guided(c: np.ndarray, u: np.ndarray, scales: Sequence[float]) -> np.ndarray:
    """As FDG's paper has it: both pyramids, each band with a scale of its own, and the way back."""
    pairs = zip(take_apart(c, len(scales)), take_apart(u, len(scales)), strict=True)
    return put_together([b + w * (a - b) for w, (a, b) in zip(scales, pairs, strict=True)])
