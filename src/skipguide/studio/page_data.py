"""Describe a run to the page: plain JSON, the same for the server and for a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from skipguide.files.sound import has_sound
from skipguide.files.text import displayable
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.metrics.catalog import METRICS
from skipguide.runs import Clip, Run, Setting, annotations
from skipguide.runs.annotations import Annotation
from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate
from skipguide.studio import blind_test, setting_grid, vote_table
from skipguide.studio.page_words import LABELS
from skipguide.tuning.report import shown

FORMAT = 1
_COST_DESCRIPTIONS = {
    "passes_per_step": "Passes of the denoiser per step; plain CFG is 2, no CFG 1",
    "seconds_per_step": "Seconds per step",
    "seconds": "Seconds per clip",
}


def describe(run: Run) -> PlainData:
    """Describe all of a run but its videos."""
    settings, clips, votes = run.settings(), run.clips(), blind_test.results(run)
    written = annotations.read(run)
    steps = setting_grid.sliders(settings)
    return {
        "format": FORMAT,
        "name": displayable(run.folder.resolve().name),
        "settings": [_describe_setting(setting, steps[setting.id]) for setting in settings],
        "varied": setting_grid.varying_parameters(settings),
        "prompts": [asdict(prompt) for prompt in run.prompts()],
        "seeds": run.seeds(),
        "clips": [_describe_clip(clip, written.of(clip.key)) for clip in clips],
        "written": asdict(written.run),
        "counts": run.counts(),
        "sweeping": run.is_sweeping,
        "maps": setting_grid.layer_maps(settings),
        "measures": list(_all_measures(run, clips, votes)),
        "votes": votes,
        "tune": shown.read(run),
        "raters": vote_table.rater_rows(run),
        "votes_version": run.votes_version(),
        "labels": LABELS,
        "questions": blind_test.questions_of_run(clips),
    }


def _describe_setting(setting: Setting, steps: ReadOnlyData) -> PlainData:
    return {
        "id": setting.id,
        "name": setting.name,
        "model": setting.model,
        "parameters": setting_grid.effective_parameters(setting),
        "guidance": setting.complete["guidance"],
        "passes_per_step": setting.passes_per_step,
        "sliders": steps,
    }


def _describe_clip(clip: Clip, written: Annotation) -> PlainData:
    same = (
        "key", "setting", "prompt", "seed", "status", "error", "frames", "height", "width",
        "passes_per_step", "seconds_per_step", "seconds",
    )  # fmt: skip
    fps = None if clip.fps is None else float(clip.fps)
    error = clip.error and clip.error.splitlines()[0]
    return {
        **{name: getattr(clip, name) for name in same},
        "fps": fps,
        "sound": clip.video is not None and has_sound(clip.video),
        "suffix": clip.video.suffix if clip.video else None,
        "error": error,
        "metrics": _finite_metrics(clip),
        **asdict(written),
    }


def _finite_metrics(clip: Clip) -> dict[str, float]:
    return {
        name: value
        for name, value in clip.metrics.items()
        if value is not None and math.isfinite(value)
    }


# --- measures: one number per setting, with its interval ------------------------------------------


def _all_measures(run: Run, clips: Sequence[Clip], votes: ReadOnlyData) -> Iterator[PlainData]:
    """Yield each measure once; an evaluation of a set goes before our mean over its videos."""
    of_sets = list(_set_measures(run))
    known = {measure["name"] for measure in of_sets}
    yield from of_sets
    yield from (measure for measure in _video_measures(clips) if measure["name"] not in known)
    yield from _vote_measures(votes)
    yield from _cost_measures(clips)


def _cost_measures(clips: Sequence[Clip]) -> Iterator[PlainData]:
    for name, what in _COST_DESCRIPTIONS.items():
        values = _setting_means(
            [(clip, getattr(clip, name)) for clip in clips if getattr(clip, name) is not None]
        )
        if values:
            yield _build_measure("cost", name, what, "lower", values)


def _video_measures(clips: Sequence[Clip]) -> Iterator[PlainData]:
    found: dict[str, list[tuple[Clip, float]]] = {}
    for clip in clips:
        for name, value in _finite_metrics(clip).items():
            found.setdefault(name, []).append((clip, value))
    for name in sorted(found):
        what = f"{_describe_metric(name)}, mean over the clips"
        values = _setting_means(found[name])
        yield _build_measure("video", name, what, _better_direction(name), values)


def _set_measures(run: Run) -> Iterator[PlainData]:
    found: dict[str, dict[int, Estimate]] = {}
    for metric in run.set_metrics():
        if metric.value is not None and math.isfinite(metric.value):
            value = Estimate(metric.value, metric.low, metric.high, metric.count)
            found.setdefault(metric.name, {})[metric.setting] = value
    for name, values in sorted(found.items(), key=lambda pair: _place_in_catalog(pair[0])):
        yield _build_measure(
            "set", name, f"{_describe_metric(name)}, of all clips", _better_direction(name), values
        )


def _place_in_catalog(name: str) -> int:
    """Return where a metric stands: FVD first, what is not ours last."""
    names, own = list(METRICS), name.partition(":")[0]
    return names.index(own) if own in names else len(names)


def _vote_measures(votes: ReadOnlyData) -> Iterator[PlainData]:
    rows = [("win rate", "Share of its comparisons that it won", votes["pair"]["win_rates"])]
    rows += [
        (name, "Mean rating, 1 to 5", values) for name, values in votes["rating"]["means"].items()
    ]
    for name, what, values in rows:
        if values:
            estimates = {setting: Estimate(**value) for setting, value in values.items()}
            yield _build_measure("votes", name, what, "higher", estimates)


def _setting_means(values: Sequence[tuple[Clip, float]]) -> dict[int, Estimate]:
    by_setting: dict[int, list[tuple[Clip, float]]] = {}
    for clip, value in values:
        by_setting.setdefault(clip.setting, []).append((clip, value))
    return {
        setting: intervals.mean([value for _, value in own], [clip.prompt for clip, _ in own])
        for setting, own in by_setting.items()
    }


def _build_measure(
    kind: str, name: str, what: str, better: str | None, values: Mapping[int, Estimate]
) -> PlainData:
    rows = {setting: asdict(value) for setting, value in values.items()}
    return {"kind": kind, "name": name, "what": what, "better": better, "values": rows}


def _describe_metric(name: str) -> str:
    metric = METRICS.get(name.partition(":")[0])
    return metric.what if metric else name.replace("_", " ")


def _better_direction(name: str) -> str | None:
    metric = METRICS.get(name.partition(":")[0])
    return metric.better if metric else None
