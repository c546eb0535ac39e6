"""The terms of the guidance that a user writes down: which layers, how strongly, when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skipguide import families, presets

Layer = int | str


@dataclass(frozen=True)
class STG:
    """Spatiotemporal Skip Guidance: push the prediction away from a pass that skips `layers` (Eq. 13).

    Args:
        layers: an int counts within the model's first stack of blocks; "stack:int" names the stack.
        scale: s in the formula, >= 0; 0 is off. The paper uses 1.0 for residual and 2.0 for attention skip.
        skip: "residual", the block returns its input (Eq. 15, STG-R), or "attention", the map of its self-attention
            is the identity over all tokens (Eq. 17, STG-A).
        axis: "spatial" or "temporal" for models with factorized attention; None for all of it.
        start, stop: fractions of the run; step i of N is guided when start <= i/N < stop.

    Raises:
        ValueError: for anything outside these ranges, at once.
    """

    layers: Sequence[Layer]
    scale: float = 1.0
    skip: str = "residual"
    axis: str | None = None
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.layers, (int, str)) or not isinstance(self.layers, Sequence):
            written = list(self.layers) if isinstance(self.layers, (set, frozenset)) else [self.layers]
            raise ValueError(f"layers must be a list of layers, but got {self.layers!r}. Write layers={written!r}.")
        if len(self.layers) == 0:
            raise ValueError(
                "STG needs at least one layer to skip, but got an empty list. Name one, as in layers=[34]."
            )
        for layer in self.layers:
            _check_layer(layer)
        repeated = sorted({str(layer) for layer in self.layers if list(self.layers).count(layer) > 1})
        if repeated:
            raise ValueError(
                f"each layer may be named once, but got {', '.join(repeated)} repeatedly. Remove the copies."
            )
        _check_number("scale", self.scale, 0.0, math.inf, "0 switches the term off")
        if self.skip not in families.SKIPS:
            raise ValueError(
                f"skip must be one of {', '.join(families.SKIPS)}, but got {self.skip!r}. Choose one of them."
            )
        if self.axis not in (None, "spatial", "temporal"):
            raise ValueError(f'axis must be "spatial", "temporal" or None, but got {self.axis!r}. Choose one of them.')
        _check_number("start", self.start, 0.0, 1.0, "it is a fraction of the run")
        _check_number("stop", self.stop, 0.0, 1.0, "it is a fraction of the run")
        if self.start >= self.stop:
            raise ValueError(
                f"the window start={self.start}, stop={self.stop} selects no step: step i of N is guided when "
                "start <= i/N < stop. Make stop larger than start."
            )

    @classmethod
    def preset(cls, pipe: Any) -> STG:
        """The published setting for this model; `presets.preset_for(pipe)` tells its source.

        Raises:
            ValueError: if no published setting is known for the pipeline's model.
        """
        row = presets.preset_for(pipe)
        return cls(list(row.layers), row.scale, row.skip, row.axis, row.start, row.stop)


def _check_layer(layer: Any) -> None:
    parts = layer.split(":") if isinstance(layer, str) else []
    if isinstance(layer, bool) or not (isinstance(layer, int) or (len(parts) == 2 and parts[1].isdecimal())):
        raise ValueError(
            f'a layer must be an int or "stack:int", but got {layer!r}. Write layers=[34] or layers=["blocks:34"].'
        )


def _check_number(name: str, value: Any, low: float, high: float, note: str) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        allowed = f"a finite number >= {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
        raise ValueError(f"{name} must be {allowed} ({note}), but got {value!r}. Pass such a number.")
