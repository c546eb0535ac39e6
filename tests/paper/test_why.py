"""docs/why.md: what is measured, on a smaller plan, and the page against its numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.paper import plane, why, why_page
from skipguide.paper.why import Found, Plan

DOCS = Path(__file__).parents[2] / "docs"
SMALL = Plan(networks=1, steps=40, samples=64)


@pytest.fixture(scope="module")
def found() -> Found:
    return why_page.read_numbers(DOCS)[1]


@pytest.fixture(scope="module")
def measured() -> tuple[Any, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CFG", "AUTO", "STG", "NORMAL"):
            patch.setattr(why, name, (1.5,))
        return why.measure_network(SMALL, 0)


# --- what is measured -----------------------------------------------------------------------------


def test_a_smaller_run_has_every_number(measured: tuple[Any, dict[str, Any]]) -> None:
    _, one = measured
    assert {"real", "exact", "none", "cfg-1.5", "auto-1.5", "stg-7-1.5", "both-0"} <= set(
        one["samples"]
    )
    assert all(tuple(values) == why.MEASURES for values in one["samples"].values())
    assert set(one["states"]) == {f"{a}-{b}" for a in ("own", "real") for b in why.BANDS}
    numbers = torch.tensor([v for s in one["states"].values() for v in s.values()])
    assert numbers.isfinite().all()
    # A network of 40 steps is far from the tree; points drawn from the tree are on it.
    assert one["samples"]["none"]["strays"] > 0.2
    assert one["samples"]["real"]["strays"] < 0.06


def test_a_run_again_has_the_same_numbers(measured: tuple[Any, dict[str, Any]]) -> None:
    nets, one = measured
    trees = plane.world()
    with torch.no_grad():
        again = why._measure_all_states(SMALL, 0, trees, nets)
    assert again == one["states"]


def test_the_best_scale_is_where_the_error_is_smallest() -> None:
    trees = plane.world()
    nets = plane.train(trees, 40, 1)
    draw = torch.Generator().manual_seed(0)
    label = torch.zeros(256, dtype=torch.long)
    state = why.State(torch.randn(256, 2, generator=draw), 0.5, label)
    with torch.no_grad():
        row = why.measure_states(nets, trees[0], [state])["stg-0"]
        best, against = (row[why.STATES.index(name)] for name in ("best", "against"))

        def error(s: float) -> float:
            guided = plane.guide(*nets, label, plane.Setting(1, s, 0))(state.x, 0.5)
            return float((guided - trees[0].velocity(state.x, 0.5)).square().sum())

        plain = error(0.0)
        assert error(best) / plain == pytest.approx(1 - against**2, rel=1e-3)
        assert error(best) < min(error(best - 0.05), error(best + 0.05))


# --- the page -------------------------------------------------------------------------------------


def test_the_page_has_the_numbers_that_are_published(tmp_path: Path) -> None:
    (tmp_path / "why").mkdir()
    why_page.numbers_path(tmp_path).write_bytes(why_page.numbers_path(DOCS).read_bytes())
    told = CliRunner().invoke(app, ["paper", "why", "--docs", str(tmp_path), "--text-only"])
    assert told.exit_code == 0, told.output
    assert (tmp_path / "why.md").read_text() == (DOCS / "why.md").read_text()


def test_what_the_page_says_is_what_was_found(found: Found) -> None:
    def sign(setting: str, measure: str, base: str = "none") -> int:
        return found.gain(setting, base, measure).sign

    for helps in ("auto-0.5", "stg-0-0.5"):
        assert (sign(helps, "strays"), sign(helps, "coverage")) == (-1, -1)
    assert [sign(f"stg-{layer}-0.5", "strays") for layer in (1, 2)] == [-1, -1]
    others = [(layer, s) for layer in range(3, 8) for s in why.STG]
    assert all(sign(f"stg-{layer}-{s:g}", "strays") >= 0 for layer, s in others)
    assert all(sign(f"cfg-{g:g}", "strays") >= 0 for g in why.CFG)
    assert sign("cfg-1.5", "strays") == 1
    assert all(sign(name, "energy") >= 0 for name in why.settings())
    assert sign("both-7", "coverage", "cfg-1.5") == 1
    assert sign("both-7", "energy", "cfg-1.5") == -1
    for push in ("auto", "stg-0"):
        assert found.state("own-late", push, "guided").value > 0.5
        assert found.state("own-late", push, "error").value < 0.45
    firsts = [
        min(why.LAYERS, key=lambda k, one=one: one["samples"][f"stg-{k}-0.5"]["strays"])
        for one in found.networks
    ]
    assert firsts.count(0) == 5


def test_the_page_names_figures_that_are_there() -> None:
    names = re.findall(r"\]\((why/[\w.]+)\)", (DOCS / "why.md").read_text())
    assert names
    assert all((DOCS / name).is_file() for name in names)


def test_the_command_writes_numbers_figures_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Found
) -> None:
    nets = plane.train(plane.world(), 20, 0)

    def measure(plan: Plan) -> Iterator[tuple[Any, Any]]:
        yield from ((nets, one) for one in found.networks[: plan.networks])

    monkeypatch.setattr(why, "measure", measure)
    count = str(len(found.networks))
    told = CliRunner().invoke(app, ["paper", "why", "--docs", str(tmp_path), "--networks", count])
    assert told.exit_code == 0, told.output
    written = {path.name for path in (tmp_path / "why").iterdir()}
    assert written == {"numbers.json", "samples.png", "fields.png", "scales.png"}
    assert (tmp_path / "why.md").read_text() == (DOCS / "why.md").read_text()


def test_without_numbers_the_page_is_refused(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["paper", "why", "--docs", str(tmp_path), "--text-only"])
    assert told.exit_code != 0
    assert "without --text-only" in " ".join(told.output.split())
