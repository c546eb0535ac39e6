"""Voters over HTTP: names that survive a restart, one name for one rater, votes as a table."""

from __future__ import annotations

import csv
import io
import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from skipguide.cli import app as verbs
from skipguide.runs import Run
from skipguide.studio import app, secret
from skipguide.studio.access import Policy
from support.clock import Clock
from support.served import Verb, free_port

HERE = "http://localhost:8700"
KEY, OTHER_KEY = "a" * 32, "b" * 32
SECONDS = 2.0  # that a painted video takes: 24 frames at 12 a second


def client(folder: Path, clock: Any, policy: Policy | None = None) -> TestClient:
    made = app.create_app(folder, policy or Policy(secret=b"same"), now=clock)
    return TestClient(made, base_url=HERE, follow_redirects=False)


def following(web: TestClient, rater: str = "Ann", **more: Any) -> dict[str, Any]:
    body = {"rater": rater, "kind": "pair", "settings": [1, 2], **more}
    answer = web.post("/api/study/next", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def answer(web: TestClient, task: dict[str, Any], rater: str = "Ann", **more: Any) -> Any:
    given = {"rater": rater, "task": task["id"], "answers": {"preference": "left"}, **more}
    return web.post("/api/study/answer", json=given)


def votes_of(folder: Path) -> list[tuple[str, str, str | None, str]]:
    with Run.open(folder) as run:
        return [(vote.rater, vote.first, vote.second, vote.answer) for vote in run.votes()]


# --- what survives a restart ----------------------------------------------------------------------


def test_a_task_and_its_videos_survive_a_restart(painted_copy: Path, clock: Clock) -> None:
    task = following(client(painted_copy, clock))["task"]
    clock.now += 60
    again = client(painted_copy, clock)  # knows nothing but the secret and the run
    for video in task["videos"]:
        assert again.get("/" + video["url"]).content[4:8] == b"ftyp"
    assert answer(again, task).json() == {"votes": 1}
    assert answer(again, task).json() == {"votes": 1}  # sent twice, because an answer was lost
    assert len(votes_of(painted_copy)) == 1
    found = following(again)
    assert found["total"] - found["left"] == 1
    assert found["task"]["id"] != task["id"]


def test_a_rating_survives_a_restart_too(painted_copy: Path, clock: Clock) -> None:
    found = following(client(painted_copy, clock), kind="rating")
    clock.now += 60
    answers = dict.fromkeys(found["questions"], "4")
    again = client(painted_copy, clock)
    assert answer(again, found["task"], answers=answers).json() == {"votes": 5}


def test_with_another_secret_nothing_is_known(painted_copy: Path, clock: Clock) -> None:
    task = following(client(painted_copy, clock))["task"]
    clock.now += 60
    other = client(painted_copy, clock, Policy(secret=b"other"))
    assert answer(other, task).status_code == 409
    assert other.get("/" + task["videos"][0]["url"]).status_code == 404


@pytest.mark.parametrize("trick", ["another rater", "made up", "another time", "never given"])
def test_only_who_was_given_a_task_can_answer_it(
    painted_copy: Path, clock: Clock, trick: str
) -> None:
    web = client(painted_copy, clock)
    task = following(web)["task"]
    other = following(web, "Bob")["task"]
    clock.now += 60
    name = {
        "another rater": other["id"],
        "made up": "0" * len(task["id"]),
        "another time": task["id"][:16] + "0" * 11 + task["id"][27:],
        "never given": other["id"][:16] + task["id"][16:],
    }[trick]
    assert answer(web, {"id": name}).status_code == 409
    assert votes_of(painted_copy) == []


def test_an_answer_cannot_come_before_the_videos_were_seen(
    painted_copy: Path, clock: Clock
) -> None:
    web = client(painted_copy, clock)
    task = following(web)["task"]
    clock.now += SECONDS / 2
    early = answer(web, task)
    assert early.status_code == 425
    assert "which takes 2.0 s, but came 1.0 s after" in early.json()["detail"]
    assert votes_of(painted_copy) == []
    clock.now += SECONDS / 2
    assert answer(web, task).status_code == 200


def test_a_clock_that_is_set_back_costs_no_vote(painted_copy: Path, clock: Clock) -> None:
    web = client(painted_copy, clock)
    task = following(web)["task"]
    clock.now -= 3600
    assert answer(web, task).status_code == 200


def test_tasks_that_cannot_be_played_are_left_out(painted_copy: Path, clock: Clock) -> None:
    web = client(painted_copy, clock)
    seen: list[str] = []
    for count in range(4):
        found = following(web, skipped=seen)
        assert (found["total"], found["left"], found["skipped"]) == (4, 4, count)
        clock.now += 1  # a task that is given again has another time in its name
        seen.append(found["task"]["id"])
    assert len({name[:16] for name in seen}) == 4
    assert following(web, skipped=seen)["task"] is None
    assert following(web)["task"] is not None


def test_a_video_that_is_gone_is_refused_without_its_key(painted_copy: Path, clock: Clock) -> None:
    web = client(painted_copy, clock)
    task = following(web)["task"]
    with Run.open(painted_copy) as run:
        clips = run.clips()
    for clip in clips:
        assert clip.video is not None
        clip.video.unlink()
    refused = web.get("/" + task["videos"][0]["url"])
    assert refused.status_code == 404
    assert not [clip.key for clip in clips if clip.key in refused.text]


# --- one name for one rater -----------------------------------------------------------------------


def begin(web: TestClient, name: str, key: str = KEY, **more: Any) -> dict[str, Any]:
    found = web.post("/api/study/begin", json={"rater": name, "key": key, **more})
    assert found.status_code == 200, found.text
    return found.json()


def test_two_raters_with_one_name_are_two(painted_copy: Path, clock: Clock) -> None:
    web = client(painted_copy, clock)
    assert begin(web, "Ann")["status"] == "new"
    taken = begin(web, "Ann", OTHER_KEY)
    assert (taken["status"], taken["votes"], taken["free"]) == ("taken", 0, "Ann 2")
    assert begin(web, "Ann 2", OTHER_KEY)["status"] == "new"
    for name, key in (("Ann", KEY), ("Ann 2", OTHER_KEY)):
        task = following(web, name, key=key)["task"]
        clock.now += 60
        assert answer(web, task, name, key=key).status_code == 200
    with Run.open(painted_copy) as run:
        assert [vote.rater for vote in run.votes()] == ["Ann", "Ann 2"]


def test_a_name_that_is_taken_cannot_be_voted_under(painted_copy: Path, clock: Clock) -> None:
    web = client(painted_copy, clock)
    begin(web, "Ann")
    task = following(web, key=KEY)["task"]
    clock.now += 60
    for more in ({}, {"key": OTHER_KEY}):
        assert answer(web, task, **more).status_code == 403
        body = {"rater": "Ann", "kind": "pair", "settings": [1, 2], **more}
        refused = web.post("/api/study/next", json=body)
        assert refused.status_code == 403
        assert "another browser votes as Ann" in refused.json()["detail"]
    assert votes_of(painted_copy) == []


def test_the_same_rater_goes_on_in_another_browser(painted_copy: Path, clock: Clock) -> None:
    web = client(painted_copy, clock)
    begin(web, "Ann")
    task = following(web, key=KEY)["task"]
    clock.now += 60
    answer(web, task, key=KEY)
    assert begin(web, "ann", OTHER_KEY)["votes"] == 1  # a phone, on which she types it otherwise
    same = begin(web, "ann", OTHER_KEY, same=True)
    assert (same["status"], same["rater"]) == ("known", "Ann")
    found = following(web, "Ann", key=OTHER_KEY)
    assert found["total"] - found["left"] == 1
    assert begin(web, "Ann")["status"] == "known"  # and in the first one


def test_votes_of_before_have_their_names(painted_copy: Path, clock: Clock) -> None:
    """They were given before browsers were known by keys."""
    web = client(painted_copy, clock)
    task = following(web)["task"]
    clock.now += 60
    assert answer(web, task).status_code == 200
    assert begin(web, "Ann")["status"] == "taken"
    assert begin(web, "Ann", same=True)["status"] == "known"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "must not begin with one of = + - @") for name in ("=1+1", "+x", "-x", "@x")),
        *((name, "must have 1 to 40 letters, but got none") for name in ("", "  ", "\u200d\u200c")),
        ("a" * 41, "must have 1 to 40 letters, but got 41"),
        ("a\x00b", "must not have control characters"),
        ("a\u202eb", "but got U+202E RIGHT-TO-LEFT OVERRIDE. Leave it out."),
        ("a\u200bb", "but got U+200B ZERO WIDTH SPACE. Leave it out."),
    ],
)
def test_names_that_a_table_cannot_hold_are_refused(
    painted_copy: Path, clock: Clock, name: str, reason: str
) -> None:
    web = client(painted_copy, clock)
    refused = web.post("/api/study/begin", json={"rater": name, "key": KEY})
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("a name must ")
    assert reason in refused.json()["error"]


# Mahshid Niakan with the joiner that Persian is written with, and a family of one letter.
@pytest.mark.parametrize("name", ["مه\u200cشید نیکان", "👨\u200d👩\u200d👧", "❤️ Zoë", "क्\u200dष"])
def test_names_of_all_scripts_are_taken(painted_copy: Path, clock: Clock, name: str) -> None:
    web = client(painted_copy, clock)
    assert begin(web, name)["rater"] == name
    assert following(web, name, key=KEY)["task"]
    alike = begin(web, name.replace("\u200c", "").replace("\u200d", ""), "another-key-0123456789")
    assert alike["status"] == "taken"  # nobody sees a difference


@pytest.mark.parametrize(
    ("link", "needs"),
    [
        ({"kind": "pair", "settings": [1]}, "two finished videos of one prompt and seed"),
        ({"kind": "pair", "settings": [901, 902]}, "two finished videos of one prompt and seed"),
        ({"kind": "rating", "settings": []}, "a finished video"),
    ],
)
def test_a_link_that_fits_no_test_takes_no_name(
    painted_copy: Path, clock: Clock, link: dict[str, Any], needs: str
) -> None:
    web = client(painted_copy, clock)
    refused = web.post("/api/study/begin", json={"rater": "Ann", "key": KEY, **link})
    assert refused.status_code == 404
    assert refused.json()["detail"] == (
        f"this link fits no test: a test needs {needs} of the settings in its link, but the run has"
        " none. Ask for another link."
    )
    with Run.open(painted_copy) as run:
        assert run.rater_keys() == {}
    link = {"kind": "pair", "settings": [1, 2]}
    assert web.post("/api/study/begin", json={"rater": "Ann", "key": KEY, **link}).is_success


def test_of_two_at_the_same_moment_one_gets_the_name(painted_copy: Path) -> None:
    with Run.open(painted_copy, writable=True) as one, Run.open(painted_copy, writable=True) as two:
        kept = [one.add_rater_key("Ann", "a", True), two.add_rater_key("Ann", "b", True)]
        assert kept == [True, False]
        assert two.rater_keys() == {"Ann": {"a"}}
        assert two.add_rater_key("Ann", "b")  # it is the same person


def test_keys_are_not_kept_as_they_are(painted_copy: Path, clock: Clock) -> None:
    begin(client(painted_copy, clock), "Ann")
    with Run.open(painted_copy) as run:
        assert KEY not in str(run.rater_keys())
    assert KEY.encode() not in (painted_copy / "ledger.sqlite").read_bytes()


# --- as a table, and away -------------------------------------------------------------------------


@pytest.fixture
def voted(painted_copy: Path, clock: Clock) -> TestClient:
    """A run on which Ann has judged all four pairs, always for the left one, and Bob one video."""
    web = client(painted_copy, clock)
    begin(web, "Ann")
    while (task := following(web, key=KEY)["task"]) is not None:
        clock.now += 60
        answer(web, task, key=KEY, seconds=3.0)
    found = following(web, "Bob", kind="rating")
    clock.now += 60
    answer(web, found["task"], "Bob", answers=dict.fromkeys(found["questions"], "5"))
    return web


def test_votes_are_exported(voted: TestClient, painted_copy: Path) -> None:
    told = voted.get("/votes.csv")
    assert told.headers["content-disposition"] == 'attachment; filename="votes.csv"'
    rows = list(csv.DictReader(io.StringIO(told.text)))
    assert [row["rater"] for row in rows] == ["Ann"] * 4 + ["Bob"] * 5
    pairs = rows[:4]
    assert {row["winner"] == row["shown_first"] for row in pairs} == {True}
    assert {row[f"{row['answer']}_setting"] == row["winner"] for row in pairs} == {True}
    settings = {"cfg", "stg layers=4 scale=0.5"}
    assert {frozenset((row["first_setting"], row["second_setting"])) for row in pairs} == {
        frozenset(settings)
    }
    assert {row["seconds"] for row in pairs} == {"3.0"}
    assert {(row["question"], row["answer"], row["winner"]) for row in rows[4:]} == {
        (question, "5", "")
        for question in (
            "video quality", "text alignment", "motion quality", "temporal consistency",
            "subjective likeness",
        )
    }  # fmt: skip
    as_json = voted.get("/votes.json").json()["votes"]
    assert [row["rater"] for row in as_json] == [row["rater"] for row in rows]
    said = CliRunner().invoke(verbs, ["votes", "export", str(painted_copy)])
    assert said.stdout.strip() == told.text.strip()
    out = painted_copy.parent / "votes.json"
    said = CliRunner().invoke(verbs, ["votes", "export", str(painted_copy), "--out", str(out)])
    assert said.exit_code == 0, said.output
    assert json.loads(out.read_text("utf-8"))["votes"] == as_json
    said = CliRunner().invoke(verbs, ["votes", "export", str(painted_copy), "--out", "x.xls"])
    assert "--out must be named .csv, .json or .parquet" in said.stderr


def test_a_rater_is_removed(voted: TestClient, painted_copy: Path) -> None:
    told = voted.get("/api/run").json()
    assert [(row["rater"], row["pairs"], row["ratings"]) for row in told["raters"]] == [
        ("Ann", 4, 0),
        ("Bob", 0, 1),
    ]
    assert told["raters"][0]["median_seconds"] == 3.0
    before = voted.get("/api/counts").json()["votes_version"]
    assert before == told["votes_version"]
    assert voted.delete("/api/raters", params={"name": "Ann"}).json() == {"removed": 4}
    assert voted.get("/api/counts").json()["votes_version"] != before
    assert {row[0] for row in votes_of(painted_copy)} == {"Bob"}
    assert begin(voted, "Ann", OTHER_KEY)["status"] == "new"  # the name is free
    assert voted.delete("/api/raters", params={"name": "Cid"}).status_code == 400
    foreign = {"Origin": "http://evil.example"}
    assert voted.delete("/api/raters?name=Bob", headers=foreign).status_code == 403
    said = CliRunner().invoke(verbs, ["votes", "remove", str(painted_copy), "Bob", "--json"])
    assert json.loads(said.stdout)["removed"] == 5
    assert votes_of(painted_copy) == []
    said = CliRunner().invoke(verbs, ["votes", "remove", str(painted_copy), "Bob"])
    assert (said.exit_code, "has voted in the run" in said.stderr) == (2, True)


def test_the_version_of_votes_changes_with_every_vote(painted_copy: Path, clock: Clock) -> None:
    web = client(painted_copy, clock)
    task = following(web)["task"]
    clock.now += 60
    seen = [web.get("/api/counts").json()["votes_version"]]
    for side in ("left", "tie", "tie"):
        answer(web, task, answers={"preference": side})
        seen.append(web.get("/api/counts").json()["votes_version"])
    assert len(set(seen)) == 4


def test_the_version_of_votes_changes_with_the_raters(painted_copy: Path, clock: Clock) -> None:
    """The page lists who has begun, before any vote."""
    web = client(painted_copy, clock)

    def version() -> str:
        return web.get("/api/counts").json()["votes_version"]

    seen = [version()]
    for name in ("Ann", "Bob"):
        begin(web, name, f"key-of-a-browser-of-{name}")
        seen.append(version())
    with Run.open(painted_copy, writable=True) as run:
        run.remove_rater("Ann")
        seen.append(version())
        run.remove_rater("Bob")
    assert len(set(seen)) == 4
    assert version() == seen[0] == version()  # nothing is as nothing was
    begin(web, "Cem", "key-of-a-browser-of-Cem")
    assert version() not in seen


def test_raters_are_listed(voted: TestClient, painted_copy: Path) -> None:
    said = CliRunner().invoke(verbs, ["votes", "show", str(painted_copy)])
    assert re.search(r"Ann\s+4\s+0\s+4\s+3\.0\s+2", said.stdout)
    assert re.search(r"Bob\s+0\s+1\s+5\s+-\s+2", said.stdout)


# --- who sees what --------------------------------------------------------------------------------


def test_without_a_token_the_link_opens_the_test_alone(painted_copy: Path, clock: Clock) -> None:
    owner, rater = (client(painted_copy, clock) for _ in range(2))
    assert owner.get("/").status_code == 200
    token = owner.get("/api/run").json()["token_for_raters"]
    entered = rater.get("/vote", params={"token": token})
    assert (entered.status_code, entered.headers["location"]) == (303, "/vote")
    task = following(rater)["task"]
    assert rater.get("/" + task["videos"][0]["url"]).status_code == 200
    for path in ("/", "/api/run", "/api/counts", "/votes.csv", "/api/trials", "/images/1"):
        refused = rater.get(path)
        assert refused.status_code == 403, path
        assert "has opened the link for raters" in refused.json()["error"]
    assert rater.delete("/api/raters", params={"name": "Ann"}).status_code == 403
    page = rater.get("/", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert owner.get("/vote", params={"token": token}).status_code == 303
    assert owner.get("/api/run").status_code == 200  # who was here first may look at the test


def test_the_link_tells_who_can_open_it(painted_copy: Path, clock: Clock) -> None:
    assert client(painted_copy, clock).get("/api/run").json()["hosts_for_raters"] == []
    policy = Policy("t", loopback=False, hosts=("10.0.0.5",))
    told = client(painted_copy, clock, policy).get(
        "/api/run", headers={"Authorization": "Bearer t"}
    )
    assert told.json()["hosts_for_raters"] == ["10.0.0.5"]


# --- the secret -----------------------------------------------------------------------------------


def test_the_secret_is_kept_for_the_user_alone(state: Path, tmp_path: Path) -> None:
    one = secret.load_secret(tmp_path / "one")
    assert state.stat().st_mode & 0o777 == 0o600
    assert secret.load_secret(tmp_path / "one") == one
    assert secret.load_secret(tmp_path / "two") != one
    assert one.hex() not in state.read_text()
    assert [path.name for path in state.parent.iterdir()] == ["studio-secret"]


@pytest.mark.parametrize("trick", ["readable", "damaged", "folder"])
def test_a_secret_that_is_none_is_refused(state: Path, tmp_path: Path, trick: str) -> None:
    secret.load_secret(tmp_path)
    if trick == "readable":
        state.chmod(0o644)
    else:
        state.write_text("x" * 64)
    if trick == "folder":
        state.unlink()
        state.mkdir()
    with pytest.raises((ValueError, OSError), match=r"nobody else can read|Is a directory"):
        secret.load_secret(tmp_path)


# --- a real server, killed and started again ------------------------------------------------------


def ask(url: str, body: dict[str, Any], token: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked) as told:
        return json.loads(told.read())


@pytest.mark.long
def test_a_link_survives_that_the_server_is_killed(painted_copy: Path, state: Path) -> None:
    """No token is given, and the address is not loopback alone: then one is made, and kept."""
    port = free_port()
    server = Verb(painted_copy, port, "--host", "0.0.0.0", "--no-trials")
    try:
        token = server.address.partition("token=")[2]
        assert re.fullmatch("[0-9a-f]{24}", token)
        url = f"http://127.0.0.1:{port}/api/study"
        body = {"rater": "Ann", "kind": "pair", "settings": [1, 2]}
        task = ask(f"{url}/next", body, token)["task"]
        time.sleep(SECONDS)
        server.kill()
        server = Verb(painted_copy, port, "--host", "0.0.0.0", "--no-trials")
        assert server.address.partition("token=")[2] == token
        given = {"rater": "Ann", "task": task["id"], "answers": {"preference": "tie"}}
        assert ask(f"{url}/answer", given, token) == {"votes": 1}
    finally:
        server.kill()
    assert len(votes_of(painted_copy)) == 1


def test_links_that_cannot_be_kept_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    found = [secret.find_secret(tmp_path) for _ in range(2)]
    assert found[0][0] != found[1][0]
    assert {len(passing) for passing, _ in found} == {32}
    assert "The links of this studio end with it" in (found[0][1] or "")
