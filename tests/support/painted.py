"""A run whose videos are painted instead of made: everything else about it is real. A frame is grey
by its number."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from skipguide.files import picture, video
from skipguide.files.sound import Sound
from skipguide.generate.resolve import resolve_guidance
from skipguide.method.terms import STG
from skipguide.runs import Plan
from skipguide.runs.engine import Cost, GeneratedVideo, JobFinished, JobStarted, OnStep
from skipguide.runs.jobs import Job, ResolvedSetting
from skipguide.runs.plan_settings import Setting
from skipguide.runs.storage import ClipContents
from skipguide.runs.sweep import sweep

FRAMES, SIZE, FPS = 24, 64, 12
HEIGHT, WIDTH = 1200, 1600  # of pictures
STEP, FIRST = 9, 20  # grey values; far enough apart for a lossy codec

_FILLED = {
    "negative_prompt": "", "guidance_scale": 4.5, "steps": 2, "height": SIZE, "width": SIZE,
    "num_frames": FRAMES, "fps": FPS, "dtype": "float32", "device": "cpu",
}  # fmt: skip


def grey(frame: int) -> int:
    """Return the grey of all pixels of a frame but a mark in the corner."""
    return FIRST + STEP * frame


def paint(mark: float) -> video.Frames:
    """Frames of one grey each, with a white mark in a corner that is as wide as `mark`, in parts of
    the width."""
    frames = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
    frames[:] = np.asarray([grey(i) for i in range(FRAMES)], np.uint8)[:, None, None, None]
    frames[:, :16, : round(mark * SIZE)] = 255
    return frames


class Painter:
    """An engine without a model. Where a scale is set, the mark says how large it is."""

    workers = 1
    filled: ClassVar[Mapping[str, Any]] = _FILLED

    def versions(self) -> dict[str, str]:
        return {"painter": "1"}

    def survey(self, settings: Sequence[Setting], image: Any) -> list[ResolvedSetting]:
        return [self._surveyed(setting) for setting in settings]

    def _surveyed(self, setting: Setting) -> ResolvedSetting:
        given = setting.generation.model_dump(exclude={"guidance"})
        missing = {name: value for name, value in self.filled.items() if given[name] is None}
        file = setting.generation.preset
        row, missing["preset"] = file and file.row, None
        missing["guidance"] = resolve_guidance(setting.generation.guidance, row)
        return ResolvedSetting(
            setting, setting.generation.model_copy(update=missing), {"sha256": "0" * 64}
        )

    def cost(self, complete: Any, image: Any) -> Cost:
        return Cost(2.0, 0.001)

    def inspect(self, generation: Any, function: Any) -> Any:
        raise NotImplementedError("there is no pipeline")

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Any]:
        for job in jobs:
            yield JobStarted(job)
            yield JobFinished(job, self.made(job))

    def made(self, job: Job) -> GeneratedVideo:
        scale = scale_of(job)
        return made_of(job, _encoded(0.25 * scale), 2.5 if scale else 2.0)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return map(function, items)

    def close(self) -> None:
        pass


def _stg_terms(job: Job) -> list[STG]:
    return [term for term in job.generation.request.terms if isinstance(term, STG)]


def scale_of(job: Job) -> float:
    return sum(term.scales(1)[0] for term in _stg_terms(job))


class Sketcher(Painter):
    """Makes pictures instead: red grows from left to right, green from top to bottom, and blue with
    the scale."""

    filled: ClassVar[Mapping[str, Any]] = {
        **_FILLED,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": None,
        "fps": None,
    }

    def made(self, job: Job) -> GeneratedVideo:
        settings, scale = job.generation, scale_of(job)
        assert settings.height
        assert settings.width
        frames = sketch(settings.height, settings.width, round(100 * scale))
        digest = hashlib.sha256(frames.tobytes()).hexdigest()
        content = picture.encode(frames, settings.suffix, '{"a": "record"}')
        encoded = Encoded(content, frames.shape, digest)
        return made_of(job, encoded, 2.5 if scale else 2.0, settings.suffix)


def sketch(height: int, width: int, blue: int) -> video.Frames:
    """A picture `(1, H, W, 3)` whose colours say where a pixel is."""
    found = np.empty((1, height, width, 3), np.uint8)
    found[..., 0] = np.linspace(0, 255, width).round()
    found[..., 1] = np.linspace(0, 255, height).round()[:, None]
    found[..., 2] = blue
    return found


@functools.cache
def _encoded(mark: float) -> Encoded:
    return encode(paint(mark))


@dataclass(frozen=True)
class Encoded:
    """A video, and what its record says of its frames."""

    content: bytes
    shape: tuple[int, ...]
    sha256: str


def encode(frames: video.Frames, sounds: Sequence[Sound] = ()) -> Encoded:
    """Return frames as an mp4 without a record."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.mp4"
        video.write(path, frames, FPS, {}, sounds)
        digest = hashlib.sha256(frames.tobytes()).hexdigest()
        return Encoded(path.read_bytes(), frames.shape, digest)


def made_of(job: Job, encoded: Encoded, passes: float, suffix: str = ".mp4") -> GeneratedVideo:
    """Return the video of a job as an engine does that took so many passes per step for it."""
    record: dict[str, Any] = {
        "settings": job.generation.model_dump(mode="json"),
        "frames": list(encoded.shape),
        "frames_sha256": encoded.sha256,
        "measured": {"passes_per_step": passes, "seconds_per_step": 0.1 * passes, "seconds": 1.0},
        "run": {"key": job.key},
    }
    contents = ClipContents(encoded.content, json.dumps(record).encode(), suffix=suffix)
    return GeneratedVideo(contents, record, {"versions": {}})


SETTINGS: list[Mapping[str, Any]] = [
    {"name": "cfg", "guidance_scale": 4.5},
    {
        "name": "stg",
        "guidance_scale": 4.5,
        "grid": {"stg": {"layers": [[4], [8]], "scale": [0.5, 1.0]}},
    },
]
PROMPTS = ["a red star", "a blue circle"]


def painted(folder: Path, engine: Painter | None = None, **changes: Any) -> Path:
    """A run directory with painted videos: two prompts, two seeds, five settings, or as changed."""
    content = {
        "model": "lab-mochi",
        "prompts": PROMPTS,
        "seeds": [0, 1],
        "settings": SETTINGS,
        **changes,
    }
    for _ in sweep(Plan.of(content), folder, engine or Painter()):
        pass
    return folder


def pictures(folder: Path) -> dict[str, Any]:
    """A plan's words for pictures alone: two that differ and have one name, one with a text, and
    one text alone."""
    for name, colour in (("one", "red"), ("other", "blue")):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (48, 40), colour).save(folder / name / "first.png")
    one, other = (str(folder / name / "first.png") for name in ("one", "other"))
    prompts = [
        {"image": one},
        {"image": other},
        {"prompt": "a red star", "image": one},
        "a blue circle",
    ]
    return {
        "prompts": prompts,
        "settings": [SETTINGS[0], {"name": "stg", "stg": {"layers": [8], "scale": 1.0}}],
    }
