"""The values of an objective: by setting and prompt, larger is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Values = Mapping[str, Mapping[int, float]]  # setting -> prompt -> value


class SetValues(Protocol):
    """A number of a set of videos, as one value for each prompt of the set."""

    def column(self, name: str, prompts: Sequence[int]) -> Floats:
        """Return `(P,)`, nan for a prompt that the setting has no video of."""
        ...

    def has(self, name: str, prompt: int) -> bool:
        """Tell whether a setting has a video on a prompt."""
        ...

    def sentences(self, names: Sequence[str], prompts: Sequence[int]) -> list[str]:
        """Say the numbers of the sets of some settings on some prompts."""
        ...


@dataclass(frozen=True)
class ScoreTable:
    """The values of one objective.

    Args:
        label: the objective in words, as "sharpness" or "2 x sharpness + motion".
        values: of the objective, by the name of the setting and the id of the prompt; larger is
            better; several seeds of a prompt are averaged.
        floors: the same of each metric that has a floor, as `skipguide evaluate` gives it.
        parts: the same of each metric that the objective is made of.
        lacking: why a setting has no value on a prompt where it never will have one: its video
            failed or is damaged, or a metric has no number for it.
        against_half: the values are shares of votes against CFG alone, whose own are 0.5; as such
            they are compared.
        of_set: the values where the objective is a number of a set of videos, `values` is then
            empty.
    """

    label: str
    values: Values
    floors: Mapping[str, Values] = field(default_factory=dict)
    parts: Mapping[str, Values] = field(default_factory=dict)
    lacking: Mapping[tuple[str, int], str] = field(default_factory=dict)
    of_set: SetValues | None = None
    against_half: bool = False

    def column(self, name: str, prompts: Sequence[int]) -> Floats:
        """Return the values `(P,)` of a setting on some prompts; nan where it has none."""
        if self.of_set is not None:
            return self.of_set.column(name, prompts)
        return column_of(self.values, name, prompts)

    def is_known(self, name: str, prompt: int) -> bool:
        """Tell whether there is a value, or a reason why there never will be one."""
        if (name, prompt) in self.lacking:
            return True
        return self.has(name, prompt)

    def has(self, name: str, prompt: int) -> bool:
        """Tell whether a setting has a value on a prompt."""
        if self.of_set is not None:
            return self.of_set.has(name, prompt)
        return prompt in self.values.get(name, {})


def column_of(values: Values, name: str, prompts: Sequence[int]) -> Floats:
    """Return the values `(P,)` of a setting on some prompts; nan where it has none."""
    own = values.get(name, {})
    return np.asarray([own.get(prompt, np.nan) for prompt in prompts], np.float64)
