"""A study in a real Chromium, over TLS: consent, tasks and checks to the end, a code, removal, and
what the studio shows of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from skipguide.runs import Run
from skipguide.runs.study import CheckAnswer
from skipguide.studio import blind_test
from support.painted import painted
from support.served import BROWSER, READ, Browsers, until
from support.shared import Shared

pytestmark = BROWSER

PROGRESS = "document.querySelector('.progress-line .count')?.textContent"
OPEN = "document.getElementById('left')?.disabled === false"
PHONE = {"width": 390, "height": 844}
NARROW = "document.documentElement.scrollWidth"


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    with Shared(painted(tmp_path / "run")) as made:
        yield made


@pytest.fixture
def browse(chromium: Any, shared: Shared) -> Iterator[Browsers]:
    """Open pages of phones that do not know each other, and take a certificate that nobody has
    signed. They are closed before the server."""
    assert shared.link
    phone = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
    browsers = Browsers(chromium, **phone, ignore_https_errors=True)
    yield browsers
    browsers.close()


def begin(page: Any, link: str, name: str) -> None:
    page.goto(link)
    page.locator("#agree").click()
    page.fill("#rater", name)
    page.keyboard.press("Enter")
    page.locator(".stage-of-two").wait_for()


def test_a_study_from_consent_to_the_end(browse: Callable[..., Any], shared: Shared) -> None:
    page = browse()
    page.goto(shared.link)
    page.locator("#consent").wait_for()
    assert "token" not in page.url
    assert page.text_content("#consent h1") == "Consent"
    assert page.text_content("#consent b") == "short"
    assert page.locator("#consent li").nth(1).text_content() == "<b>Nothing</b> is sold."
    assert page.evaluate(NARROW) <= PHONE["width"]
    page.locator("#refuse").click()
    assert "Nothing is kept" in page.text_content("#refused")
    assert page.locator("#rater").count() == 0
    with Run.open(shared.folder) as run:
        assert run.rater_keys() == {}
    begin(page, shared.link, "Ann")
    assert list((shared.folder / "checks").glob("*.mp4"))  # there is a damaged copy among them
    for done in range(5):
        until(page, PROGRESS, lambda now, done=done: now == f"{done} of 5")
        until(page, OPEN)
        page.locator(f"#{side_of(page)}").click()
    page.locator("#finished").wait_for()
    assert "5 of 5 answered." in page.text_content("#finished")
    assert "You can close this page." in page.text_content("#finished")
    code = page.text_content("#finished .code b")
    with Run.open(shared.folder) as run:
        votes = run.votes()
        assert [(vote.rater, vote.study) for vote in votes] == [("Ann", 1)] * 3
        assert {vote.consent for vote in votes} == {run.study.consents()["Ann"]}
        assert run.study.passed_checks() == {"Ann": (2, 2)}
    other = browse()
    other.goto(shared.link)
    other.locator("#agree").click()
    other.fill("#rater", "ann")
    other.keyboard.press("Enter")
    other.fill("#code", "AAAA-AAAA")
    other.locator("#same").click()
    other.locator("#message", has_text="gone on with only by its code").wait_for()
    other.fill("#code", code)
    other.locator("#same").click()
    other.locator("#finished").wait_for()
    other.locator("#ask-removal").click()
    other.locator("#confirmed").click()
    other.locator("#message", has_text="It is asked for.").wait_for()
    with Run.open(shared.folder) as run:
        assert list(run.study.removal_wishes()) == ["Ann"]


# How far the pixels of each video are apart, left and right: a painted frame is of one grey, a
# damaged one is noise.
SPREAD = """() => [...document.querySelectorAll("main video:not(.coming)")].map((video) => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 32, height: 32});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(video, 16, 32, 32, 32, 0, 0, 32, 32);
  const grey = [...context.getImageData(0, 0, 32, 32).data].filter((_, i) => i % 4 === 0);
  const mean = grey.reduce((a, b) => a + b) / grey.length;
  return Math.sqrt(grey.reduce((sum, value) => sum + (value - mean) ** 2, 0) / grey.length);
})"""
# The mark of a painted video is as wide as its scale: nothing of cfg.
MARKS = """() => [...document.querySelectorAll("main video:not(.coming)")].map((video) => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 64, height: 16});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(video, 0, 0, 64, 16, 0, 0, 64, 16);
  const {data} = context.getImageData(0, 0, 64, 16);
  return data[4 * (8 * 64 + 3)] > 245 ? 1 : 0;
})"""


def side_of(page: Any) -> str:
    """Return the answer of somebody who looks: the noisy one loses, of equal ones none wins."""
    left, right = page.evaluate(SPREAD)
    if max(left, right) > 20:
        return "right" if left > right else "left"
    marks = page.evaluate(MARKS)
    return "tie" if marks[0] == marks[1] else "left"


def test_too_many_requests_are_told_and_waited_for(
    browse: Callable[..., Any], shared: Shared
) -> None:
    page = browse()
    begin(page, shared.link, "Ann")
    until(page, OPEN)
    held: list[str] = []

    def refuse(route: Any) -> None:
        if held:
            route.continue_()
            return
        held.append(route.request.url)
        words = '{"error": "too many requests came under this name. Wait 2 s, then go on."}'
        headers = {"Retry-After": "2", "Content-Type": "application/json"}
        route.fulfill(status=429, body=words, headers=headers)

    page.route("**/api/study/answer", refuse)
    page.locator("#tie").click()
    page.locator("#away", has_text="Too many requests came under this name. Wait 2 s").wait_for()
    until(page, PROGRESS, lambda now: now == "1 of 5")
    assert page.locator("#away").is_hidden()


def test_the_studio_shows_the_study_and_its_raters(
    browse: Callable[..., Any], shared: Shared
) -> None:
    page = browse(viewport={"width": 1280, "height": 900}, is_mobile=False, has_touch=False)
    page.goto(f"{shared.studio.url}/#view=votes")
    assert page.locator("#test-link").input_value() == shared.link
    assert "Each rater judges 3 pairs and 2 attention checks" in page.text_content(".panel")
    assert page.text_content("#fingerprint") == shared.own.fingerprint
    page.locator("#qr summary").click()
    until(page, "document.querySelector('.qr').naturalWidth > 100")
    png = page.request.get(f"{shared.studio.url}/qr.png", params={"text": shared.link})
    with Image.open(io.BytesIO(png.body())) as picture:
        assert picture.width == picture.height > 300
    with Run.open(shared.folder, writable=True) as run:
        for rater in ("Ann", "Bob"):
            for task in blind_test.tasks(run.clips(), "pair", [1, 2], rater)[:3]:
                for vote in blind_test.build_votes(task, rater, {"preference": "left"}, 2.0):
                    run.vote(vote)
        for name, said in (("a", "first"), ("b", "second")):
            run.study.record_check(CheckAnswer(1, "Bob", name, "same", "k", said, False))
        run.study.wish_removal("Ann")
    out = page.locator("#left-out")
    out.wait_for()
    assert "Left out above: Bob. Who answers at least 2 attention checks" in out.text_content()
    rows = page.locator("#left-out tbody tr")
    assert rows.count() == 2  # wins of two settings, without and with Bob
    assert page.locator("#raters h3").text_content() == "Left out, for their attention checks"
    assert "0 of 2" in page.locator("[data-rater=Bob]").text_content()
    assert "asks to be removed" in page.locator("[data-rater=Ann]").text_content()
    page.get_by_label("Remove Ann").click()
    page.locator("#confirmed").click()
    page.locator("#removed button", has_text="Bring back Ann (3 votes)").click()
    page.locator("[data-rater=Ann]").wait_for()
    assert page.locator("#removed").count() == 0
    with Run.open(shared.folder) as run:
        assert sorted(vote.rater for vote in run.votes()) == ["Ann"] * 3 + ["Bob"] * 3


def test_frames_of_a_check_are_played_as_any_other(
    browse: Callable[..., Any], shared: Shared
) -> None:
    page = browse()
    begin(page, shared.link, "Cem")
    until(page, READ, lambda frames: len(frames) == 2)
    assert page.evaluate("[...document.querySelectorAll('video')].every((one) => !one.error)")
