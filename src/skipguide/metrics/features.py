"""What was read off the videos: features and values by name. Parts of a set, read by many workers,
are joined exactly.

The numbers of a set are computed from the joined readings, sorted by name, so that they depend
neither on the order nor on how the videos were divided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from skipguide.metrics.inputs import SkippedVideo

Tensor = torch.Tensor
Side = Literal["generated", "reference"]
GENERATED: Side = "generated"
REFERENCE: Side = "reference"


@dataclass
class Readings:
    """Of both sets. A kind is the name of an extractor, for its probabilities with `asked.CLASSES`
    after it."""

    # side/kind -> video -> (D,)
    vectors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    # per-video metric -> video -> value
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    # side -> video -> (F, H, W)
    sizes: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    skipped: list[SkippedVideo] = field(default_factory=list)
    # side -> video -> fps, None if unknown
    rates: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def add_vectors(self, side: str, kind: str, names: Sequence[str], rows: Tensor) -> None:
        """Features or probabilities `(B, D)` of so many videos."""
        self.vectors.setdefault(f"{side}/{kind}", {}).update(
            zip(names, rows.detach().cpu(), strict=True)
        )

    def names(self, side: str, kind: str) -> list[str]:
        """The videos of a set that an extractor has read, in order."""
        return sorted(self.vectors.get(f"{side}/{kind}", {}))

    def stack(self, side: str, kind: str, names: Sequence[str]) -> Tensor:
        """Their vectors `(N, D)`."""
        vectors = self.vectors[f"{side}/{kind}"]
        return torch.stack([vectors[name] for name in names])


def join(parts: Sequence[Readings]) -> Readings:
    """All readings of all parts.

    A video that is in several of them, as when each worker reads the same reference, counts once.

    Raises:
        ValueError: if it was not read alike there: these are two videos of one name.
    """
    joined = Readings()
    for part in parts:
        for name in ("vectors", "values", "sizes", "rates"):
            for key, rows in getattr(part, name).items():
                _merge_rows(getattr(joined, name).setdefault(key, {}), rows, key)
    joined.skipped = sorted({one for part in parts for one in part.skipped})
    return joined


def _merge_rows(into: dict[str, Any], rows: Mapping[str, Any], key: str) -> None:
    for name, row in rows.items():
        if name in into and not _are_close(into[name], row):
            raise ValueError(
                f"a video must be in one part, or read alike in all, but {name} ({key}) has other"
                " numbers in two of them. Give the videos names of their own."
            )
        into.setdefault(name, row)


def _are_close(a: Any, b: Any) -> bool:
    """Up to rounding: a row of a matrix product comes out otherwise in batches of another size."""
    if a is None or b is None:
        return a is b
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4)


# --- files ----------------------------------------------------------------------------------------


def describe(readings: Readings) -> dict[str, Any]:
    """All but the vectors, ready for JSON."""
    return {
        "values": {
            metric: dict(sorted(rows.items())) for metric, rows in sorted(readings.values.items())
        },
        "sizes": {
            side: {name: list(size) for name, size in sorted(rows.items())}
            for side, rows in readings.sizes.items()
        },
        "rates": {side: dict(sorted(rows.items())) for side, rows in readings.rates.items()},
        "vectors": {key: sorted(rows) for key, rows in sorted(readings.vectors.items())},
    }


def save_vectors(readings: Readings, path: Path) -> None:
    """The vectors as safetensors: side/kind -> (N, D), in the order of the names in `describe`."""
    tensors = {
        key: torch.stack([rows[name] for name in sorted(rows)])
        for key, rows in readings.vectors.items()
    }
    save_file(tensors, path)


def restore(
    description: Mapping[str, Any], skipped: Iterable[SkippedVideo], path: Path
) -> Readings:
    """What `describe` and `save_vectors` wrote.

    Raises:
        ValueError: if the two do not belong together.
    """
    tensors = load_file(path)
    vectors = {}
    for key, names in description["vectors"].items():
        if key not in tensors or len(tensors[key]) != len(names):
            raise ValueError(
                f"{path} must hold {len(names)} vectors {key}, but does not. Take the file that was"
                " written with the result."
            )
        vectors[key] = dict(zip(names, tensors[key], strict=True))
    sizes = {
        side: {name: tuple(size) for name, size in rows.items()}
        for side, rows in description["sizes"].items()
    }
    values = {key: dict(rows) for key, rows in description["values"].items()}
    # older results have none
    return Readings(vectors, values, sizes, list(skipped), description.get("rates", {}))
