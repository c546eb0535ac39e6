"""What all tests share: which cases belong to the matrix, and a tiny MochiPipeline with its text
encoder for the tests that need no other family (tests/support/tiny has all of them)."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from support.matrix import mark_matrix
from support.tiny_mochi import tiny_mochi

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_matrix(items)


def pytest_collection_finish() -> None:
    """What the imports have made lives to the end: no collection has to walk it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The hashes of a person's files are none of the tests', and their presets neither."""
    os.environ["SKIPGUIDE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def _tiny_mochi() -> Any:
    return tiny_mochi()


@pytest.fixture
def pipe(_tiny_mochi: Any) -> Any:
    """The tiny pipeline; a test that leaves guidance on it fails the tests after it, so none is
    repaired here."""
    return _tiny_mochi


@pytest.fixture(scope="session")
def tiny_mochi_dir(tmp_path_factory: pytest.TempPathFactory, _tiny_mochi: Any) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-mochi"
    _tiny_mochi.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lab_mochi_dir() -> Path:
    from skipguide.files import packaged

    return packaged.packaged_path("lab-mochi")


@pytest.fixture(scope="session")
def opensora_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models of Open-Sora as it publishes its own: transformer/ and vae/."""
    from support.references import opensora

    folder = tmp_path_factory.mktemp("opensora")
    opensora.write_checkpoints(folder)
    return folder


@pytest.fixture(scope="module")
def painted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose videos are painted, to be read and voted on."""
    from support.painted import painted

    return painted(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture
def painted_copy(painted_run: Path, tmp_path: Path) -> Path:
    """The run, to be changed."""
    return Path(shutil.copytree(painted_run, tmp_path / "first"))
