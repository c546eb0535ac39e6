"""A study over HTTP: as many tasks for each rater, consent first, attention checks, and limits."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from skipguide.cli import app as verbs
from skipguide.files import sound, video
from skipguide.runs import Run
from skipguide.runs.study import Check, Study
from skipguide.studio import app, attention, blind_test, sealed
from skipguide.studio.access import Policy
from skipguide.studio.limits import Limits
from support.clock import Clock
from support.shared import TEXT, begin_study
from support.singing import singing

NAME = "raters.example"
HASH = hashlib.sha256(TEXT.encode()).hexdigest()
FOR_RATERS = Policy("owner", names=frozenset({NAME}), secret=b"same", raters_only=True)


def rater_web(folder: Path, clock: Clock, address: str = "192.0.2.7", **more: Any) -> TestClient:
    """A browser at an address that has opened the link for raters."""
    made = app.create_rater_app(folder, FOR_RATERS, clock, Limits(clock))
    web = TestClient(
        made, base_url=f"https://{NAME}:8701", follow_redirects=False, client=(address, 5000),
        **more,
    )  # fmt: skip
    assert web.get("/vote", params={"token": FOR_RATERS.rater_token}).status_code == 303
    return web


def key_of(name: str) -> str:
    return f"{name} has a browser with a key"


def begin(web: TestClient, name: str, **more: Any) -> Any:
    body = {"rater": name, "key": key_of(name), "consent": HASH, **more}
    return web.post("/api/study/begin", json=body)


def following(web: TestClient, name: str) -> Any:
    return web.post("/api/study/next", json={"rater": name, "key": key_of(name)})


def answer(web: TestClient, name: str, task: str, side: str, **more: Any) -> Any:
    answers = {"preference": side}
    body = {"rater": name, "key": key_of(name), "task": task, "answers": answers, "seconds": 2.0}
    return web.post("/api/study/answer", json={**body, **more})


def first_task(folder: Path, clock: Clock) -> tuple[TestClient, dict[str, Any]]:
    """Begin a study; the browser of Ann, and her first task, which can be answered by now."""
    begin_study(folder)
    web = rater_web(folder, clock)
    begin(web, "Ann")
    task = following(web, "Ann").json()["task"]
    clock.now += 60
    return web, task


def shown(web: TestClient, task: dict[str, Any]) -> list[bytes]:
    """Return what a rater sees: the frames of the videos of a task."""
    return [frames_of(web.get(f"/{one['url']}").content) for one in task["videos"]]


def frames_of(content: bytes) -> bytes:
    with av.open(io.BytesIO(content), "r") as file:
        return b"".join(frame.to_ndarray().tobytes() for frame in file.decode(video=0))


def damaged_frames(folder: Path) -> set[bytes]:
    return {frames_of(path.read_bytes()) for path in (folder / "checks").glob("*.mp4")}


def attentive(web: TestClient, task: dict[str, Any], damaged: set[bytes]) -> str:
    """Return what a person says who looks: a tie of equal videos, and never the damaged one."""
    left, right = shown(web, task)
    if left == right:
        return "tie"
    if left in damaged or right in damaged:
        return "right" if left in damaged else "left"
    return "left"


def go_through(
    web: TestClient, clock: Clock, folder: Path, name: str, careless: bool = False
) -> list[tuple[int, int]]:
    """Answer all tasks of a rater; the totals that the page was told."""
    damaged = damaged_frames(folder)
    totals = []
    while (found := following(web, name).json())["task"] is not None:
        totals.append((found["total"], found["left"]))
        side = "left" if careless else attentive(web, found["task"], damaged)
        clock.now += 60
        assert answer(web, name, found["task"]["id"], side).status_code == 200
    return totals


# --- the way through ------------------------------------------------------------------------------


def test_each_rater_gets_as_many_tasks_with_checks_among_them(
    painted_copy: Path, clock: Clock
) -> None:
    begin_study(painted_copy)
    web = rater_web(painted_copy, clock)
    for name, careless in (("Ann", False), ("Bob", False), ("Cem", True)):
        assert begin(web, name).json()["status"] == "new"
        totals = go_through(web, clock, painted_copy, name, careless)
        assert totals == [(5, left) for left in (5, 4, 3, 2, 1)]
    with Run.open(painted_copy) as run:
        votes = run.votes()
        assert Counter(vote.rater for vote in votes) == {"Ann": 3, "Bob": 3, "Cem": 3}
        assert {(vote.study, vote.consent) for vote in votes} == {(1, HASH)}
        passed = run.study.passed_checks()
        assert (passed["Ann"], passed["Bob"], passed["Cem"][1]) == ((2, 2), (2, 2), 2)
        assert passed["Cem"][0] <= 1  # the damaged one may be on the right
        assert run.study.left_out() == {"Cem"}
        found = blind_test.results(run)
        # Nine votes on four pairs: no pair has more than one more than another.
        counts = Counter((vote.first, vote.second) for vote in votes)
        assert (set(counts.values()), sum(counts.values())) == ({2, 3}, 9)
    assert (found["pair"]["votes"], found["with_all"]["pair"]["votes"]) == (6, 9)
    assert found["with_all"]["rule"].startswith("Who answers at least 2 attention checks")
    values = [each["pair"]["win_rates"][1]["value"] for each in (found, found["with_all"])]
    by_hand = [
        sum(vote.answer == mine(painted_copy, vote) for vote in votes if vote.rater in names)
        for names in (("Ann", "Bob"), ("Ann", "Bob", "Cem"))
    ]
    assert values == [pytest.approx(by_hand[0] / 6), pytest.approx(by_hand[1] / 9)]


def mine(folder: Path, vote: Any) -> str:
    """Return which of the two clips of a pair is of setting 1."""
    with Run.open(folder) as run:
        return "first" if run.clip(vote.first).setting == 1 else "second"


def test_nothing_that_a_rater_is_sent_tells_a_check(painted_copy: Path, clock: Clock) -> None:
    begin_study(painted_copy, tasks=4, checks=4)
    web = rater_web(painted_copy, clock)
    begin(web, "Ann")
    tasks, names = [], []
    while (task := following(web, "Ann").json()["task"]) is not None:
        tasks.append({key: value for key, value in task.items() if key != "videos"})
        names += [one["url"] for one in task["videos"]]
        assert {frozenset(one) for one in task["videos"]} == {
            frozenset({"url", "frames", "fps", "width", "height", "sound"})
        }
        clock.now += 60
        answer(web, "Ann", task["id"], "tie")
    assert {frozenset(task) for task in tasks} == {frozenset({"id", "prompt"})}
    assert len({len(task["id"]) for task in tasks}) == 1
    assert len(tasks) == 8
    checks = json.dumps([tasks, names])
    with Run.open(painted_copy) as run:
        study = run.study.current()
        assert study is not None
        secret = [check.name for check in study.checks] + [clip.key for clip in run.clips()]
    assert not [word for word in secret if word in checks]


def test_a_video_tells_neither_its_settings_nor_that_it_is_a_check(
    painted_copy: Path, clock: Clock
) -> None:
    """The two files of a clip beside itself differ; none has a record, or a time of its own."""
    begin_study(painted_copy, tasks=4, checks=4)
    web = rater_web(painted_copy, clock)
    begin(web, "Ann")
    answers, same = [], 0
    while (task := following(web, "Ann").json()["task"]) is not None:
        pair = [web.get(f"/{one['url']}") for one in task["videos"]]
        same += frames_of(pair[0].content) == frames_of(pair[1].content)
        answers += pair
        assert pair[0].content == web.get(f"/{task['videos'][0]['url']}").content
        clock.now += 60
        answer(web, "Ann", task["id"], "tie")
    assert same == 2
    assert len({answer.headers["last-modified"] for answer in answers}) == 1
    assert len({answer.headers["etag"] for answer in answers}) == len(
        {str(answer.url) for answer in answers}
    )


def test_no_clips_are_gone_through_for_a_video_that_was_given(
    painted_copy: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser asks for each video in many ranges, and what takes longer would tell a check."""
    begin_study(painted_copy, tasks=1, checks=4)
    web = rater_web(painted_copy, clock)
    begin(web, "Ann")
    for _ in range(5):
        task = following(web, "Ann").json()["task"]
        with monkeypatch.context() as patched:
            patched.setattr(Run, "clips", None)
            assert all(shown(web, task))
        clock.now += 60
        answer(web, "Ann", task["id"], "tie")


def test_a_video_for_raters_has_the_frames_and_no_record(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    settings = {"prompt": 'a "star" \\ \u72d0', "guidance_scale": 4.5, "stg": {"layers": [8]}}
    video.write(tmp_path / "a.mp4", frames, 8, {"settings": settings})
    copies = sealed.SealedVideos()
    one, other = (copies.copy(name, tmp_path / "a.mp4") for name in ("one", "other"))
    assert b"guidance_scale" in (tmp_path / "a.mp4").read_bytes()
    assert not any(b"guidance_scale" in path.read_bytes() for path in (one, other))
    assert one.read_bytes() != other.read_bytes()
    assert frames_of(one.read_bytes()) == frames_of((tmp_path / "a.mp4").read_bytes())
    assert copies.copy("one", tmp_path / "a.mp4") == one


def test_a_study_and_its_tasks_survive_a_restart(painted_copy: Path, clock: Clock) -> None:
    _, task = first_task(painted_copy, clock)
    again = rater_web(painted_copy, clock)
    assert all(shown(again, task))
    assert answer(again, "Ann", task["id"], "tie").status_code == 200
    assert following(again, "Ann").json()["left"] == 4
    assert begin_study(painted_copy).id == 1  # the same command goes on with the same study
    assert begin_study(painted_copy, tasks=4).id == 2


def test_a_task_of_nobody_is_no_task(painted_copy: Path, clock: Clock) -> None:
    web, task = first_task(painted_copy, clock)
    begin(web, "Bob")
    assert answer(web, "Bob", task["id"], "tie").status_code == 409
    assert answer(web, "Ann", task["id"][:-1] + "g", "tie").status_code == 409
    assert answer(web, "Ann", task["id"], "both").status_code == 400
    with Run.open(painted_copy) as run:
        assert run.votes() == []


def test_ratings_have_checks_too(painted_copy: Path, clock: Clock) -> None:
    begin_study(painted_copy, kind="rating", tasks=2, checks=1, consent=None)
    web = rater_web(painted_copy, clock)
    damaged = damaged_frames(painted_copy)
    for name, quality in (("Ann", "1"), ("Bob", "3")):
        assert begin(web, name, consent=None).json()["status"] == "new"
        while (found := following(web, name).json())["task"] is not None:
            clock.now += 60
            (content,) = shown(web, found["task"])
            said = quality if content in damaged else "4"
            answers = dict.fromkeys(found["questions"], said)
            given = answer(web, name, found["task"]["id"], "", answers=answers)
            assert given.json() == {"votes": 5}  # as of any other task
    with Run.open(painted_copy) as run:
        assert run.study.passed_checks() == {"Ann": (1, 1), "Bob": (0, 1)}
        assert len(run.votes()) == 20


def test_a_link_of_another_test_is_refused_while_a_study_goes_on(
    painted_copy: Path, clock: Clock
) -> None:
    begin_study(painted_copy, consent=None)
    web = rater_web(painted_copy, clock)
    other = {"consent": None, "kind": "pair", "settings": [1, 3]}
    refused = begin(web, "Ann", **other)
    assert refused.status_code == 404
    assert "a study goes on in this run" in refused.json()["detail"]
    same = {"consent": None, "kind": "pair", "settings": [2, 1]}
    assert begin(web, "Ann", **same).json()["status"] == "new"
    with Run.open(painted_copy, writable=True) as run:
        run.study.end()
    assert begin(web, "Bob", **other).status_code == 200
    assert following(web, "Bob").status_code == 404  # it says no settings, and there is no study


# --- consent --------------------------------------------------------------------------------------


def test_nothing_is_asked_or_kept_before_consent(painted_copy: Path, clock: Clock) -> None:
    begin_study(painted_copy)
    web = rater_web(painted_copy, clock)
    told = web.get("/api/study").json()["study"]
    assert told == {"kind": "pair", "tasks": 5, "consent": {"sha256": HASH, "text": TEXT}}
    for given in (None, "0" * 64, ""):
        refused = begin(web, "Ann", consent=given)
        assert refused.status_code == 428
        assert "must be accepted before the first task" in refused.json()["detail"]
    with Run.open(painted_copy) as run:
        assert (run.rater_keys(), run.study.consents()) == ({}, {})
    assert following(web, "Ann").status_code == 403  # nor without beginning
    assert begin(web, "Ann").status_code == 200
    assert following(web, "Ann").status_code == 200


def test_another_text_is_asked_for_anew(painted_copy: Path, clock: Clock) -> None:
    """Each vote keeps the version that held."""
    web, first = first_task(painted_copy, clock)
    answer(web, "Ann", first["id"], "tie")
    text = "I agree to more."
    new = hashlib.sha256(text.encode()).hexdigest()
    assert begin_study(painted_copy, consent=text).id == 1
    assert following(web, "Ann").status_code == 428
    assert answer(web, "Ann", first["id"], "left").status_code == 428
    assert begin(web, "Ann", consent=new).json()["status"] == "known"
    left = following(web, "Ann").json()["left"]
    go_through(web, clock, painted_copy, "Ann")
    with Run.open(painted_copy) as run:
        consents = Counter(vote.consent for vote in run.votes())
        assert run.study.consents() == {"Ann": new}
    assert left == 4
    assert set(consents) <= {HASH, new}
    assert sum(consents.values()) == 3


# --- raters ---------------------------------------------------------------------------------------


def test_a_study_takes_so_many_raters(painted_copy: Path, clock: Clock) -> None:
    begin_study(painted_copy)
    web = rater_web(painted_copy, clock)
    for name in ("Ann", "Bob", "Cem"):
        assert begin(web, name).status_code == 200
    refused = begin(web, "Dai")
    assert refused.status_code == 403
    assert "this test takes 3 raters, and has as many" in refused.json()["detail"]
    assert begin(web, "Ann").json()["status"] == "known"
    with Run.open(painted_copy, writable=True) as run:
        assert set(run.rater_keys()) == set(run.study.consents()) == {"Ann", "Bob", "Cem"}
        run.remove_rater("Bob")
    assert begin(web, "Dai").status_code == 200


def test_a_name_of_another_needs_its_code(painted_copy: Path, clock: Clock) -> None:
    """Raters from outside do not know each other, and have one and the same link."""
    begin_study(painted_copy)
    web = rater_web(painted_copy, clock)
    code = begin(web, "Ann").json()["code"]
    task = following(web, "Ann").json()["task"]
    clock.now += 60
    answer(web, "Ann", task["id"], "tie")
    other = {"key": "the key of another browser"}
    taken = begin(web, "Ann", **other).json()
    assert (taken["status"], taken["code"], taken["votes"]) == ("taken", None, 0)
    wrong = "AAAA-AAAA" if code != "AAAA-AAAA" else "BBBB-BBBB"
    for tried in ("", wrong, begin(web, "Bob").json()["code"]):
        refused = begin(web, "Ann", same=True, code=tried, **other)
        assert refused.status_code == 403
        assert "only by its code" in refused.json()["detail"]
    again = begin(web, "Ann", same=True, code=code.lower().replace("-", " "), **other).json()
    assert (again["status"], again["rater"], again["code"]) == ("known", "Ann", code)


def test_a_rater_asks_for_removal(painted_copy: Path, clock: Clock) -> None:
    begin_study(painted_copy)
    web = rater_web(painted_copy, clock)
    begin(web, "Ann")
    foreign = web.post("/api/study/remove", json={"rater": "Ann", "key": key_of("Bob")})
    assert foreign.status_code == 403
    asked = web.post("/api/study/remove", json={"rater": "Ann", "key": key_of("Ann")})
    assert asked.json() == {"asked": True}
    said = CliRunner().invoke(verbs, ["votes", "show", str(painted_copy)])
    assert "Asking to be removed: Ann. `skipguide votes remove` does it." in said.stdout
    argv = ["votes", "remove", str(painted_copy), "--rater", "Ann"]
    assert "0 votes of Ann removed" in CliRunner().invoke(verbs, argv).stdout
    said = CliRunner().invoke(verbs, ["votes", "show", str(painted_copy)])
    assert "Asking" not in said.stdout
    assert "Removed and kept aside: Ann. `skipguide votes restore` undoes it." in said.stdout
    argv = ["votes", "restore", str(painted_copy), "--rater", "Ann", "--json"]
    assert json.loads(CliRunner().invoke(verbs, argv).stdout)["restored"] == 0
    said = CliRunner().invoke(verbs, ["votes", "remove", str(painted_copy)])
    assert "a rater must be named once" in said.stderr


def test_votes_are_exported_with_what_a_study_adds(painted_copy: Path, clock: Clock) -> None:
    import pyarrow.parquet as parquet

    begin_study(painted_copy)
    web = rater_web(painted_copy, clock)
    for name in ("Ann", "Cem"):
        begin(web, name)
        go_through(web, clock, painted_copy, name, name == "Cem")
    out = painted_copy.parent / "votes.parquet"
    said = CliRunner().invoke(verbs, ["votes", "export", str(painted_copy), "--out", str(out)])
    assert said.exit_code == 0, said.output
    table = parquet.read_table(out)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["seconds"], kinds["changes"], kinds["counted"]) == ("double", "int64", "bool")
    rows = table.to_pylist()
    assert {(row["rater"], row["counted"]) for row in rows} == {("Ann", True), ("Cem", False)}
    assert {(row["study"], row["consent"], row["changes"]) for row in rows} == {(1, HASH, 0)}
    as_json = json.loads(
        CliRunner().invoke(verbs, ["votes", "export", str(painted_copy), "--json"]).stdout
    )
    assert as_json["votes"] == rows


# --- attention checks -----------------------------------------------------------------------------


def test_a_damaged_copy_is_far_from_its_clip_and_plays_like_it(painted_copy: Path) -> None:
    begin_study(painted_copy)
    with Run.open(painted_copy) as run:
        study = run.study.current()
        assert study is not None
        check = next(check for check in study.checks if check.kind == "damaged")
        clip = run.clip(check.clip)
        assert clip.video is not None
        whole, fps = video.read(clip.video)
        copy, copied_fps = video.read(attention.damaged_path(run, check))
    assert (copy.shape, copied_fps) == (whole.shape, fps)
    errors = (copy.astype(float) - whole.astype(float)) ** 2
    assert 10 * math.log10(255**2 / errors.mean()) < 16  # dB; codecs are above 30


def test_a_damaged_copy_sounds_like_its_clip(tmp_path: Path, clock: Clock) -> None:
    """And a rater's page is told of each video whether it has a sound."""
    folder = singing(tmp_path / "run")
    study = begin_study(folder, tasks=1, checks=1)
    with Run.open(folder) as run:
        copy = sound.read(attention.damaged_path(run, study.checks[0]))
        clip = run.clip(study.checks[0].clip).video
        assert clip is not None
        heard = sound.read(clip)
        assert (copy and copy.sha256) == (heard and heard.sha256) is not None
    web = rater_web(folder, clock)
    begin(web, "Ann")
    told = [one["sound"] for one in following(web, "Ann").json()["task"]["videos"]]
    assert told == [True, True]


@pytest.mark.parametrize(("count", "prompts"), [(2, 2), (4, 2)])
def test_checks_are_of_as_many_prompts_as_can_be(
    painted_run: Path, count: int, prompts: int
) -> None:
    with Run.open(painted_run) as run:
        clips = run.clips("done")
        found = attention.choose_checks(clips, "pair", count)
        assert found == attention.choose_checks(clips[::-1], "pair", count)
        assert len({run.clip(check.clip).prompt for check in found}) == prompts
    assert Counter(check.kind for check in found) == {"damaged": count / 2, "same": count / 2}
    assert len({check.name for check in found}) == count


def test_a_check_has_one_expected_answer() -> None:
    pair, rating = Study("pair", (1, 2), 1), Study("rating", (1, 2), 1)
    same, damaged = Check("a", "same", "k"), Check("b", "damaged", "k")
    passed = {
        (check.kind, said): attention.judge(pair, check, "Ann", {"preference": said}, None).passed
        for check in (same, damaged)
        for said in ("first", "second", "tie")
    }
    assert {key for key, value in passed.items() if value} == {
        ("same", "tie"),
        ("damaged", "first"),
    }
    answers = {"video quality": "2", "motion quality": "5"}
    assert attention.judge(rating, damaged, "Ann", answers, None).passed
    answers["video quality"] = "3"
    assert not attention.judge(rating, damaged, "Ann", answers, None).passed


# --- what cannot be a study -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--tasks", "5000"], "--tasks must be from 1 to 40, which is what the run has"),
        (["--tasks", "3", "--setting", "nope"], "--setting must be one of 'cfg', "),
        (["--tasks", "3", "--setting", "cfg"], "two finished videos of one prompt and seed"),
        (["--tasks", "3", "--checks", "99"], "--checks must be from 0 to 50, but got 99"),
        (["--tasks", "3", "--no-study"], "--no-study must come without the options of a study"),
        (["--tasks", "3", "--consent", "x.pdf"], "--consent must be a text file named .md or .txt"),
        (["--tasks", "3", "--consent", "missing.md"], "cannot be read"),
        (["--checks", "5"], "--checks must come with --tasks"),
        (["--key", "k.pem"], "--key must come with --cert"),
        (["--cert", "c.pem", "--no-tls"], "--no-tls must come without --cert"),
        (["--no-tls"], "--no-tls must come with --share"),
        (["--cert", "c.pem"], "--cert must come with --share"),
        (["--share", "nobody.invalid"], "nothing is found under 'nobody.invalid'"),
        (["--share", "0.0.0.0"], "--share must be one address, which the link has"),
        (["--share", "a b"], "--share must be lan, an address or a name"),
        (["--share", "127.0.0.1", "--cert", "no.pem"], "--cert must be a PEM file"),
        (["--share", "nobody.invalid", "--tasks", "2"], "nothing is found under"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    painted_copy: Path, options: list[str], reason: str
) -> None:
    said = CliRunner().invoke(verbs, ["studio", str(painted_copy), "--port", "0", *options])
    assert (said.exit_code, reason in said.stderr) == (2, True), said.stderr
    with Run.open(painted_copy) as run:
        assert run.study.current() is None


def test_power_from_a_run_and_from_numbers(painted_run: Path) -> None:
    said = CliRunner().invoke(verbs, ["votes", "power"])
    assert said.stdout.splitlines()[0] == (
        "At 12 raters x 40 pairs a win rate of 0.6 is seen in 8 of 10 studies."
    )
    assert "8 of 10 studies need 9 raters." in said.stdout
    assert "Taken from 20 prompts, 10% of ties, and a correlation of 0.05" in said.stdout
    told = json.loads(
        CliRunner().invoke(verbs, ["votes", "power", str(painted_run), "--json"]).stdout
    )
    assert (told["prompts"], told["settings"], told["power"]) == (2, 5, 0.0)
    assert told["raters_needed"] is None  # two prompts have no interval, however many look
