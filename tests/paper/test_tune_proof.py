"""The proof of tune: real scans on the cells of exhaustive maps, what they cost, the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.method.terms import explicit_layers
from skipguide.paper import tune_maps, tune_proof
from skipguide.paper.tune_maps import CellMap

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def maps() -> list[CellMap]:
    return tune_maps.load_maps(DOCS)


def test_a_scan_names_cells_of_the_exhaustive_map(maps: list[CellMap]) -> None:
    for one in maps:
        scan = tune_proof.load_scan(DOCS, one)
        if scan is None:
            continue
        found = tune_proof.shortlist(scan, one, 4)
        for cell, number in zip(scan.shortlist(4), found, strict=True):
            term = one.cells[number].terms[0]
            assert term.skip == cell.skip
            assert cell.layer.endswith(str(explicit_layers(term)[0]))


def test_scans_of_a_stack_cost_half_of_its_layers(maps: list[CellMap]) -> None:
    costs = {one.path.stem: one for one in tune_proof.scan_costs(DOCS, maps)}
    for name in ("lab-mochi-cfg-4.5-map", "lab-opensora-cfg-1-map"):
        one = costs[name]
        assert one.ratios["residual"] == pytest.approx(1, abs=0.1)
        # What was counted while it ran is what the cells' costs say.
        assert one.forwards == pytest.approx(one.map.costs.sum(), rel=0.02)


def test_a_scan_of_other_cells_is_refused(maps: list[CellMap]) -> None:
    known = {one.model: one for one in maps}
    scan = tune_proof.load_scan(DOCS, known["lab-svd"])
    assert scan is not None
    with pytest.raises(ValueError, match="--skips residual,attention"):
        tune_proof.shortlist(scan, known["lab-mochi"])


def test_the_command_prints_what_it_found_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_proof, "HONEST_PROMPTS", (24,))
    command = ["paper", "tune", "--docs", str(DOCS), "--model", "lab-svd", "--repeats", "20"]
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert {one["model"] for one in found["reliability"]} == {"lab-svd"}
    nothing = [one for one in found["honesty"] if one["truth"] == "none"]
    assert nothing
    assert all(one["claimed"]["value"] <= 0.25 for one in nothing)  # of 20 repeats


@pytest.mark.long
def test_the_tables_have_every_part() -> None:
    command = ["paper", "tune", "--docs", str(DOCS), "--model", "lab-opensora", "--repeats", "20"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    titles = ("Reliability of exhaustive", "scan and race", "gain claimed", "forwards a state")
    assert all(title in told.stdout for title in titles)
