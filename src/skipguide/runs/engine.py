"""The protocol of engines, which run the jobs of a sweep, and the events they report.

`local_engine` is this process, `ray_engine` runs on Ray.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from skipguide.files.atomic import DISK_FULL_ERRORS
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData
from skipguide.runs.jobs import Job, ResolvedSetting
from skipguide.runs.plan_settings import Setting
from skipguide.runs.storage import ClipContents

if TYPE_CHECKING:
    from PIL.Image import Image

    from skipguide.generate.run import StepProgress


_ERROR_LENGTH = 2000
_DISK_ERRORS = (*DISK_FULL_ERRORS, errno.EROFS)  # and so of all jobs after this one too

OnStep = Callable[["StepProgress"], None]


@dataclass(frozen=True)
class Cost:
    """The cost of a setting, measured on the first steps of its first video."""

    passes_per_step: float  # over the whole run
    seconds_per_step: float


@dataclass(frozen=True)
class GeneratedVideo:
    """A video with its record and where it was made."""

    product: ClipContents
    record: PlainData  # of `skipguide.generate.record`
    environment: PlainData


@dataclass(frozen=True)
class JobStarted:
    """A worker has begun a job."""

    job: Job


@dataclass(frozen=True)
class JobFinished:
    """A job is finished; nothing is written yet."""

    job: Job
    made: GeneratedVideo


@dataclass(frozen=True)
class JobFailed:
    """A job has failed."""

    job: Job
    error: str


Event = JobStarted | JobFinished | JobFailed


class Engine(Protocol):
    """Something that runs jobs. Only the process that asks for its events writes to the run."""

    @property
    def workers(self) -> int:
        """The number of jobs that it runs at a time."""
        ...

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that compute the frames."""
        ...

    def survey(self, settings: Sequence[Setting], image: Image | None) -> list[ResolvedSetting]:
        """Fill in settings and check them on their models; see `Worker.survey`."""
        ...

    def cost(self, complete: GenerationSettings, image: Image | None) -> Cost:
        """Measure the cost of a setting; see `Worker.cost`."""
        ...

    def inspect(self, generation: GenerationSettings, function: Callable[[Any], Any]) -> Any:
        """Return what a function says of the pipeline of some settings; both can be pickled."""
        ...

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Event]:
        """Do the jobs, in their order as far as there is one.

        Each job is started at least once, and ends once.
        """
        ...

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Apply a function to each item, in any order; repeat an item if its worker is lost.

        This is for metrics: an item is a part of the videos, and each result an accumulator to add
        to the others.
        """
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def read_start_image(path: Path | None) -> Image | None:
    """Read the image that a video starts from, if there is one."""
    if path is None:
        return None
    from skipguide.files import image as image_file

    return image_file.read(path)


def describe_error(error: Exception) -> str:
    """Return what the ledger keeps of a job that failed: the error first, then its traceback.

    Raises:
        OSError: if the disk is to blame and not the job; the sweep ends then.
    """
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        raise error
    trace = "".join(traceback.format_exception(error))
    return f"{type(error).__name__}: {error}\n{trace[-_ERROR_LENGTH:]}"
