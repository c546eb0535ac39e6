"""Compute estimates from records, and differences between rows on the same prompts and noise.

Means and shares have the intervals of `skipguide.stats.intervals`. Numbers of whole sets (Frechet,
Vendi, Inception Score) use the jackknife over prompts, because a bootstrap draws clips twice, which
biases them. The interval of a difference is that of the difference itself, prompt by prompt.

A Frechet distance of few clips is too large, and so is that of real clips. The excess is what is
left when the distance of the real clips of the same prompts to the same reference, the floor, is
taken off.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from skipguide.lab import judge
from skipguide.metrics.frechet import Moments, frechet_distance
from skipguide.metrics.inception import Predictions, inception_score
from skipguide.metrics.vendi import vendi_score
from skipguide.paper import experiments, measurements, models, records
from skipguide.paper.records import Clips
from skipguide.paper.rows import Row
from skipguide.stats import intervals, jackknife
from skipguide.stats.estimate import Estimate

Tensor = torch.Tensor
REFERENCE, REAL = Row(source="reference"), Row(source="real")
FEW_CLIPS = 256  # with fewer clips, a Frechet distance mostly depends on their number


@dataclass(frozen=True)
class Measure:
    """One column of a table.

    Args:
        title: of the column.
        better: 1 higher, -1 lower, 0 neither.
        digits: after the point.
        per_clip: returns the clips' own values `(N,)`, whose mean is the number; or
        per_set: returns the value of all clips together; or
        per_reference: the same, given the moments of real clips.
        share: whether the clips' own values are 0 and 1.
        over_real: name of the measure that this one is less its value of the real clips.
    """

    title: str
    better: int
    digits: int
    per_clip: Callable[[Clips, str], Tensor] | None = None
    per_set: Callable[[Clips], float] | None = None
    per_reference: Callable[[Clips, Moments], float] | None = None
    share: bool = False
    over_real: str | None = None


# --- what is measured -----------------------------------------------------------------------------


def words_read_right(clips: Clips, model: str) -> dict[str, Tensor]:
    """Tell for each word whether the judge reads it as the scene has it, `(N,)` per word.

    Words that the prompt leaves open are included.
    """
    scenes = models.pool(model).scenes[clips.numbers]
    return {
        name: part.argmax(1) == getattr(scenes, name)
        for name, part in _split_heads(clips.logits).items()
    }


def _split_heads(logits: Tensor) -> dict[str, Tensor]:
    sizes = [len(known) for known in judge.HEADS.values()]
    return dict(zip(judge.HEADS, logits.split(sizes, dim=1), strict=True))


def _prompt_read_right(clips: Clips, model: str) -> Tensor:
    found = words_read_right(clips, model)
    return torch.stack([found[name] for name in models.MODELS[model].words]).all(0).double()


def _word_likelihood(clips: Clips, model: str) -> Tensor:
    scenes, heads = models.pool(model).scenes[clips.numbers], _split_heads(clips.logits)
    logs = [
        heads[name].double().log_softmax(1).gather(1, getattr(scenes, name)[:, None])[:, 0]
        for name in models.MODELS[model].words
    ]
    return torch.stack(logs).mean(0)


def _reading_column(name: str) -> Callable[[Clips, str], Tensor]:
    column = measurements.VALUES.index(name)
    return lambda clips, _: clips.values[:, column].double()


def _inception_value(clips: Clips) -> float:
    shape, colour, motion = (
        part.double().softmax(1) for part in _split_heads(clips.logits).values()
    )
    return inception_score(
        Predictions.from_probabilities(
            torch.einsum("bi,bj,bk->bijk", shape, colour, motion).flatten(1)
        )
    )


MEASURES = {
    "right": Measure("prompt read right", 1, 3, _prompt_read_right, share=True),
    "likelihood": Measure("log likelihood of a word", 1, 3, _word_likelihood),
    "frechet": Measure(
        "Frechet",
        -1,
        1,
        per_reference=lambda clips, real: frechet_distance(
            Moments.from_features(clips.features), real
        ),
    ),
    "excess": Measure("excess", -1, 1, over_real="frechet"),
    "inception": Measure("Inception", 1, 1, per_set=_inception_value),
    "vendi": Measure("Vendi", 1, 2, per_set=lambda clips: vendi_score(clips.features)),
    "motion_amount": Measure("motion", 0, 3, _reading_column("motion_amount")),
    "flicker": Measure("flicker", -1, 4, _reading_column("flicker")),
    "sharpness": Measure("sharpness", 0, 3, _reading_column("sharpness")),
}


# --- estimates ------------------------------------------------------------------------------------


class Results:
    """The estimates that the records of one model give.

    Args:
        clips: by the names of their rows.
        reference: moments of real clips of other scenes; without them there are no Frechet
            distances.
        measures: by name.
    """

    def __init__(
        self,
        model: str,
        place: records.RecordFolder,
        clips: dict[str, Clips],
        reference: Moments | None,
        measures: Mapping[str, Measure] = MEASURES,
    ):
        self.model, self.place, self.clips, self._reference = model, place, clips, reference
        self.measures = measures
        self._known: dict[tuple[str, ...], Estimate] = {}
        self._parts: dict[tuple[tuple[str, ...], int], Results] = {}

    @classmethod
    def load(cls, model: str, place: records.RecordFolder, clips: int) -> Results:
        """Load everything that has been recorded for the first `clips` prompts."""
        wanted = experiments.requested_rows(model)
        found = {
            one.row.name: records.load_clips(place, one.row, one.clips_requested(clips))
            for one in wanted
        }
        reference = found.pop(REFERENCE.name)
        moments = None if reference is None else Moments.from_features(reference.features)
        return cls(
            model, place, {name: row for name, row in found.items() if row is not None}, moments
        )

    def restrict_to(self, rows: Sequence[Row], first: int = 0) -> Results:
        """Restrict the results to some rows, and to the prompts that all of them have.

        Numbers of sets depend on how many clips a set has. The real clips of these prompts stay
        beside the rows.

        Args:
            first: number of the first prompt that counts.
        """
        names = tuple(row.name for row in rows if row.name in self.clips)
        if (names, first) not in self._parts:
            shared = (
                records.restrict_to_common([self.clips[name] for name in names]) if names else []
            )
            pairs = zip(
                names, (clips.take(clips.numbers >= first) for clips in shared), strict=True
            )
            clips = {name: clips for name, clips in pairs if len(clips)}
            if clips and (real := self.clips.get(REAL.name)) is not None:
                clips.setdefault(REAL.name, real.select_prompts(next(iter(clips.values())).numbers))
            self._parts[names, first] = self._with_clips(clips, names)
        return self._parts[names, first]

    def _with_clips(self, clips: dict[str, Clips], names: tuple[str, ...]) -> Results:
        """Return results of other clips, which are of some rows."""
        return Results(self.model, self.place, clips, self._reference, self.measures)

    def clips_of(self, row: Row) -> Clips | None:
        """Return the clips of a row, if there are any."""
        return self.clips.get(row.name)

    @property
    def num_real(self) -> int:
        """The number of real clips that Frechet distances compare with."""
        return self._reference.count if self._reference else 0

    def estimate(self, row: Row, name: str) -> Estimate | None:
        """Return a measure of a row; None if it has no clips, or nothing to compare them with."""
        if over := self.measures[name].over_real:
            return self._over_real(row, over)
        clips = self.clips_of(row)
        if clips is None or not self._can_measure(name):
            return None
        return self._cached_estimate((row.name, name), [clips], self.measures[name])

    def _over_real(self, row: Row, name: str) -> Estimate | None:
        """Return a measure less that of the real clips; None unless every prompt has both."""
        if row == REAL and self.clips_of(row):
            return Estimate(0.0, None, None, len(self.clips[row.name]))
        clips, found = self.clips_of(row), self.difference(row, REAL, name)
        complete = clips is not None and found is not None and found.count == len(clips)
        return found if complete else None

    def values(self, row: Row, name: str) -> Tensor | None:
        """Return the clips' own values of a measure that is a mean of such, `(N,)`."""
        clips, measure = self.clips_of(row), self.measures[name]
        if clips is None or measure.per_clip is None:
            return None
        return measure.per_clip(clips, self.model)

    def _can_measure(self, name: str) -> bool:
        return self.measures[name].per_reference is None or self._reference is not None

    def difference(self, row: Row, base: Row, name: str) -> Estimate | None:
        """Return a measure of a row minus that of another, on the prompts that both have."""
        name = self.measures[name].over_real or name  # the floor is the same for both
        pair = (self.clips_of(row), self.clips_of(base))
        if pair[0] is None or pair[1] is None or not self._can_measure(name):
            return None
        both = records.restrict_to_common(clips for clips in pair if clips is not None)
        return (
            self._cached_estimate((row.name, base.name, name), both, self.measures[name])
            if len(both[0])
            else None
        )

    def _cached_estimate(
        self, key: tuple[str, ...], sets: list[Clips], measure: Measure
    ) -> Estimate:
        """Estimate a measure of one set of clips, or of the difference between two."""
        if key not in self._known:
            if measure.per_clip is not None:
                values = [measure.per_clip(clips, self.model) for clips in sets]
                self._known[key] = _estimate_clips(measure, *values)
            else:
                self._known[key] = jackknife.estimate(
                    functools.partial(self._set_value, sets, measure), sets[0].numbers.tolist()
                )
        return self._known[key]

    def _set_value(self, sets: list[Clips], measure: Measure, kept: Tensor) -> float:
        found = [self._value(measure, clips.take(kept)) for clips in sets]
        return found[0] - found[1] if len(found) > 1 else found[0]

    def _value(self, measure: Measure, clips: Clips) -> float:
        if measure.per_set is not None:
            return measure.per_set(clips)
        assert measure.per_reference is not None
        assert self._reference is not None
        return measure.per_reference(clips, self._reference)

    def seconds(self, row: Row) -> float | None:
        """Return the median seconds per clip: of the CPU, or of the clock on a GPU."""
        clips = self.clips_of(row)
        return None if clips is None else statistics.median(_seconds_per_clip(clips))

    def passes(self, row: Row) -> float | None:
        """Return the forward passes per step and clip."""
        clips = self.clips_of(row)
        return None if clips is None else next(iter(clips.costs.values())).passes


def _estimate_clips(measure: Measure, values: Tensor, others: Tensor | None = None) -> Estimate:
    """Estimate the mean of the clips' values `(N,)`, or of their differences from others.

    Values that happen to be all 0, as flicker can be, are no share.
    """
    if measure.share:
        if others is not None:
            return intervals.mean_difference(values, others)
        return intervals.share(values)
    return intervals.mean(values if others is None else values - others)


def _seconds_per_clip(clips: Clips) -> list[float]:
    device = next((device for device in clips.devices if device.startswith("cuda")), "cpu")
    return [cost.seconds_on(device) for cost in clips.costs.values()]
