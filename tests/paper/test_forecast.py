"""What a run of the paper says before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.paper import experiments, figure2, forecast, models, records, run
from skipguide.paper.measurements import Reading
from skipguide.paper.rows import Row

CFG, STG_ROW = experiments.experiments("lab-mochi")[2].rows[:2]


def order(folder: Path, rows: str = "tables-1-2") -> run.Order:
    return run.Order(folder, ("lab-mochi",), clips=64, rows=rows)


def record(folder: Path, row: Row, chunk: int, seconds: float) -> None:
    """Write a record of clips that took so long."""
    place = order(folder).locate_records("lab-mochi")
    assert place is not None
    count = models.CHUNK
    reading = Reading(torch.zeros(count, 128), torch.zeros(count, 22), torch.zeros(count, 3))
    taken = records.Cost(seconds, seconds, 2.0)
    records.save_chunk(place[0], row, chunk, reading, taken, {"device": "cpu"})


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose clips take a second, when they are timed."""
    monkeypatch.setattr(forecast, "_time_clips", lambda *arguments: (1.0, 4))


def test_hours_are_those_of_the_records(tmp_path: Path) -> None:
    record(tmp_path, CFG, 0, 2.0)
    record(tmp_path, CFG, 1, 2.0)
    record(tmp_path, STG_ROW, 0, 3.0)
    (found,) = forecast.forecast(order(tmp_path))
    assert (found.rows, found.clips) == (3, 64 + 64 + models.NUM_REAL)
    assert (found.missing_rows, found.missing_clips) == (2, 32 + models.NUM_REAL)
    assert (found.timed, found.extra) == (0, 0)
    assert found.hours == pytest.approx(32 * 3.0 / 3600)  # of the row's own records


def test_without_records_a_few_clips_are_timed(tmp_path: Path, untimed: None) -> None:
    (found,) = forecast.forecast(order(tmp_path))
    assert (found.timed, found.missing_clips) == (4, found.clips)
    assert found.hours == pytest.approx(128 * 1.0 / 3600)  # real clips take next to nothing
    assert found.bytes > found.clips * 128 * 4


def test_figures_count_as_clips_that_take_as_long(tmp_path: Path, untimed: None) -> None:
    (found,) = forecast.forecast(order(tmp_path, "figure-2"))
    passes = figure2.CLIPS * 8 * (2 * 12 + 2)
    assert found.extra == round(passes / (2 * models.MODELS["lab-mochi"].steps))
    assert (found.clips, found.missing_clips) == (0, 0)


def test_a_dry_run_says_what_it_would_take_and_makes_nothing(tmp_path: Path, untimed: None) -> None:
    folder = tmp_path / "records"
    given = ["paper", "run", "--device", "cpu", "--model", "lab-mochi", "--rows", "tables-1-2"]
    result = CliRunner().invoke(app, [*given, "--folder", str(folder), "--dry-run"])
    assert result.exit_code == 0, result.output
    first, last = result.stdout.splitlines()
    assert first.startswith("lab-mochi: 4096 of 4096 clips are missing, in 3 of 3 rows: about 34")
    assert first.endswith("at 1.00 seconds a clip, timed on 4 clips")
    assert last.startswith("all: about 34 minutes on cpu, ")
    assert " free)" in last
    assert not folder.exists()
