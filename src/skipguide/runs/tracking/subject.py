"""Collect what a tracker is told: settings with their parameters, clips with their numbers."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skipguide.generate.describe import columns
from skipguide.method.protocols import PlainData
from skipguide.runs.entities import Clip, Setting
from skipguide.runs.ledger import to_json
from skipguide.runs.run import Run
from skipguide.runs.shareable import identity as run_identity
from skipguide.stats import intervals

_COSTS = ("passes_per_step", "seconds_per_step", "seconds")


@dataclass(frozen=True)
class TrackedClip:
    """A finished clip: its file, and its numbers by names such as `metrics/sharpness`."""

    key: str
    step: int  # the same for one prompt and seed in all settings
    prompt: str
    seed: int
    video: Path
    finished: float  # seconds since 1970
    numbers: Mapping[str, float]

    @property
    def title(self) -> str:
        """A name that no other clip of the setting has."""
        short = " ".join(self.prompt.split())
        short = short if len(short) <= 60 else f"{short[:59]}…"
        return f"{self.step:03d} {short.replace('/', ' ')}, seed {self.seed}"


@dataclass(frozen=True)
class TrackedSetting:
    """A setting with its clips, and with numbers of all of them."""

    name: str  # unique in the run
    identity: str  # stays the same when the setting gets another name
    parameters: PlainData  # flat
    clips: Sequence[TrackedClip]
    # Of all clips: means and metrics of sets, with the ends of their intervals.
    numbers: Mapping[str, float] = field(default_factory=dict)
    count: int = 0  # of clips in them


@dataclass(frozen=True)
class Subject:
    """A run, or the part of it that is new."""

    name: str
    identity: str  # of the run, wherever its folder lies
    settings: Sequence[TrackedSetting]


def describe(run: Run, keys: Collection[str] | None = None) -> Subject:
    """Describe a run to a tracker.

    Args:
        keys: only these clips, without the numbers of whole settings; None for all.
    """
    clips = run.clips("done") if keys is None else [run.clip(key) for key in keys]
    settings = run.settings()
    several = len({setting.model for setting in settings}) > 1
    tracked = _tracked_clips(run, clips)
    found = []
    for setting in settings:
        own = [clip for clip in clips if clip.setting == setting.id and clip.video is not None]
        if own:
            name = f"{setting.name}, {Path(setting.model).name}" if several else setting.name
            numbers = {} if keys is not None else dict(_numbers_of_all(run, setting, own))
            mine = [tracked[clip.key] for clip in own]
            described = _identity(setting), _parameters(setting), mine, numbers, len(own)
            found.append(TrackedSetting(name, *described))
    return Subject(run.folder.resolve().name, run_identity(run.ledger), found)


def _identity(setting: Setting) -> str:
    content = to_json([setting.model, setting.complete])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _parameters(setting: Setting) -> PlainData:
    plain = (bool, int, float, str)
    found = {"model": setting.model, "setting": setting.name, **columns(setting.complete)}
    return {
        name: value if isinstance(value, plain) else _flat(value) for name, value in found.items()
    }


def _flat(value: Any) -> str:
    """Write a list as "8,9", as users do, and what has parts as JSON."""
    if isinstance(value, (list, tuple)) and not any(isinstance(x, (dict, list)) for x in value):
        return ",".join(map(str, value))
    return to_json(value)


def _tracked_clips(run: Run, clips: Sequence[Clip]) -> dict[str, TrackedClip]:
    steps = _steps(run)
    prompts = {prompt.id: prompt.text or prompt.image or "" for prompt in run.prompts()}
    stored = run.ledger.rows("SELECT key, finished FROM jobs WHERE finished IS NOT NULL")
    finished = {row["key"]: _seconds(row["finished"]) for row in stored}
    return {
        clip.key: TrackedClip(
            clip.key,
            steps[clip.prompt, clip.seed],
            prompts[clip.prompt],
            clip.seed,
            clip.video,
            finished.get(clip.key, 0.0),
            dict(_numbers(clip)),
        )
        for clip in clips
        if clip.video is not None
    }


def _steps(run: Run) -> dict[tuple[int, int], int]:
    """Return a number for each prompt and seed, in the order in which they came; it stays."""
    rows = run.ledger.rows(
        "SELECT prompt, seed FROM jobs GROUP BY prompt, seed ORDER BY min(rowid)"
    )
    return {(row["prompt"], row["seed"]): step for step, row in enumerate(rows)}


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()


def _numbers(clip: Clip) -> Iterator[tuple[str, float]]:
    for name in _COSTS:
        value = getattr(clip, name)
        if value is not None:
            yield f"cost/{name}", float(value)
    for name, value in clip.metrics.items():
        if value is not None and math.isfinite(value):
            yield f"metrics/{name}", float(value)


def _numbers_of_all(
    run: Run, setting: Setting, clips: Sequence[Clip]
) -> Iterator[tuple[str, float]]:
    """Yield the means of a setting and its metrics of sets, with their intervals."""
    numbers = {clip.key: dict(_numbers(clip)) for clip in clips}
    for name in sorted({name for found in numbers.values() for name in found}):
        own = [clip for clip in clips if name in numbers[clip.key]]
        values = [numbers[clip.key][name] for clip in own]
        estimate = intervals.mean(values, [clip.prompt for clip in own])
        short = name.partition("/")[2]
        yield from _with_interval(f"mean/{short}", estimate.value, estimate.low, estimate.high)
    for metric in run.set_metrics():
        if metric.setting == setting.id and metric.value is not None:
            yield from _with_interval(f"set/{metric.name}", metric.value, metric.low, metric.high)
            yield f"set/{metric.name}/videos", float(metric.count)


def _with_interval(
    name: str, value: float, low: float | None, high: float | None
) -> Iterator[tuple[str, float]]:
    for ending, number in (("", value), ("/low", low), ("/high", high)):
        if number is not None and math.isfinite(number):
            yield f"{name}{ending}", float(number)


def table(setting: TrackedSetting) -> tuple[list[str], list[list[Any]]]:
    """Return the clips of a setting as a table, its head and its rows: which step is what."""
    names = sorted({name for clip in setting.clips for name in clip.numbers})
    rows = [
        [clip.step, clip.prompt, clip.seed, clip.key, *map(clip.numbers.get, names)]
        for clip in sorted(setting.clips, key=lambda clip: clip.step)
    ]
    return ["step", "prompt", "seed", "key", *names], rows


def table_csv(setting: TrackedSetting) -> str:
    """Return that table as CSV."""
    out = io.StringIO()
    head, rows = table(setting)
    csv.writer(out, lineterminator="\n").writerows([head, *rows])
    return out.getvalue()
