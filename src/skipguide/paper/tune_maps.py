"""Exhaustive layer maps clip by clip: what `skipguide tune` is held against, and what they can say.

The maps of the paper's report are in docs/paper, those with longer pushes in docs/tune. Each file
has one line for each clip of each row, so that nothing has to be generated to repeat a choice.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipguide.metrics.frechet import Moments
from skipguide.paper import experiments, models, records, tables
from skipguide.paper.analysis import REFERENCE, Results
from skipguide.paper.experiments import Experiment
from skipguide.paper.map_reliability import reliability_from_intervals
from skipguide.paper.records import RecordFolder
from skipguide.paper.rows import Row
from skipguide.stats.estimate import Estimate
from skipguide.stats.reliability import Reliability

Floats = NDArray[np.float64]
FOLDERS = {"map": "paper", "map-without-cfg": "paper", "map-raised": "tune", "map-low": "tune"}
OBJECTIVES = {
    "right": "prompt read right",
    "likelihood": "log likelihood of a word",
    "probability": "probability of the prompt",  # by the judge: of all its words together
}


@dataclass(frozen=True)
class CellMap:
    """An exhaustive layer map.

    Args:
        name: of its experiment.
        base: the row without STG.
        cells: the rows with one layer skipped, in the order of the experiment.
        prompts: numbers of the prompts that all rows have.
        values: by objective, `(1 + cells, P)`: the row without STG first; larger is better.
    """

    model: str
    name: str
    base: Row
    cells: tuple[Row, ...]
    prompts: tuple[int, ...]
    values: Mapping[str, Floats]

    @property
    def title(self) -> str:
        """The map in words: "lab-mochi beside CFG 4.5, push 0.3"; at 1 a push is as long as c."""
        guidance = self.base.guidance_scale
        beside = "without CFG" if guidance == 1 else f"beside CFG {guidance:g}"
        scale = self.cells[0].terms[0].scale
        assert isinstance(scale, float)
        return f"{self.model} {beside}, push {scale / 10:.1f}"

    def differences(self, objective: str) -> Floats:
        """Return each cell less the row without STG, `(cells, P)`."""
        found = self.values[objective]
        return found[1:] - found[:1]


# --- files ----------------------------------------------------------------------------------------


def load_maps(docs: Path) -> list[CellMap]:
    """Load every map of which there are clips.

    Raises:
        ValueError: if there are none.
    """
    found = [
        one
        for model in models.MODELS
        for experiment in _map_experiments(model)
        if (one := _load_map(docs, model, experiment))
    ]
    if not found:
        raise ValueError(
            f"layer maps need clips, but {docs} has no paper/MODEL-clips.csv.gz or"
            " tune/MODEL-clips.csv.gz. Pass --docs, the folder docs of skipguide's repository."
        )
    return found


def _map_experiments(model: str) -> Iterator[Experiment]:
    everything = (*experiments.experiments(model), *experiments.raised_maps(model))
    return (one for one in everything if one.name in FOLDERS)


def clips_path(docs: Path, model: str, name: str) -> Path:
    """Return where the clips of a map are."""
    return docs / FOLDERS[name] / f"{model}-clips.csv.gz"


def _load_map(docs: Path, model: str, experiment: Experiment) -> CellMap | None:
    path = clips_path(docs, model, experiment.name)
    if not path.is_file():
        return None
    known = _read_clips(path, models.MODELS[model].words)
    if any(row.name not in known for row in experiment.rows):
        return None
    rows = [known[row.name] for row in experiment.rows]
    prompts = tuple(sorted(set.intersection(*(set(row) for row in rows))))
    values = {
        name: np.array([[row[prompt][column] for prompt in prompts] for row in rows])
        for column, name in enumerate(OBJECTIVES)
    }
    return CellMap(model, experiment.name, experiment.rows[0], experiment.rows[1:], prompts, values)


def _read_clips(path: Path, words: tuple[str, ...]) -> dict[str, dict[int, tuple[float, ...]]]:
    """Return the values of OBJECTIVES by row and prompt."""
    found: dict[str, dict[int, tuple[float, ...]]] = {}
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            right = float(all(line[word] == "1" for word in words))
            row = found.setdefault(line["row"], {})
            mean = float(line["likelihood"])
            row[int(line["clip"])] = (right, mean, math.exp(len(words) * mean))
    return found


def write_maps(places: Mapping[str, RecordFolder], docs: Path) -> list[Path]:
    """Write the clips of the maps with longer pushes, and their rows, from the records of a run.

    Returns:
        What was written: rows.csv and a file for each model that has clips.
    """
    folder = docs / "tune"
    folder.mkdir(parents=True, exist_ok=True)
    results = [
        found
        for model, place in places.items()
        if (found := _load_results(model, place)) is not None
    ]
    written = []
    for found in results:
        written.append(clips_path(docs, found.model, "map-raised"))
        tables.write_clips(found, written[-1])
    known = {model: experiments.raised_maps(model) for model in places}
    tables.write_rows(results, known, folder / "rows.csv")
    return [*written, folder / "rows.csv"]


def _load_results(model: str, place: RecordFolder) -> Results | None:
    """Load the maps of which every row has clips."""
    clips = {}
    for experiment in experiments.raised_maps(model):
        rows = {
            row.name: records.load_clips(place, row, experiment.most) for row in experiment.rows
        }
        if all(found is not None for found in rows.values()):
            clips.update(rows)
    if not clips:
        return None
    reference = records.load_clips(place, REFERENCE, models.NUM_REAL)
    moments = None if reference is None else Moments.from_features(reference.features)
    return Results(model, place, {n: c for n, c in clips.items() if c is not None}, moments)


# --- what a map can say ---------------------------------------------------------------------------


def frechet_reliability(docs: Path, one: CellMap) -> Reliability | None:
    """Measure it of the Frechet distances of a map, from its rows.csv; None if they are not there.

    Their errors are those of the published intervals.
    """
    path = docs / FOLDERS[one.name] / "rows.csv"
    if not path.is_file():
        return None
    names = {cell.name for cell in one.cells}
    with path.open(encoding="utf-8", newline="") as file:
        lines = [
            line
            for line in csv.DictReader(file)
            if (line["model"], line["experiment"], line["measure"])
            == (one.model, one.name, "frechet")
            and line["row"] in names
            and line["difference_low"]
        ]
    if len(lines) != len(names):
        return None
    return reliability_from_intervals([_read_difference(line) for line in lines])


def _read_difference(line: Mapping[str, str]) -> Estimate:
    value, low, high = (
        float(line[name]) for name in ("difference", "difference_low", "difference_high")
    )
    return Estimate(value, low, high, int(line["common_clips"]))
