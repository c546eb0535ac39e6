"""HTTP as HTTP says it: HEAD beside every GET, 405 with what is allowed, a run that goes away."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

import skipguide
from skipguide.runs import Run
from skipguide.studio import app, page_words, setting_grid
from skipguide.studio.access import Policy
from skipguide.studio.playground import Trials
from support.painted import Painter, pictures
from support.painted import painted as paint

HERE = "http://localhost:8700"


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictured")
    return paint(place / "run", seeds=[0], **pictures(place / "pictures"))


@pytest.fixture(scope="module")
def web(pictured: Path) -> TestClient:
    made = app.create_app(pictured, Policy(secret=b"same"), Trials(pictured, Painter))
    return TestClient(made, base_url=HERE, follow_redirects=False)


def addresses(web: TestClient, folder: Path) -> Iterator[tuple[APIRoute, str]]:
    """Every route of the server with an address that it has."""
    with Run.open(folder) as run:
        key = run.clips()[0].key
    body = {"rater": "Ann", "kind": "rating", "settings": [1]}
    task = web.post("/api/study/next", json=body).json()["task"]
    filled = {
        "/static/{name}": "/static/main.js", "/clips/{name}": f"/clips/{key}.mp4",
        "/images/{prompt}": "/images/1", "/study/{name}": "/" + task["videos"][0]["url"],
        "/api/trials/{number}": "/api/trials/1",
    }  # fmt: skip
    assert isinstance(web.app, app.FastAPI)
    for route in web.app.routes:
        assert isinstance(route, APIRoute)
        yield route, filled.get(route.path, route.path)


def test_head_says_what_get_says_without_the_content(web: TestClient, pictured: Path) -> None:
    asked = 0
    for route, path in addresses(web, pictured):
        if "GET" not in (route.methods or ()):
            continue
        for more in ({}, {"Range": "bytes=10-29"}, {"Range": "bytes=99999999-"}):
            get, head = (web.request(method, path, headers=more) for method in ("GET", "HEAD"))
            assert head.status_code == get.status_code, path
            assert head.content == b""
            assert dict(head.headers) == dict(get.headers), path
            asked += 1
    assert asked >= 3 * 10
    video = next(
        path for route, path in addresses(web, pictured) if route.path.startswith("/clips")
    )
    assert web.head(video).headers["content-length"] == str(len(web.get(video).content))
    assert web.head(video, headers={"Range": "bytes=10-29"}).headers["content-length"] == "20"
    for path in ("/nothing", "/clips/0000000000000000.mp4", "/static/x", "/images/99"):
        get, head = web.get(path), web.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert dict(head.headers) == dict(get.headers)


def test_head_needs_a_token_as_get_does(pictured: Path) -> None:
    made = app.create_app(pictured, Policy(token="right"))
    closed = TestClient(made, base_url=HERE, follow_redirects=False)
    for path in ("/", "/api/run", "/vote"):
        assert (closed.head(path).status_code, closed.head(path).content) == (401, b"")
    entered = closed.head("/", params={"token": "right"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "PATCH", "DELETE", "POST", "TRACE"])
def test_other_methods_are_refused_with_what_is_allowed(
    web: TestClient, pictured: Path, method: str
) -> None:
    allowed: dict[str, set[str]] = {}
    for route, path in addresses(web, pictured):
        allowed.setdefault(path, set()).update(route.methods or ())
    refused = 0
    for path, methods in allowed.items():
        if method in methods:
            continue
        body = {"content": b"{}", "headers": {"Content-Type": "application/json"}}
        told = web.request(method, path, **(body if method in ("POST", "PUT", "PATCH") else {}))
        assert told.status_code == 405, (method, path)
        assert set(told.headers["allow"].split(", ")) == methods
        assert told.json()["error"].endswith(f"but got {method}.")
        refused += 1
    assert refused >= 6
    assert web.request(method, "/nothing").status_code in (404, 415)


# --- a run that goes away -------------------------------------------------------------------------


def test_a_run_that_was_deleted_is_told(painted_copy: Path) -> None:
    web = TestClient(app.create_app(painted_copy, Policy()), base_url=HERE)
    key = web.get("/api/run").json()["clips"][0]["key"]
    body = {"rater": "Ann", "kind": "pair", "settings": [1, 2]}
    painted_copy.rename(painted_copy.with_name("elsewhere"))
    for told in (
        web.get("/api/run"),
        web.get("/api/counts"),
        web.get(f"/clips/{key}.mp4"),
        web.get("/votes.csv"),
        web.post("/api/study/next", json=body),
    ):
        assert told.status_code == 410
        assert "it was deleted, moved or renamed while the studio was open" in told.json()["error"]
        assert str(painted_copy.parent) not in told.text
    painted_copy.with_name("elsewhere").rename(painted_copy)
    assert web.get("/api/counts").status_code == 200


# --- the words of the page ------------------------------------------------------------------------

ASK = {"model": "lab-mochi", "prompt": "a red star", "seed": 3}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"stg_scale": "much"}, "“Scale s” must be a finite number >= 0"),
        ({"spatial_scale": -1.0}, "“Spatial s” must be a finite number >= 0"),
        ({"guidance_scale": "x"}, "“CFG g” must be"),
        ({"steps": 0}, "“Steps” must be"),
        ({"layers": "much"}, "“Layers” must be"),
        (
            {"start": 0.8, "stop": 0.2},
            "“To” must be larger than “From (part of the run)”, but got 0.2 and 0.8.",
        ),
        ({"orthogonalize": True, "spatial_scale": 1.0}, "a “Spatial s” and a “Temporal s” above 0"),
        ({"cfg_rule": {"name": "mine"}}, "cfg must be one of apg"),
        ({"nag": 0.5}, "scale must be a finite number >= 1 (1 is off), but got 0.5"),
        ({"nag": "5 tau=0"}, "tau must be a finite number >= 1"),
    ],
)
def test_errors_speak_the_words_of_the_page(
    web: TestClient, parameters: dict[str, Any], said: str
) -> None:
    told = web.post("/api/trials", json={**ASK, "parameters": parameters})
    assert told.status_code == 400
    assert said in told.json()["error"]
    assert not told.json()["error"].startswith("setting ")
    assert not re.search(r"--\w|config file|\w_\w", told.json()["error"])


def test_a_body_that_is_wrong_is_told_in_a_sentence(web: TestClient) -> None:
    told = web.post("/api/trials", json={**ASK, "seed": -1, "parameters": {}})
    assert told.status_code == 422
    assert told.json()["error"] == (
        "Seed must be greater than or equal to 0, but got -1. Correct it."
    )


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (
            "begin",
            {"key": "k" * 16},
            "Your name must be given, but it is missing. Fill it in.",
        ),
        (
            "begin",
            {"rater": "Ann", "key": "k"},
            "key must have at least 16 characters, but got 'k'. Correct it.",
        ),
        (
            "begin",
            {"rater": "Ann", "key": "k" * 16, "more": 1},
            "more is nothing that is asked for here. Leave it out.",
        ),
        ("begin", [], "the body must be a JSON object, but got 0 of them. Correct it."),
        (
            "next",
            {"rater": "Ann", "kind": "pair", "settings": [None, None]},
            "each of settings must be a whole number, but got nothing. Correct it.",
        ),
        (
            "next",
            {"rater": "Ann", "kind": "best", "settings": [1]},
            "kind must be 'rating' or 'pair', but got 'best'. Correct it.",
        ),
        (
            "next",
            {"rater": "Ann", "kind": "pair", "settings": [1] * 201},
            "settings must have at most 200 items, but got 201 of them. Correct it.",
        ),
        (
            "next",
            {"rater": "Ann", "kind": "pair", "settings": "a,b"},
            "settings must be a list, but got 'a,b'. Correct it.",
        ),
    ],
)
def test_every_kind_of_wrong_body_is_a_whole_sentence(
    web: TestClient, path: str, body: Any, said: str
) -> None:
    told = web.post(f"/api/study/{path}", json=body)
    assert (told.status_code, told.json()["error"]) == (422, said)


def test_what_is_no_json_and_no_key_is_told(web: TestClient) -> None:
    kind = {"Content-Type": "application/json"}
    told = web.post("/api/trials", content=b'{"seed": ', headers=kind).json()["error"]
    assert told == "the body must be JSON, but it cannot be read as such. Correct it."
    told = web.get("/clips/xyz.mp4").json()["error"]
    assert told == (
        "name must be one that the studio gave out, but got 'xyz.mp4'. Open the page anew."
    )
    assert web.get("/images/999").json()["detail"] == (
        "prompt must be the id of a prompt of the run, but got 999. Choose another one."
    )


@pytest.mark.parametrize(
    "asked",
    ["foo", "items=0-1", "bytes=5-2", "bytes=x-y", "bytes", "bytes=", "bytes=" + "9" * 5000 + "-"],
)
def test_a_range_that_is_none_is_ignored(web: TestClient, pictured: Path, asked: str) -> None:
    """RFC 9110, 14.2: another unit or form is as if there were no Range."""
    places = {route.path: path for route, path in addresses(web, pictured)}
    for name in ("/clips/{name}", "/images/{prompt}", "/study/{name}"):
        whole, told = web.get(places[name]), web.get(places[name], headers={"Range": asked})
        assert (told.status_code, told.content) == (200, whole.content)
    several = web.get(places["/images/{prompt}"], headers={"Range": "Bytes=0-1, 4-5"})
    assert several.status_code == 206


def sentences(folder: Path) -> Iterator[str]:
    """All texts of the modules in a folder that name a flag, f-strings with … for their parts."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Raise):
                for part in ast.walk(node):
                    if isinstance(part, ast.JoinedStr):
                        yield "".join(
                            str(piece.value) if isinstance(piece, ast.Constant) else "--some-flag"
                            if "flag_name" in ast.dump(piece) else "…" for piece in part.values
                        )  # fmt: skip


def test_no_error_that_can_reach_the_page_names_a_flag() -> None:
    """Whatever rooms a trial goes through: their sentences are taken from the source."""
    root = Path(skipguide.__file__).parent
    rooms = ("generate", "method", "weak", "pipeline", "families", "runs", "files", "studio")
    found = [text for room in rooms for text in sentences(root / room) if "--" in text]
    assert len(found) > 8
    for text in found:
        assert not re.search(r"--\w", page_words.in_page_words(text)), text


RULES: list[dict[str, Any]] = [
    {"name": "cfg", "guidance_scale": 4.5},
    {"name": "apg", "guidance_scale": 4.5, "cfg_rule": "apg eta=0.2"},
    {"name": "again", "guidance_scale": 4.5, "restart": ["0.4:0.6 repeats=2"]},
    {"name": "stg", "stg": {"layers": [4], "scale": 1.0}, "cfg_rule": "apg eta=0.2"},
]


def test_rules_are_words_in_a_map(tmp_path: Path) -> None:
    folder = paint(tmp_path / "run", prompts=["a"], seeds=[0], settings=RULES)
    with Run.open(folder) as run:
        settings = run.settings()
    (found,) = setting_grid.layer_maps([setting for setting in settings if setting.name == "stg"])
    assert found["columns"] == ["all"]
    assert setting_grid.varying_parameters(settings)[-2:] == ["cfg_rule", "restart"]
    other = {**RULES[3], "name": "other", "cfg_rule": "cfg-zero"}
    folder = paint(tmp_path / "two", prompts=["a"], seeds=[0], settings=[RULES[3], other])
    with Run.open(folder) as run:
        (found,) = setting_grid.layer_maps(run.settings())
    assert found["columns"] == ["cfg rule apg, eta 0.2", "cfg rule cfg-zero"]
