"""A sweep that is killed at each of its steps in turn, from its first file on.

test_runs_faults.py kills at random moments, of which nearly none are in the first milliseconds.
Here a process ends itself before the n-th time that it opens, makes, renames or removes a file of
the run or gives SQLite a statement, for every n until it comes to its end."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image

from skipguide.files import image, video
from skipguide.generate import resolve
from skipguide.runs import Plan, Run, sweep
from support.drawn import plan_of, plan_with, swept
from support.kills import consistent

KILLS_ALL = "SKIPGUIDE_KILLS" in os.environ  # make test-kills
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([part.__name__ for part in (torch, image, video, resolve, sweep)])
SQLITE_CONNECT = sqlite3.connect
FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def _plan(folder: Path) -> Plan:
    """A plan with a picture and latents, so that all kinds of files are written."""
    start = folder.with_suffix(".png")
    Image.new("RGB", (16, 16), "red").save(start)
    prompts = [{"prompt": "a", "image": str(start)}]
    return plan_with({"name": "cfg"}, prompts=prompts, save_latents=True)


def _sweep(folder: Path, dies_at: int | None) -> None:
    """Sweep, and die before a step, or write down what the steps were."""
    steps: list[str] = []

    def step(what: str) -> None:
        steps.append(what)
        if len(steps) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and str(arguments[0]).startswith(str(folder)):
            step(f"{event} {arguments[0]}")

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        step(f"connect {arguments[0]}")
        connection = SQLITE_CONNECT(*arguments, **options)
        connection.set_trace_callback(lambda statement: step(f"SQL {statement.strip()}"))
        return connection

    plan = _plan(folder)
    sys.addaudithook(hook)
    with mock.patch("sqlite3.connect", connect):
        swept(folder, plan)
    folder.with_suffix(".steps").write_text(json.dumps(steps), encoding="utf-8")


def _serve(asked: Connection) -> None:
    """Sweep as often as asked, in a process for each, which are quicker to make from here."""
    while (words := asked.recv()) is not None:
        child = os.fork()
        if child == 0:
            _sweep(*words)
            os._exit(0)
        asked.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


@pytest.fixture
def sweeps() -> Iterator[Callable[[Path, int | None], int]]:
    """A function that sweeps in a process of its own, and returns how that ended."""
    here, there = PROCESSES.Pipe()
    server = PROCESSES.Process(target=_serve, args=(there,))
    server.start()

    def ended(folder: Path, dies_at: int | None) -> int:
        here.send((folder, dies_at))
        return here.recv()

    yield ended
    here.send(None)
    server.join()


def _is_chosen(step: str) -> bool:
    """Tell whether a step differs from the one before: within a transaction SQLite sees to it."""
    return KILLS_ALL or not step.startswith(
        ("SQL SELECT", "SQL CREATE", "SQL INSERT", "SQL UPDATE")
    )


def test_a_sweep_that_is_killed_at_any_step_goes_on(
    tmp_path: Path, sweeps: Callable[[Path, int | None], int]
) -> None:
    assert sweeps(tmp_path / "whole", None) == 0
    steps = json.loads((tmp_path / "whole.steps").read_text())
    assert sum("lock.sqlite" in step for step in steps) > 0
    assert sum("videos" in step for step in steps) > 4
    folder = tmp_path / "run"
    for number, step in enumerate(steps, 1):
        if _is_chosen(step):
            assert sweeps(folder, number) == -signal.SIGKILL, step
            _see_that_it_can_be_looked_at(folder)
            swept(folder, _plan(folder))
            assert len(consistent(folder)) == 1, step
            assert not list(folder.rglob(".*.part"))
            assert not (folder / "work").exists()
            shutil.rmtree(folder)


def _see_that_it_can_be_looked_at(folder: Path) -> None:
    """As a run that has begun, or with a sentence."""
    try:
        run = Run.open(folder)
    except ValueError as error:
        said = str(error)
        assert "must be a folder with a ledger" in said or "ended before" in said
        return
    with run:
        assert not run.is_sweeping
        assert run.counts()["running"] == 0


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._run", ".nfs01"])
def test_what_systems_leave_in_a_folder_does_not_make_it_somebodys(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"\x00")
    (tmp_path / "lost+found").mkdir()
    swept(tmp_path, plan_of(prompts=1, seeds=1, settings=1))
    assert len(list(tmp_path.glob("videos/*.mp4"))) == 1
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["lock.sqlite", "thesis.tex", "work"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"a run needs an empty folder.* but .* holds {name}\."):
        swept(tmp_path)
    assert (tmp_path / name).read_text() == "mine"
