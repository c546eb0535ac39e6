"""The progress of a run: clips of each row, of each experiment, and which models are missing."""

from __future__ import annotations

from skipguide.method.protocols import PlainData
from skipguide.paper import cost, experiments, figure2, figure3, models
from skipguide.paper.records import RecordFolder
from skipguide.paper.run import Order

NO_MODEL = "model not there yet"


def count_clips(order: Order) -> PlainData:
    """Count by model the clips done and requested in each row.

    `folder` is where its records are, or None if there are no weights.
    """
    found: PlainData = {}
    for model in order.models:
        place = order.locate_records(model)
        wanted = experiments.requested_rows(model, order.rows)
        rows = [
            {
                "experiment": one.experiment, "row": one.row.name, "label": one.row.label,
                "done": 0 if place is None else _count_done(place[0], one, order.clips),
                "asked": one.clips_requested(order.clips),
            }
            for one in wanted
        ]  # fmt: skip
        found[model] = {
            "folder": None if place is None else str(place[0].folder), "rows": rows,
            "figures": {} if place is None else _figures_done(model, place[0]),
        }  # fmt: skip
    return found


def _count_done(place: RecordFolder, wanted: experiments.RequestedRow, clips: int) -> int:
    return sum(
        models.CHUNK
        for chunk in place.finished_chunks(wanted.row)
        if chunk * models.CHUNK < wanted.clips_requested(clips)
    )


def _figures_done(model: str, place: RecordFolder) -> dict[str, bool]:
    strips = [figure3.strip_path(place, row).exists() for row in experiments.figure3_rows(model)]
    return {
        "figure-2": figure2.is_measured(place, figure2.clips_of(model)),
        "figure-3": all(strips),
        "cost": cost.cost_path(place).exists(),
    }


def format_table(found: PlainData) -> str:
    """Format the counts for people."""
    lines = []
    for model, entry in found.items():
        done, asked = (sum(row[name] for row in entry["rows"]) for name in ("done", "asked"))
        lines.append(
            f"{model}: {entry['folder'] or NO_MODEL}, {done} of {asked} clips in"
            f" {len(entry['rows'])} rows"
        )
        for row in entry["rows"]:
            lines.append(
                f"  {row['experiment']:<18} {row['done']:>5} of {row['asked']:<5} {row['row']} "
                f" ({row['label']})"
            )
        for name, there in entry["figures"].items():
            lines.append(f"  {name:<18} {'done' if there else 'not yet'}")
    return "\n".join(lines)
