"""Vendi score: the effective number of different videos. It needs no reference.

Friedman and Dieng, arXiv:2210.02410.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


def vendi_score(features: Tensor) -> float:
    """Return exp of the entropy of the eigenvalues of K / N.

    K is the cosine similarity of the features `(N, D)`. The score is 1 for identical videos, N for
    N videos orthogonal to each other, and at most D.

    Raises:
        ValueError: for no features, or a vector of zeros, which has no direction.
    """
    if len(features) == 0 or bool((features == 0).all(1).any()):
        raise ValueError(
            "features must have a direction, but got no features or a vector of zeros. Leave that"
            " video out."
        )
    x = F.normalize(features.double(), dim=1)
    # Both products have the same eigenvalues, apart from zeros.
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    shares = torch.linalg.eigvalsh(gram / len(x)).clamp(min=0)
    return math.exp(-float(torch.xlogy(shares, shares).sum()))
