"""The terms of the guidance: which layers, how strongly, at which noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .guidance import push, rescale
from .layers import Name

Tensor = torch.Tensor
SKIPS = ["residual", "attention"]
SPACES = ["prediction", "data"]


@dataclass(frozen=True)
class Window:
    """Noise levels: low < sigma <= high, or low <= sigma < high where `floor`, as bins of a schedule are published."""

    low: float
    high: float
    floor: bool = False

    def includes(self, sigma: float) -> bool:
        """Whether a step at this noise level is guided."""
        return self.low <= sigma < self.high if self.floor else self.low < sigma <= self.high


@dataclass(frozen=True)
class Term:
    """One weak pass, or with kind "slg" what the unconditional pass skips.

    Args:
        layers: as `layers.parsed` returns them.
        scale: s of Eq. 13, >= 0; 0 is off.
        skip: "residual" (Eq. 15) or "attention" (Eq. 17).
        phi: of the rescaling, 0 to 1; 0 is off.
        space: of the rescaling, "prediction" or "data".
        shared: whether the weak pass starts at the first skipped block.
    """

    layers: tuple[Name, ...]
    window: Window
    scale: float = 1.0
    skip: str = "residual"
    phi: float = 0.0
    space: str = "prediction"
    shared: bool = True
    kind: str = "stg"

    def active(self, sigma: float) -> bool:
        """Whether the term does anything at this noise level."""
        return self.scale != 0 and bool(self.layers) and self.window.includes(sigma)


def guided(D: Tensor, c: Tensor, p: Tensor, origin: Tensor, term: Term) -> Tensor:
    """D + s (c - p), rescaled. All are estimates of the data, `(B, C, F, H, W)`, as ComfyUI has them.

    The push is the same for estimates of the data as for predictions F: x_0 = a x + b F with one a and one b. The
    rescaling is not; that of F is found from x_0 - a x, which is F but for a factor.

    Args:
        origin: a x, the estimate of the data for F = 0.
    """
    D = D + push(c, [p], [term.scale])
    if term.phi == 0:
        return D
    return rescale(D, c, term.phi) if term.space == "data" else origin + rescale(D - origin, c - origin, term.phi)


def in_words(terms: Sequence[Term]) -> str:
    """What the log says of terms: layers block:9, scale 1."""
    names = ["+".join(f"{stack or 'block'}:{number}" for stack, number in term.layers) or "none" for term in terms]
    ends = ["in the unconditional pass" if term.kind == "slg" else f"scale {term.scale:g}" for term in terms]
    return "; ".join(f"layers {name}, {end}" for name, end in zip(names, ends, strict=True))
