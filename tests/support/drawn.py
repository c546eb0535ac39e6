"""An engine whose jobs are quick: it draws a few frames without a model. All the rest of a sweep is
the real one."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from skipguide.files import clips
from skipguide.generate.resolve import resolve_guidance
from skipguide.generate.settings import GenerationSettings
from skipguide.runs import Plan, sweep
from skipguide.runs.engine import (
    Cost,
    Event,
    GeneratedVideo,
    JobFailed,
    JobFinished,
    JobStarted,
    OnStep,
)
from skipguide.runs.jobs import Job, ResolvedSetting
from skipguide.runs.plan_settings import Setting
from skipguide.runs.storage import ClipContents


def plan_of(prompts: int = 4, seeds: int = 5, settings: int = 2, **more: Any) -> Plan:
    """A plan of as many clips as these make."""
    entries = [{"name": f"cfg {i}", "guidance_scale": 1.0 + i} for i in range(settings)]
    return plan_with(
        *entries, prompts=[f"prompt {i}" for i in range(prompts)], seeds=list(range(seeds)), **more
    )


def plan_with(*settings: dict[str, Any], **more: Any) -> Plan:
    """A plan of these settings, of one clip each where `more` does not say otherwise."""
    small = {"height": 16, "width": 16, "num_frames": 3, "steps": 2, "fps": 8}
    return Plan.of({"prompts": ["a"], "settings": list(settings), **small, **more})


@dataclass
class Drawn:
    """Draws noise. A line per drawn clip goes to `log`, if there is one, as soon as it is drawn."""

    scratch: Path
    log: Path | None = None
    fails: int | None = None  # the seed whose jobs fail
    seconds: float = 0.0  # that a job takes at least
    reported: float = 0.002  # seconds that its record has
    workers: int = 1
    version: str = "1"

    def versions(self) -> dict[str, str]:
        return {"drawn": self.version}

    def survey(self, settings: Sequence[Setting], image: Any) -> list[ResolvedSetting]:
        return [ResolvedSetting(s, self._filled(s), {"sha256": "drawn"}) for s in settings]

    def _filled(self, setting: Setting) -> GenerationSettings:
        guidance = resolve_guidance(setting.generation.guidance, None)
        filled: dict[str, Any] = {"dtype": "float32", "device": "cpu", "guidance": guidance}
        if (setting.generation.num_frames or 1) > 1 and setting.generation.fps is None:
            filled["fps"] = Fraction(12)  # else it would be a picture
        return setting.generation.model_copy(update=filled)

    def cost(self, complete: GenerationSettings, image: Any) -> Cost:
        return Cost(2.0, 0.001)

    def inspect(self, generation: GenerationSettings, function: Callable[[Any], Any]) -> Any:
        raise NotImplementedError("there is no pipeline")

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Event]:
        self.scratch.mkdir(exist_ok=True)
        for job in jobs:
            yield JobStarted(job)
            time.sleep(self.seconds)
            if job.generation.seed == self.fails:
                yield JobFailed(job, f"ValueError: seed {self.fails}\nand where")
            else:
                yield JobFinished(job, self._made(job))

    def _made(self, job: Job) -> GeneratedVideo:
        settings, path = job.generation, self.scratch / f"{job.key}{job.generation.suffix}"
        shape = (settings.num_frames or 1, settings.height or 2, settings.width or 2, 3)
        frames = self._drawn(job, shape)
        record = {
            "settings": settings.model_dump(mode="json"), "frames": list(shape),
            "versions": self.versions(),
            "frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
            "machine": {"system": "drawn"},
            "measured": {
                "passes_per_step": 2.0, "seconds_per_step": 0.001, "seconds": self.reported
            },
            "run": {"key": job.key, "setting": job.setting},
        }  # fmt: skip
        clips.write(path, frames, settings.fps, record)
        product = ClipContents(
            path.read_bytes(),
            clips.sidecar_path(path).read_bytes(),
            b"latents" if job.latents else None,
            self._watched(job),
            path.suffix,
        )
        self._note(job.key)
        return GeneratedVideo(
            product, record, {"versions": self.versions(), "machine": record["machine"]}
        )

    def _drawn(self, job: Job, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(job.generation.seed).integers(0, 256, shape, np.uint8)

    def _watched(self, job: Job) -> dict[str, bytes]:
        return {}

    def _note(self, key: str) -> None:
        if self.log is not None:
            handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(handle, f"{key}\n".encode())
            os.close(handle)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return map(function, items)

    def close(self) -> None:
        pass


def swept(folder: Path, plan: Plan | None = None, **options: Any) -> list[sweep.SweepEvent]:
    """All that happens in a sweep of drawn clips.

    Nothing is forced onto the disk: that is for power cuts, which no test can make, and takes most
        of the time.
    """
    ours = {
        name: options.pop(name)
        for name in ("log", "fails", "seconds", "version")
        if name in options
    }
    with mock.patch("os.fsync"):
        return list(
            sweep.sweep(plan or plan_of(), folder, Drawn(folder / "work", **ours), **options)
        )
