"""A sweep: makes what a plan asks for and a run has not yet, whatever happened to it before."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.runs import jobs as jobs_of
from skipguide.runs import progress
from skipguide.runs import storage as files
from skipguide.runs.engine import Cost, Engine, Failed, Finished, OnStep, Started, picture_of
from skipguide.runs.jobs import Job, Surveyed
from skipguide.runs.ledger import NAME, Ledger
from skipguide.runs.plan import Plan

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Row:
    """What a setting costs."""

    model: str
    setting: str
    clips: int  # of the plan
    missing: int  # of these, still to make
    steps: int
    passes_per_step: float | None  # None where nothing is missing and nothing was measured
    seconds_per_step: float | None


@dataclass(frozen=True)
class Planned:
    """What a sweep will do; nothing is made yet."""

    rows: tuple[Row, ...]
    failed: int  # clips of the plan that failed before and are left alone
    workers: int
    bytes: int  # an estimate of what the new files take
    notes: tuple[str, ...] = ()  # what was found wrong with the run

    @property
    def clips(self) -> int:
        """Of the plan."""
        return sum(row.clips for row in self.rows)

    @property
    def missing(self) -> int:
        """Clips to make."""
        return sum(row.missing for row in self.rows)

    @property
    def passes(self) -> float:
        """Forward passes of the denoiser, of one sample each, for the clips to make."""
        return sum(row.missing * row.steps * (row.passes_per_step or 0) for row in self.rows)

    @property
    def seconds(self) -> float:
        """An estimate of the time of denoising; reading prompts, decoding and writing come to it."""
        return sum(row.missing * row.steps * (row.seconds_per_step or 0) for row in self.rows) / self.workers


@dataclass(frozen=True)
class Done:
    """A clip is in its place."""

    job: Job
    video: Path
    seconds: float
    passes: float


@dataclass
class _Prepared:
    plan: Plan
    surveyed: list[Surveyed]
    jobs: list[Job]


Happening = Planned | Started | Done | Failed


def sweep(
    plan: Plan,
    folder: Path,
    engine: Engine,
    *,
    retry_failed: bool = False,
    thorough: bool = False,
    measure: bool = True,
    keep_pending: bool = True,
    on_step: OnStep | None = None,
) -> Generator[Happening, None, None]:
    """Make all videos of a plan that are not there yet; yields what happens, `Planned` first.

    Args:
        folder: the run directory, new or one that a sweep of this or another plan has written to.
        engine: where the videos are made.
        retry_failed: also those that failed before.
        thorough: read all files of the run to see that they are what was written.
        measure: run the first steps of settings of which nothing is known yet, for an estimate.
        keep_pending: what is not made when the sweep ends, however it does, stays in the ledger, to be made.
        on_step: called after each denoising step, by engines of this process.

    Raises:
        ValueError: for a plan that its models refuse, a folder that is no run's, or another sweep in it.
        OSError: if the disk is full or cannot be written. What is done stays done.
    """
    with files.in_words(folder), files.locked(folder):
        prepared = _prepared(plan, engine)
        ledger = Ledger(folder, "create")
        try:
            ledger.check()
            files.tidy(folder)
            notes = _entered(ledger, folder, prepared, retry_failed, thorough)
            missing = progress.missing(ledger, prepared.jobs)
            planned = _planned(prepared, missing, ledger, folder, engine if measure else None, notes)
            _remember(ledger, planned.rows)
            yield planned
            yield from _run(ledger, folder, engine, missing, on_step)
        finally:
            _leave(ledger, folder, [] if keep_pending else prepared.jobs)


def estimate(
    plan: Plan, folder: Path, engine: Engine, *, retry_failed: bool = False, thorough: bool = False
) -> Planned:  # fmt: skip
    """What `sweep` would do, without writing anything: it is done to a copy of the ledger.

    Args:
        retry_failed, thorough: as for `sweep`.

    Raises:
        ValueError, OSError: as `sweep`.
    """
    files.check_place(folder)
    prepared = _prepared(plan, engine)
    with tempfile.TemporaryDirectory() as scratch, contextlib.closing(_copied(folder, Path(scratch))) as ledger:
        notes = _entered(ledger, folder, prepared, retry_failed, thorough, looking=True)
        return _planned(prepared, progress.missing(ledger, prepared.jobs), ledger, folder, engine, notes)


def _copied(folder: Path, scratch: Path) -> Ledger:
    if not (folder / NAME).exists():
        return Ledger(scratch, "create")
    with contextlib.closing(Ledger(folder, "read")) as ledger:
        ledger.check()
        return ledger.copied(scratch)


def _entered(
    ledger: Ledger, folder: Path, prepared: _Prepared, retry_failed: bool, thorough: bool, looking: bool = False
) -> list[str]:  # fmt: skip
    """Enter a plan into a ledger, and make that agree with the files; `looking` leaves the files where they are."""
    jobs_of.register(ledger, prepared.plan, prepared.surveyed, prepared.jobs)
    progress.wait_again(ledger, [job.key for job in prepared.jobs] if retry_failed else [])
    return progress.mend(ledger, folder, prepared.jobs, thorough, looking)


def _prepared(plan: Plan, engine: Engine) -> _Prepared:
    image = _first_picture(plan)
    surveyed = engine.survey(plan.settings, image)
    return _Prepared(plan, surveyed, jobs_of.of_plan(plan, surveyed, engine.versions()))


def _first_picture(plan: Plan) -> Image | None:
    return picture_of(plan.prompts[0].image)


def _planned(
    prepared: _Prepared,
    missing: Sequence[Job],
    ledger: Ledger,
    folder: Path,
    engine: Engine | None,
    notes: list[str],
) -> Planned:
    size = files.check_room(folder, [job.generation for job in missing], prepared.plan.save_latents)
    left = {_of(job): 0 for job in prepared.jobs}
    for job in missing:
        left[_of(job)] += 1
    # From the last to the first: the engine has the model that was surveyed last, and next it needs the first one.
    rows = [_row(entry, left, prepared, ledger, engine) for entry in reversed(prepared.surveyed)][::-1]
    failed = len(_failed(ledger) & {job.key for job in prepared.jobs})
    return Planned(tuple(rows), failed, engine.workers if engine else 1, size, tuple(notes))


def _of(job: Job) -> tuple[str, str]:
    return job.generation.model, job.setting


def _failed(ledger: Ledger) -> set[str]:
    return {row["key"] for row in ledger.rows("SELECT key FROM jobs WHERE status = 'failed'")}


def _row(
    entry: Surveyed, left: dict[tuple[str, str], int], prepared: _Prepared, ledger: Ledger, engine: Engine | None
) -> Row:
    model, name = entry.setting.generation.model, entry.setting.name
    assert entry.complete.steps is not None
    cost = _known(ledger, model, name)
    if cost is None and left[model, name] and engine is not None:
        cost = engine.cost(entry.complete, _first_picture(prepared.plan))
    clips = len(prepared.plan.prompts) * len(prepared.plan.seeds)
    numbers = (None, None) if cost is None else (cost.passes_per_step, cost.seconds_per_step)
    return Row(model, name, clips, left[model, name], entry.complete.steps, *numbers)


def _known(ledger: Ledger, model: str, name: str) -> Cost | None:
    """What the clips that were made took; None without any."""
    rows = ledger.rows(_MADE, model, name)
    if not rows:
        return None
    return Cost(*(statistics.median(row[i] for row in rows) for i in range(2)))


_OF_SETTING = "FROM settings JOIN models ON models.id = settings.model WHERE models.name = ? AND settings.name = ?"
_MADE = (
    "SELECT jobs.passes_per_step, jobs.seconds_per_step FROM jobs WHERE status = 'done' "
    f"AND jobs.passes_per_step IS NOT NULL AND setting IN (SELECT settings.id {_OF_SETTING})"
)


def _remember(ledger: Ledger, rows: Sequence[Row]) -> None:
    """What the settings cost is for readers too."""
    with ledger.writing():
        for row in rows:
            ledger.db.execute(
                f"UPDATE settings SET passes_per_step = ifnull(?, passes_per_step) WHERE id IN "
                f"(SELECT settings.id {_OF_SETTING})",
                (row.passes_per_step, row.model, row.setting),
            )


def _run(
    ledger: Ledger, folder: Path, engine: Engine, missing: Sequence[Job], on_step: OnStep | None
) -> Iterator[Happening]:
    for event in engine.run(missing, on_step):
        if isinstance(event, Started):
            progress.begin(ledger, event.job)
            yield event
        elif isinstance(event, Failed):
            progress.fail(ledger, event)
            yield event
        else:
            yield _publish(ledger, folder, event)


def _publish(ledger: Ledger, folder: Path, event: Finished) -> Done:
    job, made = event.job, event.made
    published = files.publish(folder, job.key, made.product)
    progress.finish(ledger, job.key, published, made.record, made.environment)
    measured = made.record["measured"]
    passes = measured["passes_per_step"] * (job.generation.steps or 0)
    return Done(job, folder / published.video, measured["seconds"], passes)


def _leave(ledger: Ledger, folder: Path, unwanted: Sequence[Job]) -> None:
    """Whatever ended the sweep: what it began and did not finish is to be done, or forgotten if it is unwanted then."""
    try:
        progress.wait_again(ledger)
        progress.forget(ledger, [job.key for job in unwanted])
        files.tidy(folder)
    except OSError:
        pass  # a full disk; the next sweep does it
    finally:
        ledger.close()
