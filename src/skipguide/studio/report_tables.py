"""The tables of a report: what a spreadsheet or a script reads without skipguide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from skipguide.files.tables import to_csv
from skipguide.generate.describe import columns
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs import Run
from skipguide.runs.clip_table import clip_table
from skipguide.studio import vote_table


def tables(run: Run, data: ReadOnlyData) -> Mapping[str, str]:
    """Return the tables of a run as CSV by their names.

    Args:
        data: what `page_data.describe` says of it.
    """
    return {
        "clips": to_csv(clip_table(run, run.clips())),
        "settings": to_csv(list(_setting_rows(run))),
        "numbers": to_csv(list(_number_rows(run, data))),
        "votes": to_csv(vote_table.vote_rows(run), vote_table.COLUMNS),
    }


def _setting_rows(run: Run) -> Iterator[PlainData]:
    for setting in run.settings():
        own = {"setting": setting.name, "model": setting.model}
        yield {**own, **columns(setting.complete), "passes_per_step": setting.passes_per_step}


def _number_rows(run: Run, data: ReadOnlyData) -> Iterator[PlainData]:
    """Yield one row per setting and measure, with the interval and how many values are in it."""
    names = {setting.id: (setting.name, setting.model) for setting in run.settings()}
    for measure in data["measures"]:
        for setting, estimate in measure["values"].items():
            name, model = names[setting]
            said = {key: measure[key] for key in ("kind", "name", "what", "better")}
            numbers = {key: estimate[key] for key in ("value", "low", "high", "count")}
            yield {"setting": name, "model": model, **said, **numbers}
