"""The columns of a comparison: metrics of videos, of sets, and the cost.

A column has a value for each setting, and a difference between any two of them on the same prompts
and seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skipguide.metrics import kept
from skipguide.metrics.catalog import METRICS
from skipguide.metrics.comparison.cells import Cell, Contender, Group
from skipguide.runs import Clip, Run, SetMetric
from skipguide.stats import intervals, jackknife
from skipguide.stats.estimate import Estimate
from skipguide.stats.paired import Difference, paired_difference

Kind = Literal["video", "set", "votes", "cost"]
Floats = NDArray[np.float64]
Compare = Callable[[int, int], Difference | None]


@dataclass(frozen=True)
class Column:
    """One measure of the settings of a model.

    Args:
        statistic: what the value of a setting is: mean, share, median, value (of a set), strength.
        better: None if neither direction is.
        values: by setting; a setting that was not measured is not among them.
        prompts: of how many prompts each value is.
        compare: the difference of two settings; None where there is none.
        untested: settings whose difference from the baseline another column tests.
        ratio: of a cost, how many times that of another setting.
        notes: what is missing, a sentence each.
        reference: the value of the baseline, where it has one by definition.
    """

    name: str
    kind: Kind
    statistic: str
    better: Literal["higher", "lower"] | None
    values: Mapping[int, Estimate]
    prompts: Mapping[int, int]
    compare: Compare = lambda a, b: None
    ratio: Callable[[int, int], float | None] = lambda a, b: None
    notes: tuple[str, ...] = ()
    reference: float | None = None
    untested: frozenset[int] = frozenset()


# --- videos ---------------------------------------------------------------------------------------


def video_columns(run: Run, group: Group) -> Iterator[Column]:
    """Yield the metrics of single videos, each on the cells where all settings have a number."""
    names = {
        name: None
        for one in group.contenders
        for cell in group.cells
        for name in sorted(one.clips[cell].metrics)
    }
    for name in names:
        yield _video_column(run, group, name)


def _video_column(run: Run, group: Group, name: str) -> Column:
    measured = [one for one in group.contenders if any(_values(one, group.cells, name))]
    by_setting = {one.setting.id: _values(one, group.cells, name) for one in measured}
    whole = [cell for cell in group.cells if all(cell in own for own in by_setting.values())]
    values = {
        setting: np.asarray([own[cell] for cell in whole]) for setting, own in by_setting.items()
    }
    prompts = [prompt for prompt, _ in whole]
    row, share = METRICS.get(name), _is_share(name, list(values.values()))

    def compare(a: int, b: int) -> Difference | None:
        return paired_difference(values[a], values[b], prompts) if whole else None

    count = len(set(prompts))
    return Column(
        name, "video", "share" if share else "mean", row.better if row else None,
        {s: _estimate(own, prompts, name, share) for s, own in values.items()} if whole else {},
        dict.fromkeys(values, count), compare,
        notes=tuple(_video_notes(run, group, name, measured, by_setting, whole)),
    )  # fmt: skip


def _values(one: Contender, cells: Sequence[Cell], name: str) -> dict[Cell, float]:
    found = {cell: one.clips[cell].metrics.get(name) for cell in cells}
    return {cell: v for cell, v in found.items() if v is not None and math.isfinite(v)}


def _is_share(name: str, values: Sequence[Floats]) -> bool:
    row = METRICS.get(name)
    return bool(row.share) if row else intervals.are_shares(*values)


def _estimate(values: Floats, prompts: Sequence[int], name: str, share: bool) -> Estimate:
    if share:
        return intervals.share(values, prompts)
    row = METRICS.get(name)
    return intervals.mean(values, prompts, row.range if row else (None, None))


def _video_notes(
    run: Run, group: Group, name: str, measured: Sequence[Contender],
    by_setting: Mapping[int, Mapping[Cell, float]], whole: Sequence[Cell],
) -> Iterator[str]:  # fmt: skip
    lacking = [one.setting.name for one in group.contenders if one not in measured]
    if lacking:
        yield (
            f"{name} of {group.model} is not measured for {', '.join(lacking)}:"
            f" {_command(run, name)}"
        )
    if len(whole) < len(group.cells):
        fewest = min(measured, key=lambda one: len(by_setting[one.setting.id]))
        yield (
            f"{name} of {group.model} is of the {len(whole)} of {len(group.cells)} videos that have"
            f" it in all settings; the fewest has {fewest.setting.name}: {_command(run, name)}"
        )


def _command(run: Run, name: str) -> str:
    """Return the command that measures, if it is a metric of ours."""
    if (row := METRICS.get(name.partition(":")[0])) is None:
        return "measure them, and record them with Run.record_metrics."
    reference = " --reference DIR" if row.reference else ""
    return f"skipguide evaluate {run.folder}{reference} --metrics {name}"


# --- sets -----------------------------------------------------------------------------------------


def set_columns(run: Run, group: Group) -> Iterator[Column]:
    """Yield the metrics of sets that the group has, without those that are means of videos."""
    found: dict[str, dict[int, SetMetric]] = {}
    ids = {setting.id for setting in group.settings}
    for metric in run.set_metrics():
        row = METRICS.get(metric.name.partition(":")[0])
        is_mean = row is not None and row.kind == "video"
        known = metric.value is not None and math.isfinite(metric.value)
        if metric.setting in ids and known and not is_mean:
            found.setdefault(metric.name, {})[metric.setting] = metric
    for name, metrics in found.items():
        yield _set_column(run, group, name, metrics)


def _set_column(run: Run, group: Group, name: str, metrics: Mapping[int, SetMetric]) -> Column:
    row = METRICS.get(name.partition(":")[0])
    sets = {
        one.setting.id: kept.load(run, one.setting.id, name, metrics[one.setting.id].value)
        for one in group.contenders
        if one.setting.id in metrics
    }
    whole, notes = [], []
    for one in group.contenders:
        reason = _set_reason(group, one, metrics.get(one.setting.id), sets.get(one.setting.id))
        if reason is None:
            whole.append(one.setting.id)
        else:
            notes.append(
                f"{name} of {group.model} {one.setting.name} {reason}: {_command(run, name)}"
            )
    if lacking := [s for s in whole if sets[s] is None]:
        names = [setting.name for setting in group.settings if setting.id in lacking]
        notes.append(
            f"{name} of {group.model} {', '.join(names)} was measured by an older version, which"
            f" kept nothing to compare with: {_command(run, name)}"
        )
    if len({found.reference for s in whole if (found := sets[s]) is not None}) > 1:
        notes.append(
            f"{name} of {group.model} was measured against different references, so that not all"
            f" differences are shown: {_command(run, name)}"
        )
    prompts = len(set(group.prompts))
    return Column(
        name, "set", "value", row.better if row else None,
        {s: _set_estimate(metrics[s], prompts) for s in whole}, dict.fromkeys(whole, prompts),
        lambda a, b: _set_difference(sets[a], sets[b], prompts), notes=tuple(notes),
    )  # fmt: skip


def _set_reason(
    group: Group, one: Contender, metric: SetMetric | None, found: kept.KeptSet | None
) -> str | None:
    """Return why the number of a set cannot stand beside the others; None if it can."""
    if metric is None:
        return "is not measured"
    cells = {clip.key: cell for cell, clip in one.clips.items()}
    if found is None:
        is_whole = metric.count == len(one.clips) == len(group.cells)
    else:
        is_whole = {cells.get(key) for key in found.keys} == set(group.cells)
    if is_whole:
        return None
    if found is not None and not found.keys <= cells.keys():
        return "is of videos that were made again since"
    return f"is of {metric.count} videos, not of the {len(group.cells)} that are compared"


def _set_estimate(metric: SetMetric, prompts: int) -> Estimate:
    reason = jackknife.too_few(prompts)
    if reason:  # the seeds of a few prompts say nothing of other prompts
        return Estimate(metric.value, None, None, metric.count, reason)
    return Estimate(metric.value, metric.low, metric.high, metric.count)


def _set_difference(
    a: kept.KeptSet | None, b: kept.KeptSet | None, prompts: int
) -> Difference | None:
    if a is None or b is None or a.replicates is None or b.replicates is None:
        return None
    if a.reference != b.reference or jackknife.too_few(prompts):
        return None
    return a.replicates.difference(b.replicates)


# --- cost -----------------------------------------------------------------------------------------

COSTS = {"passes_per_step": "mean", "seconds_per_step": "median"}


def cost_columns(group: Group) -> Iterator[Column]:
    """Yield passes and seconds per step.

    A ratio of seconds is the median over the videos of the same prompt and seed, which were made
    one after the other.
    """
    for name, statistic in COSTS.items():
        values = {
            one.setting.id: np.asarray([_cost(one.clips[cell], name) for cell in group.cells])
            for one in group.contenders
        }
        known = {setting: own for setting, own in values.items() if np.isfinite(own).any()}
        if known:
            yield _cost_column(group, name, statistic, known)


def _cost(clip: Clip, name: str) -> float:
    value = getattr(clip, name)
    return math.nan if value is None else float(value)


def _cost_column(group: Group, name: str, statistic: str, values: dict[int, Floats]) -> Column:
    middle = statistics.median if statistic == "median" else statistics.fmean

    def estimate(own: Floats) -> Estimate:
        finite = own[np.isfinite(own)]
        return Estimate(middle(finite.tolist()), None, None, len(finite), "a cost is not a sample")

    def ratio(a: int, b: int) -> float | None:
        if a not in values or b not in values:
            return None
        both = np.isfinite(values[a]) & np.isfinite(values[b]) & (values[b] > 0)
        return middle((values[a][both] / values[b][both]).tolist()) if both.any() else None

    machines = {
        str(one.clips[cell].environment.get("machine"))
        for one in group.contenders
        for cell in group.cells
    }
    mixed = name == "seconds_per_step" and len(machines) > 1
    note = (
        f"{group.model} was made on {len(machines)} kinds of machines, so that its seconds per step"
        " cannot all be compared."
    )
    return Column(
        name, "cost", statistic, "lower", {s: estimate(own) for s, own in values.items()},
        dict.fromkeys(values, len(set(group.prompts))), ratio=ratio,
        notes=(note,) if mixed else (),
    )  # fmt: skip
