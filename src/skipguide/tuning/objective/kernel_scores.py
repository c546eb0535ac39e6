"""The kernel distance to real videos as a value for each prompt, so that the same race works.

The distance is of sets. With P prompts and the distance D, the value of a prompt is minus its
jackknife pseudo-value, -(P D - (P - 1) D without this prompt): their mean is nearly -D, and they
vary as much as a prompt moves the distance (Tukey; Efron and Stein, The jackknife estimate of
variance, Annals of Statistics 9, 1981). So the paired intervals of single clips hold for it as well
as the jackknife's do. Sums over pairs are used, which has the same results as
`metrics.kernel.kernel_distance` and does not take the kernels again for each prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from skipguide.metrics.kernel import KID, Grams, kernel_distance
from skipguide.stats import intervals, jackknife
from skipguide.stats.estimate import Estimate
from skipguide.tuning.objective.scores import Floats

Features = Mapping[str, Mapping[int, Floats]]  # setting -> prompt -> (seeds, D)


@dataclass
class KernelScores:
    """Values of settings from the features of their videos.

    Args:
        features: `(seeds, D)` by setting and prompt.
        reference: of the real videos, `(M, D)`.
        extractor: its name, for sentences.
    """

    features: Features
    reference: Floats
    extractor: str
    _within: float | None = field(default=None, init=False)

    def has(self, name: str, prompt: int) -> bool:
        """Tell whether a setting has a video on a prompt."""
        return prompt in self.features.get(name, {})

    def column(self, name: str, prompts: Sequence[int]) -> Floats:
        """Return minus the pseudo-values `(P,)`; nan without a video, or with too few of them."""
        own = self.features.get(name, {})
        known = [prompt for prompt in prompts if prompt in own]
        whole, without = self._distances([own[prompt] for prompt in known])
        pseudo = len(known) * whole - (len(known) - 1) * without
        values = dict(zip(known, -pseudo, strict=True))
        return np.asarray([values.get(prompt, np.nan) for prompt in prompts], np.float64)

    def _distances(self, vectors: Sequence[Floats]) -> tuple[float, Floats]:
        """Return the distance of some prompts' vectors, and those without each prompt `(P,)`."""
        sizes = np.asarray([len(rows) for rows in vectors], np.float64)
        total = sizes.sum()
        if len(vectors) < 2 or total - sizes.max(initial=0) < 2:
            return np.nan, np.full(len(vectors), np.nan)
        x = np.concatenate(vectors)
        gram, cross = _kernel(x, x), _kernel(x, self.reference).mean(1)
        group = np.repeat(np.arange(len(vectors)), sizes.astype(int))
        inside = np.zeros((len(vectors), len(x)))
        inside[group, np.arange(len(x))] = 1
        between = inside @ gram @ inside.T  # sums of kernels, of pairs of prompts
        selves = inside @ np.diagonal(gram)
        pairs = between.sum() - selves.sum()
        pairs_without = pairs - 2 * between.sum(1) + np.diagonal(between) + selves
        left, near = total - sizes, inside @ cross
        whole = pairs / (total * (total - 1)) - 2 * near.sum() / total + self._within_reference()
        without = pairs_without / (left * (left - 1)) - 2 * (near.sum() - near) / left
        return float(whole), without + self._within_reference()

    def _within_reference(self) -> float:
        if self._within is None:
            gram = _kernel(self.reference, self.reference)
            count = len(gram)
            self._within = float((gram.sum() - np.trace(gram)) / (count * (count - 1)))
        return self._within

    # --- sentences --------------------------------------------------------------------------------

    def distance(self, name: str, prompts: Sequence[int]) -> Estimate:
        """Return the distance of a setting's videos on some prompts, with the jackknife's interval.

        The interval is of these prompts; the reference is what it is.
        """
        own = self.features.get(name, {})
        vectors = [own[prompt] for prompt in prompts if prompt in own]
        whole, without = self._distances(vectors)
        found = intervals.mean(len(vectors) * whole - (len(vectors) - 1) * without)
        # With several videos a prompt, the mean of pseudo-values is near the distance, not it.
        shift = whole - found.value
        low, high = (None if end is None else end + shift for end in (found.low, found.high))
        return Estimate(whole, low, high, len(vectors), found.reason)

    def real_to_real(self) -> Estimate:
        """Return the distance of one half of the real videos to the other, with its interval.

        It is unbiased, so that it is 0 but for chance: how much a distance can say.
        """
        first, second = self.reference[::2], self.reference[1::2]
        grams = Grams.from_features(torch.from_numpy(first), torch.from_numpy(second))

        def statistic(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
            return torch.tensor([kernel_distance(grams.subset(i, j))], dtype=torch.float64)

        labels = [range(len(first)), range(len(second))]
        value = kernel_distance(grams)
        half = jackknife.half_widths(statistic, labels)
        if half is None:
            reason = jackknife.too_few(min(map(len, labels)))
            return Estimate(value, None, None, len(self.reference), reason)
        return Estimate(value, value - half.item(), value + half.item(), len(self.reference))

    def sentences(self, names: Sequence[str], prompts: Sequence[int]) -> list[str]:
        """Say the distances of some settings, and what is above that of real to real."""
        real = self.real_to_real()
        found = [
            f"Real to real, one half of the {len(self.reference)} videos of the reference to the"
            f" other, has a kernel distance ({self.extractor}) of {_words(real)}."
        ]
        for name in names:
            known = [prompt for prompt in prompts if self.has(name, prompt)]
            if len(known) > 1:
                one = self.distance(name, known)
                found.append(
                    f"{name} has {_words(one)} on {len(known)} prompts,"
                    f" {one.value - real.value:.4g} above real to real."
                )
        return found


def _kernel(x: Floats, y: Floats) -> Floats:
    return KID(torch.from_numpy(x), torch.from_numpy(y)).numpy()


def _words(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.4g}"
    return f"{found.value:.4g} ({found.low:.4g} to {found.high:.4g})"
