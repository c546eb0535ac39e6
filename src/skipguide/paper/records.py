"""What is kept of a chunk of clips: `FOLDER/MODEL/VERSION-STEPS-DTYPE/ROW/CHUNK.safetensors`,
complete or not there.

A record holds features, logits and values of each clip, and in its metadata the row's settings, so
that clips made with others are never taken for it. Which chunks are there is all that a run has to
know to go on."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from skipguide.lab import training_loop
from skipguide.paper import models
from skipguide.paper.measurements import VALUES, Reading
from skipguide.paper.rows import Row

Tensor = torch.Tensor
TENSORS = ("features", "logits", "values")  # of a Reading


@dataclass(frozen=True)
class Cost:
    """What clips took that were made together, each as much as the other."""

    seconds: float  # of the wall clock, per clip
    cpu_seconds: float  # of all cores, per clip; of a run on a GPU they say little
    passes: float  # of one sample through the denoiser, per step; nan for real clips

    def seconds_on(self, device: str) -> float:
        """Seconds per clip as they are told: of the clock on a GPU, of the processor on a CPU."""
        return self.seconds if device.startswith("cuda") else self.cpu_seconds


@dataclass(frozen=True)
class RecordFolder:
    """Where the records of one model are."""

    folder: Path

    @classmethod
    def locate(cls, root: Path, model: str, version: str, steps: int, dtype: str) -> RecordFolder:
        """Clips of other weights, another number of steps or another dtype lie elsewhere."""
        return cls(root / model / f"{version}-{steps}-steps-{dtype}")

    def chunk_path(self, row: Row, chunk: int) -> Path:
        return self.folder / row.name / f"{chunk:04d}.safetensors"

    def finished_chunks(self, row: Row) -> list[int]:
        """The chunks that are there."""
        return sorted(
            int(path.stem) for path in (self.folder / row.name).glob("[0-9]*.safetensors")
        )


def save_chunk(
    place: RecordFolder, row: Row, chunk: int, reading: Reading, cost: Cost, more: dict[str, Any]
) -> None:
    """Write the record of a chunk under a temporary name, then rename it."""
    from safetensors.torch import save_file

    path = place.chunk_path(row, chunk)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: getattr(reading, name).contiguous() for name in TENSORS}
    metadata = {"settings": _record_settings(row), "cost": vars(cost), **more}
    with training_loop.atomic_path(path) as part:
        save_file(tensors, part, {name: json.dumps(value) for name, value in metadata.items()})


def _record_settings(row: Row) -> dict[str, Any]:
    """What two records must share to stand in one row."""
    return {**row.settings(), "seed": models.SEED, "values": list(VALUES)}


@dataclass(frozen=True)
class Clips:
    """All that is known of the clips of a row, in the order of their numbers."""

    row: Row
    numbers: Tensor  # (N,): which prompts
    features: Tensor
    logits: Tensor
    values: Tensor
    costs: dict[int, Cost]  # by chunk
    devices: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, kept: Tensor) -> Clips:
        """Those at some positions."""
        return replace(self, **{name: getattr(self, name)[kept] for name in ("numbers", *TENSORS)})

    def select_prompts(self, numbers: Tensor) -> Clips:
        """Those of certain prompts."""
        return self.take(torch.isin(self.numbers, numbers))


def load_clips(place: RecordFolder, row: Row, most: int) -> Clips | None:
    """The clips of a row, of the first `most` prompts; None if there are none.

    Raises:
        ValueError: for a record that was made with other settings than the row's.
    """
    chunks = [chunk for chunk in place.finished_chunks(row) if chunk * models.CHUNK < most]
    if not chunks:
        return None
    read = [
        _read_chunk(place.chunk_path(row, chunk), json.dumps(_record_settings(row)))
        for chunk in chunks
    ]
    numbers = [
        torch.arange(len(r.features)) + chunk * models.CHUNK
        for chunk, (r, _, _) in zip(chunks, read, strict=True)
    ]
    features, logits, values = (
        torch.cat([getattr(r, name) for r, _, _ in read]) for name in TENSORS
    )
    costs = {chunk: cost for chunk, (_, cost, _) in zip(chunks, read, strict=True)}
    clips = Clips(
        row,
        torch.cat(numbers),
        features,
        logits,
        values,
        costs,
        tuple(sorted({device for _, _, device in read})),
    )
    return clips.select_prompts(torch.arange(most))


@functools.lru_cache(maxsize=1 << 14)
def _read_chunk(path: Path, settings: str) -> tuple[Reading, Cost, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
        if metadata["settings"] != json.loads(settings):
            raise ValueError(
                f"the records of a row must be made with its settings, but {path} has"
                f" {metadata['settings']}. Remove {path.parent}, and run again."
            )
        reading = Reading(*(file.get_tensor(name) for name in TENSORS))
    return reading, Cost(**metadata["cost"]), metadata["device"]


def restrict_to_common(clips: Iterable[Clips]) -> list[Clips]:
    """The same, of the prompts that all of them have."""
    found = list(clips)
    numbers = functools.reduce(lambda a, b: a[torch.isin(a, b)], (c.numbers for c in found))
    return [c.select_prompts(numbers) for c in found]


def missing_chunks(place: RecordFolder, row: Row, wanted: Sequence[int]) -> list[int]:
    """Of some chunks those that are not there."""
    done = set(place.finished_chunks(row))
    return [chunk for chunk in wanted if chunk not in done]
