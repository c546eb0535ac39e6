"""Tags and notes in a real Chromium: written, chosen by, kept in a report; and a report in one
file. `make test-studio` runs these."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from skipguide.runs import Run, Vote, annotations
from skipguide.runs.annotations import Annotation
from skipguide.studio import report, report_zip
from support.painted import painted
from support.served import BROWSER, READ, Served, until

pytestmark = BROWSER

CELLS = "[...document.querySelectorAll('section.row')].map((row) => row.getAttribute('aria-label'))"
MARKS = "[...document.querySelectorAll('figure.cell .mark')].map((mark) => mark.textContent)"


def first_key(folder: Path) -> str:
    with Run.open(folder) as run:
        return run.clips()[0].key


def written(folder: Path, key: str) -> Annotation:
    with Run.open(folder) as run:
        return annotations.read(run).of(key)


def test_a_clip_is_tagged_and_the_grid_shows_what_has_the_tag(page: Any, own: Served) -> None:
    page.goto(f"{own.url}/#settings=1,3&prompts=1&seeds=0")
    until(page, READ, lambda found: found == [0, 0])
    page.locator("figure.cell .mark").first.click()
    page.fill("#new-tag", "good")
    page.keyboard.press("Enter")
    page.fill("#note", "the star\nflickers")
    page.keyboard.press("p")  # a letter of the note, and not the plot
    page.click("#save")
    page.locator("figure.cell .mark", has_text="good").wait_for()
    assert page.locator("figure.cell .written").text_content() == "the star\nflickersp"
    key = first_key(own.folder)
    assert written(own.folder, key) == Annotation(("good",), "the star\nflickersp")
    assert "p" not in page.locator("#views [aria-pressed=true]").text_content()[:1].lower()
    page.click("#tags [data-tag=good]")
    until(page, CELLS, lambda found: len(found) == 1 and found[0].startswith("a red star, seed 0"))
    assert page.locator("figure.cell").count() == 1
    assert "tag=good" in page.evaluate("location.hash")
    page.click("#tags [data-tag=good]")
    until(page, READ, lambda found: found == [0, 0])
    page.locator("figure.cell .mark", has_text="good").click()
    page.locator("dialog button", has_text="good").click()
    page.fill("#note", "")
    page.click("#save")
    until(page, MARKS, lambda found: found == ["+ tag", "+ tag"])
    assert written(own.folder, key) == Annotation()


def test_a_run_is_tagged_and_a_refused_tag_is_told(page: Any, own: Served) -> None:
    page.goto(own.url)
    page.click("#write-run")
    page.fill("#new-tag", "a, b")
    page.click("#save")
    page.locator("dialog .problem", has_text="no comma").wait_for()
    page.locator("dialog button", has_text="a, b").click()
    page.fill("#new-tag", "paper")
    page.fill("#note", "for table 2")
    page.click("#save")
    page.locator("#tags .run-tags", has_text="paper").wait_for()
    assert page.text_content("#tags .written") == "for table 2"
    page.reload()
    page.locator("#tags .run-tags", has_text="paper").wait_for()


def test_rows_of_a_tag_stand_among_many(page: Any, tmp_path: Path) -> None:
    folder = painted(tmp_path / "run", prompts=[f"prompt {i}" for i in range(8)], seeds=[0, 1])
    with Run.open(folder, writable=True) as run:
        chosen = [c.key for c in run.clips() if (c.prompt, c.seed) in ((3, 1), (6, 0))]
        annotations.change(run, [chosen[0], chosen[-1]], ["odd"])
    with Served(folder) as served:
        page.goto(f"{served.url}/#tag=odd&prompts=1,2,3,4,5,6,7,8&seeds=0,1&settings=1,5")
        until(page, CELLS, lambda found: len(found) == 2)
        assert [label[:8] for label in page.evaluate(CELLS)] == ["prompt 2", "prompt 5"]
        assert page.locator("figure.cell.untagged").count() == 2
        page.locator(".prompts button").first.click()  # has no such clip: all of it is shown
        until(page, CELLS, lambda found: len(found) == 2 and found[0].startswith("prompt 0"))


def test_a_report_has_them_to_read(page: Any, tmp_path: Path) -> None:
    folder = painted(tmp_path / "run", prompts=["a"], seeds=[0])
    with Run.open(folder, writable=True) as run:
        annotations.change(run, [run.clips()[0].key], ["good"], note="it is")
        report.write_report(run, tmp_path / "report")
    page.goto(f"file://{tmp_path}/report/index.html#settings=1,2")
    page.locator("figure.cell .mark", has_text="good").click()
    assert page.input_value("#note") == "it is"
    assert page.locator("dialog #save").count() == 0
    assert page.locator("figure.cell .mark").count() == 1
    page.locator("dialog.annotation button", has_text="Close").click()
    page.locator("dialog.annotation").wait_for(state="detached")


def test_a_report_in_one_file_plays_once_it_is_unpacked(page: Any, tmp_path: Path) -> None:
    folder = painted(tmp_path / "my run", prompts=["a"], seeds=[0])
    with Run.open(folder, writable=True) as run:
        first, second = sorted(clip.key for clip in run.clips()[:2])
        run.vote(Vote("Ann", "pair", "preference", first, second, "first", "first", 3.0))
        report_zip.write_zip(run, tmp_path / "sent.zip")
    zipfile.ZipFile(tmp_path / "sent.zip").extractall(tmp_path / "got")
    page.goto(f"file://{tmp_path}/got/my run/index.html#settings=1,2,3")
    frames = "[...document.querySelectorAll('figure.cell')].map((cell) => cell.dataset.frame)"
    until(page, frames, lambda found: found == ["0"] * 3)
    page.keyboard.press("ArrowRight")
    until(page, frames, lambda found: found == ["1"] * 3)
    page.keyboard.press("v")
    page.locator("main", has_text=re.compile("rater [0-9a-f]{8}")).first.wait_for()
    assert "Ann" not in page.content()
