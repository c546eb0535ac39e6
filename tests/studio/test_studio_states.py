"""Views in which something is missing, long prompts, the matrix of wins, and widths, in a real
Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from skipguide.runs import Plan, Run, Vote
from skipguide.runs.engine import JobFailed, JobStarted
from skipguide.runs.ledger import Ledger
from skipguide.runs.sweep import sweep
from skipguide.studio import report
from support.painted import PROMPTS, SETTINGS, Painter, painted
from support.served import BROWSER, READ, Served, sync_api, until

pytestmark = BROWSER

LONG = "a very long prompt about a red star, " * 40
SIX = [f"prompt {i}" for i in range(6)]
PLAN = {"model": "lab-mochi", "prompts": PROMPTS, "seeds": [0], "settings": SETTINGS}


class Failing(Painter):
    """An engine that makes nothing."""

    def run(self, jobs: Sequence[Any], on_step: Any) -> Iterator[Any]:
        for job in jobs:
            yield JobStarted(job)
            yield JobFailed(job, "the device is out of memory")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A run with metrics, and votes of three raters, of which setting 1 lost all but two ties."""
    folder = painted(tmp_path_factory.mktemp("runs") / "judged", prompts=[LONG, *SIX[1:]])
    with Run.open(folder, writable=True) as run:
        clips = [clip for clip in run.clips() if clip.seed == 0]
        by_place = {(clip.prompt, clip.setting): clip for clip in clips}
        run.record_metrics((clip.key, "imaging_quality", 0.1 * clip.setting) for clip in clips)
        for number, rater in enumerate(("Ann", "Bob", "Cid")):
            for prompt in range(1, 7):
                pair = sorted((by_place[prompt, 1], by_place[prompt, 2]), key=lambda c: c.key)
                better = "first" if pair[0].setting == 2 else "second"
                answer = "tie" if (prompt, number) in ((1, 0), (2, 1)) else better
                first, second = (clip.key for clip in pair)
                run.vote(Vote(rater, "pair", "preference", first, second, answer, "first", 5.0))
    with Served(folder) as served:
        yield served


# --- what is missing ------------------------------------------------------------------------------


def test_an_empty_run_says_so_in_each_view_and_fills_by_itself(page: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    Ledger(folder, "create").close()
    with Served(folder) as served:
        page.goto(f"{served.url}/")
        page.locator(".empty", has_text="There is nothing in this run yet.").wait_for()
        assert "skipguide sweep" in page.text_content(".empty")
        for key in "mpvtcl ":  # no key breaks anything
            page.keyboard.press(key)
        assert page.locator(".empty").count() == 1
        painted(folder, prompts=PROMPTS[:1], seeds=[0])
        page.locator("figure.cell").first.wait_for()
        until(page, READ, lambda frames: frames == [0] * 5)


def test_a_run_without_a_finished_video_says_what_makes_them(page: Any, tmp_path: Path) -> None:
    events = sweep(Plan.of(PLAN), tmp_path / "run", Painter())
    next(events)  # it is planned, and ended before its first video
    events.close()
    with Served(tmp_path / "run") as served:
        page.goto(f"{served.url}/")
        notice = page.locator(".empty", has_text="No video is finished yet: 0 of 10.")
        notice.wait_for()
        assert "No sweep is running. Start it again" in notice.text_content()
        notes = page.locator(".note:visible").all_text_contents()
        assert notes == ["Not made yet."] * 5
        for key, words in (
            ("m", "Nothing is measured yet."),
            ("p", "Nothing is measured yet."),
            ("v", "There is no finished video to judge."),
        ):
            page.keyboard.press(key)
            page.locator(".empty", has_text=words).wait_for()


def test_a_run_whose_videos_all_failed_tells_the_reason(page: Any, tmp_path: Path) -> None:
    for _ in sweep(Plan.of(PLAN), tmp_path / "run", Failing()):
        pass
    with Served(tmp_path / "run") as served:
        page.goto(f"{served.url}/")
        page.locator(".empty", has_text="All 10 videos failed.").wait_for()
        assert "--retry-failed" in page.text_content(".empty")
        assert "the device is out of memory" in page.locator(".note:visible").first.text_content()


def test_without_metrics_the_map_tells_how_to_get_them(page: Any, own: Served) -> None:
    page.goto(f"{own.url}/#view=map")
    page.locator(".empty", has_text="Quality is not measured yet.").wait_for()
    assert page.input_value("#map-measure") == ""
    cells = page.locator(".heat [role=button]")
    assert cells.all_text_contents() == ["·"] * 4
    page.select_option("#map-measure", "passes_per_step")
    sync_api.expect(cells).to_have_text(["2.5"] * 4)
    page.keyboard.press("p")
    page.locator(".empty", has_text="this is what videos cost").wait_for()
    with Run.open(own.folder, writable=True) as run:
        for clip in run.clips():
            run.record_metric(clip.key, "imaging_quality", 0.125 * clip.setting)
        clip = run.clips()[0]
        run.vote(Vote("Ann", "rating", "motion quality", clip.key, None, "4"))  # what polls see
    page.evaluate("location.hash = 'view=map'")
    sync_api.expect(page.locator("#map-measure")).to_have_value("imaging_quality")
    sync_api.expect(cells.first).to_have_text("0.25")


def test_a_video_that_cannot_be_played_says_so_and_is_tried_again(
    chromium: Any, own: Served
) -> None:
    page = chromium.new_page()  # not one that must not complain
    page.route("**/clips/*.mp4", lambda route: route.fulfill(body=b"no video"))
    page.goto(f"{own.url}/#settings=1")
    note = page.locator(".note", has_text="The video cannot be played.")
    note.wait_for()
    page.unroute("**/clips/*.mp4")
    note.locator("button", has_text="Try again").click()
    until(page, READ, lambda frames: frames == [0])
    assert note.is_hidden()
    page.close()


def test_no_frame_of_another_prompt_stands_where_a_server_is_away(
    chromium: Any, own: Served
) -> None:
    page = chromium.new_page()
    page.goto(f"{own.url}/#settings=1&prompts=1&seeds=0")
    until(page, READ, lambda frames: frames == [0])
    page.route(re.compile("/(api|clips)/"), lambda route: route.abort())
    page.keyboard.press("ArrowDown")
    page.locator(".note", has_text="The studio does not answer.").wait_for()
    assert page.locator(".note", has_text="cannot be played").count() == 0
    assert page.locator(".cell video:not(.coming)").count() == 0
    page.close()


def test_a_server_that_is_away_is_told_and_waited_for(chromium: Any, own: Served) -> None:
    page = chromium.new_page()
    page.goto(f"{own.url}/#settings=1")
    until(page, READ, lambda frames: frames == [0])
    page.route("**/api/*", lambda route: route.abort())
    page.locator("#away", has_text="The studio does not answer.").wait_for()
    page.unroute("**/api/*")
    page.locator("#away button", has_text="Try now").click()
    page.locator("#away").wait_for(state="hidden")
    page.close()


def test_without_scripts_the_page_says_what_it_needs(chromium: Any, own: Served) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{own.url}/")
    assert page.locator("noscript p").is_visible()
    assert "JavaScript" in page.locator("noscript").text_content()
    context.close()


# --- long prompts ---------------------------------------------------------------------------------


def test_a_long_prompt_shows_three_lines_until_it_is_asked_for(page: Any, judged: Served) -> None:
    page.goto(f"{judged.url}/#settings=1,2&prompts=1")
    item = page.locator(".prompts li").first
    more = item.locator(".rest")
    more.wait_for()
    assert item.bounding_box()["height"] < 110
    assert page.locator(".prompts li").nth(1).locator(".rest").is_hidden()
    more.click()
    assert item.bounding_box()["height"] > 500
    assert more.get_attribute("aria-expanded") == "true"
    page.keyboard.press("2")  # drawn anew
    assert item.bounding_box()["height"] > 500
    item.locator(".rest").click()
    assert item.bounding_box()["height"] < 110
    heading = page.locator("main h1")
    assert heading.bounding_box()["height"] < 90
    page.locator("main .rest").click()
    assert heading.bounding_box()["height"] > 90
    assert heading.text_content().startswith(LONG[:200])


# --- what the votes say ---------------------------------------------------------------------------


def test_the_matrix_has_the_share_of_wins_with_interval_and_number(
    page: Any, judged: Served
) -> None:
    page.goto(f"{judged.url}/#view=votes")
    lost = page.locator("[data-pair='1/2']")
    won = page.locator("[data-pair='2/1']")
    # 18 comparisons of which two were ties: 1 of 18 and 17 of 18
    assert lost.locator(".share").text_content() == "6\u00a0%"
    assert won.locator(".share").text_content() == "94\u00a0%"
    assert won.locator("small").last.text_content() == "of 18"
    assert "16 wins, 2 ties, 0 losses" in won.get_attribute("aria-label")
    low, high = map(int, won.locator("small").first.text_content().split(" to "))
    # The exact interval of 17 of 18 independent votes is 73 to 100, that of 6 of 6 is 54 to 100:
    # the votes on six prompts lie between them.
    assert 54 <= low <= 73
    assert 99 <= high <= 100
    assert "clear" in won.get_attribute("class")
    won.focus()
    page.keyboard.press("Enter")
    assert [b.text_content() for b in page.locator("figure.cell .title b").all()] == [
        "stg layers=4 scale=0.5",
        "cfg",
    ]


def test_each_measure_of_agreement_is_explained(page: Any, judged: Served) -> None:
    page.goto(f"{judged.url}/#view=votes")
    page.locator("#kappas li").first.wait_for()
    said = page.text_content(".agreement")
    for words in (
        "1 is full agreement, 0 is what guessing gives",
        "From 0.8 on",
        "to 0.6 moderate",
    ):
        assert words in said
    told = page.locator("#kappas li").all_text_contents()
    assert [line.partition(" 0")[0].partition(" -")[0] for line in told] == [
        "Ann and Bob", "Ann and Cid", "Bob and Cid",
    ]  # fmt: skip
    assert all("on 6 comparisons" in line for line in told)


def test_a_report_has_the_matrix_and_fits_a_phone(
    chromium: Any, judged: Served, tmp_path: Path
) -> None:
    with Run.open(judged.folder) as run:
        report.write_report(run, tmp_path / "report")
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto(f"{(tmp_path / 'report' / 'index.html').as_uri()}#view=votes")
    cell = page.locator("[data-pair='2/1']")
    cell.wait_for()
    box = cell.bounding_box()
    assert box["x"] + box["width"] <= 390
    assert box["height"] >= 44
    assert page.evaluate("document.getElementById('main').scrollWidth") <= 390
    context.close()


# --- the width of the window ----------------------------------------------------------------------


def test_the_map_opens_on_the_first_metric(page: Any, judged: Served) -> None:
    page.goto(f"{judged.url}/#view=map")
    sync_api.expect(page.locator("#map-measure")).to_have_value("imaging_quality")
    page.goto(f"{judged.url}/#view=plot")
    sync_api.expect(page.locator("#axis-y")).to_have_value("imaging_quality")


@pytest.mark.parametrize("width", [390, 1024, 1440, 1920, 2560])
def test_each_view_uses_the_width_and_stays_in_it(
    chromium: Any, judged: Served, width: int
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(f"{judged.url}/#view=clips&settings=1,2,3&prompts=1,2,3,4,5,6&seeds=0,1")
    page.locator("section.row").first.wait_for()
    ends = (
        "[...document.querySelectorAll('figure.cell')].map((c) => c.getBoundingClientRect().right)"
    )
    assert 0.93 * width <= max(page.evaluate(ends)) <= width
    if width == 390:  # of one row too: two videos beside each other
        page.goto(f"{judged.url}/#view=clips&settings=1,2,3&prompts=2&seeds=0")
        page.locator("main h1").wait_for()
        boxes = [figure.bounding_box() for figure in page.locator("figure.cell").all()]
        assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"]
        assert boxes[1]["x"] + boxes[1]["width"] > 0.93 * width
    if width >= 1920:  # several rows stand beside each other
        tops = page.evaluate("[...document.querySelectorAll('.row')].map((row) => row.style.top)")
        assert tops.count("0px") >= 2
    for view in ("clips", "map", "plot", "votes", "try"):
        page.evaluate(f"location.hash = location.hash.replace(/view=\\w+/, 'view={view}')")
        page.wait_for_timeout(150)
        wide = page.evaluate(
            "['main', 'side'].map((id) => document.getElementById(id))"
            ".map((e) => e.scrollWidth - e.clientWidth)"
        )
        assert max(wide) <= 0, (view, wide)
    context.close()
