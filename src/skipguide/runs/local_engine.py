"""The engine that makes clips in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.generate.settings import Generation
from skipguide.runs.jobs import Job, Surveyed
from skipguide.runs.plan import Setting

if TYPE_CHECKING:
    from PIL.Image import Image

    from skipguide.runs.worker import Worker
from skipguide.runs.engine import Cost, Event, Failed, Finished, OnStep, Started, described, picture_of


class Here:
    """The plain engine: one job after the other, in this process.

    Args:
        scratch: a folder for files under way, on the disk of the run.
    """

    workers = 1

    def __init__(self, scratch: Path):
        self._scratch = scratch
        self._worker: Worker | None = None

    def _loaded(self) -> Worker:
        from skipguide.runs.worker import Worker

        self._worker = self._worker or Worker(self._scratch)
        return self._worker

    def versions(self) -> dict[str, str]:
        from skipguide.generate import record

        return record.versions()

    def survey(self, settings: Sequence[Setting], image: Image | None) -> list[Surveyed]:
        return self._loaded().survey(settings, image)

    def cost(self, complete: Generation, image: Image | None) -> Cost:
        return self._loaded().cost(complete, image)

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Event]:
        self._scratch.mkdir(exist_ok=True)
        for job in jobs:
            yield Started(job)
            try:
                made = self._loaded().make(job, picture_of(job.image), on_step)
            except Exception as error:
                yield Failed(job, described(error))
            else:
                yield Finished(job, made)

    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return map(function, items)

    def close(self) -> None:
        self._worker = None
