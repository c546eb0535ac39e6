"""Make and measure the clips of all rows; it can be stopped at any moment and goes on there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from skipguide.lab import open_judge, training_loop
from skipguide.models import loading
from skipguide.paper import analysis, cost, directions, models, records
from skipguide.paper.forecast import format_hours, recorded_seconds
from skipguide.paper.open import clips as making
from skipguide.paper.open import errors, picture, prompts, study
from skipguide.paper.open.study import Setting
from skipguide.paper.rows import Row
from skipguide.paper.run import levels


@dataclass(frozen=True)
class Order:
    """The clips that a run is to make.

    Args:
        folder: where the records go.
        weights: folder of the model in diffusers' layout.
        clips: prompts per row, a multiple of models.CHUNK, at most prompts.POOL.
        settings: kinds of prompts and states of the model.
        device: "cpu", "cuda".
        steps: of sampling.
        dtype: "bfloat16" or "float32".

    Raises:
        ValueError: for a number of clips that cannot be.
    """

    folder: Path
    weights: Path
    clips: int = 1024
    settings: tuple[Setting, ...] = study.SETTINGS
    device: str = "cpu"
    steps: int = making.STEPS
    dtype: str = models.DTYPE

    def __post_init__(self) -> None:
        models.check_chunks("clips", self.clips, prompts.POOL)

    def place(self, setting: Setting) -> records.RecordFolder:
        """Return the folder of the records of a setting."""
        version = models.weights_version(self.weights)
        name = f"{study.MODEL}-{setting.name}"
        found = records.RecordFolder.locate(self.folder, name, version, self.steps, self.dtype)
        return records.RecordFolder(found.folder, making.VALUES)


@dataclass(frozen=True)
class Task:
    """One chunk of a row."""

    setting: Setting
    row: Row
    chunk: int

    @property
    def numbers(self) -> range:
        """The numbers of its prompts."""
        return range(self.chunk * models.CHUNK, (self.chunk + 1) * models.CHUNK)


def tasks(order: Order) -> list[Task]:
    """Return what is to be made and is not there: all rows get a few clips, then more."""
    found, before = [], 0
    for level in levels(order.clips):
        for setting in order.settings:
            for row in (analysis.REFERENCE, *study.rows(setting)):
                first, last = before, level
                if row == analysis.REFERENCE:  # whole from the start, for others need it
                    first, last = (0, prompts.POOL) if before == 0 else (0, 0)
                chunks = range(first // models.CHUNK, last // models.CHUNK)
                missing = records.missing_chunks(order.place(setting), row, chunks)
                found += [Task(setting, row, chunk) for chunk in missing]
        before = level
    return found


def forecast(order: Order) -> str:
    """Say what a run will take: clips that are missing, and hours by the speed of those there."""
    todo = [task for task in tasks(order) if task.row.source == "guided"]
    text = f"{len(todo) * models.CHUNK:,} clips are missing"
    known = [
        seconds * (task.row.steps or order.steps) / order.steps
        for task in todo
        if (seconds := recorded_seconds(order.place(task.setting), [task.row]))
    ]
    if not known:
        return f"{text}."
    hours = len(todo) * models.CHUNK * sum(known) / len(known) / 3600
    return f"{text}, about {format_hours(hours)} by the speed of those that are there."


def run(order: Order) -> Iterator[training_loop.Progress]:
    """Make what is missing; yields the progress in chunks, with the hours that are left."""
    todo = tasks(order)
    if not todo:
        return
    generators = _load_generators(order)
    network = open_judge.load().to(order.device)
    started, spent, made = time.monotonic(), 0.0, 0
    left = sum(task.row.source == "guided" for task in todo)
    for done, task in enumerate(todo, 1):
        before = time.monotonic()
        generator = generators[task.setting]
        frames, took = cost.time_clips(generator, task.row, task.numbers)
        found = making.read(network, frames.to(order.device))
        where = cost.machine(order.device)
        records.save_chunk(order.place(task.setting), task.row, task.chunk, found, took, where)
        if task.row.source == "guided":
            spent, made = spent + time.monotonic() - before, made + 1
        hours = (left - made) * spent / max(made, 1) / 3600
        yield training_loop.Progress(
            done, len(todo), {"hours_left": hours}, time.monotonic() - started
        )


def measure_errors(order: Order, docs: Path) -> Iterator[training_loop.Progress]:
    """Measure the errors of the model after part of its training, and write them to the docs."""
    worse, earlier, *_ = study.PROGRESS
    states = (Setting("half", earlier), Setting("half"), Setting("half", worse))
    made = _load_generators(dataclasses.replace(order, settings=states))
    errors.path(docs).parent.mkdir(parents=True, exist_ok=True)
    for progress, found in errors.measure(made[states[0]], made[states[1]], made[states[2]]):
        measured = {study.MODEL: directions.measure_directions(found)}
        directions.write_directions(measured, errors.path(docs))
        yield progress


def make_picture(order: Order, docs: Path) -> Path:
    """Make the picture of the page."""
    generators = _load_generators(order)
    by_kind = {one.kind: found for one, found in generators.items() if one.step is None}
    return picture.make(by_kind, docs / "open" / "picture.webp")


def _load_generators(order: Order) -> dict[Setting, making.Generator]:
    pipe, found = loading.load_pipeline(str(order.weights), order.dtype, order.device), {}
    for setting in order.settings:
        then = pipe
        if setting.step is not None:
            then = making.load_earlier(pipe, order.weights, setting.step)
        found[setting] = making.Generator(then, order.weights, setting.kind, order.steps)
    return found
