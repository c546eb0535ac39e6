"""Generate the clips of all rows, breadth first, and record their measurements.

It can be stopped at any moment. All rows get 64 clips, then all 128, and so on, experiment after
experiment and row after row within a chunk, so a run that is stopped early has every row.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from skipguide.lab import judge, training_loop
from skipguide.models import loading
from skipguide.paper import cost, experiments, figure2, figure3, measurements, models, records
from skipguide.paper.rows import Row

Tensor = torch.Tensor
DEFAULT_BATCH, DEFAULT_DTYPE = models.CHUNK, models.DTYPE
# what one process makes, from few clips
FIGURE_NAMES = ("figure-2", "figure-3", "cost")
FIRST_LEVEL = 64  # clips of the first round; each round doubles the one before


@dataclass(frozen=True)
class Order:
    """The models, rows and clips that a run is to make.

    Args:
        folder: where the records go.
        models: names; those without weights are left out.
        clips: prompts per row, a multiple of CHUNK, at most models.POOL.
        rows: a shell pattern for the names of rows, or of experiments, which stand for all their
            rows; or of figure-2, figure-3 and cost, which are not rows.
        device: "cpu", "cuda".
        batch: clips at a time, a multiple of CHUNK.
        steps: of sampling; None is the model's default here.
        dtype: of the models, except for Figure 2, which measures small differences in float32.
        weights: folders to use instead of the packaged ones, by model.
        part: (i, n), every n-th piece of the work from the i-th on, for parallel processes.
    """

    folder: Path
    models: tuple[str, ...] = tuple(models.MODELS)
    clips: int = 1024
    rows: str = "*"
    device: str = "cpu"
    batch: int = DEFAULT_BATCH
    steps: int | None = None
    dtype: str = DEFAULT_DTYPE
    weights: tuple[tuple[str, Path], ...] = ()
    part: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        for name, value, most in (
            ("clips", self.clips, models.POOL),
            ("batch", self.batch, models.POOL),
        ):
            models.check_chunks(name, value, most)
        if self.dtype not in models.DTYPES:
            raise ValueError(
                f"dtype must be one of {', '.join(models.DTYPES)}, but got {self.dtype!r}. Choose"
                " one of them."
            )
        if unknown := sorted({name for name, _ in self.weights} - set(models.MODELS)):
            raise ValueError(
                f"weights must be for {', '.join(models.MODELS)}, but got some for"
                f" {', '.join(unknown)}. Write {self.models[0]}=FOLDER."
            )
        index, count = self.part
        if not 0 <= index < count:
            raise ValueError(
                f"part must be i/n with 0 <= i < n, but got {index}/{count}. Write 0/2 and 1/2."
            )

    def locate_records(self, model: str) -> tuple[records.RecordFolder, Path] | None:
        """Return the folders of a model's records and weights; None if there are no weights."""
        folder = models.find_weights(model, dict(self.weights).get(model))
        if folder is None:
            return None
        steps = self.steps or models.MODELS[model].steps
        return (
            records.RecordFolder.locate(
                self.folder, model, models.weights_version(folder), steps, self.dtype
            ),
            folder,
        )


@dataclass(frozen=True)
class Task:
    """Chunks of a row that are generated together."""

    model: str
    row: Row
    chunks: tuple[int, ...]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the prompts."""
        return [chunk * models.CHUNK + i for chunk in self.chunks for i in range(models.CHUNK)]


def tasks(order: Order) -> list[Task]:
    """Return all tasks of an order, in its order, done or not.

    Raises:
        ValueError: if no row matches the pattern.
    """
    rows = {model: experiments.requested_rows(model, order.rows) for model in order.models}
    if not any(rows.values()) and not any(fnmatchcase(name, order.rows) for name in FIGURE_NAMES):
        raise ValueError(
            f"rows must be a pattern that matches some row or experiment, but {order.rows!r}"
            " matches none. See skipguide paper status."
        )
    found, before = [], 0
    for level in levels(order.clips, max(FIRST_LEVEL, order.batch)):
        for model in order.models:
            if order.locate_records(model) is not None:
                found += _level_tasks(order, model, rows[model], before, level)
        before = level
    index, count = order.part
    return found[index::count]


def levels(clips: int, first: int = FIRST_LEVEL) -> list[int]:
    """Return how many clips all rows have after each round: twice as many as before."""
    found = [first]
    while found[-1] < clips:
        found.append(found[-1] * 2)
    return [*found[:-1], clips]


def _level_tasks(
    order: Order, model: str, rows: Sequence[experiments.RequestedRow], before: int, level: int
) -> Iterator[Task]:
    """Yield the tasks of one level, experiment after experiment; within one, the rows in turn."""
    for name in dict.fromkeys(wanted.experiment for wanted in rows):
        mine = [wanted for wanted in rows if wanted.experiment == name]
        first, last = before, level
        if mine[0].whole:
            first, last = (0, mine[0].clips_requested(order.clips)) if before == 0 else (0, 0)
        for start in range(first, last, order.batch):
            for wanted in mine:
                stop = min(start + order.batch, last, wanted.most)
                if chunks := tuple(range(start // models.CHUNK, stop // models.CHUNK)):
                    yield Task(model, wanted.row, chunks)


# --- running --------------------------------------------------------------------------------------


def run(order: Order) -> Generator[tuple[str, training_loop.Progress], None, None]:
    """Generate what is missing; yields (what, progress in chunks) after every piece.

    Raises:
        ValueError: for an impossible order, before anything is generated.
    """
    loading.check_device(order.device)
    asked = tasks(order)
    todo = [
        replace(task, chunks=missing) for task in asked if (missing := _missing_chunks(order, task))
    ]
    workers = {
        model: _Worker(order, model)
        for model in order.models
        if order.locate_records(model) is not None
    }
    for task in todo:
        workers[task.model].generator.check(task.row)
    if order.part[0] == 0:
        for worker in workers.values():
            yield from worker.make_figures(order.rows)
    clock = _Clock(
        sum(len(task.chunks) for task in asked),
        [(task.row.source, len(task.chunks)) for task in todo],
    )
    for task in todo:
        started = time.monotonic()
        workers[task.model].make(task)
        yield "clips", clock.advance(task, time.monotonic() - started)


def _missing_chunks(order: Order, task: Task) -> tuple[int, ...]:
    found = order.locate_records(task.model)
    assert found is not None
    return tuple(records.missing_chunks(found[0], task.row, task.chunks))


class _Worker:
    """A model, its judge and the folder of its records."""

    def __init__(self, order: Order, model: str):
        found = order.locate_records(model)
        assert found is not None
        self.place, self.folder = found
        self.generator = models.ClipGenerator(
            model, self.folder, order.device, order.steps, order.dtype
        )
        self.reader = copy.deepcopy(judge.load_judge()).to(order.device)
        self.device, self.model = order.device, model

    def make_figures(self, pattern: str) -> Iterator[tuple[str, training_loop.Progress]]:
        """Make those of FIGURE_NAMES that the pattern matches."""
        if fnmatchcase("figure-3", pattern):
            for row in experiments.figure3_rows(self.model):
                figure3.make_strip(self.place, self.generator, row)
        clips = figure2.clips_of(self.model)
        if fnmatchcase("figure-2", pattern) and not figure2.is_measured(self.place, clips):
            exact = models.ClipGenerator(self.model, self.folder, self.device, dtype="float32")
            for progress in figure2.measure(self.place, exact, clips):
                yield f"{self.model} figure 2", progress
        if fnmatchcase("cost", pattern) and not cost.cost_path(self.place).exists():
            for progress in cost.measure(
                self.place, self.generator, experiments.cost_rows(self.model)
            ):
                yield f"{self.model} cost", progress

    def make(self, task: Task) -> None:
        """Generate, measure and record the clips of a task."""
        frames, took = cost.time_clips(self.generator, task.row, task.numbers)
        for chunk, clips in zip(task.chunks, frames.split(models.CHUNK), strict=True):
            numbers = range(chunk * models.CHUNK, (chunk + 1) * models.CHUNK)
            prompts = (
                models.pool(self.model, models.OTHER_SEED)
                if task.row.source == "reference"
                else self.generator.pool
            )
            found = measurements.read_clips(
                self.reader, prompts.subset(numbers).scenes, clips.to(self.device)
            )
            records.save_chunk(self.place, task.row, chunk, found, took, cost.machine(self.device))


class _Clock:
    """The progress of a run, and its remaining time."""

    def __init__(self, total: int, left: Sequence[tuple[str, int]]):
        self.total, self.left = total, Counter[str]()
        for source, chunks in left:
            self.left[source] += chunks
        self.seconds, self.done, self.started = dict[str, float](), Counter[str](), time.monotonic()

    def advance(self, task: Task, seconds: float) -> training_loop.Progress:
        """Count a task. Each source has a speed of its own, because real clips are quick."""
        source = task.row.source
        self.left[source] -= len(task.chunks)
        self.done[source] += len(task.chunks)
        self.seconds[source] = self.seconds.get(source, 0.0) + seconds
        usual = sum(self.seconds.values()) / self.done.total()
        left = sum(
            chunks * (self.seconds[name] / self.done[name] if self.done[name] else usual)
            for name, chunks in self.left.items()
        )
        done = self.total - self.left.total()
        return training_loop.Progress(
            done, self.total, {"hours_left": left / 3600}, time.monotonic() - self.started
        )
