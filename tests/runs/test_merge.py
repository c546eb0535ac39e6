"""Two runs joined into one: what is the same is there once, and nothing is lost without a word."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.files import video
from skipguide.runs import Plan, Run, SetMetric, Vote, annotations, storage
from skipguide.runs.merge import merge
from skipguide.runs.sweep import SweepEstimate, sweep
from support.painted import Painter, painted, pictures

CFG: dict[str, Any] = {"name": "cfg", "guidance_scale": 4.5}


def stg(name: str, scale: float) -> dict[str, Any]:
    return {"name": name, "guidance_scale": 4.5, "stg": {"layers": [8], "scale": scale}}


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs with one cell and one setting in common, and one name for two settings."""
    one = painted(tmp_path / "one", prompts=["a", "b"], seeds=[0], settings=[CFG, stg("stg", 1.0)])
    settings = [CFG, stg("stg", 0.5), stg("strong", 1.0)]
    return one, painted(tmp_path / "two", prompts=["b", "c"], seeds=[0], settings=settings)


def state(folder: Path) -> dict[str, str]:
    """Every file of a run with its content, but what SQLite and the lock keep beside."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.endswith(("-wal", "-shm"))
    }


def clips(folder: Path) -> dict[tuple[str, str | None, int], tuple[str, Any]]:
    """(content of the setting, prompt, seed) -> (key, hash of the frames)."""
    with Run.open(folder) as run:
        settings = {s.id: json.dumps(s.complete, sort_keys=True) for s in run.settings()}
        prompts = {p.id: p.text for p in run.prompts()}
        return {
            (settings[clip.setting], prompts[clip.prompt], clip.seed): (
                clip.key,
                clip.frames_sha256 if clip.status == "done" else clip.status,
            )
            for clip in run.clips()
        }


def missing(folder: Path, **content: Any) -> int:
    """How many clips of a plan a sweep would still make."""
    happenings = sweep(Plan.of({"model": "lab-mochi", **content}), folder, Painter())
    planned = next(event for event in happenings if isinstance(event, SweepEstimate))
    happenings.close()
    return planned.missing


def test_each_clip_is_there_once_and_can_be_played(both: tuple[Path, Path], tmp_path: Path) -> None:
    before = [state(folder) for folder in both]
    merged = merge(both, tmp_path / "all")
    assert clips(merged.folder) == {**clips(both[0]), **clips(both[1])}
    assert (merged.clips, merged.done, merged.shared, merged.settings) == (8, 8, 2, 3)
    assert [state(folder) for folder in both] == before
    with Run.open(merged.folder) as run:
        for clip in run.clips("done"):
            assert clip.video is not None
            sidecar = video.sidecar_path(clip.video).read_text(encoding="utf-8")
            assert json.loads(sidecar)["run"]["key"] == clip.key
            assert len(video.read(clip.video)[0]) == clip.frames
        names = {s.name: s.complete["guidance"].get("terms", []) for s in run.settings()}
        assert {name: [term["scale"] for term in terms] for name, terms in names.items()} == {
            "cfg": [],
            "stg": [1.0],
            "stg (two)": [0.5],
        }
        assert [plan["seeds"] for plan in map(json.loads, map(_as_json, run.plans()))] == [[0], [0]]
    said = " ".join(merged.notes)
    assert "'stg' of two has other parameters" in said
    assert "'strong' of two is 'stg' of the others" in said


def _as_json(plan: str) -> str:
    import yaml

    return json.dumps(yaml.safe_load(plan))


def test_a_sweep_goes_on_in_what_was_joined(both: tuple[Path, Path], tmp_path: Path) -> None:
    folder = merge(both, tmp_path / "all").folder
    first = {"prompts": ["a", "b"], "seeds": [0], "settings": [CFG, stg("stg", 1.0)]}
    assert missing(folder, **first) == 0
    assert missing(folder, **{**first, "seeds": [0, 1]}) == 4
    with Run.open(folder) as run:
        assert all(
            storage.find_damage(folder, _files(run, c.key), False) is None
            for c in run.clips("done")
        )


def _files(run: Run, key: str) -> storage.PublishedFiles:
    names = storage.PublishedFiles.__dataclass_fields__
    (row,) = run.ledger.rows("SELECT * FROM jobs WHERE key = ?", key)
    return storage.PublishedFiles(**{name: row[name] for name in names})


def shared_keys(both: Sequence[Path]) -> list[str]:
    one, two = ({key for key, _ in clips(folder).values()} for folder in both)
    return sorted(one & two)


def test_numbers_are_joined_and_of_two_the_newer_one_stays(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    key, other = shared_keys(both)
    for folder, value, day in ((both[0], 0.25, "2026-01-02"), (both[1], 0.75, "2026-01-01")):
        with Run.open(folder, writable=True) as run:
            run.record_metrics([(key, "sharpness", value), (key, folder.name, 1.0)])
            run.record_metric(other, "motion", 3.0)
            run.ledger.db.execute("UPDATE metrics SET made = ?", (day,))
    with Run.open(both[0], writable=True) as run:
        ids = {s.name: s.id for s in run.settings()}
        run.record_set_metric(SetMetric(ids["stg"], "fvd:judge", 5.0, 2, 4.0, 6.0))
        run.keep_state(ids["stg"], "fvd:judge", {"sum": np.arange(3.0)}, ["k"])
    with Run.open(both[1], writable=True) as run:
        ids = {s.name: s.id for s in run.settings()}
        run.record_set_metric(SetMetric(ids["strong"], "fvd:judge", 7.0, 9, 6.0, 8.0))
        run.record_set_metric(SetMetric(ids["stg"], "vendi", 1.5, 2))
        run.keep_state(ids["strong"], "fvd:judge", {"sum": np.arange(4.0)}, ["k", "l"])
    merged = merge(both, tmp_path / "all")
    with Run.open(merged.folder) as run:
        assert run.clip(key).metrics == {"sharpness": 0.25, "one": 1.0, "two": 1.0}
        assert run.clip(other).metrics == {"motion": 3.0}
        ids = {s.name: s.id for s in run.settings()}
        assert run.set_metrics() == [
            SetMetric(ids["stg"], "fvd:judge", 7.0, 9, 6.0, 8.0),
            SetMetric(ids["stg (two)"], "vendi", 1.5, 2),
        ]
        arrays, keys = run.state(ids["stg"], "fvd:judge")
        assert (arrays["sum"].tolist(), keys) == ([0, 1, 2, 3], ["k", "l"])
    said = " ".join(merged.notes)
    assert f"sharpness of the clip {key} is 0.75 in two and 0.25 before it" in said
    assert "fvd:judge of the setting 'stg' is 7 of 9 videos in two and 5 of 2 before it" in said
    assert "are of 2 of its" not in said


def test_metrics_of_sets_that_are_of_some_of_the_videos(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    with Run.open(both[0], writable=True) as run:
        ids = {s.name: s.id for s in run.settings()}
        run.record_set_metric(SetMetric(ids["cfg"], "vendi", 1.5, 2))
    said = " ".join(merge(both, tmp_path / "all").notes)
    assert "the metrics of sets of 'cfg' are of 2 of its 3 videos" in said


def test_votes_and_raters_are_joined_and_the_newer_answer_stays(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    key, _ = shared_keys(both)
    answers = {0: [("Ann", "2"), ("Ben", "3")], 1: [("Ann", "5"), ("Eva", "1")]}
    for i, folder in enumerate(both):
        with Run.open(folder, writable=True) as run:
            for rater, answer in answers[i]:
                run.vote(Vote(rater, "rating", "motion quality", key, None, answer, seconds=2.0))
                run.add_rater_key(rater, f"{folder.name}-{rater}")
            run.ledger.db.execute("UPDATE votes SET made = ?", (f"2026-01-0{1 + i}",))
    merged = merge(both, tmp_path / "all")
    with Run.open(merged.folder) as run:
        assert sorted((vote.rater, vote.answer) for vote in run.votes()) == [
            ("Ann", "5"),
            ("Ben", "3"),
            ("Eva", "1"),
        ]
        assert run.rater_keys()["Ann"] == {"one-Ann", "two-Ann"}
    said = " ".join(merged.notes)
    assert "Ann has answered 1 questions in another way in two" in said
    assert "raters of the name Ann in two and before it are taken for one person" in said
    assert merge([*both[::-1]], tmp_path / "back").votes == 3


def test_tags_notes_and_pictures_are_joined(tmp_path: Path) -> None:
    one = painted(tmp_path / "one", seeds=[0], **pictures(tmp_path / "p"))
    two = painted(tmp_path / "two", seeds=[0, 1], **pictures(tmp_path / "q"))
    key = shared_keys((one, two))[0]
    for folder in (one, two):
        with Run.open(folder, writable=True) as run:
            annotations.change(run, [key], [folder.name, "good"], note=f"seen in {folder.name}")
            annotations.change(run, add=["paper"], note="the same")
    merged = merge((one, two), tmp_path / "all")
    with Run.open(merged.folder) as run:
        written = annotations.read(run)
        assert written.of(key) == annotations.Annotation(
            ("good", "one", "two"), "seen in one\nseen in two"
        )
        assert written.run == annotations.Annotation(("paper",), "the same")
        assert len(run.prompts()) == 4
        assert sum(p.image is not None and run.image_of(p.id).is_file() for p in run.prompts()) == 3


def test_a_clip_that_is_done_in_one_is_done(both: tuple[Path, Path], tmp_path: Path) -> None:
    key, lost = shared_keys(both)
    with sqlite3.connect(both[0] / "ledger.sqlite") as db:
        db.execute("UPDATE jobs SET status = 'failed', video = NULL WHERE key = ?", (key,))
    (both[0] / "videos" / f"{lost}.mp4").write_bytes(b"cut")
    (both[1] / "videos" / f"{lost}.mp4").unlink()
    merged = merge(both, tmp_path / "all")
    with Run.open(merged.folder) as run:
        assert run.clip(key).status == "done"
        assert run.clip(lost).status == "pending"
        assert run.counts() == {"done": 7, "pending": 1, "running": 0, "failed": 0}
    assert " ".join(merged.notes).count(f"the clip {lost} has no file in") == 2
    assert " ".join(merged.notes).count("to be made again") == 2
    content = {"prompts": ["a", "b"], "seeds": [0], "settings": [CFG, stg("stg", 1.0)]}
    assert missing(merged.folder, **content) == 1


def test_numbers_of_other_frames_are_not_taken(both: tuple[Path, Path], tmp_path: Path) -> None:
    key, _ = shared_keys(both)
    with Run.open(both[1], writable=True) as run:
        run.record_metric(key, "sharpness", 1.0)
        run.ledger.db.execute("UPDATE jobs SET frames_sha256 = 'x' WHERE key = ?", (key,))
    merged = merge(both, tmp_path / "all")
    assert f"the clip {key} has other frames in two" in " ".join(merged.notes)
    with Run.open(merged.folder) as run, Run.open(both[0]) as first:
        clip, before = run.clip(key), first.clip(key)
        assert clip.frames_sha256 == before.frames_sha256
        assert clip.metrics == {}
        assert replace(before, setting=0, prompt=0, video=None) == replace(
            clip, setting=0, prompt=0, video=None
        )


def test_columns_and_tables_of_a_later_version(both: tuple[Path, Path], tmp_path: Path) -> None:
    with sqlite3.connect(both[1] / "ledger.sqlite") as db:
        db.execute("ALTER TABLE jobs ADD COLUMN joules REAL")
        db.execute("UPDATE jobs SET joules = 7")
        db.execute("CREATE TABLE dreams(x)")
    merged = merge(both, tmp_path / "all")
    assert "two has what this version of skipguide cannot join: dreams" in " ".join(merged.notes)
    with Run.open(merged.folder) as run:
        found = [row["joules"] for row in run.ledger.rows("SELECT joules FROM jobs")]
    assert sorted(found, key=str) == [7.0] * 4 + [None] * 4


def test_settings_of_another_version_are_one_where_their_clips_are(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    with sqlite3.connect(both[1] / "ledger.sqlite") as db:  # as if a parameter had come later
        db.execute("UPDATE settings SET complete = json_set(complete, '$.sharpen', 1)")
    merged = merge(both, tmp_path / "all")
    with Run.open(merged.folder) as run:
        assert [s.name for s in run.settings()] == ["cfg", "stg", "stg (two)"]


def test_a_clip_of_a_row_with_its_own_settings_joins_no_settings(tmp_path: Path) -> None:
    row = [{"prompt": "a", "guidance_scale": 7.0}, "b"]
    one = painted(tmp_path / "one", prompts=row, seeds=[0], settings=[CFG])
    seven = {"name": "seven", "guidance_scale": 7.0}
    two = painted(tmp_path / "two", prompts=["a", "c"], seeds=[0], settings=[seven])
    assert len(shared_keys((one, two))) == 1
    for i, pair in enumerate(((one, two), (two, one))):
        with Run.open(merge(pair, tmp_path / f"all{i}").folder) as run:
            assert {s.name: s.complete["guidance_scale"] for s in run.settings()} == {
                "cfg": 4.5,
                "seven": 7.0,
            }


@pytest.mark.parametrize("what", ["one", "twice", "inside", "there", "no run", "sweeping"])
def test_what_is_refused(both: tuple[Path, Path], tmp_path: Path, what: str) -> None:
    out, sources = tmp_path / "all", list(both)
    if what == "there":
        out.mkdir()
        (out / "x").touch()
    sources, out, said = {
        "one": (sources[:1], out, "two runs at least"),
        "twice": ([both[0], both[0] / "."], out, "two runs at least, each once"),
        "inside": (sources, both[0] / "all", "outside of the runs"),
        "there": (sources, out, "a new folder, or an empty one"),
        "no run": ([both[0], tmp_path], out, "a run must be a folder with a ledger"),
        "sweeping": (sources, out, "a sweep is writing to"),
    }[what]
    lock = storage.lock_folder(both[1]) if what == "sweeping" else contextlib.nullcontext()
    with lock, pytest.raises(ValueError, match=said):
        merge(sources, out)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from skipguide.runs import merge
steps = [0]
def trace(frame, event, arg):
    if event == "call" and "skipguide/runs" in frame.f_code.co_filename:
        steps[0] += 1
        if steps[0] == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
sys.setprofile(trace)
merge.merge([Path(sys.argv[1]), Path(sys.argv[2])], Path(sys.argv[3]))
"""


@pytest.mark.parametrize("step", [pytest.param(60, marks=pytest.mark.long), 250])
def test_a_killed_merge_leaves_nothing_half(
    both: tuple[Path, Path], tmp_path: Path, step: int
) -> None:
    before, out = [state(folder) for folder in both], tmp_path / "runs" / "all"
    out.parent.mkdir()
    command = [sys.executable, "-c", _KILLED, *map(str, both), str(out), str(step)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    assert [state(folder) for folder in both] == before
    shown = CliRunner().invoke(app, ["runs", "ls", str(out.parent), "--json"])
    assert json.loads(shown.stdout)["runs"] == []
    assert merge(both, out).done == 8
    assert os.listdir(out.parent) == ["all"]


def test_the_command_line_joins(both: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["runs", "merge", *map(str, both), "--out", str(tmp_path / "all")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    *notes, last = result.stdout.splitlines()
    assert last.endswith("all: 8 of 8 clips done, 2 of them in several, 3 settings")
    assert any("is called 'stg (two)' now" in note for note in notes)
    shutil.rmtree(tmp_path / "all")
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert (told["done"], told["shared"], told["notes"]) == (8, 2, notes)


def test_a_clip_of_three_runs_is_one_in_several(tmp_path: Path) -> None:
    """The number of clips, and not of times that they were met again."""
    one, two, three = (
        painted(tmp_path / name, prompts=prompts, seeds=[0], settings=[CFG])
        for name, prompts in (("one", ["a", "b"]), ("two", ["a"]), ("three", ["a", "c"]))
    )
    merged = merge([one, two, three], tmp_path / "all")
    assert (merged.clips, merged.shared) == (3, 1)


def test_what_another_run_has_is_not_said_to_be_made_again(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    key, _ = shared_keys(both)
    (both[0] / "videos" / f"{key}.mp4").unlink()
    merged = merge(both, tmp_path / "all")
    assert merged.done == 8
    (note,) = [note for note in merged.notes if key in note]
    assert note.endswith("it is taken from another run.")


def test_many_clips_with_other_frames_are_one_note(tmp_path: Path) -> None:
    one = painted(tmp_path / "a", seeds=[0, 1, 2, 3], prompts=["a"], settings=[CFG])
    other = painted(tmp_path / "b", seeds=[0, 1, 2, 3], prompts=["a"], settings=[CFG])
    with Run.open(other, writable=True) as run:
        run.ledger.db.execute("UPDATE jobs SET frames_sha256 = 'x'")
    (note,) = merge([one, other], tmp_path / "joined").notes
    assert note.startswith("4 clips (")
    assert "...) have other frames in b" in note
