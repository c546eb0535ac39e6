"""Exhaustive layer maps: what is read of the published clips, and the reliability of a map."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from skipguide.paper import experiments, run, tune_maps
from skipguide.paper.rows import Row

DOCS = Path(__file__).parents[2] / "docs"


def test_published_maps_are_read_as_the_report_has_them() -> None:
    with (DOCS / "paper" / "rows.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for one in tune_maps.load_maps(DOCS):
        if tune_maps.FOLDERS[one.name] != "paper":
            continue
        for objective in ("right", "likelihood"):
            known = {
                line["row"]: (int(line["common_clips"]), float(line["difference"]))
                for line in lines
                if (line["model"], line["experiment"], line["measure"])
                == (one.model, one.name, objective)
            }
            means = one.differences(objective).mean(1)
            for cell, mean in zip(one.cells, means, strict=True):
                clips, difference = known[cell.name]
                assert clips == len(one.prompts)
                assert mean == pytest.approx(difference, abs=2e-4)


def test_the_probability_of_a_prompt_is_that_of_its_words_together() -> None:
    one = tune_maps.load_maps(DOCS)[0]
    assert one.model == "lab-mochi"
    mean, found = one.values["likelihood"], one.values["probability"]
    assert np.allclose(np.log(found), 3 * mean)  # shape, colour and motion
    assert np.all((found >= 0) & (found <= 1))


def test_the_distance_of_the_maps_without_cfg_tells_layers_apart() -> None:
    found = {
        (one.model, one.name): tune_maps.frechet_reliability(DOCS, one)
        for one in tune_maps.load_maps(DOCS)
    }
    values = {key: one.value for key, one in found.items() if one is not None}
    # Recorded: 0.92 and 0.71; all four others are below 0.
    assert values["lab-mochi", "map-without-cfg"] > 0.85
    assert values["lab-opensora", "map-without-cfg"] > 0.6
    assert values["lab-mochi", "map"] < 0.2
    assert values["lab-svd", "map"] < 0.2


def test_maps_with_longer_pushes_are_made_only_where_they_are_named() -> None:
    usual = {one.row.name for one in experiments.requested_rows("lab-mochi")}
    named = [one.row for one in experiments.requested_rows("lab-mochi", "map-raised")]
    new = [row for row in named if row.terms]
    assert len(new) == 24
    assert not usual & {row.name for row in new}
    assert all(row.terms[0].normalize and row.terms[0].scale == 3 for row in new)
    assert named[:2] == [Row(source="reference"), Row(4.5)]
    tasks = run.tasks(run.Order(Path("nowhere"), ("lab-mochi",), clips=64, rows="map-*"))
    assert {row.name for row in new} <= {task.row.name for task in tasks}


def test_docs_without_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Pass --docs"):
        tune_maps.load_maps(tmp_path)
