"""The seconds to the first step, of real commands in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.cli.bench_startup import PARTS, RUNS, format_startup


@pytest.mark.long
def test_the_start_of_a_command_is_measured(tiny_mochi_dir: Path) -> None:
    typed = f"star --model {tiny_mochi_dir} --layers 1 --height 32 --width 32 --num-frames 7"
    said = CliRunner().invoke(app, ["bench", "--json", "--startup", f"{typed} --device cpu"])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert list(found) == list(RUNS)
    for name in ("first", "again"):
        row = found[name]
        assert set(row["parts"]) == set(PARTS)
        assert all(row["parts"][part] > 0 for part in PARTS if part != "hashing")
        assert sum(row["parts"].values()) - row["parts"]["hashing"] <= row["total"]
    assert "from 0 to 3 (4 blocks), but got 99999" in found["wrong layer"]["error"]
    assert found["wrong layer"]["parts"]["loading"] == 0


@pytest.mark.long
def test_arguments_that_make_no_video_are_refused() -> None:
    said = CliRunner().invoke(app, ["bench", "--startup", "star --model none"])
    assert said.exit_code == 2
    assert "the arguments of generate must be such that it makes a video" in said.stderr
    assert "there is no such folder" in said.stderr


def test_the_table_of_the_start() -> None:
    row = {"parts": {part: index for index, part in enumerate(PARTS)}, "total": 30.5, "cpu": 9.25}
    assert format_startup({"first": row}).splitlines()[1:] == [
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        "| first | 0.00 | 1.00 | 2.00 | 3.00 | 4.00 | 5.00 | 6.00 | 30.50 | 9.25 |",
    ]
