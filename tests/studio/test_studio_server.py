"""The server of the studio over HTTP: who may ask, what is given out, ranges, votes, trials."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from skipguide.cli import app as verbs
from skipguide.generate.run import StepProgress
from skipguide.runs import Clip, Run
from skipguide.runs.storage import lock_folder
from skipguide.studio import app, blind_test
from skipguide.studio.access import MAX_BODY_BYTES, Policy
from skipguide.studio.playground import MAX_WAITING, TrialRequest, Trials, trial_name
from support.painted import SETTINGS, Painter, painted, pictures

HERE = "http://localhost:8700"


def client(folder: Path, policy: Policy | None = None, base: str = HERE, **more: Any) -> TestClient:
    """A browser of a studio whose clock moves by a minute whenever it is read."""
    clock = {"now": itertools.count(1e9, 60).__next__}
    return TestClient(
        app.create_app(folder, policy or Policy(), **{**clock, **more}),
        base_url=base,
        follow_redirects=False,
    )


@pytest.fixture(scope="module")
def page(painted_run: Path) -> TestClient:
    return client(painted_run)


def first_clip(folder: Path) -> Clip:
    with Run.open(folder) as run:
        return run.clips()[0]


# --- videos ---------------------------------------------------------------------------------------


def test_a_video_comes_in_ranges(page: TestClient, painted_run: Path) -> None:
    clip = first_clip(painted_run)
    assert clip.video is not None
    whole = clip.video.read_bytes()
    url = f"/clips/{clip.key}.mp4"
    assert page.get(url).content == whole
    part = page.get(url, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole)}"
    tail = page.get(url, headers={"Range": "bytes=-10"})
    assert (tail.status_code, tail.content) == (206, whole[-10:])
    assert page.get(url, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    assert part.headers["content-type"] == "video/mp4"
    assert page.get(url).headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    "path",
    [
        "/clips/../ledger.sqlite",
        "/clips/%2e%2e%2fledger.sqlite",
        "/clips/..%2f..%2f..%2fetc%2fpasswd",
        "/ledger.sqlite",
        "/clips/%00.mp4",
        "/clips/0000000000000000.mp4",
        "/clips/0000000000000000.mp4/../x",
        "/videos/",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%5capp.py",
        "/static/",
        "/clips/ABCDEF0123456789.mp4",
        "//etc/passwd",
        "/clips/aaaaaaaaaaaaaaaa%0a.mp4",
        "/study/0000000000000000.mp4",
        "/clips/é.mp4",
        "/docs",
        "/openapi.json",
        "/redoc",
        "/images/1",
        "/images/",
        "/images/../ledger.sqlite",
        "/images/1/../../ledger.sqlite",
        "/images/..%2fledger.sqlite",
        "/images/%2e%2e",
        "/images/é",
        "/images/-1",
        f"/images/{10**30}",
    ],
)
def test_nothing_else_can_be_reached(page: TestClient, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code in (404, 422)
    assert b"SQLite" not in answer.content
    assert b"root:" not in answer.content


def test_a_video_that_is_a_link_is_not_given_out(painted_copy: Path, tmp_path: Path) -> None:
    clip = first_clip(painted_copy)
    assert clip.video is not None
    (tmp_path / "secret").write_bytes(b"secret")
    clip.video.unlink()
    clip.video.symlink_to(tmp_path / "secret")
    answer = client(painted_copy).get(f"/clips/{clip.key}.mp4")
    assert answer.status_code == 404
    assert b"secret" not in answer.content


# --- pictures -------------------------------------------------------------------------------------


@pytest.fixture
def pictured(tmp_path: Path) -> Path:
    """A run with pictures: prompts 1 to 3 have one, 4 has none. The files that its plan named are
    gone."""
    words = pictures(tmp_path / "pictures")
    painted(tmp_path / "run", seeds=[0], **words)
    shutil.rmtree(tmp_path / "pictures")
    return tmp_path / "run"


def copy_of(folder: Path, prompt: int = 1) -> Path:
    with Run.open(folder) as run:
        return run.image_of(prompt)


def test_pictures_are_given_out_as_what_they_are(pictured: Path) -> None:
    web = client(pictured)
    for prompt in (1, 2, 3):
        answer = web.get(f"/images/{prompt}")
        assert (answer.status_code, answer.content) == (200, copy_of(pictured, prompt).read_bytes())
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert (
        web.get("/images/1").content == web.get("/images/3").content != web.get("/images/2").content
    )
    assert (
        web.get("/images/4")
        .json()["detail"]
        .startswith("a prompt must have a picture to start from, but 4")
    )
    assert web.get("/images/99").status_code == 404
    assert client(pictured, Policy(token="right")).get("/images/1").status_code == 401
    told = web.get("/api/run").json()
    assert [prompt["image"] for prompt in told["prompts"]] == ["first.png"] * 3 + [None]
    assert str(pictured) not in json.dumps(told)


@pytest.mark.parametrize(
    "trick", ["link out", "linked folder", "pipe", "folder", "missing", "other content"]
)
def test_only_plain_pictures_of_the_run_are_given_out(
    pictured: Path, tmp_path: Path, trick: str
) -> None:
    path = copy_of(pictured)
    if trick == "linked folder":
        shutil.move(pictured / "images", tmp_path / "elsewhere")
        (pictured / "images").symlink_to(tmp_path / "elsewhere")
    else:
        whole = path.rename(tmp_path / "elsewhere.png")
        {
            "link out": lambda: path.symlink_to(whole),
            "pipe": lambda: os.mkfifo(path),
            "folder": path.mkdir,
            "missing": lambda: None,
            "other content": lambda: path.write_bytes(b"secret"),
        }[trick]()
    answer = client(pictured).get("/images/1")
    assert answer.status_code == 404
    assert set(answer.json()) == {"detail"}


def drawn(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, format=kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("first.png", b"<html><script>alert(1)</script>"),
        ("first.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("../../../secret.png", drawn("PNG")),
    ],
)
def test_a_ledger_cannot_make_other_files_pictures(
    pictured: Path, name: str, content: bytes
) -> None:
    """Not even with their hash in it."""
    digest = hashlib.sha256(content).hexdigest()
    place = pictured / "images" / digest[:16] / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    with sqlite3.connect(pictured / "ledger.sqlite") as db:
        db.execute("UPDATE prompts SET image = ?, image_sha256 = ? WHERE id = 1", (name, digest))
    db.close()
    assert copy_of(pictured) == place
    answer = client(pictured).get("/images/1")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("a picture must be a plain file in the run directory")


@pytest.mark.parametrize(
    ("kind", "told"), [("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif")]
)
def test_the_type_of_a_picture_is_that_of_its_content(tmp_path: Path, kind: str, told: str) -> None:
    (tmp_path / "first.html").write_bytes(drawn(kind))
    prompts = [{"image": str(tmp_path / "first.html")}]
    painted(tmp_path / "run", prompts=prompts, seeds=[0], settings=SETTINGS[:1])
    assert client(tmp_path / "run").get("/images/1").headers["content-type"] == told


# --- who may ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "loopback", "is_ours"),
    [
        ("localhost:8700", True, True),
        ("127.0.0.1", True, True),
        ("[::1]:80", True, True),
        ("127.5.5.5:1", True, True),
        ("evil.example:8700", True, False),
        ("localhost.evil.example", True, False),
        ("192.168.0.2:8700", True, False),
        ("127.0.0.1.evil.example", True, False),
        ("", True, False),
        ("[::1", True, False),
        ("user@localhost", True, True),
        ("192.168.0.2:8700", False, True),
        ("evil.example", False, False),
        ("studio.lab.example:443", False, True),
    ],
)
def test_only_its_own_names_are_answered(
    painted_run: Path, host: str, loopback: bool, is_ours: bool
) -> None:
    """A site can make its name point to this machine (DNS rebinding); the Host header then has that
    name."""
    policy = Policy(loopback=loopback, names=frozenset({"studio.lab.example"}))
    assert client(painted_run, policy).get("/api/counts", headers={"Host": host}).status_code == (
        200 if is_ours else 421
    )


def test_a_token_is_needed_where_there_is_one(painted_run: Path) -> None:
    web = client(painted_run, Policy(token="right", loopback=False), "http://192.168.0.2:8700")
    for path in (
        "/",
        "/vote",
        "/api/run",
        "/static/main.js",
        "/images/1",
        f"/clips/{first_clip(painted_run).key}.mp4",
    ):
        assert web.get(path).status_code == 401, path
        assert web.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert web.get(path, params={"token": "wrong"}).status_code == 401
    assert web.get("/api/run", headers={"Authorization": "Bearer right"}).status_code == 200
    entered = web.get("/", params={"token": "right"})
    assert (entered.status_code, entered.headers["location"]) == (
        303,
        "/",
    )  # out of the address, and so of the history
    assert "HttpOnly; SameSite=Lax" in entered.headers["set-cookie"]
    assert web.get("/vote", params={"token": "right"}).headers["location"] == "/vote"
    assert web.get("/api/run").status_code == 200  # by the cookie
    assert (
        client(painted_run, Policy(token="right"), HERE)
        .get("/", headers={"Cookie": 'a="'})
        .status_code
        == 401
    )


def test_raters_reach_the_test_and_nothing_else(tmp_path: Path) -> None:
    run = painted(tmp_path / "run")
    policy = Policy(token="right", loopback=False)
    owner, rater = (client(run, policy, "http://192.168.0.2:8700") for _ in range(2))
    assert owner.get("/", params={"token": "right"}).status_code == 303
    token = owner.get("/api/run").json()["token_for_raters"]
    assert "right" not in token
    assert len(token) == 32
    entered = rater.get("/vote", params={"token": token})
    assert (entered.status_code, entered.headers["location"]) == (303, "/vote")
    assert "Max-Age=2592000" in entered.headers["set-cookie"]  # it is used on another day too
    body = {"rater": "r", "kind": "pair", "settings": [1, 2]}
    task = rater.post("/api/study/next", json=body).json()["task"]
    for path in ("/vote", "/static/vote.js", f"/{task['videos'][0]['url']}"):
        assert rater.get(path).status_code == 200, path
    given = {"rater": "r", "task": task["id"], "answers": {"preference": "tie"}}
    assert rater.post("/api/study/answer", json=given).status_code == 200
    for path in (
        "/",
        "/api/run",
        "/api/counts",
        "/api/trials",
        f"/clips/{first_clip(run).key}.mp4",
        "/vote/../api/run",
    ):
        for asked in ({}, {"token": token}):
            assert rater.get(path, params=asked).status_code == 401, path
    assert rater.get("/api/run", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert (
        rater.get("/vote", params={"token": "0" * 32}).status_code == 200
    )  # by the cookie, as before
    assert owner.get("/vote", params={"token": token}).status_code == 303
    assert (
        owner.get("/api/run").status_code == 200
    )  # the way to the test has not shut out the owner


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": HERE}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:9999"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_changes_come_from_the_page_itself(
    page: TestClient, headers: dict[str, str], status: int
) -> None:
    body = json.dumps({"rater": "Ann", "kind": "pair", "settings": [1, 2]})
    sent = {"Content-Type": "application/json", **headers}
    assert page.post("/api/study/next", content=body, headers=sent).status_code == status


def test_bodies_are_bounded(page: TestClient) -> None:
    large = b'{"rater": "' + b"a" * MAX_BODY_BYTES + b'"}'
    sent = {"Content-Type": "application/json"}
    assert page.post("/api/study/next", content=large, headers=sent).status_code == 413
    assert (
        page.post(
            "/api/study/next", content=iter([large[:100], large[100:]]), headers=sent
        ).status_code
        == 413
    )
    assert page.post(
        "/api/study/next", content=b"{}", headers={**sent, "Content-Length": "x"}
    ).status_code in (
        400,
        413,
    )
    assert page.put("/api/run", content=b"").status_code == 405


def test_every_answer_says_what_a_browser_may_do(page: TestClient) -> None:
    for path in ("/", "/api/run", "/static/main.js", "/nothing"):
        headers = page.get(path).headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self' 'sha256-"
        )
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


# --- votes ----------------------------------------------------------------------------------------


def vote_all(
    web: TestClient, rater: str, kind: str, settings: list[int], most: int = 999
) -> list[dict[str, Any]]:
    seen = []
    while len(seen) < most:
        found = web.post(
            "/api/study/next", json={"rater": rater, "kind": kind, "settings": settings}
        ).json()
        if found["task"] is None:
            break
        seen.append(found["task"])
        answers = dict.fromkeys(found["questions"], "left" if kind == "pair" else "3")
        given = {"rater": rater, "task": found["task"]["id"], "answers": answers, "seconds": 1.5}
        assert web.post("/api/study/answer", json=given).status_code == 200
    return seen


@pytest.mark.parametrize(("kind", "tasks", "votes"), [("pair", 12, 12), ("rating", 12, 60)])
def test_raters_stop_and_go_on(painted_copy: Path, kind: str, tasks: int, votes: int) -> None:
    seen = vote_all(client(painted_copy), "Ann", kind, [1, 2, 3], most=5)
    again = client(painted_copy)  # another server, another day
    rest = vote_all(again, "Ann", kind, [1, 2, 3])
    assert (len(seen), len(seen) + len(rest)) == (5, tasks)
    vote_all(again, "Bob", kind, [1, 2, 3], most=1)
    with Run.open(painted_copy) as run:
        found = [vote for vote in run.votes() if vote.rater == "Ann"]
        assert len(found) == votes
        assert {vote.seconds for vote in found} == {1.5}
    results = again.get("/api/run").json()["votes"][kind]
    assert results["raters"] == {"Ann": votes, "Bob": votes // tasks}


def test_a_task_does_not_tell_its_settings(painted_copy: Path) -> None:
    web = client(painted_copy)
    with Run.open(painted_copy) as run:
        secrets = {clip.key for clip in run.clips()} | {setting.name for setting in run.settings()}
    answer = web.post("/api/study/next", json={"rater": "Ann", "kind": "pair", "settings": [1, 2]})
    assert not [secret for secret in secrets if secret in answer.text]
    for video in answer.json()["task"]["videos"]:
        assert web.get("/" + video["url"]).content[4:8] == b"ftyp"


def test_a_new_answer_takes_the_place_of_the_old(painted_copy: Path) -> None:
    web = client(painted_copy)
    (task,) = vote_all(web, "Ann", "pair", [1, 2], most=1)
    given = {"rater": "Ann", "task": task["id"], "answers": {"preference": "tie"}, "seconds": 1}
    assert web.post("/api/study/answer", json=given).status_code == 200
    with Run.open(painted_copy) as run:
        assert [vote.answer for vote in run.votes()] == ["tie"]


@pytest.mark.parametrize(
    "changed",
    [
        {"answers": {"preference": "best"}},
        {"answers": {}},
        {"answers": {"preference": "left", "x": "left"}},
        {"rater": ""},
        {"rater": "a" * 41},
        {"rater": " "},
        {"task": "0" * 16},
        {"seconds": -1},
        {"seconds": "long"},
        {"more": 1},
        {"answers": {"preference": 5}},
    ],
)
def test_answers_that_are_none_are_refused(painted_copy: Path, changed: dict[str, Any]) -> None:
    web = client(painted_copy)
    found = web.post(
        "/api/study/next", json={"rater": "Ann", "kind": "pair", "settings": [1, 2]}
    ).json()
    given = {
        "rater": "Ann",
        "task": found["task"]["id"],
        "answers": {"preference": "left"},
        "seconds": 1,
        **changed,
    }
    assert web.post("/api/study/answer", json=given).status_code in (400, 409, 422)
    with Run.open(painted_copy) as run:
        assert run.votes() == []


# --- trials ---------------------------------------------------------------------------------------


class Slow(Painter):
    """Paints step by step, when it is told to go on."""

    def __init__(self) -> None:
        self.go, self.reached = threading.Event(), threading.Event()
        self.images: list[Any] = []  # that settings were tried with

    def survey(self, settings: Any, image: Any) -> Any:
        self.images.append(image)
        return super().survey(settings, image)

    def run(self, jobs: Any, on_step: Any) -> Iterator[Any]:
        for event in super().run(jobs, on_step):
            yield event
            on_step(StepProgress(1, 2, 2.0, 3.0))
            self.reached.set()
            assert self.go.wait(30)
            on_step(StepProgress(2, 2, 2.0, 0.0))


ASK = {
    "model": "lab-mochi",
    "prompt": "a green cross",
    "seed": 3,
    "parameters": {"layers": [6], "stg_scale": 0.75},
}


def wait(condition: Callable[[], Any]) -> Any:
    for _ in range(600):
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to that within 30 s")


def ended(web: TestClient, number: int) -> dict[str, Any]:
    def over() -> Any:
        (trial,) = [trial for trial in web.get("/api/trials").json() if trial["id"] == number]
        return trial if trial["state"] not in ("waiting", "running") else None

    return wait(over)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def web(painted_copy: Path, slow: Slow) -> Iterator[TestClient]:
    with client(painted_copy, trials=Trials(painted_copy, lambda: slow)) as web:
        yield web
        slow.go.set()


def test_what_is_asked_for_is_made_into_the_run(
    web: TestClient, painted_copy: Path, slow: Slow
) -> None:
    asked = web.post("/api/trials", json=ASK).json()
    assert asked["state"] in ("waiting", "running")
    assert slow.reached.wait(30)
    (trial,) = web.get("/api/trials").json()
    assert (trial["state"], trial["step"], trial["steps"], trial["seconds_left"]) == (
        "running",
        1,
        2,
        3.0,
    )
    slow.go.set()
    done = ended(web, asked["id"])
    assert (done["state"], done["error"]) == ("done", None)
    with Run.open(painted_copy) as run:
        clip = run.clip(done["key"])
        named = {setting.id: setting.name for setting in run.settings()}
        assert re.fullmatch("trial [0-9a-f]{4}: layers 6, stg scale 0.75", named[clip.setting])
    assert web.get(f"/clips/{done['key']}.mp4").status_code == 200


def test_a_trial_reads_no_files(web: TestClient, tmp_path: Path) -> None:
    """Whoever may ask for a trial would read whatever the server may."""
    (tmp_path / "secret").write_text("hunter2", encoding="utf-8")
    named = {"schedule": str(tmp_path / "secret")}
    for asked in (named, {"guidance": named}, {"guidance": {"preset": named}}):
        answer = web.post("/api/trials", json={**ASK, "parameters": asked})
        assert answer.status_code == 400
        assert "the schedule of a trial must be a list of bins" in answer.text
        assert "hunter2" not in answer.text


def test_a_trial_takes_what_guide_takes(web: TestClient, painted_copy: Path, slow: Slow) -> None:
    slow.go.set()
    terms = ["layers=7-9 scale=1,0.5 skip=attention", "kind=slg layers=single:3"]
    by_flags = web.post("/api/trials", json={**ASK, "parameters": {"term": terms}}).json()
    guidance = {
        "terms": [{"layers": "7,8,9", "scale": [1, 0.5], "skip": "attention"},
                  {"kind": "slg", "layers": ["single:3"]}],
    }  # fmt: skip
    same = {**ASK, "parameters": {"guidance": guidance}}
    done = [
        ended(web, asked["id"]) for asked in (by_flags, web.post("/api/trials", json=same).json())
    ]
    assert [trial["state"] for trial in done] == ["done", "done"], done
    assert done[0]["key"] == done[1]["key"]
    run = web.get("/api/run").json()
    (setting,) = [entry for entry in run["settings"] if entry["name"] == done[0]["name"]]
    assert setting["guidance"]["terms"][1] == {"kind": "slg", "layers": ["single:3"]}
    assert (
        setting["parameters"]["guidance"] == "STG 1,0.5 (attention 7,8,9) + SLG (residual single:3)"
    )
    assert "guidance" in run["varied"]


@pytest.mark.parametrize("token", ["", "a+b", "a b", "x;y", "x#1", "ä"])
def test_a_token_that_an_address_cannot_have_is_refused(painted_run: Path, token: str) -> None:
    result = CliRunner().invoke(verbs, ["studio", str(painted_run), "--token", token])
    assert result.exit_code == 2
    assert "--token must consist of letters, digits and . _ ~ -" in result.output


def test_a_setting_that_is_there_keeps_its_name(
    web: TestClient, painted_copy: Path, slow: Slow
) -> None:
    slow.go.set()
    known = {"guidance_scale": 4.5, "layers": [8], "stg_scale": 1.0, "skip": "residual"}
    asked = web.post("/api/trials", json={**ASK, "parameters": known}).json()
    done = ended(web, asked["id"])
    assert (done["state"], done["name"]) == ("done", "stg layers=8 scale=1")
    with Run.open(painted_copy) as run:
        assert len(run.settings()) == 5


def test_what_exists_is_not_made_again(web: TestClient, slow: Slow, painted_copy: Path) -> None:
    """The trial gives the key of a clip that is there."""
    known = {"guidance_scale": 4.5, "layers": [8], "stg_scale": 1.0, "skip": "residual"}
    asked = web.post(
        "/api/trials",
        json={"model": "lab-mochi", "prompt": "a red star", "seed": 0, "parameters": known},
    )
    done = ended(web, asked.json()["id"])
    assert done["state"] == "done"
    assert not slow.reached.is_set()
    with Run.open(painted_copy) as run:
        assert run.clip(done["key"]).seed == 0


def test_trials_are_cancelled_while_they_wait_and_while_they_run(
    web: TestClient, painted_copy: Path, slow: Slow
) -> None:
    running = web.post("/api/trials", json=ASK).json()["id"]
    waiting = web.post("/api/trials", json={**ASK, "seed": 4}).json()["id"]
    assert slow.reached.wait(30)
    assert web.delete(f"/api/trials/{waiting}").json()["state"] == "cancelled"
    web.delete(f"/api/trials/{running}")
    slow.go.set()
    assert ended(web, running)["state"] == "cancelled"
    after = web.post("/api/trials", json={**ASK, "seed": 5}).json()["id"]  # the lock is free again
    assert ended(web, after)["state"] == "done"
    with Run.open(painted_copy) as run:
        assert run.counts()["done"] == 21
    assert web.delete("/api/trials/99").status_code == 400


def test_a_trial_is_none_of_a_server_before(painted_copy: Path, slow: Slow) -> None:
    """A page that was open meanwhile would show the one for the other."""
    slow.go.set()
    numbers = []
    for _ in range(2):
        with client(painted_copy, trials=Trials(painted_copy, lambda: slow)) as web:
            numbers.append(web.post("/api/trials", json=ASK).json()["id"])
            ended(web, numbers[-1])
    assert len(set(numbers)) == 2


def test_the_queue_is_bounded(web: TestClient, slow: Slow) -> None:
    web.post("/api/trials", json=ASK)
    assert slow.reached.wait(30)
    answers = [
        web.post("/api/trials", json={**ASK, "seed": 10 + i}).status_code
        for i in range(MAX_WAITING + 2)
    ]
    assert answers == [200] * MAX_WAITING + [400] * 2


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "/etc"},
        {"model": "someone/else"},
        {"parameters": {"layers": [1], "device": "cuda"}},
        {"seed": -1},
        {"parameters": {"image": "/etc/passwd"}},
        {"parameters": {"stg_scale": "much"}},
        {"prompt": ""},
        {"seed": 1.5},
        {"prompt": "a" * 4001},
        {"parameters": {"steps": 0}},
        {"parameters": {str(i): 1 for i in range(50)}},
    ],
)
def test_what_may_not_be_asked_for_is_refused_at_once(
    web: TestClient, changed: dict[str, Any]
) -> None:
    answer = web.post("/api/trials", json={**ASK, **changed})
    assert answer.status_code in (400, 422)
    assert web.get("/api/trials").json() == []


# --- trials that start from a picture -------------------------------------------------------------

STG = {"guidance_scale": 4.5, "layers": [8], "stg_scale": 1.0, "skip": "residual"}
SHOW = {"model": "lab-mochi", "prompt": None, "seed": 0, "parameters": STG}


@pytest.fixture
def pictured_web(pictured: Path, slow: Slow) -> Iterator[TestClient]:
    slow.go.set()
    with client(pictured, trials=Trials(pictured, lambda: slow)) as web:
        yield web


def made(web: TestClient, **changes: Any) -> dict[str, Any]:
    answer = web.post("/api/trials", json={**SHOW, **changes})
    assert answer.status_code == 200, answer.text
    done = ended(web, answer.json()["id"])
    assert (done["state"], done["error"]) == ("done", None)
    return done


@pytest.mark.parametrize(("prompt", "text"), [(1, None), (2, None), (3, "a red star")])
def test_a_trial_of_what_a_sweep_made_is_its_clip(
    pictured_web: TestClient, pictured: Path, slow: Slow, prompt: int, text: str | None
) -> None:
    done = made(pictured_web, prompt=text, image_of=prompt)
    assert not slow.reached.is_set()
    with Run.open(pictured) as run:
        (own,) = (clip for clip in run.clips() if clip.prompt == prompt and clip.setting == 2)
        assert done["key"] == own.key
        assert (len(run.prompts()), len(run.settings())) == (4, 2)
    assert done["image"] == "first.png"
    assert [image.size for image in slow.images] == [
        (48, 40)
    ] * 2  # the model is asked whether it takes this


def test_a_sweep_does_not_make_again_what_a_trial_made(
    pictured_web: TestClient, pictured: Path, slow: Slow, tmp_path: Path
) -> None:
    done = made(pictured_web, seed=7, image_of=2)
    assert slow.reached.is_set()
    painted(pictured, seeds=[7], **pictures(tmp_path / "pictures"))
    with Run.open(pictured) as run:
        (own,) = (
            clip for clip in run.clips() if (clip.prompt, clip.setting, clip.seed) == (2, 2, 7)
        )
        assert (own.key, own.attempts) == (done["key"], 1)
        assert str(pictured) not in "".join(run.plans())
    assert len(list((pictured / "images").rglob("*.png"))) == 2


def test_another_text_may_go_with_a_picture(pictured_web: TestClient, pictured: Path) -> None:
    key = made(pictured_web, prompt="it spins", image_of=2)["key"]
    with Run.open(pictured) as run:
        new = run.prompts()[run.clip(key).prompt - 1]
        assert (new.id, new.text, new.image) == (5, "it spins", "first.png")
        assert run.image_of(5) == run.image_of(2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"image_of": 99}, "prompt must be the id of a prompt of the run, but got 99"),
        (
            {"image_of": 4},
            "a prompt must have a picture to start from, but 4, 'a blue circle', has none",
        ),
        (
            {"image_of": 2},
            "picture of a prompt must be kept in the run, but first.png of prompt 2 is missing",
        ),
        ({}, "a trial must have a prompt, a picture or both, but got neither"),
        ({"image_of": "1"}, None),
        ({"image_of": True}, None),
        ({"image_of": 1.5}, None),
        ({"image": "first.png"}, None),
    ],
)
def test_pictures_that_cannot_be_taken_are_refused_at_once(
    pictured_web: TestClient, pictured: Path, slow: Slow, changed: dict[str, Any], said: str | None
) -> None:
    copy_of(pictured, 2).unlink()
    answer = pictured_web.post("/api/trials", json={**SHOW, **changed})
    assert answer.status_code == (400 if said else 422)
    assert (said or "detail") in answer.text
    assert slow.images == []
    assert pictured_web.get("/api/trials").json() == []


def test_a_test_names_the_picture_where_there_is_no_text(pictured: Path) -> None:
    seen = vote_all(client(pictured), "Ann", "rating", [1, 2])
    assert {task["prompt"] for task in seen} == {"first.png", "a red star", "a blue circle"}


# --- trials that go wrong -------------------------------------------------------------------------


def test_a_trial_beside_a_sweep_says_why_it_fails(web: TestClient, painted_copy: Path) -> None:
    with lock_folder(painted_copy):
        failed = ended(web, web.post("/api/trials", json=ASK).json()["id"])
    assert failed["state"] == "failed"
    assert "only one sweep at a time may write to a run" in failed["error"]


def test_a_studio_without_trials_makes_none(page: TestClient) -> None:
    assert page.post("/api/trials", json=ASK).status_code == 403
    assert page.get("/api/run").json()["trials_allowed"] is False


def test_a_run_that_cannot_be_written_takes_no_trial(
    web: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's answer is replaced: for root no folder refuses to be written."""
    monkeypatch.setattr(app.os, "access", lambda *_: False)
    refused = web.post("/api/trials", json=ASK)
    assert refused.status_code == 403
    assert refused.json()["detail"].startswith("a run must be writable to take videos")
    assert web.get("/api/trials").json() == []
    assert web.get("/api/run").json()["trials_allowed"] is False


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"guidance_scale": 4.5, "cfg_rule": {"name": "apg", "eta": 0.2}}, "cfg rule apg eta 0.2"),
        (
            {"cfg_rule": {"name": "interval", "window": [0.1, 0.9]}},
            "cfg rule interval window 0.1:0.9",
        ),
        ({"cfg_rule": "apg eta=0.2"}, "cfg rule apg eta=0.2"),
        ({"restart": [{"window": [0.4, 0.6], "repeats": 2}]}, "restart window 0.4:0.6 repeats 2"),
        ({"guidance": {"cfg": "apg"}}, "guidance of its own"),
        ({}, "plain"),
    ],
)
def test_a_trial_is_named_by_its_rule_too(parameters: dict[str, Any], told: str) -> None:
    name = trial_name(TrialRequest("lab-mochi", "a red star", 0, parameters))
    assert name.endswith(told)
    assert "{" not in name


def test_a_real_model_makes_what_is_asked_for(tmp_path: Path, tiny_mochi_dir: Path) -> None:
    """The whole way: a loaded pipeline, a guided generation, a clip in the run."""
    small = {
        "steps": 2,
        "height": 32,
        "width": 32,
        "num_frames": 7,
        "guidance_scale": 4.5,
        "max_sequence_length": 16,
    }
    settings = [{"name": "cfg", **small}]
    painted(
        tmp_path / "run",
        model=str(tiny_mochi_dir),
        prompts=["a red star"],
        seeds=[0],
        settings=settings,
    )
    trials = Trials.local(tmp_path / "run")
    sizes = {name: small[name] for name in ("steps", "height", "width", "num_frames")}
    number = trials.add(
        TrialRequest(
            str(tiny_mochi_dir), "a blue square", 1, {**sizes, "layers": [2], "stg_scale": 1.0}
        )
    ).id
    trial = wait(
        lambda: [
            t
            for t in trials.list()
            if t["id"] == number and t["state"] not in ("waiting", "running")
        ]
    )[0]
    trials.close()
    assert (trial["state"], trial["step"], trial["error"]) == ("done", 2, None)
    with Run.open(tmp_path / "run") as run:
        clip = run.clip(trial["key"])
    assert (clip.frames, clip.height) == (7, 32)
    assert clip.passes_per_step == pytest.approx(2.25)


def test_a_study_of_a_read_only_run_says_so(painted_copy: Path) -> None:
    """As root everything can be written, so the ledger itself is taken away."""
    web = client(painted_copy)
    found = web.post(
        "/api/study/next", json={"rater": "Ann", "kind": "pair", "settings": [1, 2]}
    ).json()
    (painted_copy / "ledger.sqlite").rename(painted_copy / "gone")
    answers = {
        "rater": "Ann",
        "task": found["task"]["id"],
        "answers": dict.fromkeys(blind_test.QUESTIONS["pair"], "tie"),
    }
    answer = web.post("/api/study/answer", json=answers)
    assert answer.status_code == 410
    assert "a run must be a folder with a ledger.sqlite" in answer.json()["error"]


# --- the verb -------------------------------------------------------------------------------------


def test_the_verb_serves_until_it_is_interrupted(painted_run: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from skipguide.cli import main; main()",
        "studio",
        str(painted_run),
        "--port",
        "0",
    ]
    with subprocess.Popen([*command, "--token", "t"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=t", address)
        asked = urllib.request.Request(
            address.partition("?")[0], headers={"Authorization": "Bearer t"}
        )
        with urllib.request.urlopen(asked) as answer:
            assert b"skipguide studio" in answer.read()
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0


def test_a_busy_port_is_told(painted_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = CliRunner().invoke(verbs, ["studio", str(painted_run), "--port", port])
    assert said.exit_code == 2
    assert "--host and --port must be a free address of this machine" in said.stderr


@pytest.mark.parametrize("option", ["--port", "--share-port"])
def test_a_start_that_fails_leaves_no_study(painted_copy: Path, option: str) -> None:
    sharing = ["--share", "127.0.0.1", "--port", "0"] if option == "--share-port" else []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = ["studio", str(painted_copy), "--tasks", "3", *sharing, option, port]
        said = CliRunner().invoke(verbs, command)
    assert said.exit_code == 2
    assert "must be a free address of this machine" in said.stderr
    assert "Study" not in said.output
    with Run.open(painted_copy) as run:
        assert run.study.current() is None
