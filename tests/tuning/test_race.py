"""The race: who goes when, replay, budgets; against simulated races with a known best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from skipguide.tuning.answer.answer import ranking
from skipguide.tuning.objective.scores import ScoreTable
from skipguide.tuning.race.race import Race, RaceRules
from skipguide.tuning.race.state import floor_of
from support.racers import CFG, Racer

GOOD = Racer("good", "scan", 42.0)
BAD = Racer("bad", "scan", 42.0)
SAME = Racer("same", "scan", 42.0)
PROMPTS = range(100, 164)


def table(means: Mapping[str, float], deviation: float = 0.03, seed: int = 0) -> ScoreTable:
    """Draw values with a part in common, the prompt's own, as clips of one noise have."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0.5, 0.3, len(PROMPTS))
    return ScoreTable(
        "sharpness",
        {
            name: dict(
                zip(PROMPTS, common + mean + rng.normal(0, deviation, len(PROMPTS)), strict=True)
            )
            for name, mean in means.items()
        },
    )


MEANS = {"cfg": 0.0, "good": 0.03, "bad": -0.05, "same": 0.03}


def keep_prompts(scores: ScoreTable, known: Sequence[int]) -> ScoreTable:
    values = {n: {p: v for p, v in own.items() if p in known} for n, own in scores.values.items()}
    return ScoreTable(scores.label, values)


def test_the_bad_goes_and_the_equal_are_tied() -> None:
    state = Race([CFG, GOOD, BAD, SAME], PROMPTS).state(table(MEANS))
    gone = {one.name: one for one in state.exits}
    assert set(gone) == {"bad"}
    assert gone["bad"].kind == "behind"
    assert gone["bad"].round < 8
    assert state.over
    assert state.why == "All 64 prompts of the race have been used."
    assert set(state.tied) == {"good", "same"}
    assert state.leader in state.tied
    # What it says are the numbers of its last standing.
    last = next(
        one for one in state.rounds[gone["bad"].round - 1].standings if one.name == "bad"
    ).to_leader
    assert last is not None
    assert last.high is not None
    assert last.high < 0
    assert f"{last.value:+.3g} ({last.low:.3g} to {last.high:.3g})" in gone["bad"].reason
    assert f"after {4 * gone['bad'].round} prompts" in gone["bad"].reason


def test_who_went_is_not_sampled_again() -> None:
    state = Race([CFG, GOOD, BAD, SAME], PROMPTS).state(table(MEANS))
    (exit_,) = state.exits
    for one in state.rounds:
        assert ("bad" in {row.name for row in one.standings}) == (one.number <= exit_.round)


def test_cfg_alone_never_goes_and_is_not_tied_when_it_is_worse() -> None:
    means = {"cfg": -0.3, "good": 0.03, "same": 0.03}
    state = Race([CFG, GOOD, SAME], PROMPTS).state(table(means))
    assert "cfg" in state.active
    assert "cfg" not in state.tied
    standing = state.standing("cfg")
    assert standing is not None
    assert standing.to_leader is not None
    assert standing.to_leader.sign == -1


def test_a_race_goes_on_wherever_it_was_stopped() -> None:
    """The state is a function of the values: of half a round, the other half is wanted."""
    scores = table(MEANS)
    race = Race([CFG, GOOD, BAD, SAME], PROMPTS)
    whole = race.state(scores)
    first = race.state(ScoreTable("sharpness", {}))
    assert set(first.wanted) == {(n, p) for n in MEANS for p in PROMPTS[:4]}
    assert not first.over
    assert first.leader is None
    partly = {name: dict(list(own.items())[:4]) for name, own in scores.values.items()}
    partly["good"] |= {PROMPTS[4]: scores.values["good"][PROMPTS[4]]}
    second = race.state(ScoreTable("sharpness", partly))
    assert second.rounds == whole.rounds[:1]
    assert ("good", PROMPTS[4]) not in second.wanted
    assert len(second.wanted) == 4 * 4 - 1


def test_all_that_is_wanted_leads_to_the_same_end() -> None:
    """Ask, sample what is wanted, ask again: as a run does."""
    scores, race = table(MEANS), Race([CFG, GOOD, BAD, SAME], PROMPTS)
    values: dict[str, dict[int, float]] = {name: {} for name in MEANS}
    sampled = 0
    while not (state := race.state(ScoreTable("sharpness", values))).over:
        for name, prompt in state.wanted:
            values[name][prompt] = scores.values[name][prompt]
            sampled += 1
    assert state == race.state(scores)
    (gone,) = state.exits
    assert sampled == 3 * 64 + 4 * gone.round


def test_the_best_is_sent_away_by_chance_in_at_most_alpha() -> None:
    """Six candidates that are all the same: nobody should be found to be behind."""
    racers = [CFG, *(Racer(f"c{i}", "scan", 42.0) for i in range(6))]
    wrong = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        values = {r.name: dict(enumerate(rng.normal(size=60))) for r in racers}
        state = Race(racers, range(60)).state(ScoreTable("x", values))
        wrong += any(one.kind == "behind" for one in state.exits)
    assert wrong <= 4  # each of six may be the one; 5 % is said of the best alone


def test_equal_values_send_nobody_away() -> None:
    values = {one.name: dict.fromkeys(PROMPTS, 1.0) for one in (CFG, GOOD, BAD)}
    values["bad"] = dict.fromkeys(PROMPTS, 0.5)
    state = Race([CFG, GOOD, BAD], PROMPTS).state(ScoreTable("x", values))
    # Whole numbers of steps count as shares, which have a width; other constants have none.
    assert [one.name for one in state.exits] == ["bad"]
    values["bad"] = dict.fromkeys(PROMPTS, 0.9137)
    state = Race([CFG, GOOD, BAD], PROMPTS).state(ScoreTable("x", values))
    assert state.exits == ()


# --- floors ---------------------------------------------------------------------------------------


def test_who_is_below_a_floor_goes_though_it_leads() -> None:
    scores = table({"cfg": 0.0, "good": 0.2, "same": 0.0})
    motion = {
        "cfg": dict.fromkeys(PROMPTS, 1.0),
        "good": {p: 0.8 + 0.01 * (p % 3) for p in PROMPTS},
        "same": {p: 0.96 + 0.02 * (p % 3) for p in PROMPTS},
    }
    scores = ScoreTable("sharpness", scores.values, {"motion": motion})
    rules = RaceRules(floors=(("motion", 0.97),))
    state = Race([CFG, GOOD, SAME], PROMPTS, rules).state(scores)
    (gone,) = state.exits
    assert (gone.name, gone.kind) == ("good", "floor")
    assert "from its floor, 0.97 of that of CFG alone" in gone.reason
    assert state.rounds[gone.round - 1].leader != "good"
    assert "same" in state.active


def test_a_floor_of_what_is_better_lower_is_a_ceiling() -> None:
    scores = table({"cfg": 0.0, "good": 0.2, "same": 0.0})
    flicker = {
        "cfg": {p: 0.1 + 0.001 * (p % 3) for p in PROMPTS},
        "good": {p: 0.2 + 0.001 * (p % 5) for p in PROMPTS},
        "same": {p: 0.101 + 0.001 * (p % 4) for p in PROMPTS},
    }
    scores = ScoreTable("sharpness", scores.values, {"flicker": flicker})
    rules = RaceRules(floors=(("flicker", 0.9),), lower=("flicker",))
    state = Race([CFG, GOOD, SAME], PROMPTS, rules).state(scores)
    assert [(one.name, one.kind) for one in state.exits] == [("good", "floor")]


@pytest.mark.parametrize(
    ("is_lower", "level", "floor"),
    [(False, 1, 0.8), (False, -1, -1.25), (True, 1, 1.25), (True, -1, -0.8)],
)
def test_a_floor_is_always_on_the_worse_side(is_lower: bool, level: float, floor: float) -> None:
    found = floor_of(0.8, np.asarray([level, np.nan], np.float64), is_lower)
    assert found[0] == pytest.approx(floor)
    assert (floor < level) != is_lower


# --- budgets --------------------------------------------------------------------------------------


def many(count: int) -> list[Racer]:
    return [CFG, *(Racer(f"c{i}", "scan", 42.0) for i in range(count))]


def noise(names: Sequence[str], best: str, seed: int, effect: float = 0.4) -> ScoreTable:
    rng = np.random.default_rng(seed)
    values = {
        name: dict(zip(PROMPTS, rng.normal(effect * (name == best), 1, len(PROMPTS)), strict=True))
        for name in names
    }
    return ScoreTable("x", values)


def test_a_budget_is_kept_to_and_spent_by_halving() -> None:
    racers = many(8)
    rules = RaceRules(max_passes=6000)
    state = Race(racers, PROMPTS, rules).state(noise([r.name for r in racers], "c3", 1))
    cost = {one.name: one.passes for one in racers}
    spent = sum(cost[row.name] * len(one.prompts) for one in state.rounds for row in one.standings)
    assert state.passes == spent <= 6000
    assert spent > 5700
    places = [len(one.standings) for one in state.rounds]
    assert places[0] == 9
    assert 5 in places  # 4 of 8 and CFG alone
    assert places[-1] == 3
    assert {one.kind for one in state.exits} == {"set aside"}
    assert "this does not show that it is worse" in state.exits[0].reason
    assert state.why.startswith("The budget of 6,000 forward passes is spent")


def test_halving_finds_the_best_more_often_than_equal_shares() -> None:
    """With 16 candidates and 240 clips, in 83 % against 69 % (docs/decisions/086)."""
    racers = [CFG, *(Racer(f"c{i}", "scan", 28.0) for i in range(16))]
    found = {True: 0, False: 0}
    for seed in range(24):
        scores = noise([r.name for r in racers], "c3", seed, 0.6)
        for halve in found:
            rules = RaceRules(max_passes=240 * 28.0, halve=halve)
            state = Race(racers, PROMPTS, rules).state(scores)
            found[halve] += ranking(state, racers)[0].name == "c3"
    assert found[True] > found[False]


@pytest.mark.parametrize(
    ("prompts", "max_rounds", "first", "why"),
    [
        (12, None, 1, "All 12 prompts of the race have been used."),
        (64, 3, 4, "The race ended after 12 prompts, because the hours for it are used up."),
    ],
)
def test_nobody_is_set_aside_after_the_last_round(
    prompts: int, max_rounds: int | None, first: int, why: str
) -> None:
    """Where another round follows the worse half is set aside after the third, and only there."""
    racers, rules = many(8), RaceRules(max_passes=4300, max_rounds=max_rounds)
    scores = noise([one.name for one in racers], "c3", 1)
    state = Race(racers, PROMPTS[:prompts], rules).state(scores)
    assert state.why == why
    assert [len(one.exits) for one in state.rounds] == [first, 0, 0]
    assert set(state.active) == {row.name for row in state.rounds[-1].standings}
    longer = Race(racers, PROMPTS, RaceRules(max_passes=4300)).state(scores)
    assert [len(one.exits) for one in longer.rounds[:3]] == [4, 0, 2]


@pytest.mark.parametrize("share", [0.55, 0.7, 0.85, 0.97])
def test_no_more_are_set_aside_than_the_budget_asks_for(share: float) -> None:
    """What is left in the end does not pay for one more of them on what followed."""
    racers = many(8)
    whole = 64 * sum(one.passes for one in racers)
    rules = RaceRules(max_passes=share * whole)
    state = Race(racers, PROMPTS, rules).state(noise([r.name for r in racers], "c3", 1))
    aside = [one for one in state.exits if one.kind == "set aside"]
    assert len(state.prompts) == 64
    assert aside
    assert state.passes <= share * whole
    last = max(one.round for one in aside)
    assert state.passes + 42 * (64 - 4 * last) > share * whole


def test_passes_of_who_went_keep_others_in() -> None:
    """Four of eight are sent away for what they are; the rest can stay to the end."""
    racers = many(8)
    rng = np.random.default_rng(0)
    means = {one.name: -3.0 if one.name in ("c4", "c5", "c6", "c7") else 0.0 for one in racers}
    values = {
        name: dict(zip(PROMPTS, rng.normal(mean, 0.3, len(PROMPTS)), strict=True))
        for name, mean in means.items()
    }
    rules = RaceRules(max_passes=0.66 * 64 * sum(one.passes for one in racers))
    state = Race(racers, PROMPTS, rules).state(ScoreTable("x", values))
    assert {one.name for one in state.exits if one.kind == "behind"} == {"c4", "c5", "c6", "c7"}
    assert not [one for one in state.exits if one.kind == "set aside"]
    assert len(state.prompts) == 64


def test_a_budget_for_everything_sets_nobody_aside() -> None:
    racers = many(3)
    state = Race(racers, PROMPTS, RaceRules(max_passes=1e6)).state(
        noise([r.name for r in racers], "c1", 0)
    )
    assert not [one for one in state.exits if one.kind == "set aside"]
    assert len(state.prompts) == 64


def test_clips_that_are_there_cost_nothing() -> None:
    rules = RaceRules(max_passes=42 * 6, halve=False, free=("cfg",))
    state = Race([CFG, GOOD], PROMPTS, rules).state(table({"cfg": 0, "good": 0}))
    assert [len(one.prompts) for one in state.rounds] == [4, 2]
    assert state.passes == 42 * 6


def test_the_last_round_is_as_small_as_the_budget() -> None:
    rules = RaceRules(max_passes=70 * 6, halve=False)
    state = Race([CFG, GOOD], PROMPTS, rules).state(table({"cfg": 0, "good": 0}))
    assert [len(one.prompts) for one in state.rounds] == [4, 2]
    rules = RaceRules(max_passes=70 * 6, seeds=2, halve=False)
    state = Race([CFG, GOOD], PROMPTS, rules).state(table({"cfg": 0, "good": 0}))
    assert [len(one.prompts) for one in state.rounds] == [3]


# --- what is missing ------------------------------------------------------------------------------


def test_the_race_does_not_wait_for_clips_that_failed() -> None:
    scores = table(MEANS)
    values = {name: dict(own) for name, own in scores.values.items()}
    del values["good"][PROMPTS[1]]
    waiting = Race([CFG, GOOD, SAME], PROMPTS).state(ScoreTable("x", values))
    assert waiting.wanted == (("good", PROMPTS[1]),)
    lacking = {("good", PROMPTS[1]): "it failed"}
    done = Race([CFG, GOOD, SAME], PROMPTS).state(ScoreTable("x", values, lacking=lacking))
    assert done.over
    found = done.standing("good")
    assert found is not None
    assert found.to_cfg is not None
    assert found.to_cfg.count == 63


def test_who_has_no_value_at_all_goes() -> None:
    scores = table({"cfg": 0.0, "good": 0.0})
    lacking = {("bad", prompt): "it failed" for prompt in PROMPTS}
    state = Race([CFG, GOOD, BAD], PROMPTS).state(ScoreTable("x", scores.values, lacking=lacking))
    assert [(one.name, one.kind, one.round) for one in state.exits] == [("bad", "no values", 1)]
    assert state.exits[0].reason == "bad went: none of its clips on 4 prompts has a value."


def test_states_are_json() -> None:
    lacking = {("bad", prompt): "it failed" for prompt in PROMPTS}
    scores = ScoreTable("x", table({"cfg": 0.0, "good": 0.0}).values, lacking=lacking)
    state = Race([CFG, GOOD, BAD], PROMPTS).state(scores)
    content = json.loads(json.dumps(state.to_dict(), allow_nan=False))
    assert content["leader"] == state.leader
    assert len(content["rounds"]) == len(state.rounds)
    row = content["rounds"][-1]["standings"][0]
    assert set(row) == {"name", "mean", "to_cfg", "to_leader", "floors"}


def test_wrong_races_are_refused() -> None:
    with pytest.raises(ValueError, match="one candidate that is CFG alone, but got 0"):
        Race([GOOD], PROMPTS)
    with pytest.raises(ValueError, match="must have different names"):
        Race([CFG, GOOD, GOOD], PROMPTS)
    with pytest.raises(ValueError, match="needs prompts"):
        Race([CFG, GOOD], [])
    with pytest.raises(ValueError, match="round_size of a race must be at least 1"):
        RaceRules(round_size=0)
    with pytest.raises(ValueError, match="alpha of a race"):
        RaceRules(alpha=0)
