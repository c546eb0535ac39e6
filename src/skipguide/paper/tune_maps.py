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
from skipguide.paper.records import RecordFolder
from skipguide.paper.rows import Row
from skipguide.stats.quantiles import beta_quantile, t_quantile

Floats = NDArray[np.float64]
FOLDERS = {"map": "paper", "map-without-cfg": "paper", "map-raised": "tune", "map-low": "tune"}
OBJECTIVES = {
    "right": "prompt read right",
    "likelihood": "log likelihood of a word",
    "probability": "probability of the prompt",  # by the judge: of all its words together
}
JACKKNIFE_FREEDOM = 19  # of the published intervals of Frechet distances: 20 groups of prompts


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


@dataclass(frozen=True)
class Reliability:
    """The reliability of a map: the share of what differs between its cells that is no noise.

    Args:
        between: standard deviation between the cells.
        error: root mean square of the standard errors of the cells' differences to no STG.
        value: 1 - error^2 / between^2. Cells are compared with each other on the same prompts, so
            where the errors are those of the comparison, `paired`, it is larger.
        low, high: the 95 % interval of `paired` (Feldt, Psychometrika 30, 1965), or of `value`
            where the errors are all that is known.
        paired: the same with the errors that cells do not share: Cronbach's alpha of cells over
            prompts; None where the clips are not known.
    """

    cells: int
    prompts: int
    between: float
    error: float
    value: float
    paired: float | None
    low: float
    high: float


def reliability(differences: Floats) -> Reliability:
    """Measure the reliability of a map from its differences to no STG, `(cells, P)`."""
    cells, prompts = differences.shape
    variance = float(differences.mean(1).var(ddof=1))
    own = float((differences.var(1, ddof=1) / prompts).mean())
    # What all cells share on a prompt, a hard one, say, does not change their order.
    residual = differences - differences.mean(0) - differences.mean(1, keepdims=True)
    residual += differences.mean()
    freedom = (cells - 1) * (prompts - 1)
    noise = float((residual**2).sum()) / freedom / prompts
    paired = 1 - noise / variance if variance else float("nan")
    low, high = _feldt(paired, cells - 1, freedom)
    return Reliability(
        cells, prompts, variance**0.5, own**0.5, 1 - own / variance if variance else float("nan"),
        paired, low, high,
    )  # fmt: skip


def reliability_of_estimates(values: Floats, errors: Floats, prompts: int) -> Reliability:
    """Measure it where only the cells' values and standard errors are known, `(cells,)` each."""
    variance, own = float(values.var(ddof=1)), float((errors**2).mean())
    value = 1 - own / variance
    freedom = len(values) - 1
    low, high = _feldt(value, freedom, freedom * JACKKNIFE_FREEDOM)
    return Reliability(len(values), prompts, variance**0.5, own**0.5, value, None, low, high)


def _feldt(value: float, freedom: int, error_freedom: int) -> tuple[float, float]:
    """Return the 95 % interval of a reliability: 1 / (1 - R) is a ratio of two variances."""
    most, least = (f_quantile(one, freedom, error_freedom) for one in (0.975, 0.025))
    return 1 - (1 - value) * most, 1 - (1 - value) * least


def f_quantile(probability: float, first: int, second: int) -> float:
    """Return the quantile of the F distribution with two degrees of freedom."""
    x = beta_quantile(probability, first / 2, second / 2)
    return second * x / (first * (1 - x))


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
    value, low, high = (
        np.array([float(line[name]) for line in lines])
        for name in ("difference", "difference_low", "difference_high")
    )
    errors = (high - low) / 2 / t_quantile(JACKKNIFE_FREEDOM)
    return reliability_of_estimates(value, errors, int(lines[0]["common_clips"]))
