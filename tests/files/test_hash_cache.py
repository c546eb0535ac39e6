"""Hashes of files that are known again, against hashlib over what lies on the disk."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skipguide.files import hash_cache
from skipguide.files.hash_cache import known_sha256

SIZE = 2 * hash_cache.SMALL


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content was read; the cache is empty, and all files rest."""
    names: list[str] = []
    really = hash_cache.read_sha256

    def noted(path: Path, stop: Callable[[], bool] = lambda: False) -> str:
        names.append(path.name)
        return really(path, stop)

    monkeypatch.setenv("SKIPGUIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "read_sha256", noted)
    monkeypatch.setattr(hash_cache, "RESTING", -1)
    return names


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "weights.safetensors").write_bytes(b"a" * SIZE)
    return tmp_path / "weights.safetensors"


def entries(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "hashes").glob("*"))


def test_a_file_that_rests_is_read_once(read: list[str], weights: Path, tmp_path: Path) -> None:
    assert [known_sha256(weights) for _ in range(3)] == [sha256(b"a" * SIZE)] * 3
    assert read == [weights.name]
    (entry,) = entries(tmp_path)
    assert json.loads(entry.read_text())["path"] == str(weights)


def test_small_files_have_no_entry(read: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert known_sha256(tmp_path / "config.json") == sha256(b"{}")
    assert entries(tmp_path) == []


def same_size_and_mtime(path: Path) -> None:
    """What `cp -p` and downloads with the server's time leave."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"b")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def renamed_over(path: Path) -> None:
    before, other = path.stat(), path.with_suffix(".new")
    other.write_bytes(b"b" + b"a" * (SIZE - 1))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


def same_size_later(path: Path) -> None:
    path.write_bytes(b"b" + b"a" * (SIZE - 1))


@pytest.mark.parametrize("change", [same_size_and_mtime, renamed_over, same_size_later])
def test_a_changed_file_is_read_again(
    read: list[str], weights: Path, change: Callable[[Path], None]
) -> None:
    known_sha256(weights)
    time.sleep(0.02)  # ext4 counts in steps of 4 to 10 ms; RESTING covers them outside of this test
    change(weights)
    assert known_sha256(weights) == sha256(b"b" + b"a" * (SIZE - 1))


def test_a_file_that_changed_just_now_is_not_known(
    read: list[str], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_cache, "RESTING", 3_000_000_000)
    assert known_sha256(weights) == known_sha256(weights) == sha256(b"a" * SIZE)
    assert len(read) == 2
    assert entries(tmp_path) == []
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert known_sha256(weights) == known_sha256(weights)
    assert len(read) == 3


def test_a_file_that_changes_while_it_is_read_is_not_known(
    read: list[str], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = hash_cache.read_sha256

    def slow(path: Path, stop: Callable[[], bool]) -> str:
        digest = really(path, stop)
        with path.open("ab") as file:
            file.write(b"!")
        return digest

    monkeypatch.setattr(hash_cache, "read_sha256", slow)
    known_sha256(weights)
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [b"", b"\xff\x00", b"[]", b"{", b"[" * 100_000, b'{"sha256": 5}'],
    ids=["empty", "binary", "list", "cut", "deep", "number"],
)
def test_a_damaged_entry_is_made_anew(
    read: list[str], weights: Path, tmp_path: Path, damage: bytes
) -> None:
    known_sha256(weights)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(damage)
    assert known_sha256(weights) == sha256(b"a" * SIZE)
    assert entry.read_bytes() == whole


def test_an_entry_with_another_hash_is_not_believed_if_it_is_none(
    read: list[str], weights: Path, tmp_path: Path
) -> None:
    known_sha256(weights)
    (entry,) = entries(tmp_path)
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "sha256": "../../etc"}))
    assert known_sha256(weights) == sha256(b"a" * SIZE)


def test_a_cache_that_cannot_be_written_is_no_error(
    read: list[str], weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    assert known_sha256(weights) == known_sha256(weights) == sha256(b"a" * SIZE)
    assert len(read) == 2


def test_without_a_home_nothing_is_kept(
    read: list[str], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SKIPGUIDE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert known_sha256(weights) == sha256(b"a" * SIZE)


def test_the_folder_follows_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SKIPGUIDE_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hash_cache.cache_folder() == tmp_path / "skipguide"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert hash_cache.cache_folder() == Path.home() / ".cache" / "skipguide"


def test_old_entries_are_forgotten(
    read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_cache, "MAX_ENTRIES", 4)
    for number in range(8):
        (tmp_path / f"{number}.gguf").write_bytes(bytes([number]) * SIZE)
        known_sha256(tmp_path / f"{number}.gguf")
    assert 2 <= len(entries(tmp_path)) <= 4


def test_several_processes_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPGUIDE_CACHE", str(tmp_path / "cache"))
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode() * SIZE)
    script = (
        "import sys\nfrom pathlib import Path\nfrom skipguide.files import hash_cache\n"
        "hash_cache.RESTING = -1\n"
        "for _ in range(20):\n"
        "    print(*(hash_cache.known_sha256(Path(name)) for name in sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, *(str(tmp_path / name) for name in "abc")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {line for process in running for line in process.communicate()[0].splitlines()}
    assert said == {" ".join(sha256(name.encode() * SIZE) for name in "abc")}
    assert len(entries(tmp_path)) == 3


# --- hashing while something else runs ------------------------------------------------------------


def test_what_is_hashed_ahead_is_read_once(read: list[str], weights: Path) -> None:
    with hash_cache.hash_ahead([weights]):
        assert known_sha256(weights) == sha256(b"a" * SIZE)
    assert read == [weights.name]


def test_hashing_ahead_is_given_up_at_an_error(
    read: list[str], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    given_up: list[bool] = []

    def endless(path: Path, stop: Callable[[], bool]) -> str:
        begun.set()
        while not stop():
            time.sleep(0.001)
        given_up.append(True)
        raise InterruptedError

    monkeypatch.setattr(hash_cache, "read_sha256", endless)

    def refused_by_the_model() -> None:
        with hash_cache.hash_ahead([weights]):
            begun.wait()
            raise ValueError("no such layer")

    with pytest.raises(ValueError, match="no such layer"):
        refused_by_the_model()
    assert given_up == [True]
    assert hash_cache._ahead == {}


def test_a_file_that_is_gone_is_reported_when_it_is_asked_for(
    read: list[str], tmp_path: Path
) -> None:
    with hash_cache.hash_ahead([tmp_path / "none"]), pytest.raises(FileNotFoundError):
        known_sha256(tmp_path / "none")
