"""A tuning: plan, scan, race, search and answer, in a run that goes on whatever ended it.

Every decision is a function of the options, of the times measured at first, and of the videos and
values that the run holds. A tuning that was killed asks for the same videos again, finds those that
are there, and so comes back to where it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path

from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.runs.engine import Engine, OnStep
from skipguide.runs.sweep import ClipPublished, SweepEstimate
from skipguide.tuning.answer import answer as answers
from skipguide.tuning.answer.result import Answer
from skipguide.tuning.board import Board
from skipguide.tuning.events import (
    Mapped,
    Noted,
    Planned,
    RoundOver,
    StageBegan,
    TuneEvent,
    TuneResult,
)
from skipguide.tuning.objective.objective import Objective, ObjectiveSpec
from skipguide.tuning.objective.scores import ScoreTable
from skipguide.tuning.options import TuneOptions, check_images, keep_options
from skipguide.tuning.plan import budget
from skipguide.tuning.plan.planner import Planner
from skipguide.tuning.plan.purse import Purse
from skipguide.tuning.race import search
from skipguide.tuning.race.candidates import (
    Candidate,
    Scanned,
    at_price,
    candidates,
)
from skipguide.tuning.race.race import BASELINE, Race, RaceRules, RaceState
from skipguide.tuning.sampling import Sampler
from skipguide.tuning.scan import watch as scanning
from skipguide.tuning.scan.layer_map import LayerMap
from skipguide.tuning.scan.record import Cell

Events = Generator[TuneEvent, None, None]
RaceEvents = Generator[TuneEvent, None, RaceState]


class Tuning:
    """A tuning of one model in one run.

    Args:
        options: of the tuning.
        folder: of the run, new or one of a tuning with the same options.
        engine: makes the videos.
        retry_failed: also make those that failed before.
        command: that was typed; "" from Python.

    Raises:
        ValueError: for an objective that cannot be measured.
    """

    def __init__(
        self, options: TuneOptions, folder: Path, engine: Engine, retry_failed: bool = False,
        command: str = "",
    ):  # fmt: skip
        self.options, self.folder, self.command = options, folder, command
        check_images(options)
        self.objective = Objective(_of_what_is_made(options))
        self.notes = [*options.notes(), *self.objective.check()]
        self.sampler = Sampler(folder, options, engine, retry_failed)
        self.board = Board(folder, options, self.objective.label)
        self.on_step: OnStep | None = None
        self.ids: dict[str, list[int]] = {}

    # --- the whole --------------------------------------------------------------------------------

    def run(
        self, on_step: OnStep | None = None, only_plan: bool = False
    ) -> Generator[TuneEvent, None, TuneResult | None]:
        """Do what is missing; yield what happens, and return the result.

        Args:
            on_step: called after each denoising step, by engines of this process.
            only_plan: end after `Planned`, before anything is sampled.

        Raises:
            ValueError: for what the model refuses, or a run of another tuning.
            OSError: if the disk is full or cannot be written. Finished videos stay.
        """
        self.on_step = on_step
        planned = Planner(
            self.options, self.folder, self.objective, self.sampler, self.scores
        ).plan()
        for text in (*self.notes, *planned.plan.notes):
            yield Noted(text)
        yield planned
        if only_plan:
            return None
        for text in scanning.remove_damaged(self.folder):
            yield Noted(text)
        self._begin(planned)
        layer_map = yield from self._scan(planned)
        yield Mapped(layer_map)
        racing = self._candidates(planned, layer_map)
        if self.options.objective.votes:
            from skipguide.tuning import by_votes

            return (yield from by_votes.finish(self, planned, layer_map, racing))
        if not self.objective.spec.measures:
            return (yield from self._show(planned, layer_map, racing))
        return (yield from self._decide(planned, layer_map, racing))

    def _decide(
        self, planned: Planned, layer_map: LayerMap, racing: list[Candidate]
    ) -> Generator[TuneEvent, None, TuneResult]:
        """Race, search and answer, by what is measured."""
        self.purse.begin(racing)
        # However small its budget is, the race has one round.
        most = max(self.purse.for_race, self._round(racing))
        rules = dataclasses.replace(self._floor_rules(), max_passes=most)
        state = yield from self.race("race", racing, rules, self.ids["race"])
        self.purse.spend(state.passes)
        everyone, state = yield from self._search(planned, layer_map, racing, state)
        found = yield from self._answer(planned, everyone, state)
        return self.finish(planned, layer_map, everyone, found)

    def _begin(self, planned: Planned) -> None:
        """Enter the tuning into its run."""
        self.sampler.register()
        keep_options(self.folder, self.options)
        budget.keep_timing(self.folder, planned.timing)
        workers = self.sampler.engine.workers
        self.purse = Purse(self.board, planned.plan, planned.timing, workers)
        self._hold_back(planned.plan.held_back)
        self.board.plan = planned.plan
        self.board.sentences, self.board.notes = planned.sentences, [*self.notes]
        self.board.notes += planned.plan.notes
        self.board.write()

    def _hold_back(self, count: int) -> None:
        """Say on how many of the prompts that choose nothing the answer is measured."""
        ids = self.sampler.ids
        racing, kept = ([ids[i] for i in part] for part in self.options.split())
        self.ids = {"race": racing, "held_back": kept[:count]}
        self.board.prompts = self.ids

    # --- scan -------------------------------------------------------------------------------------

    def _scan(self, planned: Planned) -> Generator[TuneEvent, None, LayerMap]:
        plan, options = planned.plan, self.options
        prompts = self.ids["race"][: plan.scan_prompts]
        given = {**planned.cfg_alone, **self.options.size_of_scan()}
        watch = scanning.ScanWatch(scanning.with_levels(options.scan, plan.levels))
        yield from self.sample_all("scan", [given], prompts, watch)
        layer_map = scanning.read_map(self.folder, given["name"], prompts)
        for text in scanning.write_map(self.folder, layer_map):
            yield Noted(text)
        return layer_map

    def _candidates(self, planned: Planned, layer_map: LayerMap) -> list[Candidate]:
        lower = self.options.guidance_scales[1:]
        shortlist = [_scanned(layer_map, cell) for cell in layer_map.shortlist(budget.SHORTLIST)]
        every = candidates(planned.model, shortlist, lower)
        found = budget.fitting(every, planned.plan)
        self.board.add("race", found)
        self.board.write()
        return found

    # --- race and search --------------------------------------------------------------------------

    def _round(self, racing: Sequence[Candidate]) -> float:
        """Return the forward passes of a round of some candidates."""
        prompts = min(budget.ROUND, len(self.ids["race"]))
        return prompts * self.options.most_seeds * sum(one.passes for one in racing)

    def _floor_rules(self) -> RaceRules:
        return RaceRules(
            round_size=budget.ROUND,
            floors=self.objective.floors,
            lower=self.objective.lower,
            seeds=self.options.most_seeds,
        )

    def race(
        self, stage: str, racing: Sequence[Candidate], rules: RaceRules, prompts: Sequence[int]
    ) -> RaceEvents:
        """Run a race to its end, round by round; in hours, at most as long as the plan gives it."""
        while True:
            rules = dataclasses.replace(rules, max_rounds=self.purse.stops().get(stage))
            state = Race(racing, prompts, rules).state(self.scores())
            self.board.rounds[stage] = state
            self.board.done[stage] = (
                len(state.rounds),
                None if not state.over else len(state.rounds),
            )
            self.board.write()
            yield RoundOver(stage, state, tuple(racing))
            if state.over:
                return state
            if (state.rounds or stage in search.STAGES) and self.purse.is_late(stage):
                self.purse.keep_stop(stage, len(state.rounds))
                continue
            yield from self._make(stage, racing, state.wanted)

    def _make(
        self, stage: str, racing: Sequence[Candidate], wanted: Sequence[tuple[str, int]]
    ) -> Events:
        """Make the videos that a round wants, and measure them."""
        given = {one.name: one.given for one in racing}
        by_names: dict[tuple[str, ...], list[int]] = {}
        for prompt in dict.fromkeys(prompt for _, prompt in wanted):
            names = tuple(name for name, number in wanted if number == prompt)
            by_names.setdefault(names, []).append(prompt)
        for names, prompts in by_names.items():
            yield from self.sample(stage, [given[name] for name in names], prompts)
        names = tuple(dict.fromkeys(name for name, _ in wanted))
        yield from self.measure(names)

    def _search(
        self,
        planned: Planned,
        layer_map: LayerMap,
        racing: Sequence[Candidate],
        state: RaceState,
    ) -> Generator[TuneEvent, None, tuple[list[Candidate], RaceState]]:
        """Search the scale, then the window, of the winner, as races on the same prompts."""
        everyone, prompts = list(racing), state.prompts or self.ids["race"]
        states = {"race": state}
        for number, stage in enumerate(search.STAGES):
            best = next((one for one in everyone if one.name == state.leader), None)
            if best is None or best.cell is None:
                yield self.not_searched(search.not_around(stage, best))
                continue
            entry, model = _scanned(layer_map, best.cell), planned.model
            spread = search.around(stage, best, entry, model)
            if not spread:
                yield self.not_searched(search.nothing_else(stage, best.name, model.steps))
                continue
            cfg = next(one for one in everyone if one.role == BASELINE)
            together = [cfg, best, *spread]
            passes = self.purse.for_search(len(search.STAGES) - number)
            if self._round(spread) > passes:
                yield self.not_searched(search.not_paid(stage, best.name))
                continue
            # Their clips are there: of the race, on the prompts that it came to.
            rules = dataclasses.replace(
                self._floor_rules(), max_passes=passes, free=(cfg.name, best.name)
            )
            self.board.add(stage, spread)
            found = yield from self.race(stage, together, rules, prompts)
            if not found.rounds:
                yield self.not_searched(search.too_late(stage, best.name))
                continue
            everyone += spread
            more = search.beyond([best, *spread], found, entry, model) if stage == "scale" else []
            if more:
                self.board.add(stage, more)
                found = yield from self.race(stage, [*together, *more], rules, prompts)
                everyone += more
            states[stage] = state = found
            self.purse.spend(found.passes)
        yield self.not_searched(search.beside(everyone, layer_map.kinds.count("")))
        return everyone, self._together(everyone, tuple(states.values()))

    def not_searched(self, text: str) -> Noted:
        """Note what was not searched, and why, for all who read the run."""
        self.board.notes.append(text)
        self.board.not_searched.append(text)
        return Noted(text)

    def _together(self, everyone: Sequence[Candidate], states: Sequence[RaceState]) -> RaceState:
        """Return the race of those that the answer is about, on the prompts that all of them have.

        These are CFG alone in each way that is still in, and of what the last race left the best
        with STG and the cheapest of the tied. What an earlier race beat does not come back because
        fewer prompts count. No video is made for it.

        Args:
            states: of the race and of each search, as they ended.
        """
        last, exits = states[-1], tuple(gone for state in states for gone in state.exits)
        gone = {entry.name for entry in exits}
        ranked = [one.name for one in answers.ranking(last, everyone)]
        with_stg = {one.name for one in everyone if one.has_stg}
        kept = {*[name for name in ranked if name in with_stg][:1], *last.tied[:1]}
        racing = [
            one
            for one in everyone
            if one.name in kept or (not one.has_stg and one.name not in gone)
        ]
        scores = self.scores()
        prompts = [
            prompt
            for prompt in self.ids["race"]
            if all(scores.is_known(one.name, prompt) for one in racing)
        ]
        rules = dataclasses.replace(self._floor_rules(), round_size=max(1, len(prompts)))
        return dataclasses.replace(Race(racing, prompts, rules).state(scores), exits=exits)

    # --- answer -----------------------------------------------------------------------------------

    def _answer(
        self, planned: Planned, everyone: list[Candidate], state: RaceState
    ) -> Generator[TuneEvent, None, Answer]:
        """Compare the winner with CFG alone on the prompts that chose nothing."""
        finalists = self._finalists(planned, everyone, state)
        self._hold_back(self.purse.answer_prompts(finalists))
        yield from self.sample_all(
            "answer", [one.given for one in finalists], self.ids["held_back"]
        )
        yield from self.measure([one.name for one in finalists])
        return answers.answer(
            everyone, state, self.scores(), self.ids["held_back"], self._floor_rules()
        )

    def _finalists(
        self, planned: Planned, everyone: list[Candidate], state: RaceState
    ) -> list[Candidate]:
        """Return who is compared, CFG alone at the price of the best with STG among them.

        Where that did not race, it is added to `everyone`.
        """
        names = answers.finalists(state, everyone)
        found = [one for one in everyone if one.name in names]
        best = next((one for one in found if one.has_stg), None)
        priced = best and at_price(planned.model, best.passes)
        if priced is None:
            return found
        raced = next((one for one in everyone if one.name == priced.name), None)
        if raced is None:
            everyone.append(priced)
            self.board.add("answer", [priced])
        return found if raced in found else [*found, raced or priced]

    def _show(
        self, planned: Planned, layer_map: LayerMap, racing: Sequence[Candidate]
    ) -> Generator[TuneEvent, None, TuneResult]:
        """Sample the shortlist beside CFG alone, where there is nothing to measure it by."""
        prompts = self.ids["race"][: planned.plan.scan_prompts]
        yield from self.sample_all("race", [one.given for one in racing], prompts)
        found = answers.nothing_measured(racing, len(prompts))
        return self.finish(planned, layer_map, racing, found)

    def finish(
        self,
        planned: Planned,
        layer_map: LayerMap,
        everyone: Sequence[Candidate],
        found: Answer,
    ) -> TuneResult:
        """Write the answer, the preset and the report into the run."""
        from skipguide.tuning.answer import outcome

        self.board.stage, self.board.winner = "done", found.winner
        return outcome.write(self, planned, layer_map, everyone, found)

    # --- pieces that all stages use ---------------------------------------------------------------

    def sample(
        self,
        stage: str,
        settings: Sequence[PlainData],
        prompts: Sequence[int],
        watch: scanning.ScanWatch | None = None,
    ) -> Events:
        """Make the videos of settings on prompts that are not there yet."""
        if not prompts or not settings:
            return
        self.board.stage = stage
        self.board.write()
        yield StageBegan(stage)
        yield from self.sampler.sample(settings, prompts, watch, self.on_step)

    def sample_all(
        self,
        stage: str,
        settings: Sequence[PlainData],
        prompts: Sequence[int],
        watch: scanning.ScanWatch | None = None,
    ) -> Events:
        """Make the videos of a stage that has no rounds, and count them on the board."""
        done = clips = 0
        for event in self.sample(stage, settings, prompts, watch):
            if isinstance(event, SweepEstimate):
                done, clips = event.clips - event.missing - event.failed, event.clips
            elif isinstance(event, ClipPublished):
                done += 1
            if clips and isinstance(event, SweepEstimate | ClipPublished):
                self.board.done[stage] = (done, clips)
                self.board.write()
            yield event

    def measure(self, names: Sequence[str]) -> Events:
        """Measure the videos of some settings that have no values yet."""
        with Run.open(self.folder, writable=True) as run:
            for text in self.objective.measure(run, names):
                yield Noted(text)

    def scores(self) -> ScoreTable:
        """Return the values of all videos."""
        with Run.open(self.folder) as run:
            return self.objective.scores(run)


def _scanned(layer_map: LayerMap, cell: Cell) -> Scanned:
    """Return a cell of the map with its cost."""
    costs = dict(zip(layer_map.cells, layer_map.costs, strict=True))
    return Scanned(cell, float(costs[cell]))


def _of_what_is_made(options: TuneOptions) -> ObjectiveSpec:
    """Return the objective, told whether the model makes pictures, as its index says."""
    from skipguide.generate import preflight
    from skipguide.models.settings import ModelSettings

    spec, base = options.objective, options.common.get("base_model")
    model = ModelSettings.model_construct(model=options.model, base_model=base)
    if preflight.find_makes(model) != "image":
        return spec
    measured = dataclasses.replace(spec.options, pictures=True)
    return dataclasses.replace(spec, options=measured)
