"""The parts of an objective: catalog metrics and functions, with weights and floors, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skipguide.metrics.catalog import METRICS
from skipguide.metrics.selection import MetricRequest, Options, parse_metric, select_metrics
from skipguide.tuning.objective import functions
from skipguide.tuning.objective.functions import Function, UserMetric

Given = str | Function  # a metric as the user gives it
FEWEST_REFERENCE = 16  # real videos, for two halves with an interval each


@dataclass(frozen=True)
class ObjectiveSpec:
    """An objective as a user gives it: metrics to be raised, and floors of what must not fall.

    Args:
        metrics: (metric, weight) each: a per-clip metric of `skipguide metrics`, or a function,
            "file.py:function", "module:function" or, in Python, the function itself. The objective
            is the sum of weight x value, values as they are, not standardised; those of a metric
            that is better lower are taken off.
        features: the extractor of the kernel distance to `reference`.
        reference: a folder of real videos.
        votes: whether raters decide in the studio.
        floors: (metric, share) each: the mean must not fall below this share of that of CFG alone,
            or, of a metric that is better lower, not rise above 1 / share of it.
        options: where weights are searched, on which device, and whether non-commercial ones may
            be used.
    """

    metrics: tuple[tuple[Given, float], ...] = ()
    features: str = ""
    reference: Path | None = None
    votes: bool = False
    floors: tuple[tuple[Given, float], ...] = ()
    options: Options = field(default_factory=Options)

    @property
    def measures(self) -> bool:
        """Whether clips are measured for the objective: not by votes, and not without any."""
        return bool(self.metrics or self.features)

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON; a function stands by its module and name."""
        weights = self.options.weights
        return {
            "metrics": [[functions.describe(metric), weight] for metric, weight in self.metrics],
            "features": self.features,
            "reference": None if self.reference is None else str(self.reference),
            "votes": self.votes,
            "floors": [[functions.describe(metric), share] for metric, share in self.floors],
            "weights": None if weights is None else str(weights),
            "non_commercial": self.options.non_commercial,
            "device": self.options.device,
            "fps": self.options.fps,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ObjectiveSpec:
        """Build it from what `to_dict` returned."""

        def path(name: str) -> Path | None:
            return None if content[name] is None else Path(content[name])

        def pairs(name: str) -> tuple[tuple[Given, float], ...]:
            return tuple((metric, float(number)) for metric, number in content[name])

        options = Options(
            weights=path("weights"), non_commercial=content["non_commercial"],
            device=content["device"], fps=content["fps"],
        )  # fmt: skip
        return cls(
            pairs("metrics"), content["features"], path("reference"), content["votes"],
            pairs("floors"), options,
        )  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A metric of an objective, or one with a floor.

    Args:
        name: under which its values are kept in the run.
        number: its weight, or its share.
        user: the function, if it is one.
    """

    name: str
    number: float
    is_lower: bool = False
    user: UserMetric | None = None

    @property
    def weight(self) -> float:
        """The weight in a sum that larger is better of."""
        return -self.number if self.is_lower else self.number


def parts_of(given: Iterable[tuple[Given, float]]) -> tuple[Part, ...]:
    """Find the metrics of an objective or of floors.

    Raises:
        ValueError: for an unknown metric, one of sets, a function that cannot be loaded, or a
            metric that is named twice.
    """
    found = tuple(_part(metric, number) for metric, number in given)
    _refuse_twice([one.name for one in found])
    return found


def check_names(parts: Iterable[Part]) -> None:
    """Check that parts of one name, an objective's and a floor's, are the same metric.

    Raises:
        ValueError: for two functions of one name.
    """
    known = {
        (one.name, None if one.user is None else (one.user.written, one.user.sha256))
        for one in parts
    }
    _refuse_twice([name for name, _ in known])


def _refuse_twice(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"each metric must be named once, but got {', '.join(twice)} twice. Name it once, with"
            " its weight; functions need different names."
        )


def _part(metric: Given, number: float) -> Part:
    if not isinstance(metric, str):
        return _function_part(metric, number)
    name = metric.partition(":")[0]
    if name in METRICS:
        if METRICS[name].kind == "set":
            raise ValueError(
                f"a metric must be one of single clips, but {metric!r} is of sets of videos. For a"
                " distance to real videos pass --features EXTRACTOR and --reference DIR, which is"
                " the kernel distance."
            )
        request = parse_metric(metric)
        return Part(request.metric, number, request.row.better == "lower")
    if ":" in metric:
        return _function_part(metric, number)
    known = ", ".join(name for name, row in METRICS.items() if row.kind == "video")
    raise ValueError(
        f"a metric must be one of {known}, or file.py:function, but got {metric!r}. See skipguide"
        " metrics."
    )


def _function_part(metric: Given, number: float) -> Part:
    user = functions.load(metric)
    if user.name in METRICS:
        raise ValueError(
            f"a function must not have the name of a metric, for values are kept under it, but"
            f" {user.written} is named {user.name}. Rename it."
        )
    return Part(user.name, number, user=user)


def check_numbers(parts: Iterable[Part], floors: Iterable[Part]) -> None:
    """Check weights and shares.

    Raises:
        ValueError: for a weight of 0 or one that is not finite, or a share that is none.
    """
    for one in parts:
        if not math.isfinite(one.number) or one.number == 0:
            raise ValueError(
                f"the weight of a metric must be a number other than 0, but {one.name} has"
                f" {one.number:g}. Pass another one, or leave the metric out."
            )
    for one in floors:
        if not 0 < one.number <= 1:
            raise ValueError(
                f"a floor must be a share of what CFG alone has, above 0 and at most 1, but"
                f" {one.name} has {one.number:g}. Pass 0.97 for 97 %."
            )


def requests_of(parts: Iterable[Part], features: str, options: Options) -> list[MetricRequest]:
    """Return what the networks are asked for.

    Raises:
        ValueError: for weights that are missing or not allowed, an unknown extractor, or a metric
            of videos where `options.pictures` is set.
    """
    names = [one.name for one in parts if one.user is None]
    names += [f"{'kid' if options.pictures else 'kvd'}:{features}"] if features else []
    kind = "image" if options.pictures else "video"
    return select_metrics(names, True, options, kind)[0] if names else []


def label_of(parts: Iterable[Part]) -> str:
    """Return a weighted sum in words: "sharpness + 2 motion - saturation"."""
    words = ""
    for one in parts:
        size = abs(one.weight)
        name = one.name if size == 1 else f"{size:g} {one.name}"
        sign = "- " if one.weight < 0 else "+ " if words else ""
        words += f"{' ' if words else ''}{sign}{name}"
    return words
