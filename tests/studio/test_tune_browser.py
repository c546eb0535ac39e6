"""The page of a tune run in a real Chromium: the answer, the race, the map, and that it is live.
`make test-studio` runs these."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skipguide.runs import Run
from skipguide.studio import report
from skipguide.tuning.report import report as tuning_report
from support import tuned
from support.served import BROWSER, Served, sync_api, until

pytestmark = BROWSER

BEST = tuned.layer_map().shortlist()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tuned.tuned(tmp_path_factory.mktemp("runs") / "done", "answer")) as served:
        yield served


def test_the_answer_comes_first_with_the_line_to_type(page: Any, done: Served) -> None:
    page.goto(done.url)
    head = page.locator("#tune-head")
    sync_api.expect(head.locator(".first")).to_have_text(tuned.answer()["sentences"][0])
    sync_api.expect(page.locator("#tune-line")).to_have_text(tuned.COMMAND)
    head.get_by_role("button", name="Copy the line").click()
    assert page.evaluate("getSelection().toString()") == tuned.COMMAND
    stages = page.locator("#tune-stages")
    sync_api.expect(stages).to_contain_text("The scan's weak passes, 88, are not in it.")


def test_the_race_shows_who_is_better_by_how_much(page: Any, done: Served) -> None:
    page.goto(done.url)
    rows = page.locator("table.race tbody tr[data-candidate]")
    assert rows.evaluate_all("rows => rows.map((row) => row.dataset.candidate)") == [
        "blocks:4 residual, cfg 4.5, scale 1", "blocks:4 residual, cfg 4.5", "cfg 4.5, 10 steps",
        "blocks:5 attention, cfg 2.25", "cfg 4.5", "blocks:8 residual, cfg 4.5", "cfg 2.25",
    ]  # fmt: skip
    assert "+0.027 (+0.014 to +0.04)" in rows.first.inner_text()
    gone = page.locator("table.race tr.out").first
    assert "out in round 2" in gone.inner_text()
    why = page.locator("table.race tr.out + tr.why").first
    assert "difference to the leader is -0.012" in why.inner_text()
    # The point lies right of zero by as much as the difference, on the line that all rows share.
    ends = "(row) => row.querySelector('.forest').getBoundingClientRect().toJSON()"
    places = rows.evaluate_all(
        f"rows => rows.map((row) => [({ends})(row), row.querySelector('.forest b')"
        ".getBoundingClientRect().toJSON()])"
    )
    middles = [(dot["x"] + dot["width"] / 2 - line["x"]) / line["width"] for line, dot in places]
    by_name = dict(zip(rows.evaluate_all("r => r.map((x) => x.dataset.candidate)"), middles,
                       strict=True))  # fmt: skip
    zero = by_name["cfg 4.5"]
    first, last = by_name["blocks:4 residual, cfg 4.5"], by_name["cfg 2.25"]
    assert (zero - last) / (first - zero) == pytest.approx(0.041 / 0.019, rel=0.03)


def test_a_candidate_opens_its_clips_beside_cfg_alone(page: Any, done: Served) -> None:
    page.goto(done.url)
    page.get_by_role("button", name="blocks:4 residual, cfg 4.5, scale 1").click()
    page.locator("figure.cell").nth(1).wait_for()
    assert "view=clips" in page.url
    assert "settings=1%2C7" in page.url


def test_the_map_is_reached_by_keys_and_tells_its_numbers(page: Any, done: Served) -> None:
    page.goto(done.url)
    detail = page.locator(".cell-detail")
    sync_api.expect(detail.locator("h3")).to_have_text(BEST[0].name)
    first = page.locator(f'button[data-cell="{BEST[0].name}"]')
    assert page.locator('button.scan-cell[tabindex="0"]').count() == 1
    first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    layer, skip = BEST[0].layer.split(":")[1], BEST[0].skip
    down = "attention" if skip == "residual" else skip
    sync_api.expect(detail.locator("h3")).to_have_text(f"blocks:{int(layer) + 1} {down}")
    found = json.loads(tuned.layer_map().to_json())
    cell = next(c for c in found["cells"] if c["name"] == f"blocks:{int(layer) + 1} {down}")
    assert f"Rank {cell['rank']} (" in detail.inner_text()
    assert (
        page.get_by_label(f"{BEST[0].name}: score")
        .get_attribute("aria-label")
        .endswith("number 1 of the shortlist")
    )


def test_idle_broken_and_edge_cells_are_marked_and_said(page: Any, done: Served) -> None:
    page.goto(done.url)
    for kind, name in (("idle", "blocks:2 residual"), ("broken", "blocks:11 attention")):
        mark = page.locator(f'button.scan-cell.{kind}[data-cell="{name}"]')
        mark.click()
        assert f"{kind}: skipping it changes" in page.locator(".cell-detail").inner_text()
    assert page.locator("button.scan-cell.edge").count() == 4
    assert page.locator("button.scan-cell.listed").count() == 3


def test_another_quantity_is_shaded_and_stays_when_the_run_changes(
    tmp_path: Path, page: Any
) -> None:
    with Served(tuned.tuned(tmp_path / "run", "scan")) as served:
        page.goto(served.url)
        page.locator("#scan-quantity").select_option("cluster")
        assert page.locator("button.scan-cell[class*=hue-]").count() == 24
        sync_api.expect(page.locator("#race")).to_contain_text("known when the map is")
        tuned.write(served.folder, "race")  # while the page is open
        page.locator("table.race tbody tr").first.wait_for(timeout=15_000)
        sync_api.expect(page.locator(".stages [aria-current=step]")).to_contain_text("Race")
        sync_api.expect(page.locator("#scan-quantity")).to_have_value("cluster")


def test_without_a_metric_the_sampled_are_opened_side_by_side(tmp_path: Path, page: Any) -> None:
    folder = tuned.tuned(tmp_path / "run", "none")
    answer = {"verdict": "not measured", "sentences": ["Nothing was measured."], "raced": []}
    (folder / "tune" / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    with Served(folder) as served:
        page.goto(served.url)
        assert "sampled" in page.locator("tr[data-candidate]").last.inner_text()
        page.get_by_role("button", name="Look at them side by side").click()
        page.locator("figure.cell").nth(5).wait_for()
        assert "settings=1%2C2%2C3%2C4%2C5%2C6" in page.url
        assert "prompts=1%2C2%2C3%2C4" in page.url


def test_a_map_alone_is_shown_beside_the_clips_of_a_run(tmp_path: Path, page: Any) -> None:
    """As `skipguide layers MODEL --map --out RUN/tune` leaves it."""
    folder = tuned.tuned(tmp_path / "run", "scan")
    (folder / "tune" / "race.json").unlink()
    with Served(folder) as served:
        page.goto(served.url)
        page.locator("figure.cell").first.wait_for()
        page.keyboard.press("u")
        sync_api.expect(page.locator(".cell-detail h3")).to_have_text(BEST[0].name)
        assert page.locator("#race, #tune-head").count() == 0


def test_before_the_first_clip_it_says_what_goes_on(tmp_path: Path, page: Any) -> None:
    with Served(tuned.tuned(tmp_path / "run", "plan")) as served:
        page.goto(served.url)
        sync_api.expect(page.locator("#tune-stages details li").first).to_contain_text(
            "strong pass"
        )
        sync_api.expect(page.locator("#scan-map")).to_contain_text("Nothing is scanned yet.")


def test_votes_are_asked_for_and_counted_while_they_come(tmp_path: Path, browse: Any) -> None:
    with Served(tuned.tuned(tmp_path / "run", "votes")) as served:
        page = browse()
        page.goto(served.url)
        sync_api.expect(page.locator("#tune-head .first")).to_contain_text("no votes yet")
        page.get_by_role("button", name="Ask raters").click()
        link = page.locator("#start-test").get_attribute("href")
        rater = browse()
        rater.goto(link)
        rater.fill("#rater", "Ann")
        rater.keyboard.press("Enter")
        until(rater, "document.querySelector('.answer')?.disabled === false")
        shown = rater.content()
        assert not any(name in shown for name in tuned.settings_of(served.folder))
        rater.keyboard.press("ArrowLeft")
        until(rater, "document.querySelector('.count').textContent.startsWith('1 of ')")
        page.goto(f"{served.url}/#view=tune")
        sync_api.expect(page.locator("#tune-head .first")).to_contain_text("After 1 vote")
        assert page.locator("table.race .best").first.inner_text().endswith("%")


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_nothing_is_wider_than_the_window(browse: Any, done: Served, width: int) -> None:
    page = browse(viewport={"width": width, "height": 844})
    page.goto(done.url)
    page.locator("#scan-first").wait_for()
    assert page.evaluate("document.getElementById('main').scrollWidth <= "
                         "document.getElementById('main').clientWidth")  # fmt: skip
    wide = page.locator("table.race").bounding_box()
    assert wide["width"] <= page.locator(".tune").bounding_box()["width"] + 1


def test_the_tables_of_report_html_are_whole_on_a_phone(browse: Any, done: Served) -> None:
    page = browse(viewport={"width": 390, "height": 844})
    page.goto(tuning_report.write_report(done.folder).as_uri())
    boxes = page.locator(".scrolled:has(> .told, > .race)")
    assert boxes.evaluate_all("all => all.map((box) => box.scrollWidth - box.clientWidth)") == [
        0, 0, 0,
    ]  # fmt: skip
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    told = page.locator(".told tr.chosen td").filter(has_text="+0.027")
    head = told.evaluate("cell => getComputedStyle(cell, '::before').content")
    assert "Difference to CFG alone" in head


def test_long_words_in_report_html_wrap_and_maps_scroll_in_their_box(
    tmp_path: Path, browse: Any
) -> None:
    """Names of metrics and layers that have no place to break, and a map of 48 layers."""
    folder = tuned.tuned(tmp_path / "run", "answer", depth=48)
    long = "single_transformer_blocks_of_the_model:4-residual-beside-cfg-4.5"
    for name in ("answer", "race"):
        path = folder / "tune" / f"{name}.json"
        path.write_text(path.read_text().replace("blocks:4 residual, cfg 4.5", long))
    answer = json.loads((folder / "tune" / "answer.json").read_text())
    answer["metric"] = "2x" + "skipguide.lab.prompt_metric:probability" * 2
    (folder / "tune" / "answer.json").write_text(json.dumps(answer))
    page = browse(viewport={"width": 390, "height": 844})
    page.goto(tuning_report.write_report(folder).as_uri())
    boxes = page.locator(".scrolled:has(> .told, > .race)")
    assert boxes.evaluate_all("all => all.map((box) => box.scrollWidth - box.clientWidth)") == [
        0, 0, 0,
    ]  # fmt: skip
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    heat = page.locator(".scrolled:has(> .heat)").first
    assert heat.evaluate("(box) => { box.scrollLeft = 99; return box.scrollLeft; }") == 99
    head = heat.locator("tbody th").first.bounding_box()
    assert head["x"] == heat.bounding_box()["x"]  # the name of the row stays


def test_a_report_has_it_too_without_a_server(done: Served, tmp_path: Path, page: Any) -> None:
    with Run.open(done.folder) as run:
        told = report.write_report(run, tmp_path / "report")
    page.goto(Path(told["page"]).as_uri())
    sync_api.expect(page.locator("#tune-line")).to_have_text(tuned.COMMAND)
    page.locator(f'button[data-cell="{BEST[1].name}"]').click()
    sync_api.expect(page.locator(".cell-detail h3")).to_have_text(BEST[1].name)
