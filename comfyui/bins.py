"""The text of a schedule, one bin a line: sigma=0.9..1.1 layers=11,25 scale=4 cfg=6 rescale=0.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._skipguide.method.parsing import parse_parts
from ._skipguide.method.terms import Bin, Schedule
from .node_request import SKIPS, read_layers

_NAMES = {"sigma", "layers", "scale", "cfg", "rescale", "skip"}


def read_schedule(text: str) -> Schedule:
    """Return the schedule that a text describes.

    Only sigma is needed in a line. Layers without a scale have scale 1. Empty lines and those that
    begin with # are left out.

    Raises:
        ValueError: for anything else, and for bins that overlap.
    """
    lines = [line.strip() for line in text.splitlines()]
    bins = [_read_bin(line) for line in lines if line and not line.startswith("#")]
    if not bins:
        raise ValueError(
            "a schedule must have at least one line, but this one is empty. Write"
            " sigma=0..1.1 layers=19."
        )
    return Schedule(bins)


def write_schedule(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a schedule whose bins come as tables of a preset."""
    return "\n".join(map(_write_bin, rows))


def _write_bin(row: Mapping[str, Any]) -> str:
    low, high = row["sigma"]
    layers = row.get("layers", ())
    parts = [f"sigma={low:g}..{high:g}"]
    parts += [f"layers={','.join(map(str, layers))}", f"scale={row['scale']:g}"] if layers else []
    parts += [f"cfg={row['guidance_scale']:g}"] if "guidance_scale" in row else []
    parts += [f"rescale={row['rescale']:g}"] if row.get("rescale") else []
    parts += [f"skip={row['skip']}"] if layers and "skip" in row else []
    return " ".join(parts)


def _read_bin(line: str) -> Bin:
    try:
        return Bin(**_read_arguments(line))
    except ValueError as error:
        raise ValueError(f"line {line!r} of the schedule is wrong: {error}") from error


def _read_arguments(line: str) -> dict[str, Any]:
    """Return the arguments of Bin, which checks the numbers itself."""
    values = parse_parts(line.replace("..", ":"), first="sigma")
    if not {"sigma"} <= set(values) <= _NAMES:
        raise ValueError(
            f"it must have sigma=low..high, and else may have {', '.join(sorted(_NAMES))}, but it"
            f" has {', '.join(values)}. Write sigma=0.9..1.1 layers=11,25 scale=4 cfg=6."
        )
    if values.get("skip", "residual") not in SKIPS:
        raise ValueError(
            f"skip must be residual or attention, but got {values['skip']!r}. Write one of them."
        )
    if "layers" in values:
        values = {"scale": 1.0, **values, "layers": read_layers(values["layers"])}
    if "cfg" in values:
        values["guidance_scale"] = values.pop("cfg")
    return values
