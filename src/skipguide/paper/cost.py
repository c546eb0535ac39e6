"""The cost of guidance: CFG, STG, and STG with a full weak pass.

All are timed in turn in one process, under the same load.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from skipguide.lab import training_loop
from skipguide.paper import models
from skipguide.paper.models import ClipGenerator
from skipguide.paper.records import Cost, RecordFolder
from skipguide.paper.rows import Row

ROUNDS = 8  # after one to warm up


@dataclass(frozen=True)
class RowTiming:
    """The time that one row took.

    Args:
        passes: forward passes of one sample, per step.
        seconds: per clip, of each round; of the processor on a CPU, of the clock on a GPU.
    """

    passes: float
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)

    def ratio_to(self, base: RowTiming) -> tuple[float, float, float]:
        """Return the time relative to another row: median, minimum and maximum over the rounds."""
        ratios = [mine / theirs for mine, theirs in zip(self.seconds, base.seconds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


@dataclass(frozen=True)
class CostLine:
    """The cost of a row as the report prints it.

    Args:
        seconds: per clip, the median over rounds.
        times: relative to the first row, side by side: median, minimum, maximum.
    """

    passes: float
    seconds: float
    times: tuple[float, float, float]


def compare_costs(found: Mapping[str, RowTiming], rows: Sequence[Row]) -> list[CostLine] | None:
    """Compare rows with the first of them; None if not all were timed together."""
    if not all(row.name in found for row in rows):
        return None
    timed = [found[row.name] for row in rows]
    return [CostLine(one.passes, one.median, one.ratio_to(timed[0])) for one in timed]


def cost_path(place: RecordFolder) -> Path:
    """Return the file of the numbers."""
    return place.folder / "cost.json"


def measure(
    place: RecordFolder, generator: ClipGenerator, rows: Sequence[Row], rounds: int = ROUNDS
) -> Iterator[training_loop.Progress]:
    """Time one chunk of each row in every round.

    Nothing is kept of a measurement that was stopped.
    """
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for done in range(rounds + 1):
        for row in rows:
            taken = time_clips(generator, row, range(models.CHUNK))[1]
            if done:
                seconds[row.name].append(taken.seconds_on(generator.pipe.device.type))
        yield training_loop.Progress(done, rounds, {}, 0.0)
    found = {
        row.name: {"passes": generator.passes(row), "seconds": seconds[row.name]} for row in rows
    }
    place.folder.mkdir(parents=True, exist_ok=True)
    with training_loop.atomic_path(cost_path(place)) as part:
        part.write_text(
            json.dumps({"torch": torch.__version__, "rows": found}, indent=1), encoding="utf-8"
        )


class Maker(Protocol):
    """A maker of the clips of rows, such as `ClipGenerator`."""

    def clips(self, row: Row, numbers: Sequence[int]) -> torch.Tensor: ...

    def passes(self, row: Row) -> float: ...


def machine(device: str) -> dict[str, str]:
    """Return what a record says of where its clips were made."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return {"device": f"{device.partition(':')[0]} {name}", "torch": torch.__version__}


def time_clips(generator: Maker, row: Row, numbers: Sequence[int]) -> tuple[torch.Tensor, Cost]:
    """Generate the clips of a row for some prompts, and return them with the cost of each."""
    clock, cpu = time.perf_counter(), time.process_time()
    frames = generator.clips(row, numbers)
    if frames.is_cuda:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - clock, time.process_time() - cpu)
    each = [value / len(frames) for value in seconds]
    return frames, Cost(each[0], each[1], generator.passes(row))


def load(place: RecordFolder) -> dict[str, RowTiming] | None:
    """Return the timings by the names of rows; None if they have not been measured."""
    if not cost_path(place).exists():
        return None
    rows = json.loads(cost_path(place).read_text(encoding="utf-8"))["rows"]
    return {name: RowTiming(row["passes"], tuple(row["seconds"])) for name, row in rows.items()}
