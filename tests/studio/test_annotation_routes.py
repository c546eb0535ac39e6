"""Tags and notes over HTTP: written, told to the page, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from skipguide.runs import Run, annotations
from skipguide.studio import app, page_data
from skipguide.studio.access import Policy
from support.painted import painted

HERE = "http://localhost:8700"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return painted(tmp_path / "run", prompts=["a"], seeds=[0])


def browser(folder: Path, policy: Policy | None = None) -> TestClient:
    return TestClient(app.create_app(folder, policy or Policy()), base_url=HERE)


def test_what_is_written_on_the_page_is_in_the_run_and_on_the_page(folder: Path) -> None:
    page = browser(folder)
    key = page.get("/api/run").json()["clips"][1]["key"]
    told = page.post("/api/annotations", json={"clip": key, "add": ["good", "b"], "note": "it\nis"})
    assert told.json() == {"tags": ["b", "good"], "note": "it\nis"}
    told = page.post("/api/annotations", json={"clip": key, "add": [], "remove": ["b"]})
    assert told.json() == {"tags": ["good"], "note": "it\nis"}
    assert page.post("/api/annotations", json={"note": "for table 2", "add": ["paper"]}).json() == {
        "tags": ["paper"],
        "note": "for table 2",
    }
    described = page.get("/api/run").json()
    assert described["written"] == {"tags": ["paper"], "note": "for table 2"}
    assert [(clip["tags"], clip["note"]) for clip in described["clips"]][:3] == [
        ([], ""),
        (["good"], "it\nis"),
        ([], ""),
    ]
    with Run.open(folder) as run:
        assert annotations.read(run).of(key).tags == ("good",)
        assert page_data.describe(run)["written"]["note"] == "for table 2"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"clip": "0" * 16, "add": ["a"]}, 400, "key must be that of a clip of the run"),
        ({"clip": "../x", "add": ["a"]}, 422, "clip must be one that the studio gave out"),
        ({"add": ["a,b"]}, 400, "a tag must have no comma"),
        ({"add": ["x" * 41]}, 400, "a tag must have 1 to 40 characters"),
        ({"note": "x" * 4001}, 400, "a note must have at most 4000 characters"),
        ({"tags": ["a"]}, 422, "tags is nothing that is asked for here"),
    ],
)
def test_what_is_refused(folder: Path, body: dict[str, object], status: int, said: str) -> None:
    answer = browser(folder).post("/api/annotations", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    with Run.open(folder) as run:
        assert annotations.read(run) == annotations.Annotations()


def test_a_rater_neither_reads_nor_writes_them(folder: Path) -> None:
    policy = Policy("t" * 20)
    rater = browser(folder, policy)
    rater.get(f"/vote?token={policy.rater_token}")
    body = {"add": ["a"]}
    assert rater.post("/api/annotations", json=body).status_code == 401
    owner = {"Authorization": f"Bearer {policy.token}", "Origin": HERE}
    assert rater.post("/api/annotations", json=body, headers=owner).status_code == 200
    with Run.open(folder, writable=True) as run:
        key = run.clips()[0].key
        annotations.change(run, [key], ["secret tag"], note="secret note")
    test = {"rater": "ann", "key": "k" * 16, "kind": "rating", "settings": [1]}
    assert rater.post("/api/study/begin", json=test).status_code == 200
    given = rater.post("/api/study/next", json=test)
    assert given.json()["task"]["prompt"] == "a"
    assert "secret" not in given.text
