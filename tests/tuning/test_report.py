"""report.html: it needs nothing else, the answer comes first, and the pictures are the videos'."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skipguide.runs import Run
from skipguide.tuning.report import race as report_race
from skipguide.tuning.report import report
from support import tuned
from support.painted import FRAMES, SIZE, grey

_VOID = {"meta", "img", "br"}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuning with its answer; nobody changes it."""
    return tuned.tuned(tmp_path_factory.mktemp("report") / "run", "answer")


@pytest.fixture
def run(sampled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sampled, tmp_path / "run"))


class Reader(HTMLParser):
    """Reads a page: its text, its tags, and that each is closed where it must be."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]


def read(folder: Path) -> Reader:
    return Reader(report.write_report(folder).read_text(encoding="utf-8"))


def test_it_is_one_file_that_asks_for_nothing(run: Path) -> None:
    path = report.write_report(run)
    assert path == run / "report.html"
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|https?://|url\(|@import", text)
    addresses = [a.get("src") or a.get("href") for _, a in Reader(text).found]
    assert all(one.startswith(("data:image/jpeg;base64,", "#")) for one in addresses if one)
    assert len(text) < 1_000_000
    assert path.read_bytes() == report.write_report(run).read_bytes()  # the same of the same run


def test_the_answer_comes_first_with_the_line_and_the_preset(run: Path) -> None:
    text = read(run).text
    answer = tuned.answer()
    places = [text.index(part) for part in (*answer["sentences"], tuned.COMMAND, "# made up")]
    assert places == sorted(places)
    assert places[0] < text.index("Side by side")
    assert "Use it" in text[: places[0]]


def test_strips_are_the_frames_of_both_on_the_first_prompts_kept_back(run: Path) -> None:
    page = read(run)
    pictures = page.all("img")
    assert [one["alt"] for one in pictures] == [
        f"{name}: {tuned.PROMPTS[prompt - 1]}"
        for prompt in tuned.HELD_BACK[:3]
        for name in ("cfg 4.5", "blocks:4 residual, cfg 4.5, scale 1")
    ]
    for place, one in enumerate(pictures):
        content = base64.b64decode(one["src"].partition(",")[2])
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"), float)
        size = pixels.shape[0]
        shown = pixels[size // 2, size // 2 :: size]  # the middle of each frame
        expected = [grey(round(i * (FRAMES - 1) / 4)) for i in range(5)]
        np.testing.assert_allclose(shown, expected, atol=8)  # twice encoded
        mark = pixels[size // 8, size // 8] > 200  # where STG has a scale
        assert mark == (place % 2 == 1)
        assert size == 96 > SIZE  # small videos are enlarged


def test_the_plot_has_each_setting_where_its_numbers_are(run: Path) -> None:
    circles = [(float(c["cx"]), float(c["cy"])) for c in read(run).all("circle")]
    raced = [{**one, "gain": one["difference"] or 0} for one in tuned.answer()["raced"]]
    raced.sort(key=lambda one: (one["passes"], -one["gain"]))
    assert len(circles) == len(raced)
    values = np.array([one["gain"] for one in raced])
    slope, start = np.polyfit(values, [y for _, y in circles], 1)
    np.testing.assert_allclose([y for _, y in circles], slope * values + start, atol=0.2)
    assert slope < 0  # up is better
    passes = np.array([one["passes"] for one in raced])
    across = np.corrcoef(passes, [x for x, _ in circles])[0, 1]
    assert across > 0.98
    # Those of one price stand beside each other around their place; one alone is at its own.
    at = {price: [x for (x, _), p in zip(circles, passes, strict=True) if p == price]
          for price in (16, 18, 20)}  # fmt: skip
    assert len(at[18]) == 1
    assert len(set(at[16])) == len(at[16]) == 2
    np.testing.assert_allclose(np.mean(at[16]) + np.mean(at[20][:3]), 2 * at[18][0], atol=0.2)


def test_the_race_and_the_map_are_told_with_their_intervals(run: Path) -> None:
    text = read(run).text
    assert "+0.027 (+0.014 to +0.04)" in text
    assert (
        "out in round 2 blocks:8 residual, cfg 4.5 went: its difference to the leader is -0.012"
        in text
    )
    assert "A ranking, not a verdict." in text
    first = tuned.layer_map().shortlist()[0].name
    assert f"{first} shortlist 1 (1 to 4)" in text
    for name, why in tuned.layer_map().passed_over().items():
        assert f"{name} {why} " in text
    assert "one alone of those that push the same way" in text
    assert "confidence sequences of paired differences" in text
    assert "8 prompts could choose, and 4 chose nothing" in text
    assert "halving" not in text
    assert "; the scan's weak passes, 88, are not in it" in text  # a run of before


def test_words_of_prompts_and_names_are_no_html(tmp_path: Path) -> None:
    folder = tuned.tuned(tmp_path / "run <b>", "answer")
    race = tuned.race("answer")
    race["plan"] = ["<img src=x onerror=alert(1)> & more"]
    (folder / "tune" / "race.json").write_text(json.dumps(race), encoding="utf-8")
    page = read(folder)
    assert "<img src=x onerror=alert(1)> & more" in page.text
    assert all("onerror" not in attributes for attributes in page.all("img"))
    assert "skipguide tune: run <b>" in page.text


@pytest.mark.parametrize("stage", ["plan", "scan", "votes"])
def test_before_there_is_an_answer_it_says_what_to_do(run: Path, stage: tuned.Stage) -> None:
    shutil.rmtree(run / "tune")
    tuned.write(run, stage)
    text = read(run).text
    waits = "12 votes are there. Judge pairs in the studio with skipguide studio"
    goes_on = "There is no answer yet. The same command, started again, goes on"
    assert (waits if stage == "votes" else goes_on) in text
    assert ("Map of the layers" in text) == (stage != "plan")
    assert "Quality against cost" not in text


def test_where_cfg_alone_is_best_the_best_of_the_others_is_shown_beside_it(run: Path) -> None:
    answer = {**tuned.answer(), "verdict": "use CFG alone", "use": "cfg 4.5", "winner": "cfg 4.5"}
    (run / "tune" / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    pictures = read(run).all("img")
    assert {one["alt"].partition(": a ")[0] for one in pictures} == {
        "cfg 4.5", "blocks:4 residual, cfg 4.5, scale 1",
    }  # fmt: skip


def test_the_best_of_the_others_may_have_a_value_of_nothing(run: Path) -> None:
    race = tuned.race("answer")
    for row in race["candidates"]:
        row["value"] = (row["difference"] or 0.0) - 0.027
    (run / "tune" / "race.json").write_text(json.dumps(race), encoding="utf-8")
    answer = {**tuned.answer(), "verdict": "use CFG alone", "use": "cfg 4.5", "winner": "cfg 4.5"}
    (run / "tune" / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    shown = {one["alt"].partition(": a ")[0] for one in read(run).all("img")}
    assert shown == {"cfg 4.5", "blocks:4 residual, cfg 4.5, scale 1"}


def test_a_video_that_is_gone_is_told_and_the_rest_is_there(run: Path) -> None:
    with Run.open(run) as opened:
        clips = opened.clips("done")
    gone = next(c for c in clips if (c.setting, c.prompt) == (1, tuned.HELD_BACK[0]))
    assert gone.video is not None
    gone.video.write_bytes(b"nothing")
    page = read(run)
    assert "The video cannot be read:" in page.text
    assert len(page.all("img")) == 5


def test_a_run_without_a_tuning_is_refused(painted_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`skipguide tune` has written, but .* has no tune/"):
        report.write_report(painted_run)
    with pytest.raises(ValueError, match="run"):
        report.write_report(tmp_path)


def test_cfg_alone_is_named_as_what_it_is(run: Path) -> None:
    text = read(run).text
    assert "cfg 4.5, 10 steps CFG alone with 10 steps, the price of STG" in text  # the race
    assert "cfg 4.5, 10 steps CFG alone with 10 steps 20" in text  # quality against cost
    assert "cfg 2.25 CFG alone at scale 2.25" in text


@pytest.mark.parametrize("row", [
    {"out_kind": "set aside", "out_reason": "It is behind."},
    {"out_reason": "cfg 2.25 was set aside after 4 prompts, so that."},  # of a run of before
])  # fmt: skip
def test_halving_is_named_where_somebody_was_set_aside(run: Path, row: dict[str, str]) -> None:
    race = tuned.race("answer")
    del race["candidates"][1]["out_kind"]
    race["candidates"][1] |= row
    (run / "tune" / "race.json").write_text(json.dumps(race), encoding="utf-8")
    text = read(run).text
    assert "it was shared by halving: after each of several equal parts" in text
    assert "cfg 2.25 was set aside so, on few prompts, which does not show that" in text


def test_what_was_not_searched_is_said_with_how_it_was_measured(run: Path) -> None:
    race = {**tuned.race("answer"), "not_searched": ["The scale of STG was not searched: so."]}
    (run / "tune" / "race.json").write_text(json.dumps(race), encoding="utf-8")
    text = read(run).text
    assert text.rindex("How it was measured") < text.index("was not searched: so.")
    assert text.index("was not searched: so.") < text.rindex("Provenance")


def test_tables_wrap_or_scroll_on_a_phone(run: Path) -> None:
    """The rules of the page; tests/studio/test_tune_browser.py sees that they do it."""
    page = report.write_report(run).read_text(encoding="utf-8")
    narrow = page.partition("@media (max-width: 640px)")[2].partition("@media print")[0]
    for kind in ("told", "race"):
        assert re.search(rf"\.{kind} td\b[^}}]*overflow-wrap: anywhere", narrow)
        assert re.search(rf"\.{kind} \.number\b[^}}]*white-space: normal", narrow)
    assert page.count("<table") == page.count('<div class="scrolled"><table')
    assert re.search(r"\.scrolled {[^}]*overflow-x: auto", page)


def test_the_chart_reaches_to_values_without_intervals() -> None:
    rows = [{"difference": 0.056, "low": None, "high": None}, {"difference": -0.01}]
    least, most = report_race._reach(rows)
    assert least <= -0.01
    assert most >= 0.056
