"""The tasks of a study are given out: as many to each, balanced, and left by who goes away."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from skipguide.runs import Clip
from skipguide.runs.study import Assignment, Check, Load
from skipguide.studio.allocation import allocate
from skipguide.studio.blind_test import Task, find_tasks

SETTINGS, PROMPTS, SEEDS = (1, 2, 3), range(10), (0, 1)
CLIPS = [
    Clip(f"{setting:04x}{prompt:04x}{seed:08x}"[::-1], setting, prompt, seed, "done", 1, None,
         Path("x.mp4"))
    for setting, prompt, seed in itertools.product(SETTINGS, PROMPTS, SEEDS)
]  # fmt: skip
OF = {clip.key: clip for clip in CLIPS}
PAIRS = find_tasks(CLIPS, "pair", SETTINGS, "")
CHECKS = [Check(f"{i:016x}", "same", CLIPS[i].key) for i in range(4)]


def simulate(raters: int, tasks: int, checks: list[Check]) -> dict[str, list[Assignment]]:
    """Give tasks to raters one after the other, as a study does."""
    loads: list[Load] = []
    found = {}
    for number in range(raters):
        found[f"rater {number}"] = allocate(PAIRS, tasks, checks, loads, f"rater {number}")
        loads += [
            Load(one.first, one.second, one.left)
            for one in found[f"rater {number}"]
            if not one.check
        ]
    return found


def settings_of(one: Assignment) -> tuple[int, int]:
    """The setting on the left, and the one on the right."""
    assert one.second is not None
    pair = [OF[one.first].setting, OF[one.second].setting]
    return (pair[0], pair[1]) if one.left == "first" else (pair[1], pair[0])


def test_each_rater_judges_as_many_of_everything() -> None:
    for rater, given in simulate(12, 24, CHECKS).items():
        real = [one for one in given if not one.check]
        assert (len(real), len({(one.first, one.second) for one in real})) == (24, 24), rater
        sides = Counter(map(settings_of, real))
        assert sides == dict.fromkeys(itertools.permutations(SETTINGS, 2), 4)
        prompts = Counter(OF[one.first].prompt for one in real)
        assert set(prompts) == set(PROMPTS)
        assert max(prompts.values()) <= 4


def test_over_all_raters_no_pair_is_judged_more_than_once_more_than_another() -> None:
    given = [one for own in simulate(10, 15, []).values() for one in own]
    counts = Counter((one.first, one.second) for one in given)
    assert {counts[task.first.key, task.second and task.second.key] for task in PAIRS} <= {2, 3}
    sides = Counter(map(settings_of, given))
    for one, other in itertools.combinations(SETTINGS, 2):
        assert abs(sides[one, other] - sides[other, one]) <= 2
    for keys in counts:
        lefts = Counter(one.left for one in given if (one.first, one.second) == keys)
        assert abs(lefts["first"] - lefts["second"]) <= 2


def test_an_odd_number_is_made_up_for_by_the_next_rater() -> None:
    groups = Counter(
        frozenset(settings_of(one)) for own in simulate(6, 7, []).values() for one in own
    )
    assert set(groups.values()) == {14}


def test_checks_are_spread_and_never_first() -> None:
    for rater, given in simulate(30, 12, CHECKS).items():
        places = [place for place, one in enumerate(given) if one.check]
        assert (len(given), len(places)) == (16, 4), rater
        assert 0 not in places
        parts = [(place - number) // 3 for number, place in enumerate(places)]
        assert parts == [0, 1, 2, 3]  # one in each quarter
    orders = {tuple(one.check for one in own) for own in simulate(30, 12, CHECKS).values()}
    assert len(orders) > 20  # nobody can tell another where they are


def test_orders_differ_between_raters_and_not_between_visits() -> None:
    one, again = simulate(2, 20, CHECKS), simulate(2, 20, CHECKS)
    assert one == again
    assert one["rater 0"] != one["rater 1"]


@pytest.mark.parametrize("count", [60, 61, 1000])
def test_nobody_is_given_more_than_there_is(count: int) -> None:
    assert len(allocate(PAIRS, count, [], [], "Ann")) == len(PAIRS) == 60


def test_ratings_are_balanced_over_settings() -> None:
    every = [Task(clip) for clip in CLIPS]
    given = allocate(every, 9, CHECKS, [], "Ann")
    real = [one for one in given if not one.check]
    assert Counter(OF[one.first].setting for one in real) == {1: 3, 2: 3, 3: 3}
    assert {(one.second, one.left) for one in real} == {(None, None)}
