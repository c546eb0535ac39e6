"""The numbers of the report from the records of a run."""

from __future__ import annotations

from skipguide.paper import cost, directions, experiments, figure2, status
from skipguide.paper.analysis import Results
from skipguide.paper.cost import CostLine
from skipguide.paper.figure2 import Alignment
from skipguide.paper.published import Made, Sampling, Source
from skipguide.paper.records import RecordFolder
from skipguide.paper.run import Order


def from_records(order: Order) -> Source:
    """Compute the numbers of every model that there is."""
    places = _places(order)
    results = {model: Results.load(model, place, order.clips) for model, place in places.items()}
    counts = status.count_clips(order)
    costs = {model: _load_costs(model, place) for model, place in places.items()}
    return Source(
        Sampling(order.dtype, order.steps, tuple(name for name, _ in order.weights)),
        results,
        {model: _count(counts[model]["rows"], results[model].num_real) for model in places},
        {model: lines for model, lines in costs.items() if lines},
        {
            model: directions.measure_directions(found)
            for model, found in load_alignments(order).items()
        },
    )


def load_alignments(order: Order) -> dict[str, Alignment]:
    """Load what has been measured for Figure 2."""
    return {
        model: found
        for model, place in _places(order).items()
        if (found := figure2.load(place, figure2.clips_of(model)))
    }


def _places(order: Order) -> dict[str, RecordFolder]:
    found = {model: order.locate_records(model) for model in order.models}
    return {model: place[0] for model, place in found.items() if place}


def _load_costs(model: str, place: RecordFolder) -> list[CostLine] | None:
    found = cost.load(place)
    return cost.compare_costs(found, experiments.cost_rows(model)) if found else None


def _count(rows: list[dict[str, int]], real: int) -> Made:
    done = [row["done"] for row in rows]
    return Made(sum(done), sum(count > 0 for count in done), len(rows), real)
