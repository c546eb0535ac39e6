"""Files appear under their names only when they are complete, and what stops that is said."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipguide.cli import batch_run, console
from skipguide.cli.batch import Item
from skipguide.files import video
from skipguide.files.atomic import OutputError, atomic_replace
from skipguide.generate.settings import validate_settings


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    """Only of the same output, and of processes that are gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in ("a" * 60 + "1.txt", "a" * 60 + "2.txt"):
        with atomic_replace(tmp_path / name) as (part,):
            part.touch()
        for process in (gone.pid, os.getppid()):
            left = part.name.replace(f".{os.getpid()}-", f".{process}-")
            (tmp_path / left).touch()
    with atomic_replace(tmp_path / ("a" * 60 + "1.txt")) as (part,):
        part.touch()
    left = sorted(path.name for path in tmp_path.glob(".*"))
    assert len(left) == 3
    assert sum(f".{gone.pid}-" in name for name in left) == 1


def test_a_full_disk_is_said_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg's own error of a disk that is full."""
    encode = video._encode

    def full(_: Path, *rest: Any) -> None:
        encode(Path("/dev/full"), *rest)

    monkeypatch.setattr(video, "_encode", full)
    with pytest.raises(OutputError) as caught:
        video.write(tmp_path / "new/er/a.mp4", np.zeros((1, 32, 32, 3), np.uint8), 8, {})
    assert caught.value.errno == errno.ENOSPC
    assert f"but that of {tmp_path}/new/er is full (" in str(caught.value)
    assert "bytes are free). Free some space, or choose a folder on another" in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert console._os_error_text(caught.value) == str(caught.value)


def test_a_folder_that_cannot_be_made_is_said() -> None:
    with (
        pytest.raises(OutputError, match=r"folder that can be written, but /proc/none cannot: No"),
        atomic_replace(Path("/proc/none/a.mp4")),
    ):
        pass


def test_other_errors_of_the_system_stay(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="source"),
        atomic_replace(tmp_path / "a.txt"),
    ):
        (tmp_path / "source").read_bytes()


def test_many_videos_say_how_many_are_there_when_the_disk_is_full(tmp_path: Path) -> None:
    items = [Item(validate_settings({"prompt": "x", "seed": seed})) for seed in range(3)]

    def make(item: Item, *_: object) -> tuple[batch_run.State, dict[str, object]]:
        if item.settings.seed == 1:
            raise OutputError(errno.ENOSPC, "the disk is full.")
        return "made", {}

    with pytest.raises(OSError, match=r"^the disk is full\. 1 of 3 are there; run the same"):
        batch_run.run_all(items, [tmp_path / "a.mp4"] * 3, make, True)
