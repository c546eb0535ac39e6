"""A run in one file: everything that others need, and nothing that they should not know."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import uvicorn
import yaml
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.files import video
from skipguide.runs import Plan, Run, SetMetric, Vote, annotations, packed, shareable
from skipguide.runs.merge import merge
from skipguide.runs.study import CheckAnswer, Study
from skipguide.runs.sweep import sweep
from skipguide.studio import page_data, report_zip
from skipguide.tuning.scan.layer_map import LayerMap
from support import tuned
from support.painted import Painter, paint

_HOME = PurePosixPath("/", "home", "ann")
_SECRET = f"{_HOME}secret"  # of the folders and the user that must not be told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that knows folders and names wherever it can."""
    picture = tmp_path / "annsecret pictures" / "star.png"
    picture.parent.mkdir()
    Image.new("RGB", (48, 40), "red").save(picture)
    plan = {
        "model": f"{_SECRET}/my models/wan",
        "prompts": [
            "a red star",
            {"prompt": "it moves", "image": str(picture)},
        ],
        "seeds": [0, 1],
        "settings": [
            {"name": "cfg", "guidance_scale": 4.5},
            {"name": "stg", "guidance_scale": 4.5, "stg": {"layers": [8], "scale": 1.0}},
        ],
    }
    text = f"# from {_SECRET}/notes/plans.txt\n{yaml.safe_dump(plan)}"
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    folder = tmp_path / "my run"
    for _ in sweep(Plan.read(tmp_path / "plan.yaml"), folder, Painter()):
        pass
    _fill(folder)
    return folder


def _fill(folder: Path) -> None:
    with Run.open(folder, writable=True) as run:
        clips = run.clips()
        for i, clip in enumerate(clips):
            run.record_metric(clip.key, "sharpness", i / 10)
        run.record_set_metric(SetMetric(clips[1].setting, "fvd:judge", 12.5, 4, 11.0, 14.0))
        for rater in ("Ann Secret", "Ben Secret"):
            first, second = sorted((clips[0].key, clips[1].key))
            run.vote(Vote(rater, "pair", "preference", first, second, "first", "second", 3.5))
            run.add_rater_key(rater, f"hash of {rater}")
        run.study.begin(Study("pair", (1, 2), 1), "You may stop at any time.")
        run.study.accept("Ben Secret", "0" * 64)
        for name in ("one", "two"):
            answer = CheckAnswer(1, "Ben Secret", name, "same", clips[0].key, "left", False)
            run.study.record_check(answer)
        run.study.wish_removal("Ann Secret")
        annotations.change(run, [clips[0].key], ["good"], note=f"as in {_SECRET}/x/y.png")
        annotations.change(run, add=["paper"], note="for table 2")
        error = f"OSError: {_SECRET}/a/b.bin is gone\nTraceback: {_SECRET}/lib/x.py"
        run.ledger.db.execute(
            "UPDATE jobs SET status = 'failed', error = ?, video = NULL WHERE key = ?",
            (error, clips[-1].key),
        )
        tags = json.dumps({"source": f"{_SECRET}/table.csv"})
        run.ledger.db.execute("UPDATE prompts SET tags = ?", (tags,))
        content = {"versions": {"torch": "2"}, "packages": {"secretpackage": "1"}}
        run.ledger.db.execute("UPDATE environments SET content = ?", (json.dumps(content),))
        path = clips[1].video
    assert path is not None
    record = {"settings": {"model": f"{_SECRET}/my models/wan"}}
    video.write(path, paint(0.25), 12, record)


def zipped(folder: Path, out: Path, **options: Any) -> zipfile.ZipFile:
    with Run.open(folder) as run:
        report_zip.write_zip(run, out, **options)
    return zipfile.ZipFile(out)


def table(found: zipfile.ZipFile, name: str) -> list[dict[str, str]]:
    text = found.read(f"my run/tables/{name}.csv").decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_everything_is_in_it(folder: Path, tmp_path: Path) -> None:
    found = zipped(folder, tmp_path / "x.zip")
    names = {name.removeprefix("my run/") for name in found.namelist()}
    with Run.open(folder) as run:
        done, data = run.clips("done"), page_data.describe(run)
    assert {f"clips/{clip.key}.mp4" for clip in done} < names
    assert {"index.html", "README.txt", "ledger.sqlite", "plans/plan-1.yaml"} < names
    assert sum(name.startswith("images/") for name in names) == 1
    clips = {row["key"]: row for row in table(found, "clips")}
    assert len(clips) == 8
    assert clips[done[1].key]["metric.sharpness"] == "0.1"
    assert (clips[done[0].key]["tags"], clips[done[0].key]["note"]) == ("good", "as in y.png")
    assert {row["stg_scale"] for row in table(found, "settings")} == {"0.0", "1.0"}
    fvd = next(row for row in table(found, "numbers") if row["name"] == "fvd:judge")
    numbers = ("stg", "12.5", "11.0", "14.0", "4", "lower")
    assert tuple(fvd[n] for n in ("setting", "value", "low", "high", "count", "better")) == numbers
    mean = next(
        row
        for row in table(found, "numbers")
        if (row["setting"], row["name"]) == ("cfg", "sharpness")
    )
    wanted = next(m for m in data["measures"] if m["name"] == "sharpness")["values"][1]
    assert [mean[n] for n in ("value", "low", "high")] == [
        "" if wanted[n] is None else str(wanted[n]) for n in ("value", "low", "high")
    ]
    votes = table(found, "votes")
    assert [row["winner"] for row in votes] == [winner(folder)] * 2
    assert [row["counted"] for row in votes] == ["True", "False"]  # one has failed the checks
    assert yaml.safe_load(found.read("my run/plans/plan-1.yaml"))["model"] == "wan"


def winner(folder: Path) -> str:
    with Run.open(folder) as run:
        settings = {s.id: s.name for s in run.settings()}
        return settings[run.clip(run.votes()[0].first).setting]


def test_no_folder_and_no_name_is_in_it(folder: Path, tmp_path: Path) -> None:
    for path in zipped(folder, tmp_path / "x.zip").namelist():
        content = zipfile.ZipFile(tmp_path / "x.zip").read(path).lower()
        for secret in (b"annsecret", b"ann secret", b"ben secret", b"my models", b"secretpackage"):
            assert secret not in content, path
        assert str(tmp_path).encode().lower() not in content, path
    named = zipped(folder, tmp_path / "y.zip", with_names=True)
    assert [row["rater"] for row in table(named, "votes")] == ["Ann Secret", "Ben Secret"]
    assert b"annsecret" not in b"".join(named.read(name) for name in named.namelist())


def test_a_rater_has_one_name_in_all_reports_of_a_run(folder: Path, tmp_path: Path) -> None:
    def names(out: str) -> list[str]:
        return [row["rater"] for row in table(zipped(folder, tmp_path / out), "votes")]

    ann, ben = names("x.zip")
    assert re.fullmatch(r"rater [0-9a-f]{8}", ann)
    with Run.open(folder, writable=True) as run:
        run.remove_rater("Ann Secret")
    assert names("y.zip") == [ben]
    with Run.open(folder, writable=True) as run:
        run.restore_rater("Ann Secret")
    assert sorted(names("z.zip")) == sorted([ann, ben])
    assert ann != ben


@pytest.mark.parametrize(
    ("plan", "left"),
    [
        (f"# of {_HOME}/x\nmodel: {_HOME}/wan  # best\n", "# of x\nmodel: wan  # best\n"),
        (f"model: '{_HOME}/my\n  models/wan' # x\nseeds: [0]\n", "model: wan\nseeds:\n- 0\n"),
        (f"prompts: [the road {_HOME}/x]\n", f"prompts: [the road {_HOME}/x]\n"),
        (f"prompts: {_HOME}/my texts.csv\n", "prompts: my texts.csv\n"),
        (f"model: wan # not {_HOME}/x\n", "model: wan\n"),
        (f"model: [broken {_HOME}/x", "model: [broken x"),
    ],
)
def test_a_plan_keeps_what_it_says_without_folders(plan: str, left: str) -> None:
    assert shareable.plan_without_folders(plan) == left


def test_the_same_run_is_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    zipped(folder, tmp_path / "x.zip")
    with Run.open(folder, writable=True) as run:  # changes the file, but nothing that it says
        annotations.change(run, add=["a"])
        annotations.change(run, remove=["a"])
    zipped(folder, tmp_path / "y.zip")
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "y.zip").read_bytes()


def test_it_is_a_run_again(folder: Path, tmp_path: Path) -> None:
    zipped(folder, tmp_path / "x.zip", with_names=True)
    with (
        packed.opened(tmp_path / "x.zip") as inner,
        Run.open(inner) as run,
        Run.open(folder) as own,
    ):
        assert inner.name == "my run"
        assert run.counts() == own.counts()
        for ours, theirs in zip(own.clips(), run.clips(), strict=True):
            assert (ours.key, ours.metrics) == (theirs.key, theirs.metrics)
            if ours.video is not None and theirs.video is not None:
                assert np.array_equal(video.read(ours.video)[0], video.read(theirs.video)[0])
        assert run.votes() == own.votes()
        assert annotations.read(run).run == annotations.read(own).run
        image = next(prompt for prompt in run.prompts() if prompt.image)
        assert Image.open(run.image_of(image.id)).getpixel((0, 0)) == (255, 0, 0)
    assert not inner.exists()


def test_it_can_be_joined_to_the_run_that_it_came_from(folder: Path, tmp_path: Path) -> None:
    zipped(folder, tmp_path / "x.zip")
    with packed.opened(tmp_path / "x.zip") as inner:
        merged = merge([folder, inner], tmp_path / "all")
    assert (merged.clips, merged.done, merged.shared, merged.settings) == (8, 7, 8, 2)
    with Run.open(merged.folder) as run:
        assert sorted(vote.rater for vote in run.votes()) == ["Ann Secret", "Ben Secret"]
        assert len(run.models()) == 1


def test_the_command_line_writes_and_joins_it(folder: Path, tmp_path: Path) -> None:
    def verb(*args: object, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        assert result.exit_code == code, result.output
        return result

    out = tmp_path / "my run-report.zip"
    assert f"{out}: 7 clips, 2 votes" in verb("report", folder, "--zip").stdout
    assert "exists. Pass --overwrite" in verb("report", folder, "--zip", code=2).stderr
    before = out.read_bytes()
    told = json.loads(verb("report", folder, "--zip", "--overwrite", "--json").stdout)
    assert told == {"file": str(out), "clips": 7, "votes": 2, "bytes": len(before)}
    assert out.read_bytes() == before
    words = ["report", folder, "--zip", "--out", tmp_path / "x.tar"]
    assert "must be named .zip" in verb(*words, code=2).stderr
    assert "Add --zip" in verb("report", folder, "--with-names", code=2).stderr
    assert "8 clips" in verb("runs", "merge", out, folder, "--out", tmp_path / "all").stdout
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04cut", None])
def test_files_that_are_no_packed_run(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.zip"
    if content is None:
        with zipfile.ZipFile(path, "w") as other:
            other.writestr("a/b.txt", "")
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="a packed run must be"), packed.opened(path):
        pass


def test_a_report_that_fails_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        (lost,) = db.execute("SELECT video FROM jobs WHERE status = 'done' LIMIT 1").fetchone()
    (folder / lost).unlink()
    with pytest.raises(ValueError, match="a video must be a plain file"):
        zipped(folder, tmp_path / "out" / "x.zip")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_studio_shows_it_from_a_copy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipped(folder, tmp_path / "x.zip")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    told: dict[str, Any] = {}

    def look(server: uvicorn.Server, sockets: Any) -> None:
        served: Any = server.config.app
        page = TestClient(served, base_url="http://localhost:8700")
        told.update(page.get("/api/run").json())
        key = next(clip["key"] for clip in told["clips"] if clip["status"] == "done")
        told["video"] = page.get(f"/clips/{key}.mp4").status_code

    monkeypatch.setattr(uvicorn.Server, "run", look)
    result = CliRunner().invoke(app, ["studio", str(tmp_path / "x.zip"), "--port", "0"])
    assert result.exit_code == 0, result.output
    assert "is shown from a copy" in result.stderr
    assert (told["name"], told["counts"]["done"], told["video"]) == ("my run", 7, 200)
    assert told["trials_allowed"] is False
    assert list((tmp_path / "temporary").iterdir()) == []
    result = CliRunner().invoke(app, ["studio", str(tmp_path / "x.zip"), "--share", "lan"])
    assert "--share must have a run that keeps its votes" in result.stderr


def test_a_tuning_is_in_it_without_folders(tmp_path: Path) -> None:
    folder = tuned.tuned(tmp_path / "my run", "answer")
    answer = tuned.answer()
    answer["command"] = f"skipguide generate 'A PROMPT' --preset {_SECRET}/runs/tune.toml"
    (folder / "tune" / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    found = zipped(folder, tmp_path / "x.zip")
    names = {name.removeprefix("my run/") for name in found.namelist()}
    assert {"tune/map.json", "tune/race.json", "tune/answer.json", "tune.toml"} < names
    assert not any(_SECRET.encode() in found.read(name) for name in found.namelist())
    with packed.opened(tmp_path / "x.zip") as unpacked, Run.open(unpacked) as run:
        told = page_data.describe(run)["tune"]
    with Run.open(folder) as run:
        own = page_data.describe(run)["tune"]
    own["answer"]["command"] = "skipguide generate 'A PROMPT' --preset tune.toml"
    assert told == own
    page = found.read("my run/index.html").decode()
    assert tuned.answer()["sentences"][0] in page
    whole = LayerMap.from_json(found.read("my run/tune/map.json").decode())
    assert whole.to_json() == tuned.layer_map().to_json()
