"""The comparison as data: one row per setting and measure, with corrected p values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from skipguide.metrics.comparison import cells, columns, vote_columns
from skipguide.metrics.comparison.cells import Group
from skipguide.metrics.comparison.columns import Column, Kind
from skipguide.runs import Run, Setting
from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate
from skipguide.stats.paired import Difference, holm

Adjust = Literal["table", "metric", "none"]
ADJUSTMENTS: tuple[Adjust, ...] = ("table", "metric", "none")
LEVEL = 0.05


@dataclass(frozen=True)
class ComparedRow:
    """One setting in one measure.

    Args:
        statistic: what `mean` is: mean, share, median, value (of a set), strength.
        better: higher, lower, or None.
        mean: None where the setting was not measured; then all that follows is None.
        n_clips: videos, or votes.
        diff: the difference from the baseline on the same prompts and seeds, and its interval.
        ratio: of a cost, to that of the baseline.
        p: two-sided, of this difference alone; `p_adjusted` by Holm.
        bold: whether it is the best of its model, or cannot be told from it; None where that is
            not judged.
    """

    model: str
    setting: str
    metric: str
    kind: Kind
    statistic: str
    better: str | None
    mean: float | None
    low: float | None
    high: float | None
    n_prompts: int | None
    n_clips: int | None
    baseline: str | None
    diff: float | None = None
    diff_low: float | None = None
    diff_high: float | None = None
    ratio: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    bold: bool | None = None
    reason: str | None = None  # why there is no interval

    @property
    def is_baseline(self) -> bool:
        """True for the row of the baseline."""
        return self.setting == self.baseline

    @property
    def is_significant(self) -> bool:
        """True if the difference is one after the correction."""
        p = self.p if self.p_adjusted is None else self.p_adjusted
        return p is not None and p < LEVEL


@dataclass(frozen=True)
class Comparison:
    """All rows, and what a reader must know of them.

    Args:
        rows: by model, then setting, then measure, each measure for each setting.
        adjust: over which comparisons p values are corrected.
        comparisons: how many p values were corrected, in all.
        notes: what is missing, a sentence each.
    """

    run: str
    rows: tuple[ComparedRow, ...]
    adjust: Adjust
    comparisons: int
    notes: tuple[str, ...]

    @property
    def models(self) -> list[str]:
        """The models, in the order of the run."""
        return list(dict.fromkeys(row.model for row in self.rows))

    @property
    def metrics(self) -> list[str]:
        """The measures, in the order of the table."""
        return list(dict.fromkeys(row.metric for row in self.rows))

    def settings(self, model: str) -> list[str]:
        """Return the settings of a model, in the order of the run."""
        return list(dict.fromkeys(row.setting for row in self.rows if row.model == model))

    def row(self, model: str, setting: str, metric: str) -> ComparedRow:
        """Return one row; KeyError if there is none."""
        return self._by_name[model, setting, metric]

    @cached_property
    def _by_name(self) -> dict[tuple[str, str, str], ComparedRow]:
        return {(row.model, row.setting, row.metric): row for row in self.rows}


def compare(
    run: Run,
    baseline: str | None = None,
    metrics: Sequence[str] = (),
    settings: Sequence[str] = (),
    adjust: Adjust = "table",
) -> Comparison:
    """Compare the settings of a run in all that was measured, voted and spent.

    Args:
        baseline: the name of a setting; None is the first one with CFG alone, of each model.
        metrics: names ("fvd:judge"), names without what follows the colon ("fvd"), or kinds
            ("video", "set", "votes", "cost"); none stands for all.
        settings: names or shell patterns of names; none stands for all.
        adjust: correct p values by Holm over the comparisons of the table, of each metric of a
            model, or not.

    Raises:
        ValueError: for a setting, metric or correction that there is not, or a run without videos.
    """
    if adjust not in ADJUSTMENTS:
        raise ValueError(
            f"adjust must be one of {', '.join(ADJUSTMENTS)}, but got {adjust!r}. Choose one."
        )
    found = cells.groups(run, baseline, settings)
    of_groups = [(group, _choose(run, list(_columns(run, group)), metrics)) for group in found]
    names = _check_metrics(run, of_groups, metrics)
    rows = [row for group, own in of_groups for row in _rows(group, own, names)]
    rows, count = _adjust(rows, adjust)
    notes = [note for group in found for note in group.notes]
    notes += [note for _, own in of_groups for column in own for note in column.notes]
    if not any(row.kind != "cost" for row in rows) and not metrics:
        notes.append(f"nothing is measured yet: skipguide evaluate {run.folder}")
    return Comparison(str(run.folder), tuple(rows), adjust, count, tuple(dict.fromkeys(notes)))


def _columns(run: Run, group: Group) -> Iterator[Column]:
    yield from columns.video_columns(run, group)
    yield from columns.set_columns(run, group)
    yield from vote_columns.vote_columns(run, group)
    yield from columns.cost_columns(group)


def _choose(run: Run, found: Sequence[Column], metrics: Sequence[str]) -> list[Column]:
    return [
        column
        for column in found
        if not metrics or any(_is_named(column, name) for name in metrics)
    ]


def _is_named(column: Column, name: str) -> bool:
    return name in (column.name, column.name.partition(":")[0], column.kind)


def _check_metrics(
    run: Run, of_groups: Sequence[tuple[Group, Sequence[Column]]], metrics: Sequence[str]
) -> dict[str, Column]:
    """Return a column of each name, in their order; check that each metric asked for is one."""
    found = {column.name: column for _, own in of_groups for column in own}
    for name in metrics:
        if not any(_is_named(column, name) for column in found.values()):
            every = [c.name for group, _ in of_groups for c in _columns(run, group)]
            raise ValueError(
                f"metrics must be among those that were measured, but {name!r} is not. The run has"
                f" {', '.join(dict.fromkeys(every))}; `skipguide evaluate {run.folder}` measures"
                " more."
            )
    return found


# --- rows -----------------------------------------------------------------------------------------


def _rows(
    group: Group, own: Sequence[Column], names: Mapping[str, Column]
) -> Iterator[ComparedRow]:
    by_name = {column.name: column for column in own}
    bold = {column.name: best(column, group.settings) for column in own}
    for setting in group.settings:
        for name, like in names.items():
            column = by_name.get(name, replace(like, values={}, prompts={}, reference=None))
            yield _row(group, setting, column, bold.get(name, {}).get(setting.id))


def _row(group: Group, setting: Setting, column: Column, bold: bool | None) -> ComparedRow:
    base = group.baseline
    value = column.values.get(setting.id)
    found = ComparedRow(
        group.model, setting.name, column.name, column.kind, column.statistic, column.better,
        None, None, None, None, None, None if base is None else base.name,
    )  # fmt: skip
    if value is None:
        is_base = base is not None and setting.id == base.id
        return replace(found, mean=column.reference if is_base else None)
    found = replace(
        found, mean=value.value, low=value.low, high=value.high, reason=value.reason,
        n_prompts=column.prompts[setting.id], n_clips=value.count, bold=bold,
    )  # fmt: skip
    if base is None:
        return found
    found = replace(found, ratio=column.ratio(setting.id, base.id))
    there = base.id in column.values or column.reference is not None
    if setting.id == base.id or column.kind == "cost" or not there:
        return found
    difference = column.compare(setting.id, base.id)
    if difference is None:
        return found
    one, tested = difference.estimate, setting.id not in column.untested
    return replace(
        found,
        diff=one.value,
        diff_low=one.low,
        diff_high=one.high,
        p=difference.p if tested else None,
    )


def best(column: Column, settings: Sequence[Setting]) -> dict[int, bool]:
    """Tell of each setting whether it is the best, or cannot be told from it.

    The others are compared with the best in pairs, corrected by Holm.

    Returns:
        Nothing where that is not judged: a cost, a measure without a better direction, one setting
        alone, or values that have no differences.
    """
    values = {s.id: column.values[s.id] for s in settings if s.id in column.values}
    if column.better is None or column.kind == "cost" or len(values) < 2:
        return {}
    first = _best_of(values, column.better)
    found = {other: column.compare(other, first) for other in values if other != first}
    if any(_is_unknown(one, column.prompts[other]) for other, one in found.items()):
        return {}
    tested = {s: one.p for s, one in found.items() if one is not None and one.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {first: True} | {
        other: bool(adjusted[other] >= LEVEL) if other in adjusted else _is_same(one)
        for other, one in found.items()
    }


def _best_of(values: Mapping[int, Estimate], better: str) -> int:
    sign = 1 if better == "higher" else -1
    return max(values, key=lambda setting: sign * values[setting].value)


def _is_unknown(difference: Difference | None, prompts: int) -> bool:
    if difference is None:
        return True
    return difference.p is None and intervals.too_few(prompts) is not None


def _is_same(difference: Difference | None) -> bool:
    """Tell whether videos without a spread of differences are the same in all."""
    return difference is not None and difference.estimate.value == 0


# --- corrections ----------------------------------------------------------------------------------


def _adjust(rows: Sequence[ComparedRow], adjust: Adjust) -> tuple[list[ComparedRow], int]:
    """Correct the p values of all families; returns the rows and how many p values there are."""
    tested = [i for i, row in enumerate(rows) if row.p is not None]
    families: dict[object, list[int]] = {}
    for i in tested:
        family = () if adjust == "table" else (rows[i].model, rows[i].metric)
        families.setdefault(family, []).append(i)
    found = list(rows)
    if adjust != "none":
        for members in families.values():
            p_values = [p for i in members if (p := rows[i].p) is not None]
            for i, p in zip(members, holm(p_values), strict=True):
                found[i] = replace(rows[i], p_adjusted=p)
    return found, len(tested)
