"""The weak models that a LoRA makes of its own denoiser, as a user writes them.

With `weak=WithoutLoRA()` c is the prediction of the denoiser with its LoRAs and p that of the same
denoiser without them, so that the push goes further in the direction in which the LoRAs moved it:
AutoLoRA, Kasymov et al. 2024, arXiv 2410.03941, whose gamma is 1 + s here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skipguide.method import validate
from skipguide.method.protocols import PlainData

WITHOUT_LORA = "without-lora"  # as text
_HOW = (
    f'weak must be "{WITHOUT_LORA}", or the name of a LoRA and its scale, as in "lora_1:0.3" or'
    " {lora: lora_1, scale: 0.3}"
)


@dataclass(frozen=True)
class WithoutLoRA:
    """The pipeline's own denoiser with all of its LoRAs switched off for the weak pass.

    No weights are copied: the layers run without what the LoRAs add to them, and the next pass has
    them again."""


@dataclass(frozen=True)
class WithLoRA:
    """The pipeline's own denoiser with one of its LoRAs at another scale in the weak pass.

    All other LoRAs stay as they are, so that c - p is what this one does from `scale` on up to the
    scale that it has. One that is loaded but switched off is switched on for the pass.

    Args:
        name: of the adapter, as in `pipe.load_lora_weights(..., adapter_name=name)`; the command
            line calls those of --lora lora_1, lora_2, ...
        scale: as `pipe.set_adapters([name], [scale])` takes it; 0 is this LoRA off, and a number
            below 0 pushes away from its opposite.

    Raises:
        ValueError: for no name, or a scale that is no finite number.
    """

    name: str
    scale: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(
                f"the name of a LoRA must be a text, but got {self.name!r}. Write"
                ' WithLoRA("style", 0.3).'
            )
        if not validate.is_number(self.scale) or not math.isfinite(self.scale):
            raise ValueError(
                f"the scale of a LoRA must be a finite number, but got {self.scale!r}. Write"
                f" WithLoRA({self.name!r}, 0.3)."
            )


WeakLoRA = WithoutLoRA | WithLoRA


def to_plain(weak: WeakLoRA) -> str | PlainData:
    """Return a weak model of LoRAs as JSON and YAML hold it."""
    if isinstance(weak, WithoutLoRA):
        return WITHOUT_LORA
    return {"lora": weak.name, "scale": float(weak.scale)}


def read_weak(value: Any) -> WeakLoRA:
    """Read a weak model of LoRAs: "without-lora", "lora_1:0.3", or {"lora": ..., "scale": ...}.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, (WithoutLoRA, WithLoRA)):
        return value
    if value == WITHOUT_LORA:
        return WithoutLoRA()
    if isinstance(value, str):
        name, colon, scale = value.rpartition(":")
        value = [name, _number(scale)] if colon else [value]
    if isinstance(value, Mapping) and set(value) == {"lora", "scale"}:
        value = [value["lora"], value["scale"]]
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{_HOW}, but got {value!r}. Correct it.")
    return WithLoRA(str(value[0]), value[1])


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # which WithLoRA refuses
