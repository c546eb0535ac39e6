"""What systems leave in folders, and the room on their disks."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from skipguide.files import folders
from skipguide.models.fingerprint import hash_weights

SYSTEM_NAMES = (
    ".DS_Store", "._0000.txt", "Thumbs.db", "desktop.ini", ".nfs000000000012", "lost+found",
    "@eaDir", "System Volume Information",
)  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM_NAMES)
def test_names_of_systems(name: str) -> None:
    assert folders.is_system_name(name)


@pytest.mark.parametrize("name", ["a.mp4", ".hidden", "_0.txt", "thumbs.mp4", ".env", "videos"])
def test_other_names_are_somebodys(name: str) -> None:
    assert not folders.is_system_name(name)


def test_a_model_is_the_same_after_a_look_at_its_folder(tmp_path: Path) -> None:
    """Else all videos of a run would be made again."""
    (tmp_path / "vae").mkdir()
    for name in ("model_index.json", "vae/config.json"):
        (tmp_path / name).write_text("{}")
    before = hash_weights(tmp_path)
    for name in ("vae/.DS_Store", "vae/._config.json", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\x00\x01")
    assert hash_weights(tmp_path) == before
    (tmp_path / "vae/more.json").write_text("{}")
    assert hash_weights(tmp_path) != before


def test_what_takes_no_files_is_told_and_asking_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert folders.find_obstacle(tmp_path / "new" / "deep") is None
    assert folders.find_obstacle(tmp_path / "file" / "x") == f"{tmp_path / 'file'} is not one"
    too_long = folders.find_obstacle(tmp_path / ("x" * 300))
    assert too_long is not None
    assert "too long" in too_long
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_free_bytes_of_a_folder_to_come_are_those_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda at: usage(9, 2, 7 if at == tmp_path else 0))
    assert folders.free_bytes(tmp_path / "a" / "b") == folders.free_bytes(tmp_path) == 7
