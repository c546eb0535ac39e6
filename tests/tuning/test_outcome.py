"""The STG that stands in a preset file whose answer is CFG alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from skipguide import tuning
from skipguide.stats.estimate import Estimate
from skipguide.stats.paired import Difference
from skipguide.tuning.answer.answer import Answer, Contestant
from skipguide.tuning.answer.outcome import _best_stg
from skipguide.tuning.race.candidates import Candidate
from skipguide.tuning.scan.record import Cell


def stg(name: str, guidance_scale: float) -> Candidate:
    return Candidate(name, "scan", {}, 20.0, guidance_scale, Cell("blocks:1", "residual"), 2.0)


def row(name: str, gain: float, held_back: bool) -> Contestant:
    found = Estimate(gain, None, None, 4)
    return Contestant(name, "scan", 20.0, found, Difference(found, None), held_back)


def best(*entries: tuple[Candidate, float, bool]) -> Candidate | None:
    cfg = Candidate("cfg-4", "cfg", {}, 20.0, 4.0)
    rows = tuple(row(one.name, gain, kept) for one, gain, kept in entries)
    found = Answer("use CFG alone", None, "cfg-4", "m", None, (), (), rows, ())
    return _best_stg([cfg, *(one for one, _, _ in entries)], found, cfg)


def test_a_setting_that_was_lucky_on_a_few_prompts_of_the_race_is_not_the_best() -> None:
    lasted, lucky = stg("lasted", 4.0), stg("lucky", 4.0)
    assert best((lasted, 0.05, True), (lucky, 0.5, False)) == lasted


def test_an_stg_beside_another_guidance_scale_is_not_in_the_file() -> None:
    other = stg("other", 2.0)
    assert best((other, 0.5, True)) is None
    assert best((other, 0.5, True), (stg("own", 4.0), -0.1, True)) == stg("own", 4.0)


@pytest.mark.parametrize(
    ("words", "homes"),
    [
        (("use CFG alone", "not measured", "not distinguishable"), ["answer/verdicts.py"]),
        (("tune.toml", "report.html", "tune"), ["names.py"]),
        (("cfg-price", "cfg-low"), ["race/candidates.py", "race/state.py"]),
    ],
)
def test_what_several_rooms_read_is_written_in_one_place(
    words: tuple[str, ...], homes: list[str]
) -> None:
    folder = Path(tuning.__path__[0])
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in words
    }
    assert found <= {*homes, "answer/words.py"}
