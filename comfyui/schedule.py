"""Settings that change with the noise level, and published ones: a row of `presets.toml` for a model of ComfyUI."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from .layers import depths_of, parsed
from .models import MODELS, places_of, stacks_of
from .terms import SKIPS, Term, Window

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The classes here for which rows are published, by the first pipeline or the model that a row names.
_CLASSES = {
    "MochiPipeline": "AsymmDiTJoint",
    "LTXPipeline": "LTXVModel",
    "LTXImageToVideoPipeline": "LTXVModel",
    "HunyuanVideoPipeline": "HunyuanVideo",
    "WanPipeline": "WanModel",
    "stabilityai/stable-diffusion-3.5-medium": "OpenAISignatureMMDITWrapper",
}
_KEYS = ("sigma", "layers", "scale", "cfg", "rescale", "skip")


# --- what a schedule says ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """low <= sigma < high, and what holds there."""

    window: Window
    term: Term | None
    cfg: float | None

    @classmethod
    def of(
        cls,
        sigma: Sequence[float],
        layers: str = "",
        scale: float = 0.0,
        cfg: float | None = None,
        rescale: float = 0.0,
        skip: str = "residual",
    ) -> Bin:
        """From what a line or a preset says.

        Raises:
            ValueError: for numbers out of range, or layers that are none.
        """
        low, high = sigma
        checked("sigma", low, 0.0, high, "Its bounds go up, as in sigma=0.9..1.1.")
        checked("rescale", rescale, 0.0, 1.0, "0 is off, 1 is full.")
        checked("scale", scale, 0.0, 1000.0, "0 is off.")
        checked("cfg", 1.0 if cfg is None else cfg, 0.0, 1000.0, "1 is no CFG.")
        if scale and not layers:
            raise ValueError(f"a bin with scale={scale:g} must have layers to skip, but got none. Write layers=19.")
        if skip not in SKIPS:
            raise ValueError(f"skip must be residual or attention, but got {skip!r}. Write one of them.")
        window = Window(low, high, floor=True)
        term = Term(parsed(layers), window, scale, skip, rescale) if scale and layers else None
        return cls(window, term, cfg)


def checked(name: str, value: float, low: float, high: float, do: str) -> float:
    """The value itself.

    Raises:
        ValueError: if it is out of range.
    """
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low:g} to {high:g}, but got {value:g}. {do}")
    return value


def read(text: str) -> list[Bin]:
    """The bins of a text with one per line: sigma=0.9..1.1 layers=11,25 scale=4 cfg=6 rescale=0.5 skip=attention.

    Only sigma is needed. Empty lines and those that begin with # say nothing.

    Raises:
        ValueError: for anything else, and for bins that overlap.
    """
    lines = [line.strip() for line in text.splitlines()]
    return _apart([_bin(line) for line in lines if line and not line.startswith("#")])


def _bin(line: str) -> Bin:
    pairs = [part.split("=", 1) for part in line.split()]
    values = {pair[0]: pair[-1] for pair in pairs}
    if any(len(pair) < 2 for pair in pairs) or len(values) < len(pairs) or not {"sigma"} <= set(values) <= set(_KEYS):
        raise ValueError(
            f"a line of a schedule must have sigma=low..high and, each once, any of {', '.join(_KEYS[1:])}, but got "
            f"{line!r}. Write sigma=0.9..1.1 layers=11,25 scale=4 cfg=6."
        )
    numbers = {name: _number(values[name], line) for name in ("scale", "cfg", "rescale") if name in values}
    if "layers" in values:
        numbers.setdefault("scale", 1.0)
    texts = {name: values[name] for name in ("layers", "skip") if name in values}
    return Bin.of(_bounds(values["sigma"], line), **texts, **numbers)  # pyright: ignore[reportArgumentType]


def _bounds(text: str, line: str) -> list[float]:
    bounds = text.split("..")
    if len(bounds) != 2:
        raise ValueError(f"sigma must be low..high, but got {text!r} in {line!r}. Write sigma=0.9..1.1.")
    return [_number(bound, line) for bound in bounds]


def _number(text: str, line: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"a schedule must have numbers there, but got {text!r} in {line!r}. Write 0.9 or 4.") from None


def _apart(bins: list[Bin]) -> list[Bin]:
    if not bins:
        raise ValueError("a schedule must have at least one line, but got none. Write sigma=0..1.1 layers=19.")
    ordered = sorted((entry.window.low, entry.window.high) for entry in bins)
    for (_, high), (low, _) in itertools.pairwise(ordered):
        if low < high:
            raise ValueError(f"the bins of a schedule must not overlap, but {low:g} lies below {high:g}. Move a bound.")
    return bins


# --- what is published ------------------------------------------------------------------------------------------------


@functools.cache
def presets() -> dict[str, dict[str, Any]]:
    """The published rows for models of ComfyUI, by name."""
    text = Path(__file__).with_name("presets.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)["preset"]
    return {row["name"]: row for row in rows if class_of(row) and not row["name"].startswith("lab-")}


def class_of(row: dict[str, Any]) -> str:
    """The class of the model that a row is for; "" if it is none of ComfyUI's."""
    return _CLASSES.get((row["pipelines"] or [row["model"]])[0], "")


def names(kind: str, scheduled: bool = False) -> list[str]:
    """The presets of a kind: "stg" or "slg", with or without bins."""
    return [name for name, row in presets().items() if _kind(row) == kind and ("schedule" in row) == scheduled]


def _kind(row: dict[str, Any]) -> str:
    return row.get("kind", "stg")


def fits(row: dict[str, Any], model: nn.Module) -> bool:
    """Whether a row is for the kind and the size of this model."""
    depth = next(iter(depths_of(places_of(model)).values()))
    same = stacks_of(model) == MODELS[class_of(row)] and depth == row["depth"]
    return same and row.get("width", 0) in (0, getattr(model, "dim", 0))


def recommended(model: nn.Module, kind: str, scheduled: bool = False) -> dict[str, Any]:
    """The row that is published for this model.

    Raises:
        ValueError: if there is none.
    """
    rows = [row for row in presets().values() if row.get("recommended") and _kind(row) == kind and fits(row, model)]
    depths = ", ".join(f"{count} {name} blocks" for name, count in depths_of(places_of(model)).items())
    what = f"a {type(model).__name__} of {depths}"
    if not rows:
        raise ValueError(f"a preset needs a published setting for the model, but {what} has none. Choose custom.")
    row = max(rows, key=lambda row: row.get("width", 0))
    if ("schedule" in row) != scheduled:
        node = "Skip Guidance Schedule" if "schedule" in row else "Spatiotemporal Skip Guidance"
        raise ValueError(
            f"this node must hold the published setting for {what}, but {row['name']} needs {node}. Use it."
        )
    return row


def preset(name: str, model: nn.Module) -> dict[str, Any]:
    """A row by name.

    Raises:
        ValueError: if it is for another model.
    """
    row = presets()[name]
    if not fits(row, model):
        raise ValueError(
            f"preset {name} is for {row['model']}, {row['depth']} blocks, but got a {type(model).__name__} of "
            f"{len(places_of(model))}. Choose another, or custom."
        )
    return row


def words(layers: Sequence[int | str]) -> str:
    """The layers of a row, as a person writes them."""
    return ",".join(str(layer) for layer in layers)


def bins_of(row: dict[str, Any]) -> list[Bin]:
    """The bins of a row."""
    return [_published(**entry) for entry in row["schedule"]]


def _published(layers: Sequence[int | str] = (), guidance_scale: float | None = None, **rest: Any) -> Bin:
    return Bin.of(layers=words(layers), cfg=guidance_scale, **rest)
