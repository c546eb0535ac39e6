"""The part of a worker on Ray that runs in its process; its libraries are imported there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skipguide.generate.settings import GenerationSettings
from skipguide.runs.engine import Cost, Event, JobFailed, JobFinished, describe_error
from skipguide.runs.jobs import Job, ResolvedSetting
from skipguide.runs.plan_settings import Setting

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class LostWorker:
    """The result of an item whose every worker was lost."""

    reason: str


class RemoteWorker:
    """The part that runs in the process of a worker."""

    def __init__(self, place: Any = None) -> None:
        from skipguide.runs.ray_group import GroupWorker
        from skipguide.runs.worker import Worker

        self._worker = Worker() if place is None else GroupWorker(place)
        self._started = False

    def ready(self) -> dict[str, str]:
        """Return the versions of its libraries; the first time, start what other processes it
        has."""
        from skipguide.generate import record
        from skipguide.runs.ray_group import GroupWorker

        versions = record.library_versions()
        if isinstance(self._worker, GroupWorker) and not self._started:
            self._worker.start(versions)
        self._started = True
        return versions

    def survey(self, settings: Sequence[Setting], image: Image | None) -> list[ResolvedSetting]:
        return self._worker.survey(settings, image)

    def cost(self, complete: GenerationSettings, image: Image | None) -> Cost:
        return self._worker.cost(complete, image)

    def inspect(self, generation: GenerationSettings, function: Callable[[Any], Any]) -> Any:
        return self._worker.inspect(generation, function)

    def make(self, job: Job, image: Image | None) -> Event | LostWorker:
        """Do a job and return the result, or an error of the job's, which is no loss of the
        worker."""
        from skipguide.runs.ray_group import LostProcess

        try:
            return JobFinished(job, self._worker.make(job, image))
        except LostProcess as error:
            return LostWorker(str(error))
        except Exception as error:
            return JobFailed(job, describe_error(error))

    def apply(self, function: Callable[[Any], Any], item: Any) -> tuple[Any]:
        """Call a function and return its result in a tuple, so that None is a result too."""
        return (function(item),)
