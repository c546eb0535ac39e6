"""The page is told all of a run, and then what has changed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from skipguide.runs import Run, Vote
from skipguide.studio import page_data
from skipguide.studio.run_page import RunPage
from support.painted import PROMPTS, painted


def more(_: Run) -> dict[str, Any]:
    return {"votes_allowed": True}


def settled(folder: Path) -> None:
    """As if the last change of the ledger were some time ago."""
    for path in folder.glob("ledger.sqlite*"):
        os.utime(path, ns=(time.time_ns() - 10**9, time.time_ns() - 10**9))


def test_the_whole_is_the_description_of_the_run(painted_run: Path) -> None:
    told = json.loads(RunPage(painted_run, more).text())
    with Run.open(painted_run) as run:
        expected = json.loads(json.dumps(page_data.describe(run)))
    assert told.pop("version")
    assert told == {**expected, "votes_allowed": True}


def test_what_has_changed_makes_the_old_the_new(painted_copy: Path) -> None:
    """The page's own way of joining the two, in the words of Python."""
    page = RunPage(painted_copy, more)
    before = json.loads(page.text())
    with Run.open(painted_copy, writable=True) as run:
        clip = run.clips()[3]
        run.record_metric(clip.key, "imaging_quality", 0.5)
        run.vote(Vote("Ann", "rating", "motion quality", clip.key, None, "4"))
    told = json.loads(page.text(before["version"]))
    assert (told["since"], told["gone"]) == (before["version"], [])
    assert [found["key"] for found in told["clips"]] == [clip.key]  # and none of the others
    assert set(told["parts"]) == {"measures", "votes", "votes_version", "raters"}
    place = ("prompt", "seed", "setting")
    by_place = {tuple(found[name] for name in place): found for found in before["clips"]}
    by_place |= {tuple(found[name] for name in place): found for found in told["clips"]}
    joined = {**before, **told["parts"], "version": told["version"]}
    assert {**joined, "clips": list(by_place.values())} == json.loads(page.text())


def test_nothing_new_is_told_in_few_bytes(painted_run: Path) -> None:
    page = RunPage(painted_run, more)
    version = json.loads(page.text())["version"]
    told = page.text(version)
    assert json.loads(told) == {
        "version": version, "since": version, "parts": {}, "clips": [], "gone": [],
    }  # fmt: skip


def test_clips_that_come_are_told_and_a_version_of_another_server_is_the_whole(
    tmp_path: Path,
) -> None:
    folder = painted(tmp_path / "run", prompts=PROMPTS[:1], seeds=[0])
    page = RunPage(folder, more)
    version = json.loads(page.text())["version"]
    painted(folder, prompts=PROMPTS, seeds=[0])
    told = json.loads(page.text(version))
    assert len(told["clips"]) == 5
    assert {clip["prompt"] for clip in told["clips"]} == {2}
    assert len(json.loads(page.text("0" * 16))["clips"]) == 10


def test_a_run_that_nobody_writes_to_is_read_once(
    painted_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = RunPage(painted_copy, more)
    settled(painted_copy)
    page.text()
    state = page.state()

    def refuse(run: Run) -> None:
        raise AssertionError("it is read again")

    with monkeypatch.context() as patched:
        patched.setattr(page_data, "describe", refuse)
        page.text()
        assert page.state() == state
        with Run.open(painted_copy, writable=True) as run:
            run.record_metric(run.clips()[0].key, "imaging_quality", 0.5)
        with pytest.raises(AssertionError, match="read again"):
            page.text()
    assert page.state() != state


def test_what_is_written_right_after_a_change_is_not_missed(painted_copy: Path) -> None:
    """Times of files have a grain: two changes within it look like one."""
    page = RunPage(painted_copy, more)
    for value in (0.25, 0.5, 0.75, 1.0):
        with Run.open(painted_copy, writable=True) as run:
            key = run.clips()[0].key
            run.record_metric(key, "imaging_quality", value)
        (clip,) = (clip for clip in json.loads(page.text())["clips"] if clip["key"] == key)
        assert clip["metrics"]["imaging_quality"] == value
