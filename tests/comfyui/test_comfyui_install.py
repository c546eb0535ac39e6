"""Ways to get the pack, each in an empty ComfyUI: the archive unpacked, the branch cloned."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from comfy_server import ROOT, Server

pytestmark = pytest.mark.comfyui
NODES = {
    "SkipGuideSTG", "SkipGuideSLG", "SkipGuideSchedule", "SkipGuideGuider", "SkipGuideInfo",
    "SkipGuidePresetFile", "SkipGuideLayerMap",
}  # fmt: skip


def unpack(custom_nodes: Path) -> None:
    import comfyui_archive

    with zipfile.ZipFile(comfyui_archive.write(custom_nodes.parent / "dist")) as archive:
        archive.extractall(custom_nodes)


def clone(custom_nodes: Path) -> None:
    """Clone what `make comfyui-branch` makes, from a copy of the repository."""
    copy = custom_nodes.parent / "repository"
    _run("git", "clone", "-q", str(ROOT), str(copy))
    _run("make", "-s", "-C", str(copy), "comfyui-branch")
    target = custom_nodes / "skipguide"
    _run("git", "clone", "-q", "--branch", "comfyui", str(copy), str(target))


def _run(*command: str) -> None:
    named = {f"GIT_{who}_{what}": "tests@example.org" for who in ("AUTHOR", "COMMITTER")
             for what in ("NAME", "EMAIL")}  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, **named})


@pytest.mark.parametrize("install", [unpack, clone])
def test_its_nodes_are_there(install: Callable[[Path], None], tmp_path: Path) -> None:
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip("COMFYUI_PATH is not set")
    server = Server(tmp_path / "base", install)
    try:
        known = server.ask("/object_info")
        assert known.keys() >= NODES
        assert {known[name]["python_module"] for name in NODES} == {"custom_nodes.skipguide"}
        templates = server.ask("/workflow_templates")
        assert "wan_stg" in templates["skipguide"]
    finally:
        server.stop()
