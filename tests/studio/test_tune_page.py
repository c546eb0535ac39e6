"""A run of tune in the studio: what the page is told, live, and whom raters are shown."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from skipguide.runs import Run, Vote
from skipguide.studio import app, page_data
from skipguide.studio.access import Policy
from skipguide.studio.run_page import RunPage
from skipguide.tuning.race import votes as vote_race
from skipguide.tuning.report import shown
from support import tuned
from support.clock import Clock

HERE = "http://localhost:8700"


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all videos of a race; nobody changes it."""
    return tuned.tuned(tmp_path_factory.mktemp("tuned") / "run", "votes")


@pytest.fixture
def voting(sampled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sampled, tmp_path / "run"))


def client(folder: Path, clock: Any) -> TestClient:
    return TestClient(app.create_app(folder, Policy(secret=b"same"), now=clock), base_url=HERE)


def test_the_page_is_told_the_map_the_race_and_the_answer(voting: Path) -> None:
    tuned.write(voting, "answer")
    with Run.open(voting) as run:
        told = page_data.describe(run)["tune"]
    assert told["answer"] == tuned.answer()
    assert told["race"] == tuned.race("answer")
    assert told["votes"] is None
    assert told["problems"] == []
    expected = json.loads(tuned.layer_map().to_json())
    assert told["map"] == {name: part for name, part in expected.items() if name != "gram"}


def test_another_run_has_nothing_of_it(painted_run: Path) -> None:
    with Run.open(painted_run) as run:
        assert page_data.describe(run)["tune"] is None


def test_what_cannot_be_read_is_told_and_the_rest_is_shown(voting: Path) -> None:
    folder = voting
    tuned.write(folder, "answer")
    (folder / "tune" / "race.json").write_text('{"stage": "ra', encoding="utf-8")
    (folder / "tune" / "map.json").write_text('{"format": "a later one"}', encoding="utf-8")
    with Run.open(folder) as run:
        told = shown.read(run)
    assert told is not None
    assert (told["race"], told["map"], told["answer"]) == (None, None, tuned.answer())
    assert [text.partition(" ")[0] for text in told["problems"]] == [
        "tune/map.json", "tune/race.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "votes", [[1], "x", {"names": "x"}, {"names": ["no such"], "baseline": "cfg", "prompts": [1]}]
)
def test_votes_that_are_damaged_are_told_and_wait_for_nobody(voting: Path, votes: object) -> None:
    content = {**tuned.race("votes"), "votes": votes}
    (voting / "tune" / "race.json").write_text(json.dumps(content), encoding="utf-8")
    with Run.open(voting) as run:
        told = shown.read(run)
        assert shown.compared_settings(run) is None
    assert told is not None
    assert told["votes"] is None
    (problem,) = told["problems"]
    assert problem.startswith("The votes of the race cannot be counted: ")
    assert problem.endswith("which writes tune/race.json anew.")


def test_a_page_that_is_open_gets_what_tune_writes(voting: Path) -> None:
    folder = voting
    tuned.write(folder, "scan")
    page = RunPage(folder, lambda _: {})
    before, state = json.loads(page.text()), page.state()
    race = tuned.race("scan")
    race["stages"][0]["done"] += 1
    (folder / "tune" / "race.json").write_text(json.dumps(race), encoding="utf-8")
    os.utime(folder / "tune" / "race.json", ns=(time.time_ns() + 10**9, time.time_ns() + 10**9))
    assert page.state() != state
    told = json.loads(page.text(before["version"]))
    assert set(told["parts"]) == {"tune"}
    assert told["parts"]["tune"]["race"]["stages"][0]["done"] == race["stages"][0]["done"]


# --- raters ---------------------------------------------------------------------------------------


def ask(web: TestClient, settings: list[int], rater: str = "Ann") -> dict[str, Any]:
    body = {"rater": rater, "kind": "pair", "settings": settings}
    answer = web.post("/api/study/next", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def newest_pair(folder: Path) -> tuple[tuple[str, str], int]:
    """Return the settings and the prompt of the vote that was given last."""
    with Run.open(folder) as run:
        vote = run.votes()[-1]
        assert vote.second is not None
        first, second = run.clip(vote.first), run.clip(vote.second)
        names = {setting.id: setting.name for setting in run.settings()}
    pair = sorted((names[first.setting], names[second.setting]))
    return (pair[0], pair[1]), first.prompt


def test_raters_get_the_pair_that_tells_most(voting: Path, clock: Clock) -> None:
    web, ids = client(voting, clock), tuned.settings_of(voting)
    asked = tuned.race("votes")["votes"]
    pairs, prompts = Counter[tuple[str, str]](), Counter[tuple[tuple[str, str], int]]()
    for _ in range(10):
        with Run.open(voting) as run:
            state = vote_race.state(run, asked["names"], asked["baseline"], asked["prompts"])
        assert state.pair is not None
        side = "left" if len(pairs) % 3 else "tie"
        task = ask(web, [*ids.values()])["task"]
        clock.now += 60
        body = {"rater": "Ann", "task": task["id"], "answers": {"preference": side}}
        assert web.post("/api/study/answer", json=body).status_code == 200
        pair, prompt = newest_pair(voting)
        assert pair == tuple(sorted(state.pair))
        assert prompt in tuned.RACE
        pairs[pair] += 1
        prompts[pair, prompt] += 1
    assert max(prompts.values()) == 1  # another prompt each time a pair comes back


def test_it_ends_for_raters_when_the_race_is_over(voting: Path, clock: Clock) -> None:
    web, ids = client(voting, clock), tuned.settings_of(voting)
    first = ask(web, [*ids.values()])
    with Run.open(voting) as run:
        asked = tuned.race("votes")["votes"]
        state = vote_race.state(run, asked["names"], asked["baseline"], asked["prompts"])
    assert first["left"] == first["total"] == state.more_votes
    with Run.open(voting, writable=True) as run:
        clips = {(clip.setting, clip.prompt): clip.key for clip in run.clips("done")}
        for rater in ("Bo", "Cy", "Di"):
            for prompt in tuned.RACE:
                for other in [*ids.values()][1:]:
                    first, second = sorted((clips[1, prompt], clips[other, prompt]))
                    answer = "first" if first == clips[1, prompt] else "second"
                    run.vote(Vote(rater, "pair", "preference", first, second, answer, "first"))
    last = ask(web, [*ids.values()])
    assert (last["task"], last["left"]) == (None, 0)


def test_a_test_of_other_settings_stays_as_it_was(voting: Path, clock: Clock) -> None:
    """Two of the settings alone are an ordinary test: all prompts, in the order of its own."""
    web = client(voting, clock)
    assert ask(web, [1, 2])["total"] == len(tuned.PROMPTS)
    plain = tuned.race("votes") | {"votes": None}
    (voting / "tune" / "race.json").write_text(json.dumps(plain), encoding="utf-8")
    every = ask(web, [1, 2, 3])
    assert every["total"] == 3 * len(tuned.PROMPTS)
