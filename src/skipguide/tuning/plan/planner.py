"""Makes the plan of a tuning: asks the model, times it, and divides the budget; writes nothing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData
from skipguide.runs.engine import Cost
from skipguide.runs.jobs import ResolvedSetting
from skipguide.runs.ledger import NotBegunError
from skipguide.tuning import facts
from skipguide.tuning.events import Planned
from skipguide.tuning.facts import Facts
from skipguide.tuning.objective.objective import Objective
from skipguide.tuning.objective.scores import ScoreTable
from skipguide.tuning.options import TuneOptions, check_run
from skipguide.tuning.plan import budget, resolution, words
from skipguide.tuning.plan.budget import Timing
from skipguide.tuning.race.candidates import check_scales
from skipguide.tuning.sampling import Sampler

_TIMED = 3  # times


class Planner:
    """Makes the plan of a tuning.

    Args:
        options, folder, objective: of the tuning.
        sampler: asks the model.
        scores: returns the values that the run has, where the tuning goes on.
    """

    def __init__(
        self, options: TuneOptions, folder: Path, objective: Objective, sampler: Sampler,
        scores: Callable[[], ScoreTable],
    ):  # fmt: skip
        self.options, self.folder, self.objective = options, folder, objective
        self.sampler, self.scores = sampler, scores

    def plan(self) -> Planned:
        """Return the plan.

        Raises:
            ValueError: for what the model refuses, a run of another tuning, or a budget that does
                not pay for one.
        """
        options = self.options
        check_run(self.folder, options)
        cfg: PlainData = {"name": "cfg", "stg_scale": 0.0}
        smaller = options.size_of_scan()
        own = self.sampler.survey_all([cfg, *([{**cfg, **smaller}] if smaller else [])])[0]
        tell = functools.partial(facts.facts_of, options=options.scan)
        known = self.sampler.engine.inspect(own.setting.generation, tell)
        kept = budget.read_timing(self.folder)
        timing = kept or self._measure_times(own, known)
        budget.check_budget(self.folder, options, timing)
        share = self._scanned_share(own.complete)
        plan = budget.make_plan(options, timing, known.weak_passes, share)
        planned = Planned(plan, timing, known, own, ())
        check_scales(planned.model, options.guidance_scales[1:])
        deviations = {} if kept is None else self._deviations(planned)
        said = words.describe(options, plan, timing, known, self.objective, deviations)
        return dataclasses.replace(planned, sentences=tuple(said))

    def _deviations(self, planned: Planned) -> dict[str, float]:
        """Return what the clips of a tuning that goes on say of the deviations."""
        try:
            scores = self.scores()
        except NotBegunError:  # a power cut can take the ledger's first entries and leave the times
            return {}
        return resolution.deviations_of(scores, planned.cfg_alone["name"])

    def _measure_times(self, own: ResolvedSetting, known: Facts) -> Timing:
        """Time a step of CFG alone; what weak passes cost beside it is counted, not timed."""
        assert own.complete.steps is not None
        plain = self._quickest(own)
        passes = max(plain.passes_per_step, 1.0)
        seconds = max(plain.seconds_per_step / passes, budget.SHORTEST)
        return Timing(
            seconds,
            2 * passes * seconds,
            self.sampler.engine.workers,
            own.complete.steps,
            round(passes),
            self._cost_of_preset(known, plain.passes_per_step),
        )

    def _quickest(self, entry: ResolvedSetting) -> Cost:
        """Time a setting a few times: what else the machine does only makes it slower."""
        times = [self.sampler.cost(entry.complete) for _ in range(_TIMED)]
        return min(times, key=lambda cost: cost.seconds_per_step)

    def _cost_of_preset(self, known: Facts, plain: float) -> float:
        """Return what the published setting adds to a step, in forward passes."""
        if not known.published:
            return 1.0
        preset = self.sampler.survey({"name": "preset", "stg": "preset"})
        cost = self.sampler.cost(preset.complete)
        return max(0.0, cost.passes_per_step - plain)

    def _scanned_share(self, complete: GenerationSettings) -> float:
        """Return the cost of a pass at the size of the scan, as a part of one at full size.

        It is the ratio of the numbers of pixels: less than that where attention is dear.
        """
        if self.options.scan_size is None:
            return 1.0
        width, height, frames = self.options.scan_size
        full = (complete.width or width) * (complete.height or height)
        return width * height * frames / (full * (complete.num_frames or frames))
