"""The answer: the gain on prompts that chose nothing, verdicts, and what is recommended."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest

from skipguide.stats.estimate import Estimate
from skipguide.stats.paired import paired_difference
from skipguide.tuning.answer.answer import answer, finalists, nothing_measured
from skipguide.tuning.objective.scores import ScoreTable
from skipguide.tuning.race.race import Race, RaceRules, RaceState
from skipguide.tuning.race.words import interval
from support.racers import CFG, Racer

RACED, KEPT = range(24), range(100, 116)

STG = Racer("R8", "scan", 42.0)
MORE_STEPS = Racer("cfg 21 steps", "cfg-price", 42.0, "CFG alone with 21 steps")
LOWER = Racer("cfg 2", "cfg-low", 28.0, "CFG alone at scale 2")
LOW = Racer("no guidance, R8", "scan", 21.0)


def table(means: Mapping[str, tuple[float, float]], deviation: float = 0.02) -> ScoreTable:
    """Draw values with other means on the prompts of the race than on those kept back."""
    rng = np.random.default_rng(3)
    common = rng.normal(0.5, 0.2, 200)
    values = {}
    for name, (raced, kept) in means.items():
        drawn = common + rng.normal(0, deviation, 200)
        values[name] = {p: float(drawn[p] + raced) for p in RACED}
        values[name] |= {p: float(drawn[p] + kept) for p in KEPT}
    return ScoreTable("sharpness", values)


def race(scores: ScoreTable, *racers: Racer, rules: RaceRules | None = None) -> RaceState:
    return Race(racers, RACED, rules).state(scores)


def test_a_gain_that_holds_is_to_be_used() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.03)})
    state = race(scores, CFG, STG)
    assert finalists(state, [CFG, STG]) == ("cfg", "R8")
    found = answer([CFG, STG], state, scores, KEPT)
    assert (found.verdict, found.winner, found.recommended) == ("use", "R8", "R8")
    assert found.gain is not None
    # The gain is that of the prompts kept back alone.
    own, base = ([scores.values[name][p] for p in KEPT] for name in ("R8", "cfg"))
    assert found.gain.difference == paired_difference(own, base)
    assert found.gain.difference.estimate.value == pytest.approx(0.03, abs=0.015)
    assert found.sentences[0] == (
        "Use R8 (42 forward passes a clip; CFG alone takes 28): it has more sharpness than CFG"
        " alone."
    )
    assert "on 16 prompts that chose nothing: better." in found.sentences[1]


def test_a_gain_of_the_race_alone_is_not_distinguishable() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.0)})
    found = answer([CFG, STG], race(scores, CFG, STG), scores, KEPT)
    assert (found.verdict, found.winner, found.recommended) == ("use CFG alone", "R8", "cfg")
    assert found.gain is not None
    assert found.gain.difference.estimate.sign == 0
    assert "not distinguishable from 0, and it is the cheapest of the tied" in found.sentences[0]
    half = (found.gain.difference.estimate.high or 0) - found.gain.difference.estimate.value
    assert found.sentences[1].endswith(f"So many prompts can show differences above {half:.2g}.")


def test_what_is_worse_is_not_used() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, -0.05)})
    found = answer([CFG, STG], race(scores, CFG, STG), scores, KEPT)
    assert (found.verdict, found.recommended) == ("use CFG alone", "cfg")
    assert found.sentences[0].endswith("R8 is worse than it.")


def test_the_cheapest_of_the_tied_may_be_neither() -> None:
    """Without guidance and with STG it costs less than CFG alone, and is as good."""
    scores = table({"cfg": (0, 0), "no guidance, R8": (0.0, 0.0)})
    found = answer([CFG, LOW], race(scores, CFG, LOW), scores, KEPT)
    assert (found.verdict, found.recommended) == ("not distinguishable", "no guidance, R8")
    assert found.sentences[0].startswith("Nothing better than CFG alone was found; no guidance, R8")


def test_the_cheaper_of_two_that_both_gain_is_recommended() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.06, 0.05), "no guidance, R8": (0.05, 0.05)})
    racers = [CFG, STG, LOW]
    state = race(scores, *racers)
    assert set(finalists(state, racers)) == {"cfg", "R8", "no guidance, R8"}
    found = answer(racers, state, scores, KEPT)
    assert (found.verdict, found.winner) == ("use", "R8")
    assert found.recommended == "no guidance, R8"
    assert "is the cheapest of the tied" in found.sentences[0]


def test_more_steps_at_the_same_price_are_compared() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.06, 0.05), "cfg 21 steps": (0.06, 0.05)})
    racers = [CFG, STG, MORE_STEPS]
    state = race(scores, *racers)
    assert "cfg 21 steps" in finalists(state, racers)
    found = answer(racers, state, scores, KEPT)
    assert found.recommended == "R8"
    assert any(
        "R8 is not distinguishable from CFG alone with 21 steps (cfg 21 steps), at the same price"
        in sentence
        for sentence in found.sentences
    )


def test_few_prompts_have_no_interval_and_claim_nothing() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.5)})
    found = answer([CFG, STG], race(scores, CFG, STG), scores, KEPT[:4])
    assert (found.verdict, found.recommended) == ("use CFG alone", "cfg")
    assert "has no interval: an interval needs 5 different prompts or more" in found.sentences[1]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("sharpness", "more sharpness than"),
        ("- grey", "less grey than"),
        ("- grey + motion", "a larger - grey + motion than"),
    ],
)
def test_a_gain_is_said_in_the_direction_of_its_weight(label: str, said: str) -> None:
    values = table({"cfg": (0, 0), "R8": (0.06, 0.05)}).values
    scores = ScoreTable(label, values)
    found = answer([CFG, STG], race(scores, CFG, STG), scores, KEPT)
    assert f"it has {said} CFG alone" in found.sentences[0]


def test_five_prompts_do_not_say_that_one_of_them_carries_a_gain() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.5, 0.5)}, deviation=0.01)
    found = answer([CFG, STG], race(scores, CFG, STG), scores, KEPT[:5])
    assert found.verdict == "use CFG alone"
    assert "so few have no interval, and it may be that one alone" in found.sentences[1]
    assert "carries it" not in " ".join(found.sentences)
    six = answer([CFG, STG], race(scores, CFG, STG), scores, KEPT[:6])
    assert (six.verdict, six.recommended) == ("use", "R8")


def test_more_steps_that_are_better_are_recommended_where_stg_is_not() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.0), "cfg 21 steps": (0.02, 0.2)})
    racers = [CFG, STG, MORE_STEPS]
    state = race(scores, *racers)
    found = answer(racers, state, scores, KEPT)
    assert (found.winner, found.recommended) == ("R8", "cfg 21 steps")
    assert found.verdict == "use CFG alone"
    assert "it has more" in found.sentences[0]
    assert found.sentences[0].endswith("which R8 has not.")


def test_a_broken_floor_is_not_recommended() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.05)})
    rng = np.random.default_rng(0)
    motion = {
        "cfg": dict.fromkeys((*RACED, *KEPT), 1.0),
        "R8": dict.fromkeys(RACED, 1.0) | {p: 0.8 + 0.01 * rng.random() for p in KEPT},
    }
    scores = ScoreTable("sharpness", scores.values, {"motion": motion})
    rules = RaceRules(floors=(("motion", 0.97),))
    state = race(scores, CFG, STG, rules=rules)
    found = answer([CFG, STG], state, scores, KEPT, rules)
    (floor,) = found.floors
    assert floor.is_broken
    assert floor.floor == pytest.approx(0.97)
    assert floor.mean == pytest.approx(0.805, abs=0.003)
    assert (found.verdict, found.recommended) == ("use CFG alone", "cfg")
    assert found.sentences[0].endswith("R8 falls below the floor of motion.")
    row = found.to_dict()["floors"][0]
    assert row["held"] is False
    assert row["low"] < row["value"] < row["high"] < row["floor"]


@pytest.mark.parametrize(("motion", "used"), [(0.965, "R6"), (0.975, "R8")])
def test_what_is_below_its_floor_by_the_mean_is_not_recommended(motion: float, used: str) -> None:
    """The interval reaches to both sides of the floor; the next best that holds it is taken."""
    scores = table({"cfg": (0, 0), "R8": (0.09, 0.09), "R6": (0.088, 0.088)})
    wide = {p: motion + 0.1 * (-1) ** place for place, p in enumerate((*RACED, *KEPT))}
    floors = {"cfg": dict.fromkeys(wide, 1.0), "R8": wide, "R6": dict.fromkeys(wide, 0.99)}
    scores = ScoreTable("sharpness", scores.values, {"motion": floors})
    rules = RaceRules(floors=(("motion", 0.97),))
    other = Racer("R6", "scan", STG.passes)
    state = race(scores, CFG, STG, other, rules=rules)
    # Of the race the best two come to the answer.
    found = answer([CFG, STG, other], state, scores, KEPT, rules)
    (floor,) = found.floors
    assert not floor.is_broken
    assert (found.winner, found.recommended, found.verdict) == ("R8", used, "use")
    assert floor.is_held == (used == "R8")
    said = "R8 falls below the floor of motion."
    assert found.sentences[0].endswith(said) == (used == "R6")


def test_a_ceiling_of_what_is_better_lower() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.05)})
    flicker = {"cfg": {p: 0.09 + 0.001 * (p % 2) for p in KEPT}, "R8": dict.fromkeys(KEPT, 0.1)}
    scores = ScoreTable("sharpness", scores.values, {"flicker": flicker})
    state = race(scores, CFG, STG)
    for share, broken in ((0.97, True), (0.85, False)):
        rules = RaceRules(floors=(("flicker", share),), lower=("flicker",))
        (floor,) = answer([CFG, STG], state, scores, KEPT, rules).floors
        assert floor.is_broken == broken
        assert floor.mean == pytest.approx(0.1)
        assert floor.floor == pytest.approx(0.0905 / share)


def test_without_prompts_kept_back_nothing_is_recommended() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.05)})
    found = answer([CFG, STG], race(scores, CFG, STG), scores, [])
    assert (found.verdict, found.recommended, found.gain) == ("not measured", None, None)
    assert "not measured" in found.sentences[0]
    assert "R8 leads the race" in found.sentences[1]


def test_nobody_left_is_said() -> None:
    scores = table({"cfg": (0, 0), "R8": (-0.5, 0), "no guidance, R8": (-0.5, 0)})
    racers = [CFG, STG, LOW]
    state = race(scores, *racers)
    assert state.active == ("cfg",)
    found = answer(racers, state, scores, KEPT)
    assert (found.verdict, found.recommended, found.gain) == ("use CFG alone", "cfg", None)
    assert len(found.sentences) == 3


def test_quality_against_cost_has_all_that_raced() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.05), "no guidance, R8": (-0.5, 0)})
    values = dict(scores.values)
    values["no guidance, R8"] = {p: v for p, v in values["no guidance, R8"].items() if p in RACED}
    scores = ScoreTable("sharpness", values)
    racers = [CFG, STG, LOW]
    found = answer(racers, race(scores, *racers), scores, KEPT)
    assert [one.name for one in found.contestants] == ["no guidance, R8", "cfg", "R8"]
    low, cfg, stg = found.contestants
    assert not low.held_back
    assert "interval that holds at any time" in low.left
    assert cfg.difference is None
    assert stg.held_back
    assert stg.quality.value == pytest.approx(np.mean([scores.values["R8"][p] for p in KEPT]))


def test_parts_of_a_weighted_sum_are_reported() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.05)})
    parts = {
        "sharpness": {n: dict.fromkeys(KEPT, 0.2 + 0.1 * (n == "R8")) for n in ("cfg", "R8")},
        "motion": {n: dict.fromkeys(KEPT, 0.5 - 0.1 * (n == "R8")) for n in ("cfg", "R8")},
    }
    scores = ScoreTable("sharpness + motion", scores.values, parts=parts)
    found = answer([CFG, STG], race(scores, CFG, STG), scores, KEPT)
    assert [one.metric for one in found.parts] == ["sharpness", "motion"]
    assert found.parts[1].difference.estimate.value == pytest.approx(-0.1)
    assert "Its motion changes by -0.1." in found.sentences


def test_answers_are_json_with_the_names_that_the_studio_reads() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.03)})
    found = answer([CFG, STG], race(scores, CFG, STG), scores, KEPT)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["use"] == content["winner"] == "R8"
    assert set(content["gain"]) >= {"value", "low", "high", "n"}
    assert content["gain"]["n"] == 16
    assert [row["name"] for row in content["raced"]] == ["cfg", "R8"]


def test_without_a_metric_it_says_that_nothing_was_measured() -> None:
    found = nothing_measured([CFG, STG], 4)
    assert (found.verdict, found.recommended, found.gain) == ("not measured", None, None)
    assert found.sentences[0].startswith("Nothing was measured")
    assert "cfg, R8 were sampled on 4 prompts" in found.sentences[1]


def _estimate(scores: ScoreTable, name: str, other: str) -> Estimate:
    """The paired difference on the prompts kept back, by a printed table of Student's t."""
    pairs = [scores.values[name][p] - scores.values[other][p] for p in KEPT]
    mean, half = float(np.mean(pairs)), 2.13145 * float(np.std(pairs, ddof=1)) / 4
    return Estimate(mean, mean - half, mean + half, len(pairs))


@pytest.mark.parametrize("other", [MORE_STEPS, LOWER])
def test_cfg_alone_that_wins_is_called_what_it_is_and_the_best_stg_is_told(other: Racer) -> None:
    scores = table({"cfg": (0, 0), "R8": (0.03, 0.02), other.name: (0.06, 0.05)})
    racers = [CFG, STG, other]
    found = answer(racers, race(scores, *racers), scores, KEPT)
    assert (found.verdict, found.winner, found.recommended) == (
        "use CFG alone", other.name, other.name,
    )  # fmt: skip
    assert found.sentences[0] == (
        f"Use {other.title} ({other.name}, {other.passes:g} forward passes a clip; cfg takes 28):"
        " it has more sharpness than cfg."
    )
    assert found.sentences[1].startswith(f"The gain of {other.title} ({other.name}) over cfg in")
    assert not any("over CFG alone in" in sentence for sentence in found.sentences)
    over, ahead = (_estimate(scores, "R8", name) for name in ("cfg", other.name))
    said = next(text for text in found.sentences if text.startswith("The best STG"))
    assert said == (
        f"The best STG measured there, R8, gains {interval(over)} over CFG alone, and"
        f" {interval(ahead)} over {other.title}."
    )
    assert sum("R8" in sentence for sentence in found.sentences) == 1
    told = found.to_dict()["best_stg"]
    assert told["name"] == "R8"
    assert told["gain"]["low"] == pytest.approx(over.low, abs=1e-6)
    assert told["over_winner"]["high"] == pytest.approx(ahead.high, abs=1e-6)


def test_that_no_stg_was_measured_is_said() -> None:
    scores = table({"cfg": (0, 0), "R8": (-0.5, 0.0), "cfg 21 steps": (0.06, 0.05)})
    racers = [CFG, STG, MORE_STEPS]
    found = answer(racers, race(scores, *racers), scores, KEPT)
    assert found.best_stg is None
    assert found.sentences[2] == (
        "No setting with STG was measured on the 16 prompts that chose nothing."
    )


def test_the_best_stg_is_the_winner_where_that_has_stg() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.03)})
    found = answer([CFG, STG], race(scores, CFG, STG), scores, KEPT)
    assert found.best_stg is not None
    assert (found.best_stg.name, found.best_stg.over_winner) == ("R8", None)
    assert not any("best STG" in sentence for sentence in found.sentences)


def test_why_there_is_no_answer_is_said() -> None:
    scores = table({"cfg": (0, 0), "R8": (0.05, 0.05)})
    state = race(scores, CFG, STG)
    found = answer([CFG, STG], state, scores, [])
    assert "the budget pays for none of the prompts that were kept back" in found.sentences[0]
    for lacking, why in {
        "R8": "of those left in the race (R8) none has a value on the 16 prompts that were kept",
        "cfg": "sharpness of CFG alone has no value on the 16 prompts that were kept back",
    }.items():
        values = dict(scores.values)
        values[lacking] = {p: v for p, v in values[lacking].items() if p in RACED}
        found = answer([CFG, STG], state, ScoreTable("sharpness", values), KEPT)
        assert (found.verdict, found.recommended) == ("not measured", None)
        assert why in found.sentences[0]
        assert not any("is left" in sentence for sentence in found.sentences)


def test_cfg_alone_that_leads_needs_no_prompts_kept_back() -> None:
    scores = table({"cfg": (0, 0), "R8": (-0.012, 0)})
    state = race(scores, CFG, STG)
    assert (state.leader, set(state.active)) == ("cfg", {"cfg", "R8"})
    found = answer([CFG, STG], state, scores, [])
    assert (found.verdict, found.recommended) == ("use CFG alone", "cfg")
    assert "it leads the race in sharpness, so that no gain over it was" in found.sentences[0]


def test_where_all_went_no_prompts_kept_back_are_needed() -> None:
    scores = table({"cfg": (0, 0), "R8": (-0.5, 0)})
    found = answer([CFG, STG], race(scores, CFG, STG), scores, [])
    assert (found.verdict, found.recommended) == ("use CFG alone", "cfg")
    assert "nothing that raced against it in sharpness is left" in found.sentences[0]
