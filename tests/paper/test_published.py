"""The pages again from the published numbers, and what they may claim."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skipguide.paper import analysis, experiments, map_reliability, published, report, tune_maps
from skipguide.paper.published import PublishedResults
from skipguide.paper.run import Order

DOCS = Path(__file__).parents[2] / "docs"
MODELS = ("lab-mochi", "lab-svd", "lab-opensora")


@pytest.fixture(scope="module")
def source() -> published.Source:
    return published.read_source(DOCS / "paper", MODELS)


def page(text: Path) -> str:
    return text.read_text(encoding="utf-8")


def test_the_pages_are_what_the_published_numbers_say(source: published.Source) -> None:
    found = report.Report(Order(Path(), MODELS), DOCS / "paper", source)
    for path, template, found.prefix in (
        (DOCS / "paper-in-miniature.md", report.PAGE, "paper/"),
        (DOCS / "paper" / "appendix.md", report.APPENDIX, ""),
    ):
        assert found.fill(report.read_template(template)) == page(path)


def test_no_best_cell_of_a_map_without_signal(source: published.Source) -> None:
    kept = {}
    for model, results in source.results.items():
        known = {one.name: one for one in experiments.experiments(model)}
        for name in ("map", "map-without-cfg"):
            best = map_reliability.best_cell(results, known[name], "frechet")
            kept[model, name] = best and best.name
    assert {key for key, best in kept.items() if best} == {
        ("lab-mochi", "map-without-cfg"), ("lab-opensora", "map-without-cfg"),
    }  # fmt: skip
    assert kept["lab-mochi", "map-without-cfg"] == "cfg-1+R8x1n"


def test_the_page_and_the_proof_of_tune_have_one_reliability(source: published.Source) -> None:
    for one in tune_maps.load_maps(DOCS):
        if tune_maps.FOLDERS[one.name] != "paper":
            continue
        known = {e.name: e for e in experiments.experiments(one.model)}
        found = map_reliability.measure_reliability(
            source.results[one.model], known[one.name], "frechet"
        )
        assert found == tune_maps.frechet_reliability(DOCS, one)


def test_the_excess_is_the_distance_less_that_of_real_clips(source: published.Source) -> None:
    table = next(e for e in experiments.experiments("lab-svd") if e.name == "tables-1-2")
    results = source.results["lab-svd"].restrict_to(table.rows)
    row = table.rows[1]
    distance, floor, excess = (
        results.estimate(*key)
        for key in ((row, "frechet"), (analysis.REAL, "frechet"), (row, "excess"))
    )
    assert distance is not None
    assert floor is not None
    assert excess is not None
    assert excess.value == pytest.approx(distance.value - floor.value)
    # no narrower than either interval: what the two have in common is not known
    for one in (distance, floor):
        assert (excess.high or 0) - excess.value > (one.high or 0) - one.value
    assert isinstance(results, PublishedResults)
    assert not results.has_exact_excess


def test_links_between_the_pages_have_their_anchors() -> None:
    pages = {path: page(path) for path in (
        DOCS / "paper-in-miniature.md", DOCS / "paper" / "appendix.md",
    )}  # fmt: skip
    for path, text in pages.items():
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
            place = (path.parent / target).resolve() if target else path
            assert place.exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.+)$", pages[place], re.M)
                slugs = [re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings]
                assert anchor in slugs


def test_docs_without_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave --text-only out"):
        report.write_pages_again(MODELS, tmp_path)
