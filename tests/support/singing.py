"""A run of painted videos that have a sound: a sine for each setting, and one setting has none."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from skipguide.runs.engine import JobFinished, JobStarted, OnStep
from skipguide.runs.jobs import Job
from support.beeps import sine
from support.painted import FPS, FRAMES, Encoded, Painter, encode, made_of, paint, painted

PITCH = {"cfg": 400, "stg layers=4 scale=0.5": 800}
SETTINGS = [
    {"name": "cfg", "guidance_scale": 4.5},
    {"name": "stg", "guidance_scale": 4.5, "grid": {"stg": {"layers": [[4]], "scale": [0.5]}}},
    {"name": "silent", "guidance_scale": 1.0},
]


@functools.cache
def _encoded(name: str) -> Encoded:
    pitch = PITCH.get(name)
    seconds = FRAMES / FPS
    return encode(paint(0.0), [sine(pitch, seconds, 24000)] if pitch else [])


class Singer(Painter):
    """An engine whose videos have a sine for each setting, and one setting has no sound."""

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Any]:
        for job in jobs:
            yield JobStarted(job)
            yield JobFinished(job, made_of(job, _encoded(job.setting), 2.0))


def singing(folder: Path) -> Path:
    return painted(folder, Singer(), settings=SETTINGS, prompts=["a red star"], seeds=[0])
