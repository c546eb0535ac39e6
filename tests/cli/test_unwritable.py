"""Places that take no files: each verb says so in words before any work, and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.runs import Run
from support.painted import painted

PROC = Path("/proc")
pytestmark = pytest.mark.skipif(not (PROC / "self").exists(), reason="needs the /proc of Linux")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return painted(tmp_path_factory.mktemp("runs") / "run", seeds=[0], prompts=["a"])


def refused(*args: object) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "line",
    [
        "runs compare RUN --out /proc/nope/q.tex",
        "runs export RUN --out /proc/nope.csv",
        "report RUN --out /proc/nope",
        "report RUN --zip --out /proc/nope.zip",
        "runs merge RUN OTHER --out /proc/nope",
        "runs track RUN --to tensorboard:/proc/nope",
        "evaluate RUN --out /proc/nope.json",
        "lab clips /proc/x --count 2",
        "lab clips NEW --count 2 --first-frames /proc/x",
        "lab frame /proc/x.png",
        "lab train mochi --folder /proc/x",
        "lab pack mochi --docs /proc/x",
        "paper report --docs /proc/x",
        "paper why --docs /proc/x",
        "paper run --folder /proc/x",
        "generate x --out /proc/x.mp4",
        "compare x --out-dir /proc/x",
        "tune --prompts PROMPTS --out /proc/nope",
        "tune --prompts PROMPTS --out /proc/nope --dry-run",
        "layers lab-mochi --map --out /proc/nope",
    ],
)
def test_a_place_that_takes_no_files_is_said(line: str, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    if "OTHER" in line:
        painted(other, seeds=[0], prompts=["b"])
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a\nb\nc\n")
    places = {"RUN": run, "NEW": tmp_path / "new", "OTHER": other, "PROMPTS": prompts}
    said = refused(*(places.get(word, word) for word in line.split()))
    assert "Errno" not in said
    assert "/proc is not one" in said
    assert said.endswith(("Choose another.", "Choose another with --out."))
    assert not (tmp_path / "new").exists()


def test_an_error_of_the_system_is_told_in_words(run: Path, tmp_path: Path) -> None:
    said = refused("runs", "export", run, "--out", tmp_path / f"{'x' * 300}.csv")
    assert "Errno" not in said
    assert "File name too long. Check the name" in said
    with Run.open(run) as found:
        assert found.counts()["done"] == 5
