"""Engines: what runs the jobs of a sweep. The plain one, here, is this process; `cluster` has the
one on Ray."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from skipguide.generate.settings import GenerationSettings
from skipguide.runs.jobs import Job, ResolvedSetting
from skipguide.runs.plan import Setting
from skipguide.runs.storage import DISK_FULL_ERRORS, ClipContents

if TYPE_CHECKING:
    from PIL.Image import Image

    from skipguide.generate.run import StepProgress


_ERROR_LENGTH = 2000
_DISK_ERRORS = (*DISK_FULL_ERRORS, errno.EROFS)  # and so of all jobs after this one too

OnStep = Callable[["StepProgress"], None]


@dataclass(frozen=True)
class Cost:
    """What a setting takes, measured on the first steps of its first video."""

    passes_per_step: float  # over the whole run
    seconds_per_step: float


@dataclass(frozen=True)
class GeneratedVideo:
    """A video, and what is to be known of it."""

    product: ClipContents
    record: dict[str, Any]  # of `skipguide.generate.record`
    environment: dict[str, Any]


@dataclass(frozen=True)
class JobStarted:
    """A worker has begun a job."""

    job: Job


@dataclass(frozen=True)
class JobFinished:
    """A job is done; nothing is written yet."""

    job: Job
    made: GeneratedVideo


@dataclass(frozen=True)
class JobFailed:
    """A job cannot be done."""

    job: Job
    error: str


Event = JobStarted | JobFinished | JobFailed


class Engine(Protocol):
    """Runs jobs. Whatever it is, one process alone writes to the run: the one that asks for its
    events."""

    @property
    def workers(self) -> int:
        """How many jobs it runs at a time."""
        ...

    def versions(self) -> dict[str, str]:
        """What computes the frames."""
        ...

    def survey(self, settings: Sequence[Setting], image: Image | None) -> list[ResolvedSetting]:
        """As `Worker.survey`."""
        ...

    def cost(self, complete: GenerationSettings, image: Image | None) -> Cost:
        """As `Worker.cost`."""
        ...

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Event]:
        """Do the jobs, in their order as far as there is one; each is started at least once, and
        ends once."""
        ...

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """What a function makes of each item, in any order; an item can be given to it again if a
        worker is lost.

        For metrics: an item is a part of the videos, and what comes back an accumulator to add to
            the others.
        """
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def read_start_image(path: Path | None) -> Image | None:
    """What a video starts from, if there is something."""
    if path is None:
        return None
    from skipguide.files import image as image_file

    return image_file.read(path)


def describe_error(error: Exception) -> str:
    """What to write down of a job that failed: the error first, then where it came from.

    Raises:
        OSError: if it is the disk's, and so not the job's: a sweep ends then.
    """
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        raise error
    trace = "".join(traceback.format_exception(error))
    return f"{type(error).__name__}: {error}\n{trace[-_ERROR_LENGTH:]}"
