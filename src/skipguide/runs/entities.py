"""The rows of a ledger as readers get them."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from skipguide.method.protocols import PlainData

Status = Literal["pending", "running", "done", "failed"]
STATUSES: tuple[Status, ...] = ("pending", "running", "done", "failed")


@dataclass(frozen=True)
class Model:
    """A model of a run."""

    id: int
    name: str  # as the plan has it
    weights: dict[str, str]  # {"sha256": ...} of a local one, {"revision": ...} of one from the hub


@dataclass(frozen=True)
class Prompt:
    """The text and the image of a video."""

    id: int
    text: str | None
    image: str | None  # the name of the file
    tags: PlainData  # what the prompt file says beside it
    image_sha256: str | None = None
    # Of its videos alone, over those of the setting: `GenerationSettings` and flags by their names.
    settings: PlainData = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """One way to make a video, for one model. Its name is unique among those of its model."""

    id: int
    name: str
    model: str
    given: PlainData  # in the words of the plan
    # All settings of `GenerationSettings` but prompt, image, seed and device. `guidance` is what
    # `GuidanceRequest.from_dict` reads; `generate.describe.columns` has flat columns of them.
    complete: PlainData
    passes_per_step: float | None  # computed before the first video was made


@dataclass(frozen=True)
class Clip:
    """A video of a run, or a picture, made or still to make."""

    key: str
    setting: int
    prompt: int
    seed: int
    status: Status
    attempts: int
    error: str | None  # of one that failed
    video: Path | None = None  # of one that is done; of a picture a .png or .webp
    latents: Path | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: Fraction | None = None
    frames_sha256: str | None = None  # before encoding
    passes_per_step: float | None = None
    seconds_per_step: float | None = None
    seconds: float | None = None
    environment: PlainData = field(
        default_factory=dict, repr=False
    )  # versions, machine, git revision
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def is_picture(self) -> bool:
        """True of a picture that is done: one frame, and no frames per second."""
        return self.frames == 1 and self.fps is None


@dataclass(frozen=True)
class SetMetric:
    """A number for all videos of one setting, as FVD is one."""

    setting: int
    name: str
    value: float
    count: int  # of videos in it
    low: float | None = None  # interval
    high: float | None = None


@dataclass(frozen=True)
class Vote:
    """One judgement of one rater.

    Args:
        kind: "rating", of `first` alone, with an answer from 1 to 5; or "pair", with "first",
            "second" or "tie".
        first, second: keys of clips; of a pair the smaller one is `first`.
        left: of a pair, which was shown on the left: "first" or "second".
        seconds: that the rater took.
        study: the number of the study that it was given in, if in one.
        consent: the SHA-256 of the text that the rater had accepted.
        changes: how often the answer was replaced by another one.
    """

    rater: str
    kind: Literal["rating", "pair"]
    question: str
    first: str
    second: str | None
    answer: str
    left: Literal["first", "second"] | None = None
    seconds: float | None = None
    made: str = ""
    study: int | None = None
    consent: str | None = None
    changes: int = 0
