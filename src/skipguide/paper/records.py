"""The record of a chunk of clips: `FOLDER/MODEL/VERSION-STEPS-DTYPE/ROW/CHUNK.safetensors`.

A record is complete or does not exist. It holds features, logits and values of each clip, and in
its metadata the row's settings, so that clips with other settings are never mistaken for it. A run
only needs to know which chunks exist to continue.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from skipguide.lab import training_loop
from skipguide.paper import models
from skipguide.paper.measurements import VALUES, Reading
from skipguide.paper.rows import Row

Tensor = torch.Tensor
TENSORS = ("features", "logits", "values")  # of a Reading


@dataclass(frozen=True)
class Cost:
    """The cost of clips that were generated together, divided evenly."""

    seconds: float  # of the wall clock, per clip
    cpu_seconds: float  # of all cores, per clip; they say little about a run on a GPU
    passes: float  # of one sample through the denoiser, per step; nan for real clips

    def seconds_on(self, device: str) -> float:
        """Return seconds per clip as reported: of the clock on a GPU, of the processor on a CPU."""
        return self.seconds if device.startswith("cuda") else self.cpu_seconds


@dataclass(frozen=True)
class RecordFolder:
    """The folder of the records of one model.

    Args:
        values: the names of the columns of `Reading.values`.
    """

    folder: Path
    values: tuple[str, ...] = VALUES

    @classmethod
    def locate(cls, root: Path, model: str, version: str, steps: int, dtype: str) -> RecordFolder:
        """Return the folder for these weights, this number of steps and this dtype."""
        return cls(root / model / f"{version}-{steps}-steps-{dtype}")

    def chunk_path(self, row: Row, chunk: int) -> Path:
        return self.folder / row.name / f"{chunk:04d}.safetensors"

    def finished_chunks(self, row: Row) -> list[int]:
        """Return the numbers of the chunks that exist."""
        return sorted(
            int(path.stem) for path in (self.folder / row.name).glob("[0-9]*.safetensors")
        )


def save_chunk(
    place: RecordFolder, row: Row, chunk: int, reading: Reading, cost: Cost, more: dict[str, str]
) -> None:
    """Write the record of a chunk under a temporary name, then rename it."""
    from safetensors.torch import save_file

    path = place.chunk_path(row, chunk)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: getattr(reading, name).contiguous() for name in TENSORS}
    metadata = {"settings": _record_settings(place, row), "cost": vars(cost), **more}
    with training_loop.atomic_path(path) as part:
        save_file(tensors, part, {name: json.dumps(value) for name, value in metadata.items()})


def _record_settings(place: RecordFolder, row: Row) -> dict[str, object]:
    """Return what two records must have in common to belong to one row."""
    return {**row.settings(), "seed": models.SEED, "values": list(place.values)}


@dataclass(frozen=True)
class Clips:
    """Everything recorded about the clips of a row, in the order of their numbers."""

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
        """Keep the clips at some positions."""
        return replace(self, **{name: getattr(self, name)[kept] for name in ("numbers", *TENSORS)})

    def select_prompts(self, numbers: Tensor) -> Clips:
        """Keep the clips of certain prompts."""
        return self.take(torch.isin(self.numbers, numbers))


def load_clips(place: RecordFolder, row: Row, most: int) -> Clips | None:
    """Load the clips of a row, of the first `most` prompts; None if there are none.

    Raises:
        ValueError: for a record that was made with other settings than the row's.
    """
    chunks = [chunk for chunk in place.finished_chunks(row) if chunk * models.CHUNK < most]
    if not chunks:
        return None
    read = [
        _read_chunk(place.chunk_path(row, chunk), json.dumps(_record_settings(place, row)))
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


def read_cost(place: RecordFolder, row: Row, chunk: int) -> Cost:
    """Return what the clips of a record took."""
    return _read_chunk(place.chunk_path(row, chunk), json.dumps(_record_settings(place, row)))[1]


@functools.lru_cache(maxsize=1 << 14)
def _read_chunk(path: Path, settings: str) -> tuple[Reading, Cost, str]:
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(
            f"a record must be a whole safetensors file, but {path} is damaged ({error}). Remove"
            " it, and run skipguide paper run again."
        ) from error
    with opened as file:
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
        if metadata["settings"] != json.loads(settings):
            raise ValueError(
                f"the records of a row must have its settings, but {path} has"
                f" {metadata['settings']}. Remove {path.parent}, and run again."
            )
        reading = Reading(*(file.get_tensor(name) for name in TENSORS))
    return reading, Cost(**metadata["cost"]), metadata["device"]


def restrict_to_common(clips: Iterable[Clips]) -> list[Clips]:
    """Keep of each the clips whose prompts all of them have."""
    found = list(clips)
    numbers = functools.reduce(lambda a, b: a[torch.isin(a, b)], (c.numbers for c in found))
    return [c.select_prompts(numbers) for c in found]


def missing_chunks(place: RecordFolder, row: Row, wanted: Sequence[int]) -> list[int]:
    """Return the chunks that do not exist."""
    done = set(place.finished_chunks(row))
    return [chunk for chunk in wanted if chunk not in done]
