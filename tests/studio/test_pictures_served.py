"""Pictures over HTTP: their types, copies for raters, attention checks and questions."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from skipguide.files import clips, picture
from skipguide.files.video import Frames
from skipguide.runs import Run
from skipguide.studio import app, attention, report_zip, sealed
from skipguide.studio.access import Policy
from support.clock import Clock
from support.painted import Sketcher, painted
from support.shared import begin_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = [{"name": "cfg"}, {"name": "stg", "picture_format": "webp"}]
    small = {"height": 64, "width": 96, "settings": settings}
    return painted(tmp_path_factory.mktemp("runs") / "pictures", Sketcher(), **small)


def read(content: bytes, suffix: str, folder: Path) -> Frames:
    path = folder / f"x{suffix}"
    path.write_bytes(content)
    return picture.read(path)


def test_pictures_are_served_as_what_they_are(folder: Path) -> None:
    web = TestClient(app.create_app(folder, Policy()), base_url="http://127.0.0.1:8701")
    run = web.get("/api/run").json()
    assert {(clip["suffix"], clip["fps"], clip["frames"]) for clip in run["clips"]} == {
        (".png", None, 1), (".webp", None, 1),
    }  # fmt: skip
    for clip in run["clips"][:2]:
        found = web.get(f"/clips/{clip['key']}{clip['suffix']}")
        assert found.headers["content-type"] == f"image/{clip['suffix'][1:]}"
        with Run.open(folder) as opened:
            path = opened.clip(clip["key"]).video
        assert path is not None
        assert found.content == path.read_bytes()
        other = {".png": ".webp", ".webp": ".png"}[clip["suffix"]]
        for wrong in (other, ".mp4"):
            assert web.get(f"/clips/{clip['key']}{wrong}").status_code == 404
    assert web.get(f"/clips/{run['clips'][0]['key']}.json").status_code == 422
    assert [*run["questions"]["rating"]] == ["picture quality", "text alignment",
                                             "subjective likeness"]  # fmt: skip


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_a_picture_for_raters_has_the_pixels_and_no_record(tmp_path: Path, suffix: str) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (1, 32, 48, 3), np.uint8)
    path = tmp_path / f"a{suffix}"
    clips.write(path, frames, None, {"settings": {"guidance_scale": 4.5}})
    copies = sealed.SealedVideos()
    found = [copies.copy(name, path).read_bytes() for name in ("one", "other")]
    assert b"guidance_scale" in path.read_bytes()
    assert not any(b"guidance_scale" in content for content in found)
    assert len(found[0]) != len(found[1])
    assert all(np.array_equal(read(content, suffix, tmp_path), frames) for content in found)


def test_ratings_of_pictures_have_checks_too(folder: Path, tmp_path: Path) -> None:
    begin_study(folder, kind="rating", settings=["cfg", "stg"], tasks=3, checks=1, consent=None)
    with Run.open(folder) as run:
        study = run.study.current()
        assert study is not None
        (check,) = study.checks
        clip = run.clip(check.clip)
        damaged = attention.damaged_path(run, check)
    assert clip.video is not None
    assert damaged.suffix == clip.video.suffix
    wrong = picture.read(damaged)
    assert np.abs(wrong.astype(float) - picture.read(clip.video)).mean() > 20
    clock = Clock()
    web = TestClient(app.create_app(folder, Policy(), now=clock), base_url="http://127.0.0.1:8701")
    who = {"rater": "Ann", "key": "Ann has a browser with a key"}
    assert web.get("/api/study").json()["what"] == "picture"
    web.post("/api/study/begin", json=who)
    seen = []
    while (found := web.post("/api/study/next", json=who).json())["task"] is not None:
        (shown,) = found["task"]["videos"]
        content = web.get(f"/{shown['url']}").content
        is_damaged = np.array_equal(read(content, Path(shown["url"]).suffix, tmp_path), wrong)
        seen.append(is_damaged)
        answers = dict.fromkeys(found["questions"], "1" if is_damaged else "4")
        body = {**who, "task": found["task"]["id"], "answers": answers, "seconds": 2.0}
        assert web.post("/api/study/answer", json=body).status_code == 425  # nobody looked yet
        clock.now += 1
        assert web.post("/api/study/answer", json=body).json() == {"votes": 3}
    assert sorted(seen) == [False, False, False, True]
    with Run.open(folder) as run:
        assert [answer.passed for answer in run.study.check_answers()] == [True]
        assert {vote.question for vote in run.votes()} == {"picture quality", "text alignment",
                                                          "subjective likeness"}  # fmt: skip


def test_a_report_in_one_file_has_the_pictures(folder: Path, tmp_path: Path) -> None:
    with Run.open(folder) as run:
        told = report_zip.write_zip(run, tmp_path / "report.zip")
        wanted = {f"{clip.key}{clip.video.suffix}" for clip in run.clips() if clip.video}
    assert told["clips"] == 8
    with zipfile.ZipFile(tmp_path / "report.zip") as packed:
        names = [name for name in packed.namelist() if "/clips/" in name]
        assert {Path(name).name for name in names} == wanted
        content = packed.read(next(name for name in names if name.endswith(".png")))
    (tmp_path / "one.png").write_bytes(io.BytesIO(content).read())
    assert json.dumps(clips.read_record(tmp_path / "one.png")) == '{"a": "record"}'
