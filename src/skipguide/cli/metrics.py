"""skipguide metrics: what can be measured, with what, and under which licence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.families import Line, align_columns, print_lines
from skipguide.cli.options import Json
from skipguide.method.protocols import PlainData

_ARROWS = {"higher": "up", "lower": "down"}


def metrics(
    name: Annotated[
        str, typer.Argument(help="Only metrics that contain this, as in consistency.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the metrics, their networks and their weights.

    Better is up or down. Weights are searched by name in --weights and in the hub's cache, and
    never downloaded.
    """
    from skipguide.metrics.catalog import EXTRACTORS, METRICS, WEIGHTS

    rows = {key: dataclasses.asdict(row) for key, row in METRICS.items() if name in key}
    if not rows:
        raise ValueError(
            f"a metric must be one of {', '.join(METRICS)}, but got {name!r}. Pass a part of a"
            " name."
        )
    payload = {
        "metrics": rows,
        "extractors": {key: dataclasses.asdict(row) for key, row in EXTRACTORS.items()},
        "weights": {key: dataclasses.asdict(row) for key, row in WEIGHTS.items()},
    }
    if as_json:
        console.print_result("", payload, as_json)
    else:
        print_lines(list(_lines(payload)))


def _lines(payload: dict[str, PlainData]) -> Iterator[Line]:
    yield from _table(
        ("metric", "of", "range", "better", "needs", "what", "source"),
        map(_metric, payload["metrics"].values()),
    )
    yield "", ""
    extractors = (
        (key, _features(row), str(row["width"]), ", ".join(row["weights"]), row["preparation"])
        for key, row in payload["extractors"].items()
    )
    yield from _table(("extractor", "gives", "width", "needs", "preparation"), extractors)
    yield "", ""
    weights = (
        (
            key,
            " or ".join(row["files"]),
            row["licence"],
            "" if row["commercial"] else "--non-commercial",
            row["sha256"] or "recorded",
            row["where"],
        )
        for key, row in payload["weights"].items()
    )
    yield from _table(("weights", "file", "licence", "only with", "sha256", "where"), weights)


def _metric(row: PlainData) -> tuple[str, ...]:
    needs = (
        f"features, as {row['extractor']}"
        if row["extractor"]
        else ", ".join(row["weights"]) or "nothing"
    )
    needs += " and a reference" if row["reference"] else ""
    return (
        row["name"],
        row["kind"],
        _range(row["range"]),
        _ARROWS[row["better"]],
        needs,
        row["what"],
        row["source"],
    )


def _range(bounds: Sequence[float | None]) -> str:
    low, high = bounds
    return "any" if low is None else f"from {low:g}" if high is None else f"{low:g} to {high:g}"


def _features(row: PlainData) -> str:
    given = ["features"] * row["has_features"] + ["classes"] * bool(row["classes"])
    return ", ".join(given)


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[Line]:
    heading, *lines = align_columns([columns, *rows])
    yield "bold", heading
    yield from (("", line) for line in lines)
