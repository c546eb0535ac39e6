"""Sweeps that are killed, two at a time, without disk or right to write: ledger and files agree
after each.

The processes are real and really killed; only the pictures are drawn instead of denoised
(tests/support/drawn.py), so that there is time for many. SKIPGUIDE_KILLS=500 kills as often."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.files import image, video
from skipguide.generate import resolve
from skipguide.runs import Run, sweep
from skipguide.runs.ledger import Ledger
from skipguide.runs.storage import BROKEN
from skipguide.runs.sweep import ClipPublished, SweepEstimate
from support.drawn import Drawn, plan_of, plan_with, swept
from support.kills import consistent

KILLS = int(os.environ.get("SKIPGUIDE_KILLS", "10"))
PROCESSES = multiprocessing.get_context("forkserver")
# What support.drawn imports; the server of processes does not look into tests/ for that itself, and
# each child would import torch anew.
PROCESSES.set_forkserver_preload([part.__name__ for part in (torch, image, video, resolve, sweep)])
PLAN = dict(prompts=5, seeds=6, settings=2, save_latents=True)


def _sweep(folder: Path, words: dict[str, Any], options: dict[str, Any], told: Any) -> None:
    """What a child process does; `told` gets what went wrong."""
    try:
        told.send(("begins", None))
        swept(folder, plan_of(**words), **options)
        told.send(("done", None))
    except Exception as error:
        told.send((type(error).__name__, str(error)))


class Child:
    """A sweep in a process of its own."""

    def __init__(
        self,
        folder: Path,
        words: dict[str, Any] | None = None,
        target: Any = _sweep,
        **options: Any,
    ):
        self.heard, told = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=target, args=(folder, words or PLAN, options, told))
        self.process.start()
        told.close()
        assert self.heard.recv()[0] == "begins"

    def wait_for(self, log: Path, lines: int) -> None:
        """Until so many clips are drawn, or it has ended."""
        while self.process.is_alive() and len(log.read_text().split()) < lines:
            time.sleep(0.0005)

    def end(self) -> tuple[str, str | None]:
        """How it ended by itself."""
        said = self.heard.recv()
        self.process.join()
        return said

    def kill(self) -> bool:
        """End it in the middle of whatever it does; whether it was still alive."""
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL


@pytest.mark.timeout(1200)
def test_a_sweep_that_is_killed_at_any_moment_loses_nothing_and_does_nothing_twice(
    tmp_path: Path,
) -> None:
    chance, killed, rounds, moments = random.Random(7), 0, 0, []
    while killed < KILLS:
        folder, rounds = tmp_path / f"run{rounds}", rounds + 1
        before: dict[str, tuple[Any, ...]] = {}
        log = folder.with_suffix(".log")
        log.touch()
        for _ in range(12):
            lines = len(log.read_text().split())
            child = Child(folder, log=log, seconds=0.002)
            child.wait_for(log, lines + chance.choice([0, 0, 1, 2, 4, 8, 16]))
            time.sleep(chance.choice([0.001, 0.02]) * chance.random())
            died = child.kill()
            killed += died
            now = consistent(folder)
            assert {key: now.get(key) for key in before} == before, (
                "something that was done is not what it was"
            )
            assert not set(log.read_text().split()[lines:]) & set(before), (
                "something that was done was made again"
            )
            if died:
                moments.append(len(now))
            before = now
        lines = len(log.read_text().split())
        happenings = swept(folder, plan_of(**PLAN), log=log)
        assert (
            len([h for h in happenings if isinstance(h, ClipPublished)])
            == len(log.read_text().split()) - lines
        )
        assert len(consistent(folder)) == plan_of(**PLAN).clips
        assert not list(folder.rglob(".*.part"))
        assert not (folder / "work").exists()
        assert not (folder / BROKEN).exists()
        shutil.rmtree(folder)
    assert len(set(moments)) > min(KILLS, 50) // 5  # the kills did hit many stages


@pytest.mark.skipif("SKIPGUIDE_KILLS" not in os.environ, reason="takes minutes: make test-kills")
def test_the_command_line_with_a_model_survives_kills_too(
    tmp_path: Path, tiny_mochi_dir: Path
) -> None:
    settings = [{"name": "cfg"}, {"name": "stg", "stg": {"layers": [2]}}]
    small = {
        "height": 32,
        "width": 32,
        "num_frames": 7,
        "steps": 8,
        "max_sequence_length": 16,
        "device": "cpu",
    }
    prompts = {
        "prompts": ["a red star", "a blue square"],
        "seeds": list(range(10)),
        "settings": settings,
    }
    content = {"model": str(tiny_mochi_dir), "save_latents": True, **prompts, **small}
    (tmp_path / "plan.yaml").write_text(json.dumps(content), encoding="utf-8")

    def started(folder: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-c",
            "from skipguide.cli import main; main()",
            "sweep",
            "plan.yaml",
            "-o",
            folder,
        ]
        return subprocess.Popen(
            command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    assert started("plain").wait() == 0
    before: dict[str, tuple[Any, ...]] = {}
    for _ in range(max(3, KILLS // 50)):
        child = started("killed")
        while (
            child.poll() is None
            and len(list(tmp_path.glob("killed/videos/[!.]*.mp4"))) < len(before) + 3
        ):
            time.sleep(0.001)
        child.kill()
        child.wait()
        now = consistent(tmp_path / "killed")
        assert {key: now.get(key) for key in before} == before
        before = now
    assert started("killed").wait() == 0
    with Run.open(tmp_path / "plain") as plain, Run.open(tmp_path / "killed") as killed:
        ours, theirs = (
            {clip.key: clip.frames_sha256 for clip in run.clips("done")} for run in (killed, plain)
        )
        assert ours == theirs
        assert len(ours) == 40


def _killed_before_the_name(
    folder: Path, words: dict[str, Any], options: dict[str, Any], told: Any
) -> None:
    """What is written is under its temporary name then."""
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    told.send(("begins", None))
    swept(folder, plan_with({"name": "cfg"}, **words))


def test_a_sweep_that_is_killed_while_it_copies_a_picture_leaves_none(tmp_path: Path) -> None:
    picture, folder = tmp_path / "first.png", tmp_path / "run"
    Image.new("RGB", (32, 32), "red").save(picture)
    words = {"prompts": [{"image": str(picture)}]}
    child = Child(folder, words, _killed_before_the_name)
    child.process.join()
    assert child.process.exitcode == -signal.SIGKILL
    assert [path.name for path in folder.glob("images/*/*")] == [".first.png.part"]
    swept(folder, plan_with({"name": "cfg"}, **words))
    assert [path.read_bytes() for path in folder.glob("images/*/*")] == [picture.read_bytes()]
    assert not list(folder.rglob(".*.part"))


def test_of_two_sweeps_on_one_directory_the_second_is_refused_until_the_first_ends(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    first = Child(folder, seconds=0.05)
    while not (folder / "videos").is_dir():
        time.sleep(0.01)
    with Run.open(folder) as run:
        assert run.is_sweeping
        assert run.counts()["pending"] > 0
    with pytest.raises(ValueError, match=r"only one sweep at a time.*another one is writing"):
        swept(folder, plan_of(**PLAN))
    assert first.kill()
    with Run.open(folder) as run:
        assert not run.is_sweeping
    swept(folder, plan_of(**PLAN))
    assert len(consistent(folder)) == plan_of(**PLAN).clips


def test_nothing_runs_in_a_run_whose_sweep_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = Child(folder, seconds=60)
    while not (folder / "work").is_dir():
        time.sleep(0.01)

    def shown() -> str:
        return CliRunner().invoke(app, ["runs", "show", str(folder), "--clips"]).stdout

    while "running" not in shown():
        time.sleep(0.01)
    assert "59 pending, 1 running; a sweep is writing to it" in shown()
    assert child.kill()
    said = "60 pending; its sweep was interrupted, and goes on when it is run again"
    assert said in shown()
    assert "running" not in shown()
    with Run.open(folder) as run:
        assert run.was_interrupted
        assert (run.counts()["running"], run.clips("running")) == (0, [])
        assert len(run.clips("pending")) == run.counts()["pending"] == 60


def test_votes_and_metrics_are_kept_while_a_sweep_writes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = Child(folder, seconds=0.01)
    while not list(folder.glob("videos/[!.]*.mp4")):
        time.sleep(0.01)
    with Run.open(folder, writable=True) as run:
        while not run.clips("done"):
            time.sleep(0.01)
        for i in range(20):
            run.record_metric(run.clips("done")[0].key, f"metric {i}", i)
        (clip,) = [clip for clip in run.clips("done") if clip.metrics]
        assert clip.metrics == {f"metric {i}": i for i in range(20)}
    assert child.end() == ("done", None)


# --- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_a_sweep_with_a_word_and_room_lets_it_go_on(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, folder = plan_of(height=64, width=64, num_frames=6), small_disk / "run"
    with pytest.raises(OSError, match=r"must have room for 40 videos.*has 1 MB"):
        swept(folder, plan)  # refused before anything is made
    assert not (folder / "videos").exists()
    monkeypatch.setattr(
        "skipguide.runs.storage.check_disk_space", lambda *_: 0
    )  # an estimate that is wrong
    filler = small_disk / "filler"
    filler.write_bytes(bytes(500_000))
    with pytest.raises(OSError, match=r"disk of .* is full\. Free some space"):
        swept(folder, plan)
    with Run.open(folder) as run:
        before = run.counts()
    assert 0 < before["done"] < plan.clips
    assert before["running"] == before["failed"] == 0
    filler.unlink()
    with pytest.raises(OSError, match="is full"):
        swept(folder, plan_of(height=64, width=64, num_frames=6, seeds=50))
    with Run.open(folder) as run:
        assert run.counts()["done"] > before["done"]
        assert all(
            video.read(clip.video)[0].shape == (6, 64, 64, 3)
            for clip in run.clips("done")
            if clip.video
        )
    assert not list(folder.rglob(".*.part"))


def _with_small_files(
    folder: Path, words: dict[str, Any], options: dict[str, Any], told: Any
) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
    _sweep(folder, words, options, told)


def test_a_write_that_fails_in_the_middle_leaves_no_half_file(tmp_path: Path) -> None:
    words = dict(height=128, width=128, num_frames=12)  # some 500 kB of noise
    kind, said = Child(tmp_path / "run", words, _with_small_files).end()
    assert kind == "OSError"
    assert said is not None
    assert "full" in said
    assert not list((tmp_path / "run").rglob("*.mp4*"))
    with Run.open(tmp_path / "run") as run:
        assert run.counts()["pending"] == plan_of(**words).clips


def _as_nobody(folder: Path, words: dict[str, Any], options: dict[str, Any], told: Any) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)
    _sweep(folder, words, options, told)


def _no_folder(folder: Path) -> None:
    folder.parent.chmod(0o555)


def _no_rights(folder: Path) -> None:
    swept(folder, plan_of(seeds=1))
    for path in (folder, *folder.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)


@pytest.mark.parametrize("forbid", [_no_folder, _no_rights])
def test_a_folder_that_cannot_be_written_is_refused_with_a_word(
    public: Path, forbid: Callable[[Path], None]
) -> None:
    forbid(public / "run")
    kind, said = Child(public / "run", None, _as_nobody).end()
    assert kind in ("ValueError", "OSError")
    assert said is not None
    assert "a run needs a folder that can be written" in said


def _read(folder: Path, words: dict[str, Any], options: dict[str, Any], told: Any) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)
    told.send(("begins", None))
    with Run.open(folder) as run:
        told.send((str(len(run.clips("done"))), str(run.is_sweeping)))


def test_a_run_that_cannot_be_written_can_be_read(public: Path) -> None:
    _no_rights(public / "run")
    assert Child(public / "run", None, _read).end() == ("8", "False")


def _estimate(folder: Path, words: dict[str, Any], options: dict[str, Any], told: Any) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)
    told.send(("begins", None))
    planned = sweep.estimate(plan_of(**words), folder, Drawn(folder / "work"))
    told.send((f"{planned.missing} of {planned.clips}", "\n".join(planned.notes)))


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_dry_run_writes_nothing_and_needs_no_right_to_write(public: Path, seeds: int) -> None:
    _no_rights(public / "run")
    before = {path: path.stat().st_mtime_ns for path in (public / "run").rglob("*")}
    missing, notes = Child(public / "run", {"seeds": seeds}, _estimate).end()
    assert missing == f"{8 * (seeds - 1)} of {8 * seeds}"
    # That the sweep itself is going to be refused is said where it has something to do.
    assert ("a run needs a folder that can be written" in str(notes)) == (seeds > 1)
    assert {path: path.stat().st_mtime_ns for path in (public / "run").rglob("*")} == before


def _change_without_merging(folder: Path) -> None:
    """Write to the ledger, and leave what is written beside it, as a killed process does."""
    db = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
    db.execute("PRAGMA wal_autocheckpoint=0")
    db.execute("UPDATE jobs SET seed = 77")
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(folder / f"ledger.sqlite{suffix}", folder / f"kept{suffix}")
    db.close()
    for suffix in ("", "-wal", "-shm"):
        (folder / f"kept{suffix}").replace(folder / f"ledger.sqlite{suffix}")


def _read_seeds(folder: Path, words: dict[str, Any], options: dict[str, Any], told: Any) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)
    told.send(("begins", None))
    temporary = set(Path(tempfile.gettempdir()).glob("skipguide-ledger-*"))
    try:
        with Run.open(folder) as run:
            said = (str(run.seeds()), str(run.counts()["done"]))
    except (ValueError, OSError) as error:
        said = (type(error).__name__, str(error))
    assert set(Path(tempfile.gettempdir()).glob("skipguide-ledger-*")) <= temporary
    told.send(said)


@pytest.mark.parametrize("beside", [("-wal", "-shm"), ("-wal",)])
def test_what_is_not_merged_into_a_ledger_is_read_where_nothing_can_be_written(
    public: Path, beside: tuple[str, ...]
) -> None:
    """A folder that was copied has no -shm. It was read without the -wal, as older than it is."""
    folder = public / "run"
    swept(folder, plan_of(seeds=1))
    _change_without_merging(folder)
    for suffix in {"-wal", "-shm"} - set(beside):
        (folder / f"ledger.sqlite{suffix}").unlink()
    for path in (folder, *folder.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert Child(folder, None, _read_seeds).end() == ("[77]", "8")


def test_a_ledger_all_of_which_is_still_beside_it_is_read(public: Path) -> None:
    """As that of a sweep that has just begun. It was "of format None"."""
    folder = public / "run"
    folder.mkdir()
    ledger = Ledger(folder, "create")
    assert (folder / "ledger.sqlite").stat().st_size <= 4096
    for suffix in ("", "-wal"):
        shutil.copy(folder / f"ledger.sqlite{suffix}", public / f"ledger.sqlite{suffix}")
    ledger.close()
    public.chmod(0o555)
    assert Child(public, None, _read_seeds).end() == ("[]", "0")


def test_a_ledger_that_may_not_be_read_is_refused_in_words(public: Path) -> None:
    _no_rights(public / "run")
    (public / "run/ledger.sqlite").chmod(0o000)
    kind, said = Child(public / "run", None, _read_seeds).end()
    assert kind == "OSError"
    assert said is not None
    assert "a ledger must be readable" in said
    assert "Permission denied. Ask its owner" in said


def test_a_run_on_a_disk_that_is_only_read_is_read_to_its_newest_change(tmp_path: Path) -> None:
    """Also while a sweep writes to it by another way."""
    folder, view = tmp_path / "run", tmp_path / "view"
    swept(folder, plan_of(seeds=1))
    view.mkdir()
    if subprocess.run(
        ["mount", "--bind", str(folder), str(view)], capture_output=True, check=False
    ).returncode:
        pytest.skip("only root may mount a disk")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], check=True)
        _change_without_merging(folder)
        (folder / "ledger.sqlite-shm").unlink()
        with Run.open(view) as run:
            assert run.seeds() == [77]
        child = Child(folder, seconds=0.02)
        while not list(folder.glob("videos/[!.]*.mp4")) or len(list(folder.glob("videos/*"))) < 24:
            time.sleep(0.01)
        with Run.open(view) as run:
            assert run.is_sweeping
            first = run.counts()["done"]
        assert child.kill()
        with Run.open(view) as run:
            assert not run.is_sweeping
            assert first <= run.counts()["done"]
            assert run.counts()["running"] == 0
            assert run.was_interrupted
    finally:
        subprocess.run(["umount", str(view)], check=True)


# --- damage ---------------------------------------------------------------------------------------


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flipped(path: Path) -> None:
    """One bit, and the time of change as it was."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "thorough", "word"),
    [(_truncated, False, "is not the file that was written"), (Path.unlink, False, "is missing"),
     (_flipped, True, "is not the file that was written")],
)  # fmt: skip
def test_a_damaged_video_is_set_aside_and_made_again(
    tmp_path: Path, damage: Any, thorough: bool, word: str
) -> None:
    swept(tmp_path)
    with Run.open(tmp_path) as run:
        clip = run.clips()[3]
    assert clip.video is not None
    damage(clip.video)
    planned, *happenings = swept(tmp_path, thorough=thorough)
    assert isinstance(planned, SweepEstimate)
    assert planned.missing == 1
    assert word in planned.notes[0]
    assert [h.job.key for h in happenings if isinstance(h, ClipPublished)] == [clip.key]
    assert (tmp_path / BROKEN / clip.video.name).exists() == (damage is not Path.unlink)
    assert video.read(clip.video)[0].shape == (3, 16, 16, 3)


def test_a_damaged_ledger_is_refused_and_a_new_one_takes_over_the_videos(tmp_path: Path) -> None:
    plan = plan_of(prompts=5, seeds=5)
    swept(tmp_path, plan)
    ledger = tmp_path / "ledger.sqlite"
    content = bytearray(ledger.read_bytes())
    content[4096:40_000] = os.urandom(40_000 - 4096)
    ledger.write_bytes(content)
    with pytest.raises(ValueError, match=r"sound SQLite file, but .*ledger.sqlite is damaged"):
        swept(tmp_path, plan)
    ledger.rename(tmp_path / "damaged.sqlite")
    log = tmp_path / "log"
    planned, *rest = swept(tmp_path, plan, log=log)
    assert isinstance(planned, SweepEstimate)
    assert planned.missing == 0
    assert rest == []
    assert not log.exists()


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100])
def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(content)
    with pytest.raises(ValueError, match=r"the ledger .*must be"):
        Run.open(tmp_path)
