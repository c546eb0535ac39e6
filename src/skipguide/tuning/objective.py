"""What is to be raised: metrics of clips, the distance to a reference folder, votes, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skipguide.metrics.selection import Options
from skipguide.runs import Run
from skipguide.tuning.scores import ScoreTable, Values

__all__ = ["Objective", "ObjectiveSpec", "ScoreTable", "Values"]

# f(frames (F, H, W, 3) uint8, prompt, frames per second or None) -> a number, larger is better
Function = Callable[..., float]


@dataclass(frozen=True)
class ObjectiveSpec:
    """What is to be raised, and what must not fall.

    Args:
        metrics: (metric, weight) each: a per-clip metric of `skipguide metrics`, or a function,
            "file.py:function", "module:function" or, in Python, the function itself.
        features: the extractor of the kernel distance to `reference`.
        reference: a folder of real videos.
        votes: whether raters decide in the studio.
        floors: (metric, share) each: the mean must not fall below this share of that of CFG alone,
            or, of a metric that is better lower, not rise above 1 / share of it.
        options: where weights are searched, on which device, and whether non-commercial ones may
            be used.
    """

    metrics: tuple[tuple[str | Function, float], ...] = ()
    features: str = ""
    reference: Path | None = None
    votes: bool = False
    floors: tuple[tuple[str | Function, float], ...] = ()
    options: Options = field(default_factory=Options)

    @property
    def measures(self) -> bool:
        """Whether clips are measured: with metrics or features, without votes or nothing."""
        return bool(self.metrics or self.features)

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON; a function stands by its module and name."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ObjectiveSpec:
        """Build it from what `to_dict` returned."""
        raise NotImplementedError


class Objective:
    """An objective that can be measured on the clips of a run."""

    def __init__(self, spec: ObjectiveSpec) -> None:
        self.spec = spec
        self.label = ""  # in words, as "2 x sharpness + motion"

    def check(self) -> list[str]:
        """Check everything before any work; load functions, find weights, look at the reference.

        Returns:
            What is worth saying, a sentence each.

        Raises:
            ValueError: for an unknown metric, missing weights, a function that cannot be imported,
                an empty reference, a floor that is not a share.
        """
        raise NotImplementedError

    def measure(
        self,
        run: Run,
        names: Sequence[str] = (),
        note: Callable[[str], None] | None = None,
    ) -> list[str]:
        """Measure the finished clips that have no value yet, and keep the values in the run.

        Args:
            run: open for writing.
            names: of settings; none stands for all.
            note: is called with the name of each clip before it is read.

        Returns:
            Why clips have no value, a sentence each.
        """
        raise NotImplementedError

    def scores(self, run: Run) -> ScoreTable:
        """Return the values that are kept in the run."""
        raise NotImplementedError
