"""The events of a tuning, in the order in which they happen, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.method.protocols import PlainData
from skipguide.runs.jobs import ResolvedSetting
from skipguide.runs.sweep import SweepEvent
from skipguide.tuning.answer.result import Answer
from skipguide.tuning.plan.budget import Plan, Timing
from skipguide.tuning.race.candidates import Candidate, Model, cfg_alone
from skipguide.tuning.race.race import RaceState
from skipguide.tuning.scan.layer_map import LayerMap

if TYPE_CHECKING:
    from skipguide.tuning.facts import Facts


@dataclass(frozen=True)
class Planned:
    """The model is loaded and timed, and the budget is divided; nothing is sampled yet."""

    plan: Plan
    timing: Timing
    facts: Facts
    own: ResolvedSetting  # CFG alone, with everything filled in
    sentences: tuple[str, ...]

    @property
    def model(self) -> Model:
        """The facts on which the candidates depend."""
        complete, timing = self.own.complete, self.timing
        assert complete.steps is not None
        scale = complete.guidance_scale if timing.plain_passes > 1 else None
        return Model(complete.steps, scale, bool(self.facts.published), timing.preset_cost)

    @property
    def cfg_alone(self) -> PlainData:
        """The setting of CFG alone, in the words of a plan."""
        return dict(cfg_alone(self.model, self.model.guidance_scale).given)


@dataclass(frozen=True)
class StageBegan:
    """A stage begins, or the next part of one: "scan", "race", "scale", "window" or "answer"."""

    name: str


@dataclass(frozen=True)
class Mapped:
    """The scan is over."""

    map: LayerMap


@dataclass(frozen=True)
class RoundOver:
    """A round of a race is over, or the whole race."""

    stage: str
    state: RaceState
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Noted:
    """Something that is worth saying."""

    text: str


@dataclass(frozen=True)
class TuneResult:
    """The result of a tuning.

    Args:
        folder: of the run.
        map: of the layers.
        answer: None while votes are waited for.
        waiting: the sentence that says what a person has to do; None if the tuning is over.
        preset: the file `tune.toml`; None without an answer.
        report: the file `report.html`.
        command: the line to type; "" without one.
    """

    folder: Path
    map: LayerMap
    answer: Answer | None
    waiting: str | None = None
    preset: Path | None = None
    report: Path | None = None
    command: str = ""


TuneEvent = Planned | StageBegan | Mapped | RoundOver | Noted | SweepEvent
