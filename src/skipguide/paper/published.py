"""The published numbers of the report, of which its pages can be written again without records.

rows.csv has every measure of every row, MODEL-clips.csv.gz every clip, figure-2.csv every
direction; page.json has the rest: how clips were sampled, costs, and differences between rows of
which neither is the first. Features of clips are not published, so nothing can be computed here
that needs them: it is looked up, or left out.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from skipguide.lab import training_loop
from skipguide.paper import directions, experiments, models, records
from skipguide.paper.analysis import MEASURES, REAL, Results
from skipguide.paper.cost import CostLine
from skipguide.paper.directions import Directions
from skipguide.paper.experiments import Experiment
from skipguide.paper.measurements import VALUES
from skipguide.paper.records import Clips
from skipguide.paper.rows import Row
from skipguide.stats.estimate import Estimate

PER_CLIP = ("right", "likelihood", *VALUES)  # columns of the values of published clips
COMPARED_MEASURES = ("right", "frechet", "motion_amount", "vendi")
NEIGHBOURS = ("table-3", "table-4")  # where each row is also compared with the one before it

LineKey = tuple[str, str, str]  # experiment, row, measure
PairKey = tuple[str, str, str, str]  # experiment, row, base, measure


@dataclass(frozen=True)
class Made:
    """How much there is of a model: clips, rows that have some, all rows, and real clips."""

    clips: int
    rows: int
    of: int
    real: int


@dataclass(frozen=True)
class Sampling:
    """How the clips were sampled; `weights` are models whose weights are not the packaged ones."""

    dtype: str
    steps: int | None
    weights: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Everything that the report says, by model.

    `complete` has the experiments that conclusions were drawn from when the numbers were published;
    it is empty for records, of which that is computed. `note` says what else is to be known of
    published numbers.
    """

    sampling: Sampling
    results: dict[str, Results]
    made: dict[str, Made]
    costs: dict[str, list[CostLine]]
    directions: dict[str, Directions]
    complete: dict[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""


class PublishedResults(Results):
    """Estimates that were published, and the clips' own values.

    Args:
        clips: with PER_CLIP for values, and neither features nor logits.
        lines: of rows.csv.
        pairs: differences between rows of which neither is the first of its experiment.
        names: the experiments that estimates are looked up in.
    """

    def __init__(
        self,
        model: str,
        clips: dict[str, Clips],
        lines: Mapping[LineKey, Mapping[str, str]],
        pairs: Mapping[PairKey, Estimate],
        real: int,
        names: tuple[str, ...] = (),
    ):
        super().__init__(model, records.RecordFolder(Path()), clips, None)
        self._lines, self._pairs, self._real, self._names = lines, pairs, real, names

    def _with_clips(self, clips: dict[str, Clips], names: tuple[str, ...]) -> Results:
        known = {
            one.name: tuple(row.name for row in one.rows)
            for one in experiments.experiments(self.model)
        }
        same = tuple(name for name, rows in known.items() if rows == names)
        parts = tuple(name for name, rows in known.items() if set(rows) <= set(names))
        return PublishedResults(
            self.model, clips, self._lines, self._pairs, self._real, same or parts
        )

    @property
    def num_real(self) -> int:
        """The number of real clips that Frechet distances compare with."""
        return self._real

    @property
    def has_exact_excess(self) -> bool:
        """Tell whether the intervals of excesses were computed prompt by prompt."""
        return any(measure == "excess" for _, _, measure in self._lines)

    def estimate(self, row: Row, name: str) -> Estimate | None:
        """Look a measure of a row up."""
        if (line := self._find(row, name)) is not None:
            return _read_estimate(line, ("value", "low", "high"), "clips")
        over = MEASURES[name].over_real
        return self._widest_excess(row, over) if over else None

    def _widest_excess(self, row: Row, name: str) -> Estimate | None:
        """Return the excess with the widest interval that those of row and floor allow.

        The deviation of a difference is at most the sum of both deviations, whatever the two have
        in common.
        """
        if row == REAL:
            return self._over_real(row, name)
        found, floor = self.estimate(row, name), self.estimate(REAL, name)
        if found is None or floor is None or found.count != floor.count:
            return None
        value = found.value - floor.value
        if found.high is None or floor.high is None:
            return Estimate(value, None, None, found.count)
        half = found.high - found.value + floor.high - floor.value
        return Estimate(value, value - half, value + half, found.count)

    def difference(self, row: Row, base: Row, name: str) -> Estimate | None:
        """Look the difference of two rows up."""
        name = MEASURES[name].over_real or name
        for line in self._matching(row, name):
            if line["base"] == base.name:
                parts = ("difference", "difference_low", "difference_high")
                return _read_estimate(line, parts, "common_clips")
        keys = ((one, row.name, base.name, name) for one in self._names)
        return next((self._pairs[key] for key in keys if key in self._pairs), None)

    def _find(self, row: Row, name: str) -> Mapping[str, str] | None:
        return next(self._matching(row, name), None)

    def _matching(self, row: Row, name: str) -> Iterator[Mapping[str, str]]:
        """Yield the lines of a row and a measure that are of as many clips as are compared here."""
        clips = self.clips_of(row)
        for experiment in self._names:
            line = self._lines.get((experiment, row.name, name))
            if line is not None and clips is not None and line["clips"] == str(len(clips)):
                yield line

    def values(self, row: Row, name: str) -> torch.Tensor | None:
        """Return the clips' own values of a measure that is a mean of such, `(N,)`."""
        clips = self.clips_of(row)
        if clips is None or name not in PER_CLIP:
            return None
        return clips.values[:, PER_CLIP.index(name)]

    def seconds(self, row: Row) -> float | None:
        """Look the seconds per clip up."""
        return self._cost(row, "seconds")

    def passes(self, row: Row) -> float | None:
        """Look the forward passes per step and clip up."""
        return self._cost(row, "passes")

    def _cost(self, row: Row, column: str) -> float | None:
        line = self._find(row, "right")
        return float(line[column]) if line is not None and line[column] else None


# --- reading --------------------------------------------------------------------------------------


def read_source(folder: Path, chosen: Sequence[str]) -> Source:
    """Read the published numbers of some models.

    Raises:
        ValueError: if there are none.
    """
    path = folder / "page.json"
    if not path.is_file():
        raise ValueError(
            f"the pages can only be written again from published numbers, but there is no {path}."
            " Pass --docs, the folder docs of skipguide's repository, or leave --text-only out."
        )
    page = json.loads(path.read_text(encoding="utf-8"))
    known = [name for name in chosen if name in page["models"]]
    made = {name: Made(**page["models"][name]["made"]) for name in known}
    costs = {name: page["models"][name]["costs"] for name in known}
    measured = directions.read_directions(folder / "figure-2.csv")
    lines = _read_lines(folder / "rows.csv")
    sampling = page["sampling"]
    return Source(
        Sampling(sampling["dtype"], sampling["steps"], tuple(sampling["weights"])),
        {
            name: PublishedResults(
                name, _read_clips(folder, name), lines.get(name, {}),
                _read_pairs(page["differences"], name), made[name].real,
            )
            for name in known
        },
        made,
        {name: [_read_cost(line) for line in found] for name, found in costs.items() if found},
        {name: measured[name] for name in known if name in measured},
        {name: tuple(page["models"][name]["complete"]) for name in known},
        page.get("note", ""),
    )  # fmt: skip


def _read_cost(line: Mapping[str, Any]) -> CostLine:
    usual, least, most = line["times"]
    return CostLine(line["passes"], line["seconds"], (usual, least, most))


def _read_pairs(found: Sequence[Mapping[str, Any]], model: str) -> dict[PairKey, Estimate]:
    return {
        (one["experiment"], one["row"], one["base"], one["measure"]): Estimate(
            one["value"], one["low"], one["high"], one["clips"]
        )
        for one in found
        if one["model"] == model
    }


def _read_lines(path: Path) -> dict[str, dict[LineKey, dict[str, str]]]:
    found: dict[str, dict[LineKey, dict[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            key = (line["experiment"], line["row"], line["measure"])
            found.setdefault(line["model"], {})[key] = line
    return found


def _read_estimate(
    line: Mapping[str, str], names: tuple[str, str, str], count: str
) -> Estimate | None:
    value, low, high = (float(line[name]) if line[name] else None for name in names)
    return None if value is None else Estimate(value, low, high, int(line[count]))


def _read_clips(folder: Path, model: str) -> dict[str, Clips]:
    """Read the published clips of a model, by row."""
    path, words = folder / f"{model}-clips.csv.gz", models.MODELS[model].words
    if not path.is_file():
        return {}
    found: dict[str, list[tuple[int, list[float]]]] = {}
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            right = float(all(line[word] == "1" for word in words))
            rest = (float(line[name]) for name in PER_CLIP[1:])
            found.setdefault(line["row"], []).append((int(line["clip"]), [right, *rest]))
    rows = {row.name: row for one in experiments.experiments(model) for row in one.rows}
    return {name: _to_clips(rows[name], lines) for name, lines in found.items() if name in rows}


def _to_clips(row: Row, lines: Sequence[tuple[int, list[float]]]) -> Clips:
    nothing = torch.zeros(len(lines), 0)
    numbers = torch.tensor([number for number, _ in lines])
    values = torch.tensor([values for _, values in lines], dtype=torch.float64)
    return Clips(row, numbers, nothing, nothing, values, {}, ())


# --- writing --------------------------------------------------------------------------------------


def write_page_numbers(source: Source, complete: Mapping[str, Sequence[str]], path: Path) -> None:
    """Write the numbers that only the pages have.

    Args:
        complete: by model, the experiments that conclusions can be drawn from.
    """
    content = {
        "note": source.note,
        "sampling": asdict(source.sampling),
        "models": {
            name: {
                "made": asdict(source.made[name]),
                "complete": list(complete[name]),
                "costs": [asdict(line) for line in source.costs.get(name, ())],
            }
            for name in source.results
        },
        "differences": [line for found in source.results.values() for line in _pair_lines(found)],
    }
    with training_loop.atomic_path(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _pair_lines(results: Results) -> list[dict[str, Any]]:
    """Return each row less the one before it, where the report compares them."""
    known = {one.name: one for one in experiments.experiments(results.model)}
    return [
        line
        for name in NEIGHBOURS
        if name in known
        for i in range(2, len(known[name].rows))
        for line in _compare(results, known[name], known[name].rows[i], known[name].rows[i - 1])
    ]


def _compare(results: Results, experiment: Experiment, row: Row, base: Row) -> list[dict[str, Any]]:
    common = results.restrict_to(experiment.rows, experiment.first)
    return [
        {
            "model": results.model, "experiment": experiment.name, "row": row.name,
            "base": base.name, "measure": name, "clips": one.count, "value": one.value,
            "low": one.low, "high": one.high,
        }
        for name in COMPARED_MEASURES
        if (one := common.difference(row, base, name)) is not None
    ]  # fmt: skip
