"""The engine that makes clips in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.generate.settings import GenerationSettings
from skipguide.runs.jobs import Job, ResolvedSetting
from skipguide.runs.plan_settings import Setting

if TYPE_CHECKING:
    from PIL.Image import Image

    from skipguide.runs.worker import LoadedPipeline, Worker
from skipguide.runs.engine import (
    Cost,
    Event,
    JobFailed,
    JobFinished,
    JobStarted,
    OnStep,
    describe_error,
    read_start_image,
)


class LocalEngine:
    """An engine that does one job after the other in this process.

    Args:
        scratch: a folder for unfinished files, on the disk of the run.
        loaded: a pipeline that a caller has loaded, which makes all videos.
    """

    workers = 1

    def __init__(self, scratch: Path, loaded: LoadedPipeline | None = None):
        self._scratch, self._loaded = scratch, loaded
        self._worker: Worker | None = None

    def _load_worker(self) -> Worker:
        from skipguide.runs.worker import Worker

        self._worker = self._worker or Worker(self._scratch, self._loaded)
        return self._worker

    def versions(self) -> dict[str, str]:
        from skipguide.generate import record

        return record.library_versions()

    def survey(self, settings: Sequence[Setting], image: Image | None) -> list[ResolvedSetting]:
        return self._load_worker().survey(settings, image)

    def cost(self, complete: GenerationSettings, image: Image | None) -> Cost:
        return self._load_worker().cost(complete, image)

    def inspect(self, generation: GenerationSettings, function: Callable[[Any], Any]) -> Any:
        return self._load_worker().inspect(generation, function)

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Event]:
        self._scratch.mkdir(exist_ok=True)
        for job in jobs:
            yield JobStarted(job)
            try:
                made = self._load_worker().make(job, read_start_image(job.image), on_step)
            except Exception as error:
                yield JobFailed(job, describe_error(error))
            else:
                yield JobFinished(job, made)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return map(function, items)

    def close(self) -> None:
        self._worker = None
