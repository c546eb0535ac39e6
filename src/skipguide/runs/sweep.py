"""A sweep: make the videos of a plan that a run does not have yet, whatever happened before."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.method.protocols import ReadOnlyData
from skipguide.runs import jobs as jobs_of
from skipguide.runs import progress
from skipguide.runs import storage as files
from skipguide.runs.engine import (
    Cost,
    Engine,
    JobFailed,
    JobFinished,
    JobStarted,
    OnStep,
    read_start_image,
)
from skipguide.runs.jobs import Job, ResolvedSetting, Variants
from skipguide.runs.ledger import NAME, Ledger
from skipguide.runs.plan import Plan
from skipguide.runs.plan_settings import variant_of, vary_setting

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class SettingCost:
    """The cost of a setting."""

    model: str
    setting: str
    clips: int  # of the plan
    missing: int  # of these, still to make
    steps: int  # of the setting; rows of prompts may have others
    passes_per_step: float | None  # None where nothing is missing and nothing was measured
    seconds_per_step: float | None
    missing_steps: int = 0  # of the clips that are to be made


@dataclass(frozen=True)
class SweepEstimate:
    """The work and the cost that a sweep is going to have; nothing is made yet."""

    rows: tuple[SettingCost, ...]
    failed: int  # clips of the plan that failed before and are left alone
    workers: int
    bytes: int  # an estimate of what the new files take
    notes: tuple[str, ...] = ()  # what was found wrong with the run, or has no effect

    @property
    def clips(self) -> int:
        """The clips of the plan."""
        return sum(row.clips for row in self.rows)

    @property
    def missing(self) -> int:
        """The clips that are still to be made."""
        return sum(row.missing for row in self.rows)

    @property
    def passes(self) -> float:
        """Forward passes of the denoiser, of one sample each, for the clips to make."""
        return sum(row.missing_steps * (row.passes_per_step or 0) for row in self.rows)

    @property
    def seconds(self) -> float:
        """The estimated time of denoising; encoding prompts, decoding and writing come on top."""
        return (
            sum(row.missing_steps * (row.seconds_per_step or 0) for row in self.rows) / self.workers
        )


@dataclass(frozen=True)
class ClipPublished:
    """A clip is in its place."""

    job: Job
    video: Path
    seconds: float
    passes: float
    measured: ReadOnlyData = field(default_factory=dict)  # as in the record of the clip


@dataclass
class _PreparedPlan:
    plan: Plan
    surveyed: list[ResolvedSetting]
    jobs: list[Job]


SweepEvent = SweepEstimate | JobStarted | ClipPublished | JobFailed


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
) -> Generator[SweepEvent, None, None]:
    """Make all videos of a plan that are not there yet; yield what happens, `SweepEstimate` first.

    Args:
        folder: the run directory, new or one that a sweep of this or another plan has written to.
        engine: makes the videos.
        retry_failed: also make those that failed before.
        thorough: read all files of the run to check that they are what was written.
        measure: run the first steps of settings of unknown cost, for the estimate.
        keep_pending: jobs that are left when the sweep ends, however it does, stay in the ledger.
        on_step: called after each denoising step, by engines of this process.

    Raises:
        ValueError: for a plan that its models refuse, a folder of something else, or another sweep
            in it.
        OSError: if the disk is full or cannot be written. Finished videos stay.
    """
    with files.translate_os_errors(folder), files.lock_folder(folder):
        prepared = _prepare_plan(plan, engine)
        ledger = Ledger(folder, "create")
        try:
            ledger.check()
            files.remove_partial_files(folder)
            notes = _register_and_reconcile(ledger, folder, prepared, retry_failed, thorough)
            missing = progress.pending_jobs(ledger, prepared.jobs)
            planned = _estimate_sweep(
                prepared, missing, ledger, folder, engine if measure else None, notes
            )
            _store_costs(ledger, planned.rows)
            yield planned
            yield from _run(ledger, folder, engine, missing, on_step)
        finally:
            _clean_up(ledger, folder, [] if keep_pending else prepared.jobs)


def estimate(
    plan: Plan, folder: Path, engine: Engine, *, retry_failed: bool = False, thorough: bool = False
) -> SweepEstimate:  # fmt: skip
    """Return what `sweep` would do; it writes to a copy of the ledger only.

    A folder that cannot be written is no error here; where clips are missing, a note says it.

    Args:
        retry_failed, thorough: as for `sweep`.

    Raises:
        ValueError, OSError: as `sweep`, but for folders that cannot be written.
    """
    files.check_run_folder(folder)
    prepared = _prepare_plan(plan, engine)
    with (
        tempfile.TemporaryDirectory() as scratch,
        contextlib.closing(_copy_ledger(folder, Path(scratch))) as ledger,
    ):
        notes = _register_and_reconcile(
            ledger, folder, prepared, retry_failed, thorough, keep_files=True
        )
        missing = progress.pending_jobs(ledger, prepared.jobs)
        try:
            files.check_writable(folder)
        except ValueError as error:  # nothing is written here, but the sweep is going to be refused
            notes += [str(error)] if missing else []
        return _estimate_sweep(prepared, missing, ledger, folder, engine, notes)


def _copy_ledger(folder: Path, scratch: Path) -> Ledger:
    if not (folder / NAME).exists():
        return Ledger(scratch, "create")
    with contextlib.closing(Ledger(folder, "read")) as ledger:
        ledger.check()
        return ledger.copy_to(scratch)


def _register_and_reconcile(
    ledger: Ledger, folder: Path, prepared: _PreparedPlan, retry_failed: bool, thorough: bool,
    keep_files: bool = False
) -> list[str]:  # fmt: skip
    """Enter a plan into a ledger and reconcile that with the files.

    Args:
        keep_files: leave the files where they are.
    """
    jobs_of.register_jobs(ledger, prepared.plan, prepared.surveyed, prepared.jobs)
    progress.requeue_interrupted(ledger, [job.key for job in prepared.jobs] if retry_failed else [])
    return progress.reconcile(ledger, folder, prepared.jobs, thorough, keep_files)


def _prepare_plan(plan: Plan, engine: Engine) -> _PreparedPlan:
    image = _first_image(plan)
    surveyed = engine.survey(plan.settings, image)
    variants = _survey_variants(plan, engine, image)
    jobs = jobs_of.build_jobs(plan, surveyed, engine.versions(), variants)
    return _PreparedPlan(plan, surveyed, jobs)


def _survey_variants(plan: Plan, engine: Engine, image: Image | None) -> Variants:
    """Fill in the settings with what rows of prompts say over them, and check them too."""
    rows = {variant_of(prompt): prompt for prompt in plan.prompts if prompt.settings}
    pairs = [(key, vary_setting(setting, prompt))
             for setting in plan.settings for key, prompt in rows.items()]  # fmt: skip
    found = engine.survey([setting for _, setting in pairs], image) if pairs else []
    return {
        (entry.setting.generation.model, entry.setting.name, key): entry
        for (key, _), entry in zip(pairs, found, strict=True)
    }


def _first_image(plan: Plan) -> Image | None:
    return read_start_image(plan.prompts[0].image)


def _estimate_sweep(
    prepared: _PreparedPlan,
    missing: Sequence[Job],
    ledger: Ledger,
    folder: Path,
    engine: Engine | None,
    notes: list[str],
) -> SweepEstimate:
    size = files.check_disk_space(
        folder, [job.generation for job in missing], prepared.plan.save_latents
    )
    clips = Counter(map(_setting_key, prepared.jobs))
    left = Counter(map(_setting_key, missing))
    steps: Counter[tuple[str, str]] = Counter()
    for job in missing:
        steps[_setting_key(job)] += job.generation.steps or 0
    # From the last to the first: the engine has the model that was surveyed last, and next it needs
    # the first one.
    rows = [
        _setting_cost(entry, clips, left, steps, prepared, ledger, engine)
        for entry in reversed(prepared.surveyed)
    ][::-1]
    failed = len(_failed_keys(ledger) & {job.key for job in prepared.jobs})
    notes = [*prepared.plan.notes, *notes]
    return SweepEstimate(tuple(rows), failed, engine.workers if engine else 1, size, tuple(notes))


def _setting_key(job: Job) -> tuple[str, str]:
    return job.generation.model, job.setting


def _failed_keys(ledger: Ledger) -> set[str]:
    return {row["key"] for row in ledger.rows("SELECT key FROM jobs WHERE status = 'failed'")}


def _setting_cost(
    entry: ResolvedSetting,
    clips: Counter[tuple[str, str]],
    left: Counter[tuple[str, str]],
    steps: Counter[tuple[str, str]],
    prepared: _PreparedPlan,
    ledger: Ledger,
    engine: Engine | None,
) -> SettingCost:
    model, name = entry.setting.generation.model, entry.setting.name
    assert entry.complete.steps is not None
    at, cost = (model, name), _known_cost(ledger, model, name)
    if cost is None and left[at] and engine is not None:
        cost = engine.cost(entry.complete, _first_image(prepared.plan))
    numbers = (None, None) if cost is None else (cost.passes_per_step, cost.seconds_per_step)
    counts = (clips[at], left[at], entry.complete.steps)
    return SettingCost(model, name, *counts, *numbers, missing_steps=steps[at])


def _known_cost(ledger: Ledger, model: str, name: str) -> Cost | None:
    """Return the median cost of the finished clips; None without any."""
    rows = ledger.rows(_MEASURED_COSTS, model, name)
    if not rows:
        return None
    return Cost(*(statistics.median(row[i] for row in rows) for i in range(2)))


_FROM_SETTING = (
    "FROM settings JOIN models ON models.id = settings.model WHERE models.name = ? AND"
    " settings.name = ?"
)
_MEASURED_COSTS = (
    "SELECT jobs.passes_per_step, jobs.seconds_per_step FROM jobs WHERE status = 'done' "
    f"AND jobs.passes_per_step IS NOT NULL AND setting IN (SELECT settings.id {_FROM_SETTING})"
)


def _store_costs(ledger: Ledger, rows: Sequence[SettingCost]) -> None:
    """Keep the costs of the settings, for readers."""
    with ledger.transaction():
        for row in rows:
            ledger.db.execute(
                "UPDATE settings SET passes_per_step = ifnull(?, passes_per_step) WHERE id IN "
                f"(SELECT settings.id {_FROM_SETTING})",
                (row.passes_per_step, row.model, row.setting),
            )


def _run(
    ledger: Ledger, folder: Path, engine: Engine, missing: Sequence[Job], on_step: OnStep | None
) -> Iterator[SweepEvent]:
    for event in engine.run(missing, on_step):
        if isinstance(event, JobStarted):
            progress.mark_running(ledger, event.job)
            yield event
        elif isinstance(event, JobFailed):
            progress.mark_failed(ledger, event)
            yield event
        else:
            yield _publish(ledger, folder, event)


def _publish(ledger: Ledger, folder: Path, event: JobFinished) -> ClipPublished:
    job, made = event.job, event.made
    published = files.publish(folder, job.key, made.product)
    progress.mark_done(ledger, job.key, published, made.record, made.environment)
    measured = made.record["measured"]
    passes = measured["passes_per_step"] * (job.generation.steps or 0)
    return ClipPublished(job, folder / published.video, measured["seconds"], passes, measured)


def _clean_up(ledger: Ledger, folder: Path, unwanted: Sequence[Job]) -> None:
    """Requeue, or forget, what the sweep began and did not finish, whatever ended it."""
    try:
        progress.requeue_interrupted(ledger)
        progress.delete_pending(ledger, [job.key for job in unwanted])
        files.remove_partial_files(folder)
    except OSError:
        pass  # a full disk; the next sweep does it
    finally:
        ledger.close()
