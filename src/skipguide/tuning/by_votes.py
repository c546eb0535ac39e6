"""A tuning whose race raters decide in the studio, by blind pairs.

It samples everyone on a few prompts and ends with the line to type; the same command goes on when
there are votes. When the race is over, its winner meets CFG alone on prompts that chose nothing, in
votes again."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.tuning.answer import answer as answers
from skipguide.tuning.answer.result import Answer
from skipguide.tuning.board import finite
from skipguide.tuning.events import Planned, TuneEvent, TuneResult
from skipguide.tuning.objective.scores import ScoreTable
from skipguide.tuning.plan.budget import ROUND
from skipguide.tuning.race import search
from skipguide.tuning.race import votes as vote_race
from skipguide.tuning.race.candidates import Candidate
from skipguide.tuning.race.race import BASELINE, Exit, RaceState
from skipguide.tuning.race.votes import VoteRules, VoteState
from skipguide.tuning.scan.layer_map import LayerMap

if TYPE_CHECKING:
    from skipguide.tuning.run import Tuning

_PROMPTS = 2 * ROUND  # on which everyone is sampled


def finish(
    tuning: Tuning, planned: Planned, layer_map: LayerMap, racing: Sequence[Candidate]
) -> Generator[TuneEvent, None, TuneResult]:
    """Sample, and return either what is waited for, or the answer of the votes."""
    prompts = tuning.ids["race"][:_PROMPTS]
    yield from tuning.sample_all("race", [one.given for one in racing], prompts)
    names = [one.name for one in racing]
    baseline = next(one for one in racing if one.role == BASELINE)
    state = _ask(tuning, _asked(names, baseline.name, prompts))
    if not state.over:
        return _wait(tuning, layer_map, state, _asked(names, baseline.name, prompts))
    best = next(one for one in racing if one.name == state.leader)
    yield tuning.not_searched(search.BY_VOTES)
    if best.name == baseline.name:
        return tuning.finish(planned, layer_map, racing, _answer(tuning, racing, state, []))
    kept = tuning.ids["held_back"]
    yield from tuning.sample_all("answer", [baseline.given, best.given], kept)
    pair = [baseline.name, best.name]
    asked = {**_asked(pair, baseline.name, kept), "every_prompt": True}
    last = _ask(tuning, asked)
    if kept and not last.over:
        return _wait(tuning, layer_map, last, asked)
    return tuning.finish(planned, layer_map, racing, _answer(tuning, racing, state, kept))


def _asked(names: Sequence[str], baseline: str, prompts: Sequence[int]) -> PlainData:
    """Return which votes are wanted, as the studio reads it."""
    return {"names": list(names), "baseline": baseline, "prompts": list(prompts)}


def _ask(tuning: Tuning, asked: PlainData) -> VoteState:
    rules = VoteRules.of(asked)
    with Run.open(tuning.folder) as run:
        return vote_race.state(run, asked["names"], asked["baseline"], asked["prompts"], rules)


def _wait(tuning: Tuning, layer_map: LayerMap, state: VoteState, asked: PlainData) -> TuneResult:
    """Say what is waited for, in the run and to the caller."""
    more = f" About {state.more_votes} are expected to be needed." if state.more_votes else ""
    said = (
        f"{state.votes} votes are there.{more} Judge pairs in the studio with `skipguide studio"
        f" {tuning.folder}`, then run the same command again: it goes on from there."
    )
    tuning.board.stage, tuning.board.waiting = "race", said
    tuning.board.votes = asked
    tuning.board.vote_state = finite(state.to_dict())
    tuning.board.write()
    return TuneResult(tuning.folder, layer_map, None, said)


def _answer(
    tuning: Tuning, racing: Sequence[Candidate], state: VoteState, kept: Sequence[int]
) -> Answer:
    """Return the answer of the votes: of each prompt the share that a setting won against CFG."""
    names = [one.name for one in racing]
    baseline = next(one.name for one in racing if one.role == BASELINE)
    prompts = [*tuning.ids["race"][:_PROMPTS], *kept]
    with Run.open(tuning.folder) as run:
        won = vote_race.shares(run, names, baseline, prompts)
    scores = ScoreTable("win rate in blind pairs against CFG alone", won, against_half=True)
    return answers.answer(racing, _as_race(racing, state), scores, kept)


def _as_race(racing: Sequence[Candidate], state: VoteState) -> RaceState:
    """Return a race by votes in the words of a race by a metric."""
    passes = {one.name: one.passes for one in racing}
    tied = tuple(sorted(state.racing, key=passes.__getitem__))
    exits = tuple(Exit(name, 1, "behind", reason) for name, reason in state.out.items())
    return RaceState((), state.racing, state.leader, tied, exits, (), True, state.why, 0.0)
