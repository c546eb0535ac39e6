"""The study of reuse: it is resumed where it stopped, and its page says what was found."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.lab import score_text
from skipguide.paper.reuse import page, published, rows, study

STEPS = 4
ROWS = tuple(row for row in rows.ROWS if row.is_main)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_text, "STEPS", STEPS)


def test_study_is_resumed_and_reported(short: None, tmp_path: Path) -> None:
    order = study.Study(tmp_path / "runs", "mochi", 16, ROWS)
    assert [row.name for _, row in order.tasks()] == [row.name for row in ROWS]
    next(iter(study.make(order)))
    assert len(order.tasks()) == 2
    with pytest.raises(ValueError, match=r"the numbers need all batches, but 2 are missing"):
        list(study.results(order))
    first = order.path(ROWS[0], 0).read_bytes()
    list(study.make(order))
    assert order.path(ROWS[0], 0).read_bytes() == first
    text = page.write(order, tmp_path / "docs").read_text()
    found = {row.name: row for row in page.read(tmp_path / "docs", "mochi")}
    assert list(found) == [row.name for row in ROWS]
    assert found[rows.PLAIN].passes == 2
    assert found[rows.PLAIN].away.value == pytest.approx(1)
    assert found[rows.BUDGET].passes <= 2
    assert 0 < found[rows.BUDGET].away.value < 1
    assert found[rows.EXACT].psnr_db == math.inf
    assert found[rows.EXACT].right_change.value == 0
    assert f"| {rows.BUDGET} | 16 | {found[rows.BUDGET].passes:.2f} |" in text
    assert "not made yet: `skipguide paper reuse --model opensora`" in text
    assert (tmp_path / "docs" / "reuse" / "passes.png").is_file()


@pytest.mark.matrix
def test_the_main_rows_alone(short: None, tmp_path: Path) -> None:
    folders = ["--folder", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs")]
    asked = ["paper", "reuse", "--main-only", "--clips", "16", *folders]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output + repr(result.exception)
    found = [row.name for row in page.read(tmp_path / "docs", "mochi")]
    assert found == [rows.EXACT, rows.PLAIN, rows.BUDGET]


def test_rows_are_made_from_the_same_noise(short: None, tmp_path: Path) -> None:
    """A row's clips are those that the pipeline makes of the same prompts without a study."""
    order = study.Study(tmp_path, "mochi", 16)
    pipe, _ = score_text.load_pipeline("mochi", None)
    made = study._generate(order, pipe, rows.Row("plain", None), 0)
    texts = [caption.text for caption in study._prompts(order, 0).captions]
    again = score_text.generate(pipe, texts, 4.5, study.SEED, "mochi", STEPS)
    assert torch.equal(made.frames, again)
    assert made.passes == 2 * STEPS


def test_every_published_layer_fits_into_two_passes() -> None:
    found = {row.model: row for row in published.published_layers()}
    wan = found["Wan-AI/Wan2.1-T2V-14B-Diffusers"]
    assert wan.exact == 2 + 31 / 40  # layer 8 of 40 is skipped, and 31 come after it
    hunyuan = found["hunyuanvideo-community/HunyuanVideo"]
    assert (hunyuan.has_cfg, hunyuan.cost) == (False, 57 / 60)
    for row in found.values():
        assert row.plan.passes_per_step <= 2
        assert min(map(len, row.plan.computed)) >= 5


@pytest.mark.parametrize("clips", [0, 8, 20])
def test_number_of_clips_is_checked(clips: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clips must be a multiple of 16, but got"):
        study.Study(tmp_path, "mochi", clips)
