"""Frechet distance between two sets of features, from moments that can be added in any order.

Moments computed on many machines can be added too. Dowson and Landau, The Frechet distance between
multivariate normal distributions (1982); on I3D features it is FVD (Unterthiner et al.,
arXiv:1812.01717).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Moments:
    """The number of feature vectors, their mean `(D,)` and their scatter `(D, D)`, in float64.

    The scatter is the sum over (x - mean)(x - mean)^T. `a + b` are the moments of both sets
    together (Chan, Golub and LeVeque 1979), exact to rounding whatever the order and the size of
    the parts.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def from_features(cls, features: Tensor) -> Moments:
        """Compute the moments of features `(N, D)`, N >= 1."""
        features = features.double()
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        apart = other.mean - self.mean
        between = torch.outer(apart, apart) * (self.count * other.count / count)
        return Moments(
            count, self.mean + apart * (other.count / count), self.scatter + other.scatter + between
        )

    @property
    def covariance(self) -> Tensor:
        """`(D, D)`, divided by N - 1.

        Raises:
            ValueError: for fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(
                f"a covariance needs at least 2 feature vectors, but got {self.count}. Add videos."
            )
        return self.scatter / (self.count - 1)

    @property
    def rank_deficient(self) -> bool:
        """True if there are too few vectors for a covariance of full rank."""
        return self.count <= len(self.mean)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)); 0 for equal moments, otherwise positive.

    tr (S_a S_b)^(1/2) is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), which
    is symmetric: no root of a general matrix is needed, and none can come out complex.

    Raises:
        ValueError: if the features differ in width, or there are fewer than two on a side.
    """
    if len(a.mean) != len(b.mean):
        raise ValueError(
            f"features must have one width, but got {len(a.mean)} and {len(b.mean)}. Use one"
            " extractor for both sets."
        )
    root = _square_root(a.covariance)
    cross = _eigenvalues(root @ b.covariance @ root).sqrt().sum()
    apart = (a.mean - b.mean).square().sum()
    return max(float(apart + a.covariance.trace() + b.covariance.trace() - 2 * cross), 0.0)


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * _drop_rounding_noise(values).sqrt()) @ vectors.T


def _eigenvalues(matrix: Tensor) -> Tensor:
    return _drop_rounding_noise(torch.linalg.eigvalsh((matrix + matrix.T) / 2))


def _drop_rounding_noise(values: Tensor) -> Tensor:
    """Set eigenvalues to 0 that are only rounding; the root would raise 1e-16 to 1e-8."""
    floor = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return torch.where(values > floor, values, 0)
