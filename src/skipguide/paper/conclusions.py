"""The conclusions of the report: sentences that stand only where enough has been made.

[[concluded EXPERIMENT ...]]
sentences
[[end]]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from skipguide.paper import figure2, models
from skipguide.paper.experiments import Experiment
from skipguide.paper.published import Source
from skipguide.paper.run import Order

CONCLUSION = re.compile(r"^\[\[concluded ([^\[\]]+)\]\]\n(.*?)^\[\[end\]\]\n", re.M | re.S)
CONCLUSION_CLIPS = 1024  # of every row, or as many as its experiment has at most
OTHER_SAMPLING = (
    "*No conclusion: those that stand here are about the packaged models in"
    " {dtype} with their usual number of steps, and this report is of something else.*\n"
)


class Conclusions:
    """Which conclusions can be drawn.

    Args:
        order: the models, and how they sample.
        source: the numbers.
        experiments: of every model, by name.
    """

    def __init__(
        self, order: Order, source: Source, experiments: Mapping[str, Mapping[str, Experiment]]
    ):
        self.order, self.source, self.experiments = order, source, experiments

    def fill(self, text: str) -> str:
        """Keep the sentences that can be concluded, and say of the others what is missing."""
        if not self.is_usual:  # is said once
            text = CONCLUSION.sub(OTHER_SAMPLING.format(dtype=models.DTYPE), text, count=1)
            return CONCLUSION.sub("", text)
        return CONCLUSION.sub(lambda match: self._conclude(match[1].split(), match[2]), text)

    @property
    def is_usual(self) -> bool:
        """True if the models are the packaged ones and sample as they do by default."""
        order = self.order
        usual = {None, *(models.MODELS[name].steps for name in order.models)}
        return order.dtype == models.DTYPE and order.steps in usual and not order.weights

    def _conclude(self, names: Sequence[str], sentences: str) -> str:
        """Return the sentences, or which models have not made what they are drawn from."""
        lacking = {
            name: [model for model in models.MODELS if not self.is_complete(model, name)]
            for name in names
        }
        parts = [f"{name} of {', '.join(found)}" for name, found in lacking.items() if found]
        if not parts:
            return sentences
        return (
            f"*No conclusion yet: that takes {CONCLUSION_CLIPS:,} clips a row, or all that an"
            f" experiment has, and these have fewer: {'; '.join(parts)}.*\n"
        )

    def is_complete(self, model: str, name: str) -> bool:
        """Return whether a model has made what the conclusions are drawn from."""
        if model in self.source.complete:
            return name in self.source.complete[model] or self._is_of_others(model, name)
        if name == "figure-2":
            measured = self.source.directions.get(model, {}).values()
            wanted = figure2.clips_of(model)
            return bool(measured) and all(one.cosine.count >= wanted for one in measured)
        if self._is_of_others(model, name):
            return True
        known = self.experiments[model]
        wanted = min(CONCLUSION_CLIPS, known[name].most)
        results = self.source.results.get(model)
        return (
            results is not None
            and results.num_real >= models.NUM_REAL
            and all(
                (clips := results.clips_of(row)) is not None and len(clips) >= wanted
                for row in known[name].rows
            )
        )

    def _is_of_others(self, model: str, name: str) -> bool:
        """Tell whether an experiment is one that only other models have."""
        if not any(name in (*known, "figure-2") for known in self.experiments.values()):
            raise ValueError(
                f"a conclusion must name experiments, but got {name!r}. Correct the template."
            )
        return name not in (*self.experiments[model], "figure-2")

    def complete_experiments(self, model: str) -> list[str]:
        """Return what conclusions can be drawn from."""
        names = (*self.experiments[model], "figure-2")
        return [name for name in names if self.is_complete(model, name)]
