"""skipguide generate --parallel branches, under torchrun and without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from skipguide.cli import app

GENERATE = ["generate", "a red star", "--layers", "4", "--steps", "3", "--seed", "3"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--parallel", "tokens"], "--parallel must be branches"),
        (["--parallel", "branches"], "this one was started alone"),
        (["--parallel", "branches", "--seeds", "1,2"], "makes one video"),
    ],
)
def test_refused_before_anything_is_loaded(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        app([*GENERATE, *more, "-o", str(tmp_path / "a.mp4")])
    assert ended.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())


def run(args: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(args, capture_output=True, text=True, timeout=800, check=False)


@pytest.mark.long
def test_three_processes_make_the_video_of_one(tmp_path: Path) -> None:
    program = ["--no-python", sys.executable, "-c", "from skipguide.cli import main; main()"]
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    divided, one = tmp_path / "three.mp4", tmp_path / "one.mp4"
    end = ["--parallel", "branches", "-o", str(divided)]
    done = run([*several, *program, *GENERATE, *end])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("three.mp4: ") == 1  # said once
    with pytest.raises(SystemExit):
        app([*GENERATE, "-o", str(one)])
    records = [json.loads(path.with_suffix(".mp4.json").read_text()) for path in (divided, one)]
    assert records[0]["frames_sha256"] == records[1]["frames_sha256"]
    assert records[0]["settings"] == records[1]["settings"]
