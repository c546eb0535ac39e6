"""Inception Score: class predictions should be certain for each video and varied over all videos.

Salimans et al., arXiv:1606.03498; for video with a C3D tuned on UCF-101: TGAN (Saito et al.,
arXiv:1611.06624).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Predictions:
    """The sums over class probabilities from which the score is computed, in float64.

    That is their number, their sum `(K,)`, and sum_nk p log(p + eps). `a + b` belongs to both sets
    together. `epsilon` is what TGAN's script adds inside both logarithms (1e-7).
    """

    count: int
    total: Tensor
    information: float
    epsilon: float = 0.0

    @classmethod
    def from_probabilities(cls, probabilities: Tensor, epsilon: float = 0.0) -> Predictions:
        """Collect the sums over probabilities `(N, K)`, whose rows sum to 1."""
        p = probabilities.double()
        return cls(len(p), p.sum(0), float(torch.xlogy(p, p + epsilon).sum()), epsilon)

    def __add__(self, other: Predictions) -> Predictions:
        if self.epsilon != other.epsilon:
            raise ValueError(
                f"parts must have one epsilon, but got {self.epsilon} and {other.epsilon}. Use the"
                " same for all of them."
            )
        information = self.information + other.information
        return Predictions(
            self.count + other.count, self.total + other.total, information, self.epsilon
        )


def inception_score(predictions: Predictions) -> float:
    """Return exp of the mean Kullback-Leibler divergence from p(class | video) to p(class).

    1 where all videos have the same probabilities, K where they are certain and spread evenly over
    K classes.
    """
    marginal = predictions.total / predictions.count
    entropy = torch.xlogy(marginal, marginal + predictions.epsilon).sum()
    return math.exp(predictions.information / predictions.count - float(entropy))


def split_scores(
    probabilities: Tensor, splits: int = 10, epsilon: float = 0.0
) -> tuple[float, float]:
    """Return mean and standard deviation (divided by N) of the score over parts, as most papers do.

    The i-th part is `[i::splits]`. Fewer videos in a part lower its score, so a mean over splits
    must not be compared with a score over all videos.

    Raises:
        ValueError: if there are fewer videos than splits.
    """
    if not 1 <= splits <= len(probabilities):
        raise ValueError(
            f"splits must be from 1 to the number of videos, {len(probabilities)}, but got"
            f" {splits}. Choose fewer."
        )
    parts = [
        inception_score(Predictions.from_probabilities(probabilities[i::splits], epsilon))
        for i in range(splits)
    ]
    scores = torch.tensor(parts, dtype=torch.float64)
    return float(scores.mean()), float(scores.std(correction=0))
