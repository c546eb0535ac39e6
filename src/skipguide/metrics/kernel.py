"""Kernel distance: the squared maximum mean discrepancy, with a polynomial kernel or a Gaussian.

It is unbiased, so it also works for small sets. Binkowski et al., arXiv:1801.01401 (KID). With
degree 2, no constant and the biased estimate it is JEDi's (Luo et al., arXiv:2410.05203); with a
Gaussian kernel and the biased estimate CMMD (Jayasumana et al., arXiv:2401.09603).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Polynomial:
    """The kernel k(x, y) = (x . y / D + constant)^degree, for features of width D."""

    degree: int = 3
    constant: float = 1.0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (x.double() @ y.double().T / x.shape[1] + self.constant) ** self.degree


@dataclass(frozen=True)
class Gaussian:
    """The kernel k(x, y) = exp(-|x - y|^2 / (2 sigma^2))."""

    sigma: float = 10.0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = x.double(), y.double()
        apart = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
        return torch.exp(-apart / (2 * self.sigma**2))


KID = Polynomial()
CMMD, CMMD_SCALE = Gaussian(), 1000.0  # which prints the distance times 1,000, biased


@dataclass(frozen=True)
class Grams:
    """The kernel of all pairs: first set `(N, N)`, second set `(M, M)`, and between the sets.

    `xy` is `(N, M)`.
    """

    xx: Tensor
    yy: Tensor
    xy: Tensor

    @classmethod
    def from_features(cls, x: Tensor, y: Tensor, kernel: Polynomial | Gaussian = KID) -> Grams:
        """Compute the kernel matrices of features `(N, D)` and `(M, D)`."""
        return cls(kernel(x, x), kernel(y, y), kernel(x, y))

    def subset(self, i: Tensor, j: Tensor) -> Grams:
        """Keep the vectors `i` of the first set and `j` of the second."""
        return Grams(self.xx[i][:, i], self.yy[j][:, j], self.xy[i][:, j])


def kernel_distance(grams: Grams, unbiased: bool = True) -> float:
    """Return E k(x, x') + E k(y, y') - 2 E k(x, y); it is 0 for equal distributions.

    The unbiased estimate leaves out pairs of a vector with itself; for equal distributions it is
    negative as often as positive. Papers mostly print KID times 1,000, as a mean over subsets of
    1,000 vectors. This is the estimate over all pairs, which has the same expectation and less
    variance.

    Raises:
        ValueError: for the unbiased estimate of fewer than two vectors on a side.
    """
    smallest = min(len(grams.xx), len(grams.yy))
    if unbiased and smallest < 2:
        raise ValueError(
            f"an unbiased kernel distance needs at least 2 videos a side, but got {smallest}. Add"
            " videos."
        )
    return float(_mean(grams.xx, unbiased) + _mean(grams.yy, unbiased) - 2 * grams.xy.mean())


def _mean(gram: Tensor, unbiased: bool) -> Tensor:
    n = len(gram)
    return (gram.sum() - gram.trace()) / (n * (n - 1)) if unbiased else gram.mean()
