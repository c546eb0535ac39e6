"""The race by blind votes: who is in, whom to compare next, and what its rules promise."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from skipguide.runs import Run
from skipguide.stats.preference import Duel
from skipguide.studio import blind_test
from skipguide.tuning.race import votes as vote_race
from skipguide.tuning.race.votes import VoteRules, VoteState
from support.painted import painted

IDS = {"cfg": 1, "a": 2, "b": 3, "c": 4}
PAIRS = list(itertools.combinations(IDS.values(), 2))


def fight(
    strengths: Sequence[float], seed: int, rules: VoteRules, at_once: int = 3, prompts: int = 10
) -> tuple[VoteState, set[str], list[int | None]]:
    """Let raters of these strengths judge to the end.

    Returns:
        The last state, whoever was out at any time, and the votes that were expected on the way.
    """
    random = np.random.default_rng(seed)
    own = random.normal(0, 0.3, (prompts, len(strengths)))
    duels: list[Duel] = []
    gone, expected = set[str](), []
    while not (state := vote_race.judge(duels, IDS, "cfg", PAIRS, rules)).over:
        gone |= set(state.out)
        expected.append(state.more_votes)
        assert state.pair is not None
        first, second = (IDS[name] for name in state.pair)
        for _ in range(at_once):
            prompt = int(random.integers(prompts))
            felt = own[prompt] + strengths
            wins = random.random() < 1 / (1 + np.exp(felt[second - 1] - felt[first - 1]))
            duels.append(Duel(first, second, float(wins), prompt))
    return state, gone | set(state.out), expected


def test_the_best_is_seldom_out_and_the_leader_is_nearly_the_best() -> None:
    """With strengths from the prior, as the guarantee says: 5 % each, with room for the noise."""
    rules = VoteRules(margin=0.6, most_votes=150)
    lost = wrong = 0
    for seed in range(14):
        strengths = np.random.default_rng(seed).normal(0, 1, 4)
        state, gone, _ = fight(strengths.tolist(), seed + 1000, rules)
        lost += list(IDS)[int(strengths.argmax())] in gone
        led = strengths[list(IDS).index(state.leader)]
        wrong += state.votes < 150 and strengths.max() - led > np.log(0.6 / 0.4)
    assert lost <= 2
    assert wrong <= 3


def test_where_all_are_alike_it_ends_with_the_budget_and_says_so() -> None:
    state, _, _ = fight([0, 0, 0, 0], 3, VoteRules(margin=0.52, most_votes=30))
    assert state.over
    assert state.votes == 30
    assert state.pair is None
    assert state.more_votes == 0
    assert "after 30 votes, the most that were wanted" in state.sentences[-1]
    assert all(rate.low < 0.5 < rate.high for rate in state.win_rates.values())


def test_a_clear_winner_ends_it_early_and_the_forecast_falls() -> None:
    state, gone, expected = fight([0, 2.5, 0, -1], 2, VoteRules())
    assert state.leader == "a"
    assert state.votes < 120
    assert "cfg" not in gone
    assert "cfg" in state.racing
    assert state.out.keys() == gone <= {"b", "c"}
    assert "c" in gone
    assert "with a probability of" in state.out["c"]
    assert "against CFG alone." in state.out["c"]
    assert state.win_rates["a"].low > 0.5
    assert state.win_rates["a"].votes > 0
    assert None not in expected
    assert (expected[-1] or 0) < (expected[len(expected) // 4] or 0)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which all prefer the setting with the largest number, on each of two prompts."""
    settings = [{"name": name, "guidance_scale": 2.0 + i} for i, name in enumerate(IDS)]
    folder = painted(tmp_path_factory.mktemp("votes") / "run", settings=settings, seeds=[0])
    with Run.open(folder, writable=True) as run:
        clips = run.clips("done")
        for rater in ("Ann", "Bo"):
            for task in blind_test.tasks(clips, "pair", [1, 2, 3, 4], rater):
                left, right = (clip.setting for clip in task.clips_in_order)
                side = "left" if left > right else "right"
                for vote in blind_test.build_votes(task, rater, {"preference": side}, 4.0):
                    run.vote(vote)
    return folder


@pytest.fixture
def voted(sampled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sampled, tmp_path / "run"))


def test_the_state_is_that_of_the_votes_in_the_ledger(voted: Path) -> None:
    with Run.open(voted) as run:
        state = vote_race.state(run, [*IDS], "cfg")
        assert state.votes == 2 * 2 * 6
        assert state.leader == "c"
        assert state == vote_race.state(run, [*IDS], "cfg")
        one = vote_race.state(run, [*IDS], "cfg", [run.prompts()[0].id])
        assert one.votes == 12
        assert one.best["c"] < state.best["c"]
        two = vote_race.state(run, ["cfg", "c"], "cfg")
        assert two.votes == 4
        assert set(two.pairs) <= {("cfg", "c"), ("c", "cfg")}
        assert state.to_dict()["sentences"][0].startswith("After 24 votes c is the best of 4")


def test_a_prompt_is_worth_the_share_of_its_votes_against_cfg_alone(voted: Path) -> None:
    with Run.open(voted) as run:
        found = vote_race.shares(run, [*IDS], "cfg")
    assert found == {
        "cfg": {1: 0.5, 2: 0.5}, "a": {1: 1.0, 2: 1.0}, "b": {1: 1.0, 2: 1.0},
        "c": {1: 1.0, 2: 1.0},
    }  # fmt: skip


def test_who_failed_the_attention_checks_does_not_count(voted: Path) -> None:
    from skipguide.runs.study import CheckAnswer, Study

    with Run.open(voted, writable=True) as run:
        run.study.begin(Study("pair", (1, 2), 2))
        for name in "ab":
            run.study.record_check(CheckAnswer(1, "Bo", name, "same", "", "first", False))
        assert vote_race.state(run, [*IDS], "cfg").votes == 12


def test_names_that_are_no_race_are_refused(voted: Path) -> None:
    with Run.open(voted) as run:
        with pytest.raises(ValueError, match="the run does not have z"):
            vote_race.state(run, ["cfg", "z"], "cfg")
        with pytest.raises(ValueError, match="CFG alone among them"):
            vote_race.state(run, ["a", "b"], "cfg")
        with pytest.raises(ValueError, match="two or more"):
            vote_race.shares(run, ["cfg"], "cfg")
    with pytest.raises(ValueError, match=r"0\.5 <= margin"):
        VoteRules(margin=0.4)


def test_where_no_two_have_videos_of_one_prompt_it_says_so(tmp_path: Path) -> None:
    folder = painted(tmp_path / "run", prompts=["a red star"], seeds=[0])
    with Run.open(folder) as run:
        names = [setting.name for setting in run.settings()]
        state = vote_race.state(run, names, names[0], prompts=[99])
    assert state.over
    assert "Nothing can be asked" in state.why
