"""Tags and notes on runs and on their clips."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.runs import Run, SetMetric, annotations
from skipguide.runs.annotations import Annotation
from support.painted import painted


def verb(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return painted(tmp_path / "runs" / "one", seeds=[0])


def keys(folder: Path) -> list[str]:
    with Run.open(folder) as run:
        return [clip.key for clip in run.clips()]


def exported(folder: Path, *more: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(verb("runs", "export", folder, *more))))


def test_tags_and_notes_of_clips_are_shown_filtered_and_exported(folder: Path) -> None:
    first, second, third, *_ = keys(folder)
    before = exported(folder)
    assert "tags" not in before[0]
    verb("runs", "tag", folder, "--clip", first, "--clip", second[:6], "+good", "+too dark")
    verb("runs", "tag", folder, "+good", "-too dark", "--clip", second)
    verb("runs", "tag", folder, "--clip", third, "-good", "bad")
    verb("runs", "note", folder, "--clip", first, "the star\nflickers")
    rows = {row["key"]: row for row in exported(folder)}
    assert [rows[key]["tags"] for key in (first, second, third)] == [
        "good, too dark",
        "good",
        "bad",
    ]
    assert rows[first]["note"] == "the star\nflickers"
    assert [{n: r[n] for n in before[0]} for r in rows.values()] == before
    assert {row["key"] for row in exported(folder, "--tag", "good")} == {first, second}
    told = json.loads(verb("runs", "show", folder, "--clips", "--tag", "good", "--json"))
    assert [clip["key"] for clip in told["clips"]] == [first, second]
    assert sum(row["done"] for row in told["settings"]) == 2
    line = next(x for x in verb("runs", "show", folder, "--clips").splitlines() if first in x)
    assert line.endswith("good, too dark  the star flickers")


def test_tags_and_notes_of_a_run_are_shown_and_filtered(folder: Path) -> None:
    other = painted(folder.parent / "other", seeds=[0])
    assert verb("runs", "tag", folder).strip() == f"{folder}: no tags"
    verb("runs", "tag", folder, "+paper", "+good")
    assert "paper" in verb("runs", "note", folder, "table 2")
    told = json.loads(verb("runs", "show", folder, "--json"))
    assert (told["tags"], told["note"]) == (["good", "paper"], "table 2")
    assert verb("runs", "show", folder).splitlines()[1] == "good, paper; table 2"
    listed = json.loads(verb("runs", "ls", folder.parent, "--tag", "paper", "--json"))["runs"]
    assert [row["run"] for row in listed] == [str(folder)]
    table = verb("runs", "ls", folder.parent).splitlines()
    assert table[0].endswith("tags")
    assert next(row for row in table if str(folder) in row).endswith("good, paper")
    assert json.loads(verb("runs", "note", folder, "", "--json"))["note"] == ""
    verb("runs", "tag", folder, "-paper", "-good")
    with Run.open(folder) as run, Run.open(other) as untouched:
        assert annotations.read(run) == annotations.read(untouched)


def test_a_ledger_of_before_is_read_and_keeps_what_it_has(folder: Path) -> None:
    def tables() -> set[str]:
        with sqlite3.connect(folder / "ledger.sqlite") as db:
            return {name for (name,) in db.execute("SELECT name FROM sqlite_master")}

    before = tables()
    assert not {"tags", "notes"} & before
    with Run.open(folder) as run:
        assert annotations.read(run).run == Annotation()
        nothing = annotations.version(run)
    assert tables() == before
    with Run.open(folder, writable=True) as run:
        annotations.change(run, add=["a"])
        some = annotations.version(run)
        annotations.change(run, remove=["a"])
        assert annotations.version(run) == nothing != some
    assert tables() == {*before, "tags", "notes"}


def test_a_change_is_made_whole_or_not_at_all(folder: Path) -> None:
    first, *_ = keys(folder)
    with Run.open(folder, writable=True) as run:
        with pytest.raises(ValueError, match=r"key must be that of a clip of the run"):
            annotations.change(run, [first, "0" * 16], ["good"])
        with pytest.raises(ValueError, match=r"at most 4000 characters"):
            annotations.change(run, [first], ["good"], note="x" * 4001)
        assert annotations.read(run).clips == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"add": [""]}, "1 to 40 characters, but got 0"),
        ({"add": ["x" * 41]}, "1 to 40 characters, but got 41"),
        ({"add": ["a,b"]}, "no comma"),
        ({"add": ["=1+1"]}, "must not begin with one of"),
        ({"add": ["a\x07"]}, "nothing that cannot be seen"),
        ({"add": ["a"], "remove": ["a"]}, "added or removed, but got both for 'a'"),
        ({"note": "a\x00"}, r"no control characters, but got U\+0000"),
    ],
)
def test_tags_and_notes_that_are_refused(folder: Path, change: Any, said: str) -> None:
    with Run.open(folder, writable=True) as run, pytest.raises(ValueError, match=said):
        annotations.change(run, **change)


def test_one_spelling_of_a_tag(folder: Path) -> None:
    with Run.open(folder, writable=True) as run:
        annotations.change(run, add=["cafe\u0301  noir", "caf\u00e9 noir", "\u72d0 \U0001f98a"])
        assert annotations.read(run).run.tags == ("caf\u00e9 noir", "\u72d0 \U0001f98a")


def test_what_the_command_line_refuses(folder: Path) -> None:
    assert "no clip of" in verb("runs", "tag", folder, "--clip", "zz", "+good", code=2)
    assert "it has none" in verb("runs", "export", folder, "--tag", "good", code=2)


def test_a_beginning_that_several_clips_have_is_refused(folder: Path) -> None:
    firsts = [key[0] for key in keys(folder)]
    several = next((first for first in firsts if firsts.count(first) > 1), None)
    assert several is not None, "none of these keys begin alike"
    said = verb("runs", "tag", folder, "--clip", several, "+good", code=2)
    assert f"several clips of {folder} begin with '{several}'" in " ".join(said.split())


def test_what_is_shown_of_a_tag_is_of_its_clips_alone(folder: Path) -> None:
    first, *_ = keys(folder)
    with Run.open(folder, writable=True) as run:
        clip = run.clip(first)
        run.record_metrics((key, "sharpness", float(key == first)) for key in keys(folder))
        for setting in run.settings():
            run.record_set_metric(SetMetric(setting.id, "fvd:judge", 5.0, 2, 4.0, 6.0))
        name = next(s.name for s in run.settings() if s.id == clip.setting)
    verb("runs", "tag", folder, "--clip", first, "+good")
    told = json.loads(verb("runs", "show", folder, "--tag", "good", "--json"))
    (row,) = told["settings"]
    assert (row["setting"], row["clips"], row["metrics"]) == (name, 1, {"sharpness": 1.0})
    assert row["set_metrics"] == {}
    shown = verb("runs", "show", folder, "--tag", "good")
    assert "fvd" not in shown
    assert "Measures of sets are of all videos of a setting" in shown
    assert "fvd:judge" in verb("runs", "show", folder)
