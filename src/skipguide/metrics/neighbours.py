"""Precision, recall, density and coverage, by neighbourhoods of the k nearest neighbours.

Precision and recall: Kynkaanniemi et al., arXiv:1904.06991. Density and coverage: Naeem et al.,
arXiv:2002.09797.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensor = torch.Tensor
K = 5  # as in Naeem et al.; Kynkaanniemi et al. use 3


@dataclass(frozen=True)
class Distances:
    """Euclidean distances: generated `(N, N)`, reference `(M, M)`, and between the sets.

    `between` is `(M, N)`.
    """

    generated: Tensor
    reference: Tensor
    between: Tensor

    @classmethod
    def from_features(cls, generated: Tensor, reference: Tensor) -> Distances:
        """Compute the distances of features `(N, D)` and `(M, D)`."""
        x, y = generated.double(), reference.double()
        return cls(_distances(x, x), _distances(y, y), _distances(y, x))

    def subset(self, i: Tensor, j: Tensor) -> Distances:
        """Keep the vectors `i` of the generated set and `j` of the reference."""
        return Distances(self.generated[i][:, i], self.reference[j][:, j], self.between[j][:, i])


@dataclass(frozen=True)
class Neighbours:
    """All four numbers; density may exceed 1, the others are shares."""

    precision: float  # of generated videos: within the neighbourhood of some reference
    recall: float  # of reference videos: within the neighbourhood of some generated one
    density: float  # reference neighbourhoods that hold a generated video, over k, mean
    coverage: float  # of reference videos: those with a generated one in their neighbourhood


def neighbours(distances: Distances, k: int = K) -> Neighbours:
    """Compute precision, recall, density and coverage.

    A neighbourhood is the open ball around a video that reaches up to its k-th nearest neighbour in
    the same set, the video itself not counted.

    Raises:
        ValueError: if a set has no more than k videos.
    """
    smallest = min(len(distances.generated), len(distances.reference))
    if smallest <= k:
        raise ValueError(
            f"{k} nearest neighbours need more than {k} videos a side, but got {smallest}. Add"
            " videos."
        )
    near_reference = distances.between < _radii(distances.reference, k)[:, None]  # (M, N)
    near_generated = distances.between < _radii(distances.generated, k)[None, :]
    return Neighbours(
        precision=_share(near_reference.any(0)),
        recall=_share(near_generated.any(1)),
        density=float(near_reference.double().sum(0).mean() / k),
        coverage=_share(near_reference.any(1)),
    )


def _radii(distances: Tensor, k: int) -> Tensor:
    return distances.kthvalue(k + 1, dim=1).values  # the nearest vector is the vector itself


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # A matrix product would be faster, but wrong in the last digits for close vectors: a video
    # would no longer be at distance 0 from itself.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
