"""A tuning whose process is killed, again and again, comes to the answer of one that was not.

SKIPGUIDE_KILLS=500 kills as often (`make test-kills`)."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from skipguide.runs import Run
from skipguide.tuning.run import Tuning
from support.drawn_tuning import engine, options

KILLS = int(os.environ.get("SKIPGUIDE_KILLS", "10"))
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["support.drawn_tuning", "skipguide.tuning.run"])
GAINS = {"blocks:6": 0.1}
ASKED: dict[str, Any] = dict(count=15, passes=8_000.0)


def _tune(folder: Path, log: Path, told: Any) -> None:
    """What a child process does."""
    made = engine(folder, gains=GAINS, log=log, seconds=0.002)
    steps = Tuning(options(**ASKED), folder, made).run()
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            told.send(ended.value.answer.to_dict())
            return


def _run(folder: Path, log: Path, killed_after: float | None) -> dict[str, Any] | None:
    """Return the answer of a tuning in a process of its own; None if it was killed before."""
    heard, told = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_tune, args=(folder, log, told))
    process.start()
    told.close()
    if killed_after is not None:
        time.sleep(killed_after)
        process.kill()
    try:
        answer = heard.recv()
    except EOFError:
        answer = None
    process.join()
    assert killed_after is not None or answer is not None
    return answer


@pytest.mark.long
def test_a_killed_tuning_loses_nothing(tmp_path: Path) -> None:
    started = time.monotonic()
    expected = _run(tmp_path / "whole", tmp_path / "whole.log", None)
    took = time.monotonic() - started
    drawn = random.Random(0)
    done = 0
    for number in range(max(1, KILLS // 10)):
        folder, log = tmp_path / f"run {number}", tmp_path / f"{number}.log"
        answer, kills = None, 0
        while answer is None and kills < 10:
            answer = _run(folder, log, drawn.uniform(0.1, took))
            kills += 1
        answer = answer or _run(folder, log, None)
        assert answer == expected
        done += kills
        with Run.open(folder) as run:
            clips = [clip.key for clip in run.clips("done")]
            assert not run.clips("running")
        made = log.read_text().split()
        assert set(clips) <= set(made)
        # At most the clip under way is made again after a kill.
        assert len(made) - len(clips) <= kills
    assert done >= max(1, KILLS // 10)
