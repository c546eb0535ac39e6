"""A run of many real videos that is made in seconds: scenes of the lab's world, rendered without a
model, with metrics and votes. Only what makes them is not a model; sweep and ledger are real."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skipguide.lab import world
from skipguide.runs import Plan, Run, SetMetric
from skipguide.runs.engine import JobFinished, JobStarted, OnStep
from skipguide.runs.jobs import Job
from skipguide.runs.sweep import sweep
from support.judges import let_judge
from support.painted import SETTINGS, Encoded, Painter, encode, made_of

FRAMES, SIZE, SCENES = 25, 256, 24
METRICS = (
    "imaging_quality", "motion_smoothness", "subject_consistency", "dynamic_degree",
    "temporal_flickering", "aesthetic_quality",
)  # fmt: skip


class Renderer(Painter):
    """An engine that draws a scene of the lab's world for each job, one of a few."""

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Any]:
        for number, job in enumerate(jobs):
            yield JobStarted(job)
            scaled = any(getattr(term, "scale", 0) for term in job.generation.request.terms)
            made = made_of(job, _rendered(number % SCENES), 2.5 if scaled else 2.0)
            yield JobFinished(job, made)


@functools.cache
def _rendered(scene: int) -> Encoded:
    drawn = world.render(world.sample_scenes(SCENES, 0)[slice(scene, scene + 1)], FRAMES, SIZE)[0]
    pixels = ((drawn + 1) * 127.5).round().byte().permute(1, 2, 3, 0)
    return encode(np.ascontiguousarray(pixels.numpy()))


def make_large_run(folder: Path, clips: int = 1000, votes: int = 600) -> Path:
    """Write a run of this many clips: five settings, four seeds, a twentieth as many prompts."""
    scenes = world.sample_scenes(clips // 20, 1)
    with torch.no_grad():
        prompts = [f"{text}, take {i}" for i, text in enumerate(world.captions(scenes, 0), 1)]
    plan = {"model": "lab-mochi", "prompts": prompts, "seeds": [0, 1, 2, 3], "settings": SETTINGS}
    for _ in sweep(Plan.of(plan), folder, Renderer()):
        pass
    with Run.open(folder, writable=True) as run:
        _measure(run)
        let_judge(run, lambda setting: 0.3 * setting, random.Random(1), votes // 3)
    return folder


def _measure(run: Run) -> None:
    drawn = random.Random(0)
    run.record_metrics(
        (clip.key, name, round(drawn.gauss(0.6 + 0.02 * clip.setting, 0.1), 4))
        for clip in run.clips("done")
        for name in METRICS
    )
    for setting in run.settings():
        value = 100.0 - 5 * setting.id
        run.record_set_metric(SetMetric(setting.id, "fvd", value, 200, value - 4, value + 4))
