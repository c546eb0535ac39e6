"""The numbers of docs/open-prompts.md, and their file: docs/open/numbers.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipguide.lab import training_loop
from skipguide.paper import analysis, records
from skipguide.paper.analysis import Moments, Results
from skipguide.paper.open import measures, study
from skipguide.paper.open.run import Order
from skipguide.paper.open.study import Setting
from skipguide.paper.rows import Row
from skipguide.stats.estimate import Estimate

BASES = ("none", "cfg")  # the rows that others are compared with


@dataclass(frozen=True)
class Numbers:
    """The numbers of all rows of all settings, nested as in the file."""

    data: Mapping[str, Any]

    def row(self, setting: str, name: str) -> Mapping[str, Any]:
        """Return everything of a row, by its name in study.named_rows."""
        return self.data["settings"][setting][name]

    def value(self, setting: str, name: str, measure: str) -> Estimate | None:
        """Return a measure of a row."""
        return _estimate(self.row(setting, name)["values"].get(measure))

    def gain(self, setting: str, name: str, base: str, measure: str) -> Estimate | None:
        """Return a measure of a row less that of a base; "excess" is the relative change of it."""
        return _estimate(self.row(setting, name)["less"].get(base, {}).get(measure))


def _estimate(found: list[Any] | None) -> Estimate | None:
    return None if found is None else Estimate(*found)


def measure(order: Order) -> Numbers:
    """Measure all rows of which there are clips."""
    settings = {one.name: _measure_setting(order, one) for one in order.settings}
    plan = {"clips": order.clips, "steps": order.steps, "dtype": order.dtype}
    return Numbers({"plan": plan, "settings": settings})


def _measure_setting(order: Order, setting: Setting) -> dict[str, Any]:
    place = order.place(setting)
    reference = records.load_clips(place, analysis.REFERENCE, order.clips * 2)
    if reference is None:
        return {}
    moments = Moments.from_features(reference.features)
    named = study.named_rows(setting)
    loaded = {row.name: records.load_clips(place, row, order.clips) for row in named.values()}
    clips = {name: found for name, found in loaded.items() if found is not None}
    known = measures.measures(setting.kind)
    results = Results(setting.kind, place, clips, moments, known)
    return {
        name: _measure_row(results, named, row, moments)
        for name, row in named.items()
        if row.name in clips
    }


def _measure_row(
    results: Results, named: Mapping[str, Row], row: Row, moments: Moments
) -> dict[str, Any]:
    values = {name: results.estimate(row, name) for name in results.measures}
    less = {}
    for base in BASES:
        other = named[base]
        if row.source != "guided" or row == other or other.name not in results.clips:
            continue
        less[base] = {
            name: results.difference(row, other, name)
            for name, one in results.measures.items()
            if one.over_real is None
        }
        mine, theirs, real = records.restrict_to_common(
            results.clips[one.name] for one in (row, other, named["real"])
        )
        less[base]["excess"] = measures.excess_change(mine, theirs, real, moments)
    passes = results.passes(row) if row.source == "guided" else None
    return {
        "label": row.label, "clips": len(results.clips[row.name]), "passes": passes,
        "values": _plain(values), "less": {base: _plain(found) for base, found in less.items()},
    }  # fmt: skip


def _plain(found: Mapping[str, Estimate | None]) -> dict[str, list[float | int | None]]:
    return {
        name: [*map(_round, (one.value, one.low, one.high)), one.count]
        for name, one in found.items()
        if one is not None
    }


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def path(docs: Path) -> Path:
    """Return where the numbers are."""
    return docs / "open" / "numbers.json"


def write(found: Numbers, docs: Path) -> Path:
    """Write the numbers, a row a line."""
    lines = []
    for setting, rows in found.data["settings"].items():
        inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        lines.append(f" {json.dumps(setting)}: {{\n{inner}\n }}")
    text = f'{{"plan": {json.dumps(found.data["plan"])}, "settings": {{\n'
    target = path(docs)
    target.parent.mkdir(parents=True, exist_ok=True)
    with training_loop.atomic_path(target) as part:
        part.write_text(text + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
    return target


def read(docs: Path) -> Numbers:
    """Read what `write` wrote.

    Raises:
        ValueError: if there is none.
    """
    if not path(docs).is_file():
        raise ValueError(f"{path(docs)} is not there. Run `skipguide paper open` first.")
    return Numbers(json.loads(path(docs).read_text(encoding="utf-8")))
