"""The budget of a tuning while it is spent: what each stage may take, and what its clock says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipguide.tuning.options import FEWEST_KEPT
from skipguide.tuning.plan import budget, clock
from skipguide.tuning.plan.budget import Plan, Timing
from skipguide.tuning.race.candidates import Candidate

if TYPE_CHECKING:
    from skipguide.tuning.board import Board


class Purse:
    """The budget of a tuning, in passes as the plan counts them; in hours it has a clock as well.

    Args:
        board: knows what the run has used.
        workers: videos made at a time, now.
    """

    def __init__(self, board: Board, plan: Plan, timing: Timing, workers: int):
        self.board, self.plan, self.timing, self.workers = board, plan, timing, workers
        self.options = board.options
        self.rest = plan.total  # what neither scan nor races have spent
        self.reserve = plan.answer  # of the rest, what the answer takes

    # --- passes -----------------------------------------------------------------------------------

    def begin(self, racing: Sequence[Candidate]) -> None:
        """Count what the scan has taken, and what the answer can take, now that both are known."""
        dearest = sum(sorted(one.passes for one in racing)[-budget.FINALISTS :])
        answer = self.plan.held_back * self.options.most_seeds * dearest
        self.rest = self.plan.total - self._scan_cost()
        self.reserve = min(self.plan.answer, self.of_budget(answer))

    def _scan_cost(self) -> float:
        """Return what the scan has taken, beside what counts as the race's.

        Of few steps, levels of noise fall together, so that it can be less than was planned. The
        videos of a scan at full size are the first of CFG alone, which the race counts.
        """
        if self.options.scan_size is not None:
            return self.plan.scan
        return min(self.plan.scan, self.board.scan_passes())

    def of_budget(self, passes: float) -> float:
        """Return what forward passes of videos cost of the budget."""
        return passes / budget.denoising_share(self.options, self.timing)

    def spend(self, passes: float) -> None:
        """Take the forward passes of a race from the rest."""
        self.rest -= self.of_budget(passes)

    @property
    def for_race(self) -> float:
        """The forward passes that the race may take: also what scan and answer need less."""
        return self._forwards(self.rest - self.reserve - self.plan.search)

    def for_search(self, searches: int) -> float:
        """Return the forward passes that the next of so many searches may take."""
        return self._forwards((self.rest - self.reserve) / searches)

    def _forwards(self, passes: float) -> float:
        return passes * budget.denoising_share(self.options, self.timing)

    # --- the clock --------------------------------------------------------------------------------

    def stops(self) -> dict[str, int]:
        """Return after how many rounds the clock has ended races, by stage."""
        return clock.read_stops(self.board.folder, self.options.clock_hours)

    def keep_stop(self, stage: str, count: int) -> None:
        """Keep that the clock has ended a stage, so that it ends there again."""
        assert self.options.clock_hours is not None
        stops = {**self.stops(), stage: count}
        clock.keep_stops(self.board.folder, self.options.clock_hours, stops)

    def is_late(self, stage: str) -> bool:
        """Tell whether a stage has had its time; a budget in passes has no clock."""
        if self.options.clock_hours is None:
            return False
        limit = clock.stage_seconds(self.plan, self.timing, stage)
        return self.board.seconds_used() / self.workers >= limit

    # --- the answer -------------------------------------------------------------------------------

    def answer_prompts(self, finalists: Sequence[Candidate]) -> int:
        """Return on how many of the prompts kept back the rest of the budget measures an answer.

        In hours it is what there is time for at the pace of the videos so far, decided once.
        """
        kept = len(self.options.split()[1])
        per_prompt = self.options.most_seeds * sum(one.passes for one in finalists)
        if self.options.clock_hours is None:
            paid = math.floor(self.rest / self.of_budget(per_prompt))
        elif (decided := self.stops().get(clock.ANSWER)) is not None:
            return decided
        else:
            left = self.options.clock_hours * 3600 * self.workers - self.board.seconds_used()
            paid = math.floor(left / (per_prompt * self.board.seconds_per_pass()))
        count = min(kept, max(FEWEST_KEPT, paid))
        if self.options.clock_hours is not None:
            self.keep_stop(clock.ANSWER, count)
        return count
