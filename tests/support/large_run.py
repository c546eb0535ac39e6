"""A run of many real videos that is made in seconds: scenes of the lab's world, rendered without a
model, with metrics and votes. Only what makes them is not a model; sweep and ledger are real."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skipguide.files import video
from skipguide.lab import world
from skipguide.runs import Plan, Run, SetMetric
from skipguide.runs.engine import GeneratedVideo, JobFinished, JobStarted, OnStep
from skipguide.runs.jobs import Job
from skipguide.runs.storage import ClipContents
from skipguide.runs.sweep import sweep
from skipguide.studio import blind_test
from support.painted import FPS, Painter

FRAMES, SIZE, SCENES = 25, 256, 24
SETTINGS = [
    {"name": "cfg", "guidance_scale": 4.5},
    {
        "name": "stg",
        "guidance_scale": 4.5,
        "grid": {"stg": {"layers": [[4], [8]], "scale": [0.5, 1.0]}},
    },
]
METRICS = (
    "imaging_quality", "motion_smoothness", "subject_consistency", "dynamic_degree",
    "temporal_flickering", "aesthetic_quality",
)  # fmt: skip


class Renderer(Painter):
    """An engine that draws a scene of the lab's world for each job, one of a few."""

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Any]:
        for number, job in enumerate(jobs):
            yield JobStarted(job)
            yield JobFinished(job, _made(job, number % SCENES))


def _made(job: Job, scene: int) -> GeneratedVideo:
    content, digest = _rendered(scene)
    scaled = any(getattr(term, "scale", 0) for term in job.generation.request.terms)
    passes = 2.5 if scaled else 2.0
    record: dict[str, Any] = {
        "settings": job.generation.model_dump(mode="json"),
        "frames": [FRAMES, SIZE, SIZE, 3],
        "frames_sha256": digest,
        "measured": {"passes_per_step": passes, "seconds_per_step": 0.1 * passes, "seconds": 1.0},
        "run": {"key": job.key},
    }
    return GeneratedVideo(
        ClipContents(content, json.dumps(record).encode()), record, {"versions": {}}
    )


@functools.cache
def _rendered(scene: int) -> tuple[bytes, str]:
    drawn = world.render(world.sample_scenes(SCENES, 0)[slice(scene, scene + 1)], FRAMES, SIZE)[0]
    pixels = ((drawn + 1) * 127.5).round().byte().permute(1, 2, 3, 0)
    frames = np.ascontiguousarray(pixels.numpy())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.mp4"
        video.write(path, frames, FPS, {})
        return path.read_bytes(), hashlib.sha256(frames.tobytes()).hexdigest()


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
        _vote(run, votes)
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


def _vote(run: Run, votes: int) -> None:
    """Let three raters judge some pairs, in one transaction: a rater is slow, a test is not."""
    drawn = random.Random(1)
    clips = run.clips("done")
    ids = [setting.id for setting in run.settings()]
    for rater in ("simulated A", "simulated B", "simulated C"):
        for task in blind_test.tasks(clips, "pair", ids, rater)[: votes // 3]:
            left, right = (clip.setting for clip in task.clips_in_order)
            felt = drawn.gauss(0.3 * (left - right), 1)
            side = "tie" if abs(felt) < 0.2 else "left" if felt > 0 else "right"
            for given in blind_test.build_votes(task, rater, {"preference": side}, 6.0):
                run.vote(given)
