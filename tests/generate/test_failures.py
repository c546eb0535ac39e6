"""Errors of torch that the settings can mend are said in words; all others are faults."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.generate import failures
from skipguide.generate.settings import validate_settings
from support.small_wan import save_wan


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wan(tmp_path_factory.mktemp("models") / "wan")


def test_a_size_that_the_model_cannot_run(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's default size, which its small table of positions does not reach."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text("prompt\nx\n")
    model = ("--model", str(wan))
    for command in (
        ["generate", "x", *model, "--layers", "1", "--steps", "1"],
        ["generate", "x", *model, "--layers", "1", "--steps", "1", "--json"],
        ["sweep", "--prompts", "p.csv", *model, "--setting", "layers=1", "--out", "run"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2, repr(result.exception)
        assert "height x width x num_frames must be a size that WanPipeline can run, but" in (
            result.output
        )
        assert "Choose another size with --height, --width or --num-frames." in result.output
        assert not list(tmp_path.glob("*.mp4"))


def mismatches() -> list[RuntimeError]:
    """Return the errors of this version of torch."""
    zeros = torch.zeros
    found = []
    for call in (
        lambda: zeros(6).view(4, 2),
        lambda: zeros(6).view(-1, 4),
        lambda: zeros(6) + zeros(5),
        lambda: torch.cat([zeros(2, 3), zeros(2, 4)], 0),
        lambda: zeros(2, 3) @ zeros(2, 3),
        lambda: nn.Conv2d(1, 1, 5)(zeros(1, 1, 3, 3)),
        lambda: nn.functional.avg_pool2d(zeros(1, 1, 1, 1), 2),
        lambda: zeros(6).expand(2, 5),
    ):
        try:
            call()
        except RuntimeError as error:
            found.append(error)
    assert len(found) == 8
    return found


def test_which_errors_are_explained() -> None:
    size = {"prompt": "x", "height": 32, "width": 48}
    settings = validate_settings({**size, "fps": 24})
    for error in mismatches():
        said = failures.explain(error, "WanPipeline", settings)
        assert "but 32 x 48 x the model's own failed (" in str(said), error
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()):
        said = failures.explain(error, "WanPipeline", settings)
        assert str(said).startswith("memory must be enough for a video of 32 x 48"), error
    picture = failures.explain(MemoryError(), "SanaPipeline", validate_settings(size))
    assert str(picture).startswith("memory must be enough for a picture of 32 x 48, but it")
    assert "frames" not in str(picture)
    for error in (RuntimeError("CUDA error: device-side assert"), NotImplementedError("size")):
        assert failures.explain(error, "WanPipeline", settings) is None
