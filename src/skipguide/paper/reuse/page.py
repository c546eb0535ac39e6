"""Write the numbers of the study, its figure, and docs/reuse.md from them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.lab.training_loop import atomic_path
from skipguide.method.protocols import PlainData
from skipguide.paper import plots
from skipguide.paper.reuse import published, rows
from skipguide.paper.reuse.study import RowResult, Study, results
from skipguide.paper.tables import format_estimate
from skipguide.paper.why_page import FIELD
from skipguide.stats.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ESTIMATES = ("away", "right", "right_change", "frechet", "frechet_change")
_NOT_MADE = "not made yet: `skipguide paper reuse --model {}`"
FULL_PASS = "STG, full weak pass"
_COLUMNS = (
    "way", "clips", "passes a step", "away from the exact run", "PSNR, dB", "all read right",
    "less the exact run's", "Frechet less the exact run's",
)  # fmt: skip


def write(study: Study, docs: Path) -> Path:
    """Write what a study found to `docs/reuse/`, and the page anew."""
    write_numbers(study, docs / "reuse" / f"lab-{study.model}.json")
    return fill(docs)


def write_numbers(study: Study, path: Path) -> None:
    """Write what a study found, which `read_numbers` reads."""
    found = [dataclasses.asdict(row) for row in results(study)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        part.write_text(json.dumps({"rows": found}, indent=1) + "\n", encoding="utf-8")


def fill(docs: Path) -> Path:
    """Draw the figure and fill the page from the numbers that are in a folder."""
    found = {model: read(docs, model) for model in rows.MODELS}
    if any(found.values()):
        plots.save(_figure({model: known for model, known in found.items() if known}), _png(docs))
    template = resources.files("skipguide.paper.reuse").joinpath("page.md").read_text("utf-8")
    path = docs / "reuse.md"
    with atomic_path(path) as part:
        text = FIELD.sub(lambda match: _field(found, match.group(1).split()), template)
        part.write_text(text, encoding="utf-8")
    return path


def _png(docs: Path) -> Path:
    return docs / "reuse" / "passes.png"


def read(docs: Path, model: str) -> list[RowResult]:
    """Return the rows that were written for a model; none if there are none."""
    return read_numbers(docs / "reuse" / f"lab-{model}.json")


def read_numbers(path: Path) -> list[RowResult]:
    """Return the rows of a study that were written to a file; none if there is none."""
    if not path.is_file():
        return []
    return [_result(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def _result(row: PlainData) -> RowResult:
    parts: PlainData = {
        name: Estimate(**value) if name in _ESTIMATES else value for name, value in row.items()
    }
    return RowResult(**parts)


# --- the page -------------------------------------------------------------------------------------


def _field(found: dict[str, list[RowResult]], words: Sequence[str]) -> str:
    if words == ["published"]:
        return "\n".join(published.table())
    verb, model, *rest = words
    if not found[model]:
        return _NOT_MADE.format(model)
    if verb == "table":
        return "\n".join(_table(found[model]))
    row = next((row for row in found[model] if row.name == " ".join(rest[1:])), None)
    if row is None:
        return _NOT_MADE.format(model)
    value = getattr(row, rest[0])
    if isinstance(value, Estimate):
        return format_estimate(value, 3 if rest[0] != "frechet_change" else 1)
    return f"{value:.2f}" if rest[0] == "passes" else f"{value:.1f}"


def _table(found: Sequence[RowResult]) -> Iterator[str]:
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|---|" + "--:|" * (len(_COLUMNS) - 1)
    for row in _with_full_pass(found):
        exact = row.name in (rows.EXACT, FULL_PASS)
        cells = [
            row.name,
            str(row.clips),
            f"{row.passes:.2f}",
            "0" if exact else format_estimate(row.away, 3),
            "exact" if exact else f"{row.psnr_db:.1f}",
            format_estimate(row.right, 3),
            "" if exact else format_estimate(row.right_change, 3, signed=True),
            "" if exact else format_estimate(row.frechet_change, 1, signed=True),
        ]
        yield f"| {' | '.join(cells)} |"


def _with_full_pass(found: Sequence[RowResult]) -> list[RowResult]:
    """Add the way of other implementations, whose clips are those of the exact run."""
    exact = next(row for row in found if row.name == rows.EXACT)
    return [dataclasses.replace(exact, name=FULL_PASS, passes=3.0), *found]


# --- the figure -----------------------------------------------------------------------------------


def _figure(found: dict[str, list[RowResult]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(found), 4.6))
    for axes, (model, known) in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
    ):
        _plot(axes, _with_full_pass(known))
        axes.set_title(f"lab-{model}")
    return figure


def _plot(axes: Axes, found: Sequence[RowResult]) -> None:
    """Plot PSNR against passes; what is exact stands at the upper edge."""
    top = max(row.psnr_db for row in found if math.isfinite(row.psnr_db)) + 8
    for row in found:
        is_exact = row.name in (rows.EXACT, FULL_PASS)
        is_ours = "budget" in row.name
        marker = "D" if is_ours else "*" if is_exact else "o"
        height = top if is_exact else row.psnr_db
        axes.plot(row.passes, height, marker, color="0.0" if is_ours or is_exact else "0.55")
        axes.annotate(
            row.name, (row.passes, height), (5, 4), textcoords="offset points", fontsize=7
        )
    axes.axvline(2.0, color="0.85", linewidth=0.8, zorder=0)
    axes.set_xlabel("forward passes a step (CFG alone: 2)")
    axes.set_ylabel("PSNR against exact CFG + STG, dB (top: exact)")
