"""The clips of a run as a flat table, with their metrics, those of their setting, and votes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skipguide.generate.describe import columns
from skipguide.method.protocols import PlainData
from skipguide.runs import annotations
from skipguide.runs.annotations import Annotation
from skipguide.runs.entities import Clip, Setting, Vote
from skipguide.runs.run import Run

_SAME = (
    "seed", "status", "attempts", "frames", "height", "width", "passes_per_step",
    "seconds_per_step", "seconds", "frames_sha256",
)  # fmt: skip


def clip_table(run: Run, clips: Sequence[Clip]) -> list[PlainData]:
    """Return one flat row per clip; paths are relative to the run.

    Columns with a point in their names come after the others: `setting.NAME` are the settings;
    `metric.NAME` the numbers of the clip; `set_metric.NAME`, `.low`, `.high` and `.count` the
    numbers of all clips of its setting; `vote.QUESTION.wins`, `.losses` and `.ties` its votes in
    pairs; `rating.QUESTION` the mean of its ratings, `.count` how many there are.
    """
    settings = {setting.id: setting for setting in run.settings()}
    own = {id: _setting_columns(run, setting) for id, setting in settings.items()}
    prompts = {prompt.id: prompt for prompt in run.prompts()}
    votes, written = _vote_columns(run.counted_votes()), annotations.read(run)
    rows = []
    for clip in clips:
        setting, prompt = settings[clip.setting], prompts[clip.prompt]
        row: PlainData = {
            "key": clip.key, "model": setting.model, "setting": setting.name,
            "prompt": prompt.text, "image": prompt.image,
            **{name: getattr(clip, name) for name in _SAME},
            "fps": None if clip.fps is None else float(clip.fps),
            "video": _relative_path(run, clip.video),
            "latents": _relative_path(run, clip.latents),
            "error": None if clip.error is None else clip.error.splitlines()[0],
            **own[setting.id],
            **{f"setting.{name}": table_cell(value) for name, value in prompt.settings.items()},
            **{f"metric.{name}": value for name, value in clip.metrics.items()},
            **votes.get(clip.key, {}),
            **(_written_columns(written.of(clip.key)) if written.clips else {}),
        }  # fmt: skip
        rows.append(row)
    names = _ordered_names(rows)
    return [{name: row.get(name) for name in names} for row in rows]


def _ordered_names(rows: Sequence[PlainData]) -> list[str]:
    """Return the columns of all rows, those of one kind together, in the order of the kinds."""
    kinds = ("", "setting", "metric", "set_metric", "vote", "rating")
    names = dict.fromkeys(name for row in rows for name in row)
    return sorted(
        names, key=lambda name: kinds.index(name.partition(".")[0] if "." in name else "")
    )


def _setting_columns(run: Run, setting: Setting) -> PlainData:
    found = {
        f"setting.{name}": table_cell(value) for name, value in columns(setting.complete).items()
    }
    for metric in run.set_metrics():
        if metric.setting == setting.id:
            name = f"set_metric.{metric.name}"
            found |= {
                name: metric.value, f"{name}.low": metric.low, f"{name}.high": metric.high,
                f"{name}.count": metric.count,
            }  # fmt: skip
    return found


def _vote_columns(votes: Sequence[Vote]) -> Mapping[str, PlainData]:
    """Return the columns of the clips that were judged, by their keys."""
    found: dict[str, PlainData] = {}
    ratings: dict[tuple[str, str], list[float]] = {}
    for vote in votes:
        if vote.second is None:
            ratings.setdefault((vote.first, vote.question), []).append(float(vote.answer))
            continue
        for side, key in (("first", vote.first), ("second", vote.second)):
            counts = found.setdefault(key, {})
            for word in ("wins", "losses", "ties"):
                counts.setdefault(f"vote.{vote.question}.{word}", 0)
            word = "ties" if vote.answer == "tie" else "wins" if vote.answer == side else "losses"
            counts[f"vote.{vote.question}.{word}"] += 1
    for (key, question), given in ratings.items():
        mean = {f"rating.{question}": sum(given) / len(given)}
        found.setdefault(key, {}).update({**mean, f"rating.{question}.count": len(given)})
    return found


def _written_columns(annotation: Annotation) -> PlainData:
    return {"tags": ", ".join(annotation.tags), "note": annotation.note}


def _relative_path(run: Run, path: Path | None) -> str | None:
    return None if path is None else path.relative_to(run.folder).as_posix()


def table_cell(value: Any) -> Any:
    """Return what a table can hold: lists as "8,9", what has names (a rule, restarts) as JSON."""
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, dict) for part in parts):
        return json.dumps(value, ensure_ascii=False)
    return ",".join(map(str, value)) if isinstance(value, list) else value
