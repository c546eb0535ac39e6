"""Forecast what a run of the paper will take, before it starts: clips, hours and disk.

Hours come from the seconds per clip of the records that are there, or, for a model that has none,
of a few clips that are timed. What a run makes beside clips (Figures 2 and 3, the cost) is counted
in clips of plain CFG that take as long.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from skipguide.files import folders
from skipguide.paper import cost, experiments, figure2, figure3, models, records, run
from skipguide.paper.records import RecordFolder
from skipguide.paper.rows import Row
from skipguide.paper.run import Order

TIMED_CLIPS = 4  # on a CPU; a GPU makes few clips no faster than many, so a whole batch is timed
ROW_BYTES = 4 * (128 + 22 + len(records.VALUES))  # of a clip: features, logits, values
CHUNK_BYTES = 1500  # of a record's header
GENERATED = "guided"  # the source of rows that a model makes; real clips take next to nothing


@dataclass(frozen=True)
class Forecast:
    """The forecast for one model: what is missing, and what it will take.

    Args:
        rows, clips: all that the order asks for.
        missing_rows, missing_clips: of these.
        extra: clips of plain CFG that take as long as the figures and costs that are missing.
        seconds: per clip, of the clock.
        timed: how many clips were timed for that; 0 if it comes from records.
        hours: of the whole of what is missing.
        bytes: that the records will take.
    """

    model: str
    rows: int
    clips: int
    missing_rows: int
    missing_clips: int
    extra: int
    seconds: float
    timed: int
    hours: float
    bytes: int


def forecast(order: Order) -> list[Forecast]:
    """Estimate what is missing of each model that there is.

    Raises:
        ValueError: if no row matches the order's pattern.
    """
    wanted = run.tasks(order)
    return [
        _forecast_model(order, model, [task for task in wanted if task.model == model])
        for model in order.models
        if order.locate_records(model) is not None
    ]


def _forecast_model(order: Order, model: str, tasks: Sequence[run.Task]) -> Forecast:
    found = order.locate_records(model)
    assert found is not None
    place, folder = found
    missing: dict[Row, int] = {}
    for task in tasks:
        if chunks := records.missing_chunks(place, task.row, task.chunks):
            missing[task.row] = missing.get(task.row, 0) + len(chunks) * models.CHUNK
    extra = _extra_clips(order, model, place)
    recorded = {row: seconds for row in missing if (seconds := recorded_seconds(place, [row]))}
    made = [row for row in dict.fromkeys(task.row for task in tasks) if row.source == GENERATED]
    seconds, timed = recorded_seconds(place, made), 0
    if seconds is None and (extra or any(row.source == GENERATED for row in missing)):
        seconds, timed = _time_clips(order, model, folder)
    usual = seconds or 0.0
    work = extra * usual + sum(
        clips * recorded.get(row, usual if row.source == GENERATED else 0.0)
        for row, clips in missing.items()
    )
    clips = sum(missing.values())
    return Forecast(
        model, len({task.row for task in tasks}), sum(len(task.numbers) for task in tasks),
        len(missing), clips, extra, usual, timed, work / 3600,
        clips * ROW_BYTES + clips // models.CHUNK * CHUNK_BYTES,
    )  # fmt: skip


def recorded_seconds(place: RecordFolder, rows: Sequence[Row]) -> float | None:
    """Return the median of the clock's seconds per clip over the records of rows."""
    found = [
        seconds
        for row in rows
        for chunk in place.finished_chunks(row)
        if (seconds := records.read_cost(place, row, chunk).seconds)
    ]
    return statistics.median(found) if found else None


def _time_clips(order: Order, model: str, folder: Path) -> tuple[float, int]:
    """Time clips of the model's own CFG, after a first call that warms it up."""
    count = order.batch if order.device.startswith("cuda") else TIMED_CLIPS
    generator = models.ClipGenerator(model, folder, order.device, order.steps, order.dtype)
    row = Row(experiments.STUDIES[model].guidance_scale)
    cost.time_clips(generator, row, range(1))
    return cost.time_clips(generator, row, range(count))[1].seconds, count


def _extra_clips(order: Order, model: str, place: RecordFolder) -> int:
    """Count what is missing beside clips, in clips of plain CFG that take as long."""
    if order.part[0]:  # the first of several processes makes it
        return 0
    return sum(
        count for name, count in _extras(order, model, place) if fnmatchcase(name, order.rows)
    )


def _extras(order: Order, model: str, place: RecordFolder) -> Iterator[tuple[str, int]]:
    strips = [figure3.strip_path(place, row) for row in experiments.figure3_rows(model)]
    yield "figure-3", sum(not path.exists() for path in strips)
    clips = figure2.clips_of(model)
    if not figure2.is_measured(place, clips):
        # Each direction at each level is a pass, as c and u are; a clip has two a step.
        passes = (2 * len(experiments.STUDIES[model].layers) + 2) * len(
            figure2.NOISING_SCHEMES[model].levels
        )
        steps = order.steps or models.MODELS[model].steps
        yield "figure-2", round(clips * passes / (2 * steps))
    if not cost.cost_path(place).exists():
        yield "cost", (cost.ROUNDS + 1) * len(experiments.cost_rows(model)) * models.CHUNK


# --- in words -------------------------------------------------------------------------------------


def describe(found: Sequence[Forecast], order: Order) -> str:
    """Say what a run will take: a line for each model, and one for all."""
    lines = [_describe_model(one) for one in found]
    hours, size = sum(one.hours for one in found), sum(one.bytes for one in found)
    free = folders.free_bytes(order.folder)
    shared = f", in this process of {order.part[1]}" if order.part[1] > 1 else ""
    lines.append(
        f"all: about {format_hours(hours)} on {order.device}{shared}, {_format_size(size)} of disk"
        f" in {order.folder} ({_format_size(free)} free)"
    )
    if size > free:
        lines.append("That is more than there is. Make room, or pass another --folder.")
    return "\n".join(lines)


def _describe_model(one: Forecast) -> str:
    if not one.missing_clips and not one.extra:
        return f"{one.model}: all {one.clips} clips of {one.rows} rows are made"
    source = f"timed on {one.timed} clips" if one.timed else "as its records took"
    also = f", and as much as {one.extra} clips for Figures 2 and 3 and the cost"
    return (
        f"{one.model}: {one.missing_clips} of {one.clips} clips are missing, in {one.missing_rows}"
        f" of {one.rows} rows{also if one.extra else ''}: about {format_hours(one.hours)}"
        + (f" at {one.seconds:.2f} seconds a clip, {source}" if one.seconds else "")
    )


def format_hours(hours: float) -> str:
    """Format hours as people say them: "1.5 hours", "20 minutes"."""
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"


def _format_size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
