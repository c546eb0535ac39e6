"""The result of an evaluation: rows, what was left out and why, and the weights used.

Results are saved as files, and merged from parts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skipguide
from skipguide.files import video
from skipguide.files.text import dump_json
from skipguide.metrics import features as read
from skipguide.metrics import vbench_files
from skipguide.metrics.aggregate import SET_METRICS, ResultRow, score
from skipguide.metrics.features import Readings
from skipguide.metrics.inputs import SkippedVideo
from skipguide.metrics.selection import MetricRequest, UnavailableMetric
from skipguide.metrics.weights import WeightsRecord

FORMAT = 1


@dataclass(frozen=True)
class Result:
    """The result that `evaluate` returns."""

    asked: tuple[MetricRequest, ...]
    rows: tuple[ResultRow, ...]
    not_run: tuple[UnavailableMetric, ...]
    skipped: tuple[SkippedVideo, ...]
    weights: dict[str, WeightsRecord]
    readings: Readings

    @classmethod
    def of(
        cls,
        readings: Readings,
        asked: Sequence[MetricRequest],
        weights: dict[str, WeightsRecord],
        not_run: Sequence[UnavailableMetric] = (),
    ) -> Result:
        """Compute the rows from the readings."""
        rows, without, odd = score(readings, asked)
        skipped = tuple(sorted([*readings.skipped, *odd]))
        return cls(tuple(asked), tuple(rows), (*not_run, *without), skipped, weights, readings)

    def __getitem__(self, metric: str) -> ResultRow:
        """Return the row of a metric such as "fvd:judge" or "temporal_flickering"."""
        return {row.metric: row for row in self.rows}[metric]

    @property
    def quality_score(self) -> float | None:
        """VBench's quality score, or None unless all seven of its metrics have a number."""
        return vbench_files.quality_score({row.metric: row.value for row in self.rows})

    def payload(self) -> dict[str, Any]:
        """Return everything but the features, ready for JSON."""
        return {
            "format": FORMAT,
            "skipguide": skipguide.__version__,
            "asked": [dataclasses.asdict(one) for one in self.asked],
            "metrics": [row.payload() for row in self.rows],
            "quality_score": self.quality_score,
            "not_run": [dataclasses.asdict(one) for one in self.not_run],
            "skipped": [dataclasses.asdict(one) for one in self.skipped],
            "weights": self.weights,
            **read.describe(self.readings),
        }

    def save(self, path: Path) -> None:
        """Write the JSON, and the features beside it as `vectors_path(path)`: both, or neither."""
        with video.atomic_replace(vectors_path(path), path) as (vectors, text):
            read.save_vectors(self.readings, vectors)
            text.write_text(dump_json(self.payload(), allow_nan=False, indent=1) + "\n", "utf-8")


def vectors_path(path: Path) -> Path:
    """Return the path of a result's features: results.safetensors beside results.json."""
    return path.with_suffix(".safetensors")


def load(path: Path) -> Result:
    """Read a result that was saved.

    Raises:
        ValueError: if the file is not a result, or its features are not beside it.
    """
    for file in (path, vectors_path(path)):
        if not file.is_file():
            raise ValueError(
                f"a result must be a .json file with its .safetensors file beside it, but {file}"
                " does not exist. Check the name."
            )
    content = _read_content(path)
    asked = [MetricRequest(**one) for one in content["asked"]]
    skipped = [SkippedVideo(**one) for one in content["skipped"]]
    readings = read.restore(
        content, (one for one in skipped if one.metric != SET_METRICS), vectors_path(path)
    )
    not_run = [  # results of older versions have no needs
        UnavailableMetric(one["metric"], one["reason"], tuple(one.get("needs", ())))
        for one in content["not_run"]
    ]
    return Result.of(readings, asked, content["weights"], _not_attempted(not_run, asked))


def _read_content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"a result must be a file from skipguide evaluate --out, but {path} is not. Check the"
            " name."
        )
    return content


def merge(results: Iterable[Result]) -> Result:
    """Merge results of parts of the same sets, as if one worker had read all videos.

    Raises:
        ValueError: if they have other metrics or weights, or disagree about a video.
    """
    parts = list(results)
    for part in parts[1:]:
        if part.asked != parts[0].asked or part.weights != parts[0].weights:
            raise ValueError(
                f"parts must have the same metrics and weights, but got {_labels(parts[0])} and"
                f" {_labels(part)}. Evaluate them with the same options."
            )
    first = parts[0]
    joined = read.join([part.readings for part in parts])
    return Result.of(joined, first.asked, first.weights, _not_attempted(first.not_run, first.asked))


def _not_attempted(
    not_run: Iterable[UnavailableMetric], asked: Sequence[MetricRequest]
) -> list[UnavailableMetric]:
    """Keep the metrics that were not tried for want of weights; the others are tried again."""
    return [one for one in not_run if one.metric not in {tried.label for tried in asked}]


def _labels(result: Result) -> str:
    weights = [f"{name} {entry['sha256'][:8]}" for name, entry in result.weights.items()]
    return ", ".join([*(one.label for one in result.asked), *weights])
