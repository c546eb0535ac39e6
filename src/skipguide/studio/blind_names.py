"""Meaningless names of the videos and tasks of a blind test, which survive a restart.

A name is drawn from what it stands for by a key, so that nobody else can make one, and a server
with the same key finds again what it stands for.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import get_args

from skipguide.runs import Run
from skipguide.runs.study import Check, Kind
from skipguide.studio import blind_test
from skipguide.studio.blind_test import Task

_DIGITS, _TIME_DIGITS, _SEAL_DIGITS = 16, 11, 12  # hexadecimal; of names, of milliseconds, of seals


class BlindNames:
    """Names videos and tasks, and finds them again.

    Args:
        key: what the names are drawn from.
        now: the time in seconds.
    """

    def __init__(self, key: bytes, now: Callable[[], float] = time.time):
        self._key, self._now = key, now
        self._videos: dict[str, str] = {}
        self._copies: dict[str, tuple[Check, int]] = {}
        self._tasks: dict[str, Task] = {}

    def study(self, folder: Path) -> str:
        """Return the name of a run: a browser keeps answers for it while the server is away."""
        return self._draw("run", str(folder.resolve()))[:_DIGITS]

    def name_video(self, key: str) -> str:
        """Return the name of the video of a clip."""
        name = self._draw("video", key)[:_DIGITS]
        self._videos[name] = key
        return name

    def name_copy(self, check: Check, place: int) -> str:
        """Return the name of a video of an attention check: 0 of the clip, 1 of what is beside it.

        Neither is the name that the clip has elsewhere, so that no name tells a check.
        """
        name = self._draw("check", check.name, str(place))[:_DIGITS]
        self._copies[name] = check, place
        return name

    def name_videos(self, task: Task) -> list[str]:
        """Return the names of the videos of a task, from left to right."""
        if task.check is None:
            return [self.name_video(clip.key) for clip in task.clips_in_order]
        if task.second is None:  # a rating, of the damaged copy
            return [self.name_copy(task.check, 1)]
        pair = [self.name_copy(task.check, place) for place in (0, 1)]
        return pair[::-1] if task.left == "second" else pair

    def find_copy(self, run: Run, name: str) -> tuple[Check, int] | None:
        """Return the attention check, and which video of it, that a name stands for."""
        if name not in self._copies and (study := run.study.current()):
            for check in study.checks:
                for place in (0, 1):
                    self.name_copy(check, place)
        return self._copies.get(name)

    def find_video(self, run: Run, name: str) -> str | None:
        """Return the key of the clip that a name stands for; None if the run has none."""
        if name not in self._videos:
            for clip in run.clips("done"):
                self.name_video(clip.key)
        return self._videos.get(name)

    def return_code(self, rater: str) -> str:
        """Return what a rater shows who goes on in another browser, as "K7QX-2M9P"."""
        drawn = base64.b32encode(bytes.fromhex(self._draw("return", rater))).decode()
        return f"{drawn[:4]}-{drawn[4:8]}"

    def is_return_code(self, rater: str, given: str) -> bool:
        """Return whether a code is that of a rater, however it was typed."""
        typed = "".join(letter for letter in given.upper() if letter.isalnum())
        return hmac.compare_digest(
            typed.encode(), self.return_code(rater).replace("-", "").encode()
        )

    def name_task(self, task: Task, rater: str) -> str:
        """Return the name of a task as it is given now to a rater, with the time in it."""
        name = self._name_of(task, rater)
        self._tasks[name] = task
        return self._seal(name, f"{int(self._now() * 1000):0{_TIME_DIGITS}x}")

    def find_task(
        self, run: Run, given: str, rater: str, among: Sequence[Task] | None = None
    ) -> Task | None:
        """Return the task that was given to this rater; None if the run has it no more, or it was
        never given.

        Args:
            among: the tasks of the rater; None for all of every test.
        """
        name, made = given[:_DIGITS], given[_DIGITS : _DIGITS + _TIME_DIGITS]
        if not hmac.compare_digest(given.encode(), self._seal(name, made).encode()):
            return None
        if among is not None:  # few, and what was given in a study that has ended is none of them
            return next((task for task in among if self._name_of(task, rater) == name), None)
        if name not in self._tasks:
            every = (task for task in _all_tasks(run, rater) if self._name_of(task, rater) == name)
            if (found := next(every, None)) is None:
                return None
            self._tasks[name] = found
        task = self._tasks[name]
        return task if self._name_of(task, rater) == name else None

    def is_among(self, task: Task, rater: str, given: Collection[str]) -> bool:
        """Return whether one of the names that were given is that of a task."""
        return bool(given) and self._name_of(task, rater) in {name[:_DIGITS] for name in given}

    def seconds_since(self, given: str) -> float:
        """Return how long ago a task was given; below 0 if the clock was set back since."""
        return self._now() - int(given[_DIGITS : _DIGITS + _TIME_DIGITS], 16) / 1000

    def _name_of(self, task: Task, rater: str) -> str:
        what = (
            [clip.key for clip in task.clips_in_order]
            if task.check is None
            else ["check", task.check.name, task.left or ""]
        )
        return self._draw("task", rater, *what)[:_DIGITS]

    def _seal(self, name: str, made: str) -> str:
        return f"{name}{made}{self._draw('given', name, made)[:_SEAL_DIGITS]}"

    def _draw(self, *words: str) -> str:
        return hmac.new(self._key, "\n".join(words).encode(), hashlib.sha256).hexdigest()


def _all_tasks(run: Run, rater: str) -> Iterator[Task]:
    """Yield the tasks of every test that a rater can have been given."""
    clips, settings = run.clips("done"), [setting.id for setting in run.settings()]
    kinds: tuple[Kind, ...] = get_args(Kind)
    return itertools.chain.from_iterable(
        blind_test.find_tasks(clips, kind, settings, rater) for kind in kinds
    )
