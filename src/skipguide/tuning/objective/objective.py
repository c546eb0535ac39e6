"""The objective: metrics of clips, the distance to a reference folder, votes, or nothing.

Values are kept in the ledger of the run, clip by clip, so that a run that was killed measures
nothing twice, and the studio and `skipguide runs show` have them. Features of clips, which a
distance needs, and why clips have no value are kept beside it in the folder `tune`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from skipguide.metrics.catalog import EXTRACTORS
from skipguide.metrics.inputs import find_videos
from skipguide.runs import Clip, Run
from skipguide.tuning.objective.kernel_scores import KernelScores
from skipguide.tuning.objective.measuring import Features, Kept, Measuring
from skipguide.tuning.objective.parts import (
    FEWEST_REFERENCE,
    ObjectiveSpec,
    Part,
    check_names,
    check_numbers,
    label_of,
    parts_of,
    requests_of,
)
from skipguide.tuning.objective.scores import ScoreTable, Values

__all__ = ["Objective", "ObjectiveSpec", "ScoreTable", "Values"]


class Objective:
    """An objective that can be measured on the clips of a run.

    Args:
        spec: what is to be raised, and what must not fall.

    Raises:
        ValueError: for an unknown metric, a function that cannot be loaded, a weight or a share
            that is none, or choices that exclude each other.
    """

    def __init__(self, spec: ObjectiveSpec) -> None:
        self.spec = spec
        self.parts, self.floor_parts = parts_of(spec.metrics), parts_of(spec.floors)
        check_numbers(self.parts, self.floor_parts)
        check_names((*self.parts, *self.floor_parts))
        self._check_choices()
        self._measuring: Measuring | None = None

    @property
    def label(self) -> str:
        """The objective in words: "2 sharpness + motion"; "" for votes and for nothing."""
        if self.spec.features:
            return f"nearness to the reference (kernel distance, {self.spec.features})"
        return label_of(self.parts)

    @property
    def floors(self) -> tuple[tuple[str, float], ...]:
        """The floors as `RaceRules` takes them."""
        return tuple((one.name, one.number) for one in self.floor_parts)

    @property
    def lower(self) -> tuple[str, ...]:
        """The metrics with floors that are better lower, as `RaceRules` takes them."""
        return tuple(one.name for one in self.floor_parts if one.is_lower)

    def _check_choices(self) -> None:
        spec = self.spec
        named = {
            "--metric": bool(spec.metrics), "--features": bool(spec.features), "--votes": spec.votes
        }  # fmt: skip
        if sum(named.values()) > 1:
            chosen = " and ".join(name for name, given in named.items() if given)
            raise ValueError(
                f"one thing can be raised at a time, but got {chosen}. Choose one of them; several"
                " metrics are a weighted sum."
            )
        if bool(spec.features) != (spec.reference is not None):
            missing = "--reference" if spec.features else "--features"
            raise ValueError(
                "a distance needs --features EXTRACTOR and --reference DIR, but there is no"
                f" {missing}. Pass both."
            )
        fitting = [name for name, row in EXTRACTORS.items() if row.has_features and not row.sound]
        if spec.features and spec.features not in fitting:
            raise ValueError(
                f"--features must be {' or '.join(fitting)}, but got {spec.features!r}. Choose one"
                " of them."
            )

    def check(self) -> list[str]:
        """Check what is needed before any work: weights, and the reference.

        Returns:
            What is worth saying, a sentence each.

        Raises:
            ValueError: for weights that are missing or not allowed, or a reference that is not
                there, empty or too small.
        """
        requests_of((*self.parts, *self.floor_parts), self.spec.features, self.spec.options)
        found = []
        if len(self.parts) > 1:
            found.append(
                f"The objective is {self.label}, of values as they are: metrics of larger numbers"
                " count more unless their weights are smaller."
            )
        if self.spec.reference is not None:
            found += self._check_reference()
        return found

    def _check_reference(self) -> list[str]:
        assert self.spec.reference is not None
        noun = self.spec.options.noun
        if not self.spec.reference.is_dir():
            raise ValueError(
                f"--reference must be a folder of real {noun}s, but {self.spec.reference} is not a"
                " folder. Check the name."
            )
        sources = find_videos(
            self.spec.reference, self.spec.options.fps, self.spec.options.pictures
        )
        usable = [one for one in sources if not one.problem]
        if len(usable) < FEWEST_REFERENCE:
            raise ValueError(
                f"a reference must have {FEWEST_REFERENCE} {noun}s or more, so that two halves of"
                f" it can be compared, but {self.spec.reference} has {len(usable)}. Add {noun}s."
            )
        if len(usable) < len(sources):
            left = len(sources) - len(usable)
            return [f"{left} files of the reference cannot be read and are left out."]
        return []

    # --- measuring --------------------------------------------------------------------------------

    def measure(self, run: Run, names: Sequence[str] = ()) -> list[str]:
        """Measure the finished clips that have no value yet, and keep the values in the run.

        Args:
            run: open for writing.
            names: of settings; none stands for all.

        Returns:
            Why clips have no value, a sentence each.

        Raises:
            ValueError: if a function was changed since its values were kept in the run, or a metric
                has no value for any clip.
        """
        if not (self.parts or self.floor_parts or self.spec.features):
            return []
        if self._measuring is None:
            self._measuring = Measuring(
                (*self.parts, *self.floor_parts), self.spec.features, self.spec.reference,
                self.spec.options,
            )  # fmt: skip
        ids = {setting.name: setting.id for setting in run.settings()}
        wanted = set(ids.values()) if not names else {ids[name] for name in names}
        clips = [clip for clip in run.clips() if clip.setting in wanted]
        return self._measuring.measure(run, clips)

    # --- scores -----------------------------------------------------------------------------------

    def scores(self, run: Run) -> ScoreTable:
        """Return the values that are kept in the run."""
        ids = {setting.name: setting.id for setting in run.settings()}
        names = {number: name for name, number in ids.items()}
        cells: dict[tuple[str, int], list[Clip]] = {}
        for clip in run.clips():
            if clip.setting in names:
                cells.setdefault((names[clip.setting], clip.prompt), []).append(clip)
        # A prompt counts when each of its seeds is there, or never will be.
        whole = {
            cell: clips for cell, clips in cells.items()
            if not any(clip.status in ("pending", "running") for clip in clips)
        }  # fmt: skip
        kept = Kept(run.folder)
        return self._table(whole, kept, kept.reasons())

    def _table(
        self, cells: Mapping[tuple[str, int], Sequence[Clip]], kept: Kept,
        reasons: Mapping[str, Mapping[str, str]],
    ) -> ScoreTable:  # fmt: skip
        every = {
            one.name: _values(one.name, cells, reasons) for one in (*self.parts, *self.floor_parts)
        }
        features = _features(kept.features(self.spec.features), cells) if self.spec.features else {}
        of_set = None
        if self.spec.features:
            of_set = KernelScores(features, kept.reference(self.spec.features), self.spec.features)
        return ScoreTable(
            self.label, _sum(self.parts, every),
            {one.name: every[one.name] for one in self.floor_parts},
            {one.name: every[one.name] for one in self.parts},
            dict(self._lacking(cells, every, features, reasons)), of_set,
        )  # fmt: skip

    def _lacking(
        self, cells: Mapping[tuple[str, int], Sequence[Clip]], every: Mapping[str, Values],
        features: Mapping[str, Mapping[int, object]], reasons: Mapping[str, Mapping[str, str]],
    ) -> list[tuple[tuple[str, int], str]]:  # fmt: skip
        """Return the cells that never will have a value, and why."""
        needed = [one.name for one in self.parts]
        found = []
        for (name, prompt), clips in cells.items():
            missing = [one for one in needed if prompt not in every[one].get(name, {})]
            if self.spec.features and prompt not in features.get(name, {}):
                missing.append(f"features {self.spec.features}")
            why = [_reason(clip, missing, reasons.get(clip.key, {})) for clip in clips]
            if missing and all(why):
                found.append(((name, prompt), why[0]))
        return found


def _reason(clip: Clip, missing: Sequence[str], known: Mapping[str, str]) -> str:
    """Return why a clip has no value; "" if it can still be measured."""
    if clip.status == "failed":
        return f"its video failed: {(clip.error or 'no reason is known').splitlines()[0]}"
    return next((known[name] for name in ("all", *missing) if name in known), "")


def _values(
    metric: str, cells: Mapping[tuple[str, int], Sequence[Clip]],
    reasons: Mapping[str, Mapping[str, str]],
) -> dict[str, dict[int, float]]:  # fmt: skip
    """Return the values of a metric, the mean over the seeds of a prompt that can have one."""
    found: dict[str, dict[int, float]] = {}
    for (name, prompt), clips in cells.items():
        values = [clip.metrics[metric] for clip in clips if metric in clip.metrics]
        waiting = any(
            metric not in clip.metrics and not _reason(clip, [metric], reasons.get(clip.key, {}))
            for clip in clips
        )
        if values and not waiting:
            found.setdefault(name, {})[prompt] = float(np.mean(values))
    return found


def _features(
    vectors: Features, cells: Mapping[tuple[str, int], Sequence[Clip]]
) -> dict[str, dict[int, np.ndarray]]:
    found: dict[str, dict[int, np.ndarray]] = {}
    for (name, prompt), clips in cells.items():
        rows = [vectors[clip.key] for clip in clips if clip.key in vectors]
        if rows:
            found.setdefault(name, {})[prompt] = np.stack(rows)
    return found


def _sum(parts: Sequence[Part], every: Mapping[str, Values]) -> dict[str, dict[int, float]]:
    """Return the weighted sum where all parts have a value."""
    if not parts:
        return {}
    found: dict[str, dict[int, float]] = {}
    for name, first in every[parts[0].name].items():
        for prompt in first:
            values = [every[one.name].get(name, {}).get(prompt) for one in parts]
            if all(value is not None for value in values):
                found.setdefault(name, {})[prompt] = sum(
                    one.weight * value
                    for one, value in zip(parts, values, strict=True)
                    if value is not None
                )
    return found
