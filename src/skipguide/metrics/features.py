"""The readings of the networks: features and values, by the name of the video.

Parts of a set, read by many workers, can be joined exactly. The numbers of a set are computed from
the joined readings, sorted by name, so they depend neither on the order nor on how the videos were
divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import load_file, save_file

from skipguide.metrics.inputs import SkippedVideo

Tensor = torch.Tensor
Value = TypeVar("Value")
Side = Literal["generated", "reference"]
GENERATED: Side = "generated"
REFERENCE: Side = "reference"


@dataclass
class Readings:
    """The readings of both sets.

    A kind is the name of an extractor, followed by `selection.CLASSES` for its class probabilities.
    """

    # side/kind -> video -> (D,), or of sounds (W, D), a row for each window
    vectors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    # per-video metric -> video -> value
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    # side -> video -> (F, H, W)
    sizes: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    skipped: list[SkippedVideo] = field(default_factory=list)
    # side -> video -> fps, None if unknown
    rates: dict[str, dict[str, float | None]] = field(default_factory=dict)
    # side -> video -> what a player would show otherwise, in words
    notes: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def noun(self) -> str:
        """Return "picture" if all that was read has one frame, and else "video"."""
        frames = {size[0] for of_side in self.sizes.values() for size in of_side.values()}
        return "picture" if frames == {1} else "video"

    def add_vectors(self, side: str, kind: str, names: Sequence[str], rows: Tensor) -> None:
        """Add the features or probabilities `(B, D)` of B videos."""
        self.vectors.setdefault(f"{side}/{kind}", {}).update(
            zip(names, rows.detach().cpu(), strict=True)
        )

    def add_windows(self, side: Side, kind: str, name: str, rows: Tensor) -> None:
        """Add the features `(W, D)` of the windows of one video's sound."""
        self.vectors.setdefault(f"{side}/{kind}", {})[name] = rows.detach().cpu()

    def names(self, side: str, kind: str) -> list[str]:
        """Return the sorted names of the videos of a set that an extractor has read."""
        return sorted(self.vectors.get(f"{side}/{kind}", {}))

    def stack(self, side: str, kind: str, names: Sequence[str]) -> Tensor:
        """Stack the vectors of some videos: `(N, D)`; of sounds those of all their windows."""
        vectors = self.vectors[f"{side}/{kind}"]
        return torch.cat([torch.atleast_2d(vectors[name]) for name in names])

    def windows(self, side: Side, kind: str, names: Sequence[str]) -> list[int]:
        """Return how many rows of the stack are of each video."""
        vectors = self.vectors[f"{side}/{kind}"]
        return [len(torch.atleast_2d(vectors[name])) for name in names]


def join(parts: Sequence[Readings]) -> Readings:
    """Join the readings of several parts.

    A video that is in several of them, as when each worker reads the same reference, counts once.

    Raises:
        ValueError: if the parts disagree about a video; then two videos have the same name.
    """
    joined = Readings()
    for part in parts:
        for name in ("vectors", "values", "sizes", "rates", "notes"):
            for key, rows in getattr(part, name).items():
                _merge_rows(getattr(joined, name).setdefault(key, {}), rows, key)
    joined.skipped = sorted({one for part in parts for one in part.skipped})
    return joined


def _merge_rows(into: dict[str, Value], rows: Mapping[str, Value], key: str) -> None:
    for name, row in rows.items():
        if name in into and not _are_close(into[name], row):
            raise ValueError(
                f"a video in several parts must have the same numbers in all of them, but {name}"
                f" ({key}) does not. Give different videos different names."
            )
        into.setdefault(name, row)


def _are_close(a: Any, b: Any) -> bool:
    """Compare two readings up to rounding: a matrix product depends on the size of its batch."""
    if a is None or b is None or isinstance(a, list):
        return a == b
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4)


# --- files ----------------------------------------------------------------------------------------


def describe(readings: Readings) -> dict[str, Any]:
    """Return everything but the vectors, ready for JSON."""
    return {
        "values": {
            metric: dict(sorted(rows.items())) for metric, rows in sorted(readings.values.items())
        },
        "sizes": {
            side: {name: list(size) for name, size in sorted(rows.items())}
            for side, rows in readings.sizes.items()
        },
        "rates": {side: dict(sorted(rows.items())) for side, rows in readings.rates.items()},
        "notes": {side: dict(sorted(rows.items())) for side, rows in readings.notes.items()},
        "vectors": {key: sorted(rows) for key, rows in sorted(readings.vectors.items())},
        "windows": {
            key: [len(rows[name]) for name in sorted(rows)]
            for key, rows in sorted(readings.vectors.items())
            if any(row.ndim > 1 for row in rows.values())
        },
    }


def save_vectors(readings: Readings, path: Path) -> None:
    """Write the vectors as safetensors: side/kind -> (N, D), sorted by name as in `describe`."""
    tensors = {
        key: torch.cat([torch.atleast_2d(rows[name]) for name in sorted(rows)])
        for key, rows in readings.vectors.items()
    }
    save_file(tensors, path)


def restore(
    description: Mapping[str, Any], skipped: Iterable[SkippedVideo], path: Path
) -> Readings:
    """Read back what `describe` and `save_vectors` wrote.

    Raises:
        ValueError: if the two do not belong together.
    """
    tensors = load_file(path)
    vectors = {}
    for key, names in description["vectors"].items():
        windows = description.get("windows", {}).get(key)  # of sounds
        count = len(names) if windows is None else sum(windows)
        if key not in tensors or len(tensors[key]) != count:
            raise ValueError(
                f"{path} must hold {count} vectors {key}, but does not. Use the file that was"
                " written together with the result."
            )
        rows = tensors[key] if windows is None else tensors[key].split(windows)
        vectors[key] = dict(zip(names, rows, strict=True))
    sizes = {
        side: {name: tuple(size) for name, size in rows.items()}
        for side, rows in description["sizes"].items()
    }
    values = {key: dict(rows) for key, rows in description["values"].items()}
    # Older results have no rates, or no notes.
    rates, notes = description.get("rates", {}), description.get("notes", {})
    return Readings(vectors, values, sizes, list(skipped), rates, notes)
