"""A tuning: plan, scan, race, search and answer, in a run that goes on whatever ended it.

Every decision is a function of the options, of the times measured at first, and of the videos and
values that the run holds. A tuning that was killed asks for the same videos again, finds those that
are there, and so comes back to where it was."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Generator, Sequence
from pathlib import Path

from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.runs.engine import Cost, Engine, OnStep
from skipguide.runs.jobs import ResolvedSetting
from skipguide.runs.ledger import NotBegunError
from skipguide.runs.sweep import ClipPublished, SweepEstimate
from skipguide.tuning import facts
from skipguide.tuning.answer import answer as answers
from skipguide.tuning.answer.answer import Answer
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
from skipguide.tuning.facts import Facts
from skipguide.tuning.objective.objective import Objective
from skipguide.tuning.objective.scores import ScoreTable
from skipguide.tuning.options import FEWEST_KEPT, TuneOptions, check_images, check_run, keep_options
from skipguide.tuning.plan import budget, resolution
from skipguide.tuning.plan.budget import Timing
from skipguide.tuning.race import search
from skipguide.tuning.race.candidates import (
    Candidate,
    Model,
    Scanned,
    at_price,
    candidates,
    cfg_alone,
    check_scales,
)
from skipguide.tuning.race.race import Race, RaceRules, RaceState
from skipguide.tuning.sampling import Sampler
from skipguide.tuning.scan import watch as scanning
from skipguide.tuning.scan.layer_map import LayerMap
from skipguide.tuning.scan.record import Cell

_TIMED = 3  # times
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
        self.objective = Objective(options.objective)
        self.notes = [*options.notes(), *self.objective.check()]
        self.sampler = Sampler(folder, options, engine, retry_failed)
        self.board = Board(folder, options, self.objective.label)
        self.on_step: OnStep | None = None
        self.planned: Planned | None = None
        self.ids: dict[str, list[int]] = {}
        self.rest = 0.0  # passes of the budget after the scan that no race has spent
        self.reserve = 0.0  # of these, what the answer takes

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
        planned = self.planned = self._plan()
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
            from skipguide.tuning.race import by_votes

            return (yield from by_votes.finish(self, planned, layer_map, racing))
        if not self.objective.spec.measures:
            return (yield from self._show(planned, layer_map, racing))
        plan = planned.plan
        self.rest = plan.total - self._scan_cost(planned)
        self.reserve = min(plan.answer, self._answer_cost(planned, racing))
        # What scan and answer need less than was planned is for the race.
        passes = self.rest - self.reserve - plan.search
        rules = self._race_rules(planned, passes, racing)
        state = yield from self.race("race", racing, rules, self.ids["race"])
        self.rest -= self._of_budget(planned, state.passes)
        everyone, state = yield from self._search(planned, layer_map, racing, state)
        found = yield from self._answer(planned, everyone, state)
        return self.finish(planned, layer_map, everyone, found)

    def _begin(self, planned: Planned) -> None:
        """Enter the tuning into its run."""
        self.sampler.register()
        keep_options(self.folder, self.options)
        budget.keep_timing(self.folder, planned.timing)
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

    # --- plan -------------------------------------------------------------------------------------

    def _plan(self) -> Planned:
        """Load the model, time it, and divide the budget; nothing is written.

        Raises:
            ValueError: for what the model refuses.
        """
        from skipguide.tuning.plan import words as plan_words

        check_run(self.folder, self.options)
        cfg: PlainData = {"name": "cfg", "stg_scale": 0.0}
        smaller = self._size_of_scan()
        own = self.sampler.survey_all([cfg, *([{**cfg, **smaller}] if smaller else [])])[0]
        known = self._inspect(own.setting.generation)
        timing = budget.read_timing(self.folder) or self._measure_times(own, known)
        budget.check_budget(self.folder, self.options, timing)
        share = self._scanned_share(own.complete)
        plan = budget.make_plan(self.options, timing, known.weak_passes, share)
        planned = Planned(plan, timing, known, own, ())
        check_scales(self.model(planned), self.options.guidance_scales[1:])
        words = plan_words.describe(
            self.options, plan, timing, known, self.objective, self._deviations(planned)
        )
        return dataclasses.replace(planned, sentences=tuple(words))

    def _deviations(self, planned: Planned) -> dict[str, float]:
        """Return what the clips say of the deviations where a tuning goes on; nothing at first."""
        if budget.read_timing(self.folder) is None:
            return {}
        try:
            scores = self.scores()
        except NotBegunError:  # a power cut can take the ledger's first entries and leave the times
            return {}
        return resolution.deviations_of(scores, self._cfg_given(planned)["name"])

    def _inspect(self, generation: GenerationSettings) -> Facts:
        tell = functools.partial(facts.facts_of, options=self.options.scan)
        return self.sampler.engine.inspect(generation, tell)

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

    # --- scan -------------------------------------------------------------------------------------

    def _scan(self, planned: Planned) -> Generator[TuneEvent, None, LayerMap]:
        plan, options = planned.plan, self.options
        prompts = self.ids["race"][: plan.scan_prompts]
        given = {**self._cfg_given(planned), **self._size_of_scan()}
        watch = scanning.ScanWatch(scanning.with_levels(options.scan, plan.levels))
        yield from self.sample_all("scan", [given], prompts, watch)
        layer_map = scanning.read_map(self.folder, given["name"], prompts)
        for text in scanning.write_map(self.folder, layer_map):
            yield Noted(text)
        return layer_map

    def _size_of_scan(self) -> PlainData:
        """Return what the setting of the scan has of its own; nothing at the size of all videos."""
        if self.options.scan_size is None:
            return {}
        width, height, frames = self.options.scan_size
        return {"name": "scan", "width": width, "height": height, "num_frames": frames}

    def _cfg_given(self, planned: Planned) -> PlainData:
        return {**cfg_alone(self.model(planned), self.model(planned).guidance_scale).given}

    def model(self, planned: Planned) -> Model:
        """Return the facts on which the candidates depend."""
        complete, plain = planned.own.complete, planned.timing.plain_passes
        assert complete.steps is not None
        scale = complete.guidance_scale if plain > 1 else None
        published = bool(planned.facts.published)
        return Model(complete.steps, scale, published, planned.timing.preset_cost)

    def _candidates(self, planned: Planned, layer_map: LayerMap) -> list[Candidate]:
        lower = self.options.guidance_scales[1:]
        shortlist = [_scanned(layer_map, cell) for cell in layer_map.shortlist(budget.SHORTLIST)]
        every = candidates(self.model(planned), shortlist, lower)
        found = budget.fitting(every, planned.plan)
        self.board.add("race", found)
        self.board.write()
        return found

    # --- race and search --------------------------------------------------------------------------

    def _race_rules(
        self, planned: Planned, passes: float, racing: Sequence[Candidate]
    ) -> RaceRules:
        """Return the rules of a race, which has one round however small its budget is.

        Args:
            passes: of the budget; what videos take beside their passes is a part of it.
        """
        rules = self._floor_rules()
        prompts = min(rules.round_size, len(self.ids["race"]))
        least = prompts * rules.seeds * sum(one.passes for one in racing)
        share = budget.denoising_share(self.options, planned.timing)
        return dataclasses.replace(rules, max_passes=max(passes * share, least))

    def _of_budget(self, planned: Planned, passes: float) -> float:
        """Return what forward passes of videos cost of the budget."""
        return passes / budget.denoising_share(self.options, planned.timing)

    def _scan_cost(self, planned: Planned) -> float:
        """Return what the scan has taken of the budget, beside what counts as the race's.

        Of few steps, levels of noise fall together, so that it can be less than was planned. The
        videos of a scan at full size are the first of CFG alone, which the race counts.
        """
        if self.options.scan_size is not None:
            return planned.plan.scan
        return min(planned.plan.scan, self.board.scan_passes())

    def _answer_cost(self, planned: Planned, racing: Sequence[Candidate]) -> float:
        """Return what the answer costs of the budget if the dearest come to it."""
        dearest = sorted(one.passes for one in racing)[-budget.FINALISTS :]
        return self._of_budget(
            planned, planned.plan.held_back * self.options.most_seeds * sum(dearest)
        )

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
            stops = self._stops()
            rules = dataclasses.replace(rules, max_rounds=stops.get(stage))
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
            if (state.rounds or stage in search.STAGES) and self._is_late(stage):
                self._keep_stop(stage, len(state.rounds))
                continue
            yield from self._make(stage, racing, state.wanted)

    def _stops(self) -> dict[str, int]:
        return budget.read_stops(self.folder, self.options.clock_hours)

    def _keep_stop(self, stage: str, count: int) -> None:
        assert self.options.clock_hours is not None
        stops = {**self._stops(), stage: count}
        budget.keep_stops(self.folder, self.options.clock_hours, stops)

    def _is_late(self, stage: str) -> bool:
        """Tell whether a stage has had its time; a budget in passes has no clock."""
        if self.options.clock_hours is None or self.planned is None:
            return False
        limit = budget.stage_seconds(self.planned.plan, self.planned.timing, stage)
        workers = self.sampler.engine.workers
        return self.board.seconds_used() / workers >= limit

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
            entry, model = _scanned(layer_map, best.cell), self.model(planned)
            spread = search.around(stage, best, entry, model)
            if not spread:
                yield self.not_searched(search.nothing_else(stage, best.name, model.steps))
                continue
            cfg = next(one for one in everyone if one.role == "cfg")
            together = [cfg, best, *spread]
            passes = (self.rest - self.reserve) / (len(search.STAGES) - number)
            # Their clips are there: of the race, on the prompts that it came to.
            rules = dataclasses.replace(
                self._race_rules(planned, passes, together), free=(cfg.name, best.name)
            )
            if not self._pays(planned, passes, spread, rules):
                yield self.not_searched(search.not_paid(stage, best.name))
                continue
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
            self.rest -= self._of_budget(planned, found.passes)
        yield self.not_searched(search.beside(everyone, layer_map.kinds.count("")))
        return everyone, self._together(everyone, tuple(states.values()))

    def _pays(
        self, planned: Planned, passes: float, spread: Sequence[Candidate], rules: RaceRules
    ) -> bool:
        """Tell whether so many passes pay for a round of what is to be tried."""
        prompts = min(rules.round_size, len(self.ids["race"]))
        needed = prompts * rules.seeds * sum(one.passes for one in spread)
        return self._of_budget(planned, needed) <= passes

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
        self._hold_back(self._answer_prompts(planned, finalists))
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
        priced = best and at_price(self.model(planned), best.passes)
        if priced is None:
            return found
        raced = next((one for one in everyone if one.name == priced.name), None)
        if raced is None:
            everyone.append(priced)
            self.board.add("answer", [priced])
        return found if raced in found else [*found, raced or priced]

    def _answer_prompts(self, planned: Planned, finalists: Sequence[Candidate]) -> int:
        """Return how many prompts the rest of the budget pays for, so many that all are used.

        In hours it is what the rest of them has time for at the pace of the videos so far.
        """
        kept = len(self.options.split()[1])
        fewest = min(kept, FEWEST_KEPT)
        per_prompt = self.options.most_seeds * sum(one.passes for one in finalists)
        if self.options.clock_hours is None:
            found = math.floor(self.rest / self._of_budget(planned, per_prompt))
            return min(kept, max(fewest, found))
        known = self._stops().get(budget.ANSWER)
        if known is None:
            left = self.options.clock_hours * 3600 * self.sampler.engine.workers
            left -= self.board.seconds_used()
            known = math.floor(left / (per_prompt * self.board.seconds_per_pass()))
            known = min(kept, max(fewest, known))
            self._keep_stop(budget.ANSWER, known)
        return known

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
