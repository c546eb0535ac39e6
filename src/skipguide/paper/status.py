"""How far a run is: clips of each row, of each experiment; and which models there are not yet."""

from __future__ import annotations

from typing import Any

from skipguide.paper import cost, experiments, figure2, figure3, models
from skipguide.paper.records import Place
from skipguide.paper.run import Order

NOT_THERE = "model not there yet"


def of(order: Order) -> dict[str, Any]:
    """By model: where its records are (None if there are no weights), and clips done and asked for in each row."""
    found: dict[str, Any] = {}
    for model in order.models:
        place = order.place(model)
        wanted = experiments.wanted(model, order.rows)
        rows = [
            {
                "experiment": one.experiment, "row": one.row.name, "label": one.row.label,
                "done": 0 if place is None else _done(place[0], one, order.clips), "asked": one.asked(order.clips),
            }
            for one in wanted
        ]  # fmt: skip
        found[model] = {
            "folder": None if place is None else str(place[0].folder), "rows": rows,
            "figures": {} if place is None else _figures(model, place[0]),
        }  # fmt: skip
    return found


def _done(place: Place, wanted: experiments.Wanted, clips: int) -> int:
    return sum(models.CHUNK for chunk in place.done(wanted.row) if chunk * models.CHUNK < wanted.asked(clips))


def _figures(model: str, place: Place) -> dict[str, bool]:
    strips = [figure3.path(place, row).exists() for row in experiments.frames(model)]
    return {"figure-2": figure2.done(place), "figure-3": all(strips), "cost": cost.path(place).exists()}


def table(found: dict[str, Any]) -> str:
    """For people."""
    lines = []
    for model, entry in found.items():
        done, asked = (sum(row[name] for row in entry["rows"]) for name in ("done", "asked"))
        lines.append(f"{model}: {entry['folder'] or NOT_THERE}, {done} of {asked} clips in {len(entry['rows'])} rows")
        for row in entry["rows"]:
            lines.append(
                f"  {row['experiment']:<18} {row['done']:>5} of {row['asked']:<5} {row['row']}  ({row['label']})"
            )
        for name, there in entry["figures"].items():
            lines.append(f"  {name:<18} {'done' if there else 'not yet'}")
    return "\n".join(lines)
