"""The blind test in a real Chromium: what opens answers, a server that goes away, phones, raters.

Which frame a video shows is read from its pixels (painted.py), not from what the page says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipguide.runs import Run
from skipguide.studio import blind_test
from skipguide.studio.access import Policy
from support.painted import FRAMES, painted
from support.served import BROWSER, READ, Served, Verb, free_port, until

pytestmark = BROWSER

PROGRESS = "document.querySelector('.progress-line .count')?.textContent"
OPEN = "document.getElementById('left')?.disabled === false"
CLOSED = "document.getElementById('left')?.disabled === true"
PHONE = {"width": 390, "height": 844}
ON_ITS_SIDE = {"width": 844, "height": 390}


def voting(page: Any, url: str, name: str = "Ann", said: str = "kind=pair&settings=1,3") -> None:
    """Begin the blind test under a name."""
    page.goto(f"{url}/vote#{said}")
    page.fill("#rater", name)
    page.keyboard.press("Enter")
    page.locator(".stage-of-two").wait_for()


def answers_in(folder: Path) -> list[tuple[str, str]]:
    with Run.open(folder) as run:
        return [(vote.rater, vote.answer) for vote in run.votes()]


def answer(page: Any, key: str = "ArrowLeft") -> None:
    """Give an answer as soon as there can be one, and wait for the next task."""
    until(page, OPEN)
    done = page.evaluate(PROGRESS)
    page.keyboard.press(key)
    until(page, PROGRESS, lambda now: now != done)


# --- going through a test -------------------------------------------------------------------------


def test_a_rater_votes_by_keys_and_goes_on_later(page: Any, own: Served) -> None:
    page.goto(f"{own.url}/vote#kind=pair&settings=1,3")
    page.fill("#rater", "Ann")
    page.keyboard.press("Enter")
    shown = []
    for key in ("ArrowLeft", "ArrowDown"):
        page.locator("#left").wait_for()
        until(page, OPEN)  # both have played
        shown.append(page.text_content("main"))
        done = page.evaluate(PROGRESS)
        page.keyboard.press(key)
        until(page, PROGRESS, lambda now, done=done: now != done)
    page.goto("about:blank")
    page.goto(f"{own.url}/vote#kind=pair&settings=1,3")  # in the same tab no name is asked for
    page.locator("#right").wait_for()
    assert page.text_content(".progress-line .count") == "2 of 4"
    page.locator("#right").click()  # waits until it can be pressed
    until(page, PROGRESS, lambda now: now == "3 of 4")
    page.keyboard.press("Backspace")
    until(page, PROGRESS, lambda now: now == "2 of 4")
    until(page, OPEN)  # at once: this pair was seen
    page.locator("#tie").focus()
    page.keyboard.press("Enter")  # presses what has the focus
    until(page, PROGRESS, lambda now: now == "3 of 4")
    page.locator("#left").click()
    page.locator("#finished").wait_for()
    assert not [text for text in shown if "cfg" in text or "stg" in text]
    with Run.open(own.folder) as run:
        votes = run.votes()
    assert [(vote.rater, vote.answer == "tie") for vote in votes] == [
        ("Ann", tie) for tie in (False, True, True, False)
    ]
    assert votes[0].answer == votes[0].left


def test_the_link_for_raters_opens_the_test_and_nothing_else(
    page: Any, chromium: Any, tmp_path: Path
) -> None:
    """It is a text that can be copied, and brings its own key, also from a mail."""
    with Served(painted(tmp_path / "run"), Policy(token="secret")) as served:
        page.goto(f"{served.url}/?token=secret")
        page.goto(f"{served.url}/#settings=1,3&view=votes")
        link = page.locator("#test-link").input_value()
        assert "secret" not in link
        assert page.locator("#start-test").get_attribute("href") == link
        page.select_option("#kind", "rating")
        assert "kind=rating" in page.locator("#test-link").input_value()
        context = chromium.new_context()
        rater = context.new_page()
        rater.set_content(f'<a href="{link.replace("&", "&amp;")}">the test</a>')
        rater.get_by_text("the test").click()
        rater.fill("#rater", "Ann")
        rater.keyboard.press("Enter")
        rater.locator("#left").wait_for()
        assert "token" not in rater.url
        assert rater.evaluate("document.activeElement.tagName") == "H1"
        assert rater.request.get(f"{served.url}/api/run").status == 401
        context.close()


def test_five_questions_by_keys(page: Any, own: Served) -> None:
    page.goto(f"{own.url}/vote#kind=rating&settings=1")
    page.fill("#rater", "Bob")
    page.keyboard.press("Enter")
    page.locator("fieldset").first.wait_for()
    assert page.locator("fieldset").count() == 5
    assert page.locator("#go-on").is_disabled()
    until(page, "document.querySelector('fieldset button').disabled === false")
    for key in "12345":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    until(page, PROGRESS, lambda now: now == "1 of 4")
    with Run.open(own.folder) as run:
        assert [vote.answer for vote in run.votes()] == list("12345")
    page.goto(f"{own.url}/#view=votes")
    page.locator("#raters table").wait_for()
    assert "5 votes of Bob (5)" in page.text_content("main")
    why = "There are no intervals: an interval needs 5 different prompts or more, but there is 1."
    assert why in page.text_content("main")


# --- what opens the answers -----------------------------------------------------------------------


def test_answers_open_when_both_videos_were_on_the_screen(
    browse: Callable[..., Any], own: Served
) -> None:
    """One of the two comes late. Until then nothing runs, and neither a click nor a key votes."""
    page, late = browse(), []
    page.route("**/study/*.mp4", lambda route: route.continue_() if late else late.append(route))
    voting(page, own.url)
    until(page, "document.querySelectorAll('.pan video:not(.coming)').length === 1")
    page.wait_for_timeout(1500)
    for key in ("ArrowLeft", "ArrowDown", "ArrowRight", "a", "b"):
        page.keyboard.press(key)
    page.locator("#left").click(force=True)
    assert page.evaluate(CLOSED)
    assert page.evaluate(READ) == [0]  # the one that is there waits for the other
    assert page.text_content(".playback output") == ""  # and no counter runs
    assert "Watch both to the end first." in page.text_content(".playback")
    late[0].continue_()
    seen: list[int] = []
    while page.evaluate(CLOSED):
        seen += [min(frames) for frames in [page.evaluate(READ)] if len(frames) == 2]
        page.wait_for_timeout(20)
    assert max(seen) >= 0.8 * FRAMES
    assert answers_in(own.folder) == []
    answer(page)
    assert len(answers_in(own.folder)) == 1
    with Run.open(own.folder) as run:
        (vote,) = run.votes()
    assert vote.seconds is not None
    assert 1.5 < vote.seconds < 30  # from the first picture on: two seconds at least


def test_a_task_that_was_seen_is_open_when_a_rater_goes_back(
    browse: Callable[..., Any], own: Served
) -> None:
    page = browse()
    voting(page, own.url)
    answer(page)
    page.keyboard.press("Backspace")
    until(page, PROGRESS, lambda now: now == "0 of 4")
    assert page.evaluate(OPEN)
    page.keyboard.press("ArrowDown")
    until(page, PROGRESS, lambda now: now == "1 of 4")
    assert answers_in(own.folder) == [("Ann", "tie")]


def test_numbers_are_as_closed_as_sides(browse: Callable[..., Any], own: Served) -> None:
    page, held = browse(), []
    page.route("**/study/*.mp4", lambda route: held.append(route))
    voting(page, own.url, said="kind=rating&settings=1")
    page.wait_for_timeout(500)
    for key in "12345":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    assert page.locator("[aria-pressed=true]").count() == 0
    assert page.locator("#go-on").is_disabled()
    for route in held:
        route.continue_()
    until(page, "document.querySelector('fieldset button').disabled === false")
    for key in "12345":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    until(page, PROGRESS, lambda now: now == "1 of 4")


# Browsers that save a battery let a video start in a click alone; there is no switch for it.
BLOCK = """const play = HTMLMediaElement.prototype.play;
let clicked = 0;
addEventListener("click", () => { clicked = performance.now(); }, true);
HTMLMediaElement.prototype.play = function () {
  if (performance.now() - clicked < 50 || this.mayPlay) {
    this.mayPlay = true;
    return play.call(this);
  }
  return Promise.reject(new DOMException("no click", "NotAllowedError"));
};"""


def test_where_nothing_plays_by_itself_there_is_a_button(
    browse: Callable[..., Any], own: Served
) -> None:
    page = browse()
    page.add_init_script(BLOCK)
    voting(page, own.url)
    page.locator(".start").wait_for()
    page.wait_for_timeout(800)
    assert page.evaluate(CLOSED)
    assert page.evaluate(READ) == [0, 0]
    page.locator(".start").click()
    page.locator(".start").wait_for(state="hidden")
    answer(page)


@pytest.mark.parametrize("trick", ["gone", "broken"])
def test_a_video_that_does_not_play_can_be_left_out(
    browse: Callable[..., Any], own: Served, trick: str
) -> None:
    with Run.open(own.folder) as run:
        clip = next(clip for clip in run.clips() if clip.setting == 1)
    assert clip.video is not None
    whole = clip.video.read_bytes()
    if trick == "gone":
        clip.video.unlink()
    else:
        clip.video.write_bytes(b"\0" * 3000)
    page = browse()
    voting(page, own.url)
    done = 0
    while not page.locator("#finished").is_visible():
        if page.locator("#skip").is_visible():
            reason = "not in the run any more" if trick == "gone" else "This browser cannot play it"
            assert reason in page.text_content(".stage-of-two")
            assert page.locator("#left").count() == 0
            page.locator("#skip").click()
            page.locator("#skip").wait_for(state="hidden")
        elif page.evaluate(OPEN):
            page.keyboard.press("ArrowLeft")
            done += 1
            until(page, f"document.getElementById('finished') || {PROGRESS} === '{done} of 4'")
        page.wait_for_timeout(50)
    assert "1 of them was left out, because a video did not play." in page.text_content("#finished")
    assert len(answers_in(own.folder)) == done == 3
    clip.video.write_bytes(whole)
    page.get_by_text("Try these again").click()
    answered = page.locator("#left")
    answered.wait_for()
    until(page, OPEN)
    answered.click()
    page.locator("#finished").wait_for()
    assert len(answers_in(own.folder)) == 4


# --- a server that goes away ----------------------------------------------------------------------


def test_nothing_is_lost_when_the_server_is_killed(
    browse: Callable[..., Any], tmp_path: Path
) -> None:
    """It is killed before an answer, and again while an answer waits in a page that is closed."""
    folder, port = painted(tmp_path / "run"), free_port()
    server = Verb(folder, port, "--no-trials")
    page = browse()
    try:
        studio = browse(viewport={"width": 1280, "height": 800})
        studio.goto(f"{server.address}#view=votes&settings=1,3")
        link = studio.locator("#test-link").input_value()
        page.goto(link)
        page.fill("#rater", "Ann")
        page.keyboard.press("Enter")
        until(page, OPEN)
        server.kill()
        page.keyboard.press("ArrowLeft")
        page.locator("#away", has_text="The studio does not answer. Your answer is kept").wait_for()
        studio.locator("#away", has_text="The studio does not answer.").wait_for()
        assert page.evaluate(CLOSED)
        server = Verb(folder, port, "--no-trials")
        until(page, PROGRESS, lambda now: now == "1 of 4")  # by itself, without a reload
        assert page.locator("#away").is_hidden()
        until(studio, "document.getElementById('away').hidden")
        studio.locator("[data-rater=Ann]", has_text="Ann").wait_for()
        until(page, OPEN)  # the videos of the new server
        first = answers_in(folder)
        server.kill()
        page.keyboard.press("ArrowDown")
        page.locator("#away", has_text="Your answer is kept").wait_for()
        page.goto("about:blank")
        server = Verb(folder, port, "--no-trials")
        page.goto(link)
        until(page, PROGRESS, lambda now: now == "2 of 4")
        assert [*first, ("Ann", "tie")] == answers_in(folder)
        for _ in range(2):
            until(page, OPEN)
            page.keyboard.press("ArrowDown")
            page.wait_for_timeout(500)
        page.locator("#finished").wait_for()
        assert len(answers_in(folder)) == 4
    finally:
        server.kill()


def test_videos_are_loaded_again_when_the_server_is_back(
    browse: Callable[..., Any], tmp_path: Path
) -> None:
    folder, port = painted(tmp_path / "run"), free_port()
    server = Verb(folder, port, "--no-trials")
    page, held, back = browse(), [], []
    try:

        def let(route: Any) -> None:
            if back or route.request.method == "HEAD":  # which asks whether the server is there
                route.continue_()
            else:
                held.append(route)

        page.route("**/study/*.mp4", let)
        page.goto(f"{server.address}vote#kind=pair&settings=1,3")
        page.fill("#rater", "Ann")
        page.keyboard.press("Enter")
        while len(held) < 2:
            page.wait_for_timeout(20)
        server.kill()
        for route in held[:]:
            route.abort()
        held.clear()
        page.locator("#away", has_text="The videos are loaded again when it is back.").wait_for()
        back.append(True)
        server = Verb(folder, port, "--no-trials")
        until(page, OPEN)
        assert page.locator("#away").is_hidden()
    finally:
        server.kill()


def test_a_run_that_is_deleted_is_told_and_comes_back(
    browse: Callable[..., Any], own: Served
) -> None:
    page = browse()
    page.goto(f"{own.url}/#view=votes&settings=1,3")
    page.locator("#test-link").wait_for()
    place = page.locator("#views button", has_text="Try").bounding_box()
    away = own.folder.rename(own.folder.with_name("elsewhere"))
    page.locator("#away", has_text="it was deleted, moved or renamed").wait_for()
    # What a hand is on its way to does not move away under it.
    page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    until(page, "document.querySelector('.try form') !== null")
    page.keyboard.press("v")
    page.locator("#test-link").wait_for()
    away.rename(own.folder)
    until(page, "document.getElementById('away').hidden")


def test_what_was_said_does_not_cover_the_next_view(
    browse: Callable[..., Any], own: Served
) -> None:
    page = browse()
    page.goto(f"{own.url}/#view=try&settings=1")
    page.fill("[name=stg_scale]", "much")
    page.click("form button[type=submit]")
    message = page.locator("#message", has_text="“Scale s” must be a finite number")
    message.wait_for()
    assert "--" not in message.text_content()
    page.locator("h2").first.click()
    page.keyboard.press("p")
    assert page.locator("#message").is_hidden()


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("", "does not say which videos"),
        ("#kind=pair", "does not say which videos"),
        ("#kind=pair&settings=a,b", "does not say which videos"),
        ("#settings=1,3", "does not say which videos"),
        ("#kind=pair&settings=901,902", "This link fits no test: a test needs two finished videos"),
    ],
)
def test_a_broken_link_keeps_no_name(
    browse: Callable[..., Any], own: Served, link: str, why: str
) -> None:
    page = browse()
    page.goto(f"{own.url}/vote{link}")
    if "901" in link:
        page.fill("#rater", "Ann")
        page.keyboard.press("Enter")
    page.locator("#broken", has_text=why).wait_for()
    assert page.locator("#broken", has_text="Ask whoever sent it for the whole link.").is_visible()
    assert page.locator("#rater").count() == 0
    assert page.evaluate("[...Object.keys(localStorage), ...Object.keys(sessionStorage)]") == []
    with Run.open(own.folder) as run:
        assert run.rater_keys() == {}


# --- raters ---------------------------------------------------------------------------------------


def test_two_raters_of_one_name_and_a_page_that_follows(
    browse: Callable[..., Any], own: Served
) -> None:
    """Votes and raters appear while the page is open, and a rater is removed from it."""
    studio, ann, other = browse(), browse(), browse()
    studio.goto(f"{own.url}/#view=votes&settings=1,3")
    link = studio.locator("#test-link").input_value()
    assert "Nobody else can open this link" in studio.text_content("#reach")
    assert "--share lan" in studio.text_content("#reach")
    studio.select_option("#kind", "rating")  # what a person has in hand stays
    for page in (ann, other):
        page.goto(link)
        page.fill("#rater", "Ann")
        page.keyboard.press("Enter")
        page.locator(".stage-of-two, #name-taken").wait_for()
    assert ann.locator(".who").text_content() == "Ann"
    assert other.text_content("h1") == "Ann is taken"
    other.locator("#other").click()
    assert other.locator(".who").text_content() == "Ann 2"
    answer(ann)
    answer(other, "ArrowDown")
    studio.locator("[data-rater='Ann 2']").wait_for()
    studio.get_by_text("2 votes of").wait_for()
    assert studio.locator("#kind").input_value() == "rating"
    assert [name for name, _ in answers_in(own.folder)] == ["Ann", "Ann 2"]
    studio.get_by_label("Remove Ann 2").click()
    assert "Remove Ann 2 and one vote?" in studio.text_content(".confirm")
    studio.get_by_text("Keep", exact=True).click()
    assert len(answers_in(own.folder)) == 2
    studio.get_by_label("Remove Ann 2").click()
    studio.locator("#confirmed").click()
    studio.locator("[data-rater='Ann 2']").wait_for(state="detached")
    assert [name for name, _ in answers_in(own.folder)] == ["Ann"]
    with studio.expect_download() as saved:
        studio.get_by_text("All votes as CSV").click()
    rows = Path(saved.value.path()).read_text("utf-8").splitlines()
    assert [row.split(",")[0] for row in rows] == ["rater", "Ann"]


def test_who_has_the_link_alone_sees_no_names(browse: Callable[..., Any], own: Served) -> None:
    studio, rater = browse(), browse()
    studio.goto(f"{own.url}/#view=votes&settings=1,3")
    rater.goto(studio.locator("#test-link").input_value())
    rater.locator("#rater").wait_for()
    rater.goto(own.url)
    assert "This cannot be opened" in rater.text_content("body")
    assert "stg" not in rater.content()
    studio.goto(studio.locator("#start-test").get_attribute("href"))
    studio.locator("#rater").wait_for()
    studio.goto(f"{own.url}/#view=votes")
    studio.locator("#test-link").wait_for()


def test_a_form_that_is_sent_twice_is_one_rater(browse: Callable[..., Any], own: Served) -> None:
    """As by a finger that is impatient, while the first request is on its way."""
    page, held = browse(), []
    page.route("**/api/study/begin", lambda route: held.append(route))
    page.goto(f"{own.url}/vote#kind=pair&settings=1,3")
    page.fill("#rater", "Ann")
    for _ in range(3):
        page.locator("button[type=submit]").click()
    while not held:
        page.wait_for_timeout(20)
    for route in held:
        route.continue_()
    page.locator(".stage-of-two").wait_for()
    assert page.locator(".who").text_content() == "Ann"
    with Run.open(own.folder) as run:
        assert {name: len(keys) for name, keys in run.rater_keys().items()} == {"Ann": 1}


def test_an_answer_that_waits_is_its_raters(browse: Callable[..., Any], own: Served) -> None:
    """Ann's connection is lost, and Bob goes on in her browser."""
    page, away = browse(), [True]
    page.route("**/api/study/answer", lambda route: route.abort() if away else route.continue_())
    voting(page, own.url)
    until(page, OPEN)
    page.keyboard.press("ArrowDown")
    page.locator("#away").wait_for()
    page.goto("about:blank")
    other = page.context.new_page()  # another tab of the same browser
    other.goto(f"{own.url}/vote#kind=pair&settings=1,3")
    other.get_by_text("Go on as Ann").wait_for()
    other.fill("#rater", "Bob")
    other.locator("button[type=submit]").click()
    answer(other)
    assert answers_in(own.folder)[0][0] == "Bob"
    assert len(answers_in(own.folder)) == 1
    away.clear()
    other.locator(".who").click()
    other.get_by_text("Go on as Ann", exact=True).click()
    until(other, PROGRESS, lambda now: now == "1 of 4")
    assert answers_in(own.folder)[1] == ("Ann", "tie")


def test_one_browser_for_two_raters(browse: Callable[..., Any], own: Served) -> None:
    """A phone that is passed on: the second one has the same name, and is asked."""
    page = browse()
    voting(page, own.url)
    answer(page)
    page.locator(".who").click()
    page.get_by_text("Go on as Ann").wait_for()
    page.fill("#rater", "Ann")
    page.locator("button[type=submit]").click()
    page.locator("#name-taken").wait_for()
    assert "1 answer is given under it" in page.text_content("#name-taken")
    page.locator("#other").click()
    until(page, PROGRESS, lambda now: now == "0 of 4")
    page.locator(".who").click()
    page.get_by_text("Go on as Ann", exact=True).click()
    until(page, PROGRESS, lambda now: now == "1 of 4")


# --- phones ---------------------------------------------------------------------------------------

SMALL = """() => [...document.querySelectorAll("button, a, select, input, summary")]
  .filter((node) => node.checkVisibility() && !node.closest(".settings"))
  .map((node) => [node.textContent.trim() || node.id || node.name, node.getBoundingClientRect()])
  .filter(([, box]) => box.height < 43.5 || box.width < 43.5).map(([name]) => name)"""
OUTSIDE = """() => [...document.querySelectorAll("main :is(button, video, h1, h2), header button")]
  .filter((node) => node.checkVisibility()).filter((node) => {
    const box = node.getBoundingClientRect();
    const isIn = box.right <= innerWidth + 0.5 && box.bottom <= innerHeight + 0.5;
    return box.left < 0 || box.top < 0 || !isIn;
  }).map((node) => node.textContent || node.tagName)"""
BOXES = """(names) => names.map((name) => document.querySelector(name).getBoundingClientRect())
  .map(({left, top, width, height}) => ({left, top, width, height}))"""


@pytest.mark.parametrize("size", [PHONE, ON_ITS_SIDE, {"width": 360, "height": 640}])
def test_a_pair_on_a_phone(browse: Callable[..., Any], own: Served, size: Any) -> None:
    page = browse(viewport=size, is_mobile=True, has_touch=True)
    voting(page, own.url)
    answer(page)
    until(page, OPEN)
    assert page.evaluate(SMALL) == []
    assert page.evaluate(OUTSIDE) == []  # nothing has to be scrolled to
    left, tie, right = page.evaluate(BOXES, ["#left", "#tie", "#right"])
    assert left["top"] == tie["top"] == right["top"]
    assert left["left"] < tie["left"] < right["left"]
    (head,) = page.evaluate(BOXES, [".progress-line"])
    assert head["height"] <= 48
    videos = page.locator(".screen")
    boxes = [videos.nth(i).bounding_box() for i in range(2)]
    is_stacked = boxes[0]["x"] == boxes[1]["x"]
    assert is_stacked == (size["height"] > size["width"])
    shown = sum(box["width"] * box["height"] for box in boxes)
    assert shown > 0.35 * size["width"] * size["height"]


@pytest.mark.parametrize("size", [PHONE, ON_ITS_SIDE])
def test_five_questions_on_a_phone(browse: Callable[..., Any], own: Served, size: Any) -> None:
    """One question at a time, 1 to 5 in a row; the next one comes by itself."""
    page = browse(viewport=size, is_mobile=True, has_touch=True)
    voting(page, own.url, said="kind=rating&settings=1")
    until(page, "document.querySelector('fieldset button').disabled === false")
    for number in range(5):
        shown = page.locator("fieldset:visible")
        assert shown.count() == 1
        boxes = [shown.locator("button").nth(i).bounding_box() for i in range(5)]
        assert len({box["y"] for box in boxes}) == 1
        assert min(min(box["width"], box["height"]) for box in boxes) >= 43.5
        assert page.evaluate(OUTSIDE) == []
        shown.locator("button").nth(number).tap()
    page.locator("[data-step='video quality']").tap()  # back to the first, to change it
    page.locator("fieldset:visible button").nth(4).tap()
    page.locator("#go-on").tap()
    until(page, PROGRESS, lambda now: now == "1 of 4")
    with Run.open(own.folder) as run:
        assert [vote.answer for vote in run.votes()] == ["5", "2", "3", "4", "5"]


@pytest.mark.parametrize("size", [PHONE, ON_ITS_SIDE])
def test_the_studio_on_a_phone(browse: Callable[..., Any], own: Served, size: Any) -> None:
    with Run.open(own.folder, writable=True) as run:
        for task in blind_test.tasks(run.clips(), "pair", [1, 2], "Ann"):
            for vote in blind_test.build_votes(task, "Ann", {"preference": "tie"}, 2.0):
                run.vote(vote)
    page = browse(viewport=size, is_mobile=True, has_touch=True)
    for view in ("clips", "map", "plot", "votes", "try"):
        page.goto("about:blank")
        page.goto(f"{own.url}/#view={view}&settings=1,2,3")
        page.locator("nav button").last.wait_for()
        page.wait_for_timeout(200)
        (head,) = page.evaluate(BOXES, ["header"])
        assert head["height"] <= 56
        tabs = [page.locator("nav button").nth(i).bounding_box() for i in range(5)]
        assert max(tab["x"] + tab["width"] for tab in tabs) <= size["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.evaluate(SMALL) == []
    page.goto(f"{own.url}/#view=clips&settings=1,2,3")
    page.locator("#choose").tap()
    page.get_by_text("a blue circle").tap()
    page.locator("#choose-done").tap()
    until(page, "document.querySelector('h1').textContent.startsWith('a blue circle')")


# --- every kind of setting ------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {"name": "cfg", "guidance_scale": 4.5},
    {"name": "apg", "guidance_scale": 4.5, "cfg_rule": "apg eta=0.2"},
    {"name": "interval", "guidance_scale": 4.5, "cfg_rule": "interval window=0.1:0.8"},
    {"name": "again", "guidance_scale": 4.5, "restart": ["0.4:0.6 repeats=2"]},
    {"name": "bins", "schedule": [{"sigma": [0.1, 0.5], "layers": [4], "scale": 1.0}]},
    {"name": "stg", "stg": {"layers": [8], "scale": 1.0}, "cfg_rule": "apg eta=0.3"},
    {"name": "terms", "guidance": {"terms": [{"layers": [3], "scale": [1, 0.5]},
                                             {"kind": "slg", "layers": [4]}]}},
]  # fmt: skip


def test_a_trial_tells_the_rule_of_its_setting(page: Any, tmp_path: Path) -> None:
    made = {"guidance_scale": 4.5, "cfg_rule": "apg eta=0.2", "restart": ["0.4:0.6 repeats=2"]}
    run = painted(tmp_path / "run", settings=[{"name": "mine", **made}], seeds=[0])
    with Served(run) as served:
        page.goto(f"{served.url}/#view=try&settings=1")
        field = page.locator("[name=cfg_rule]")
        field.wait_for()
        assert field.input_value().startswith("apg eta=0.2")
        kept = page.locator("#kept").text_content()
        assert "restart repeats 2, window 0.4 to 0.6" in kept
        assert "cfg rule" not in kept
        field.fill("interval window=0.1:0.9")
        page.click("form button[type=submit]")
        page.locator(".trial b", has_text="cfg rule interval window=0.1:0.9").wait_for()
        field.fill("mine")
        page.click("form button[type=submit]")
        page.locator("#message", has_text="cfg must be one of apg").wait_for()


def test_every_kind_of_setting_is_told_in_words(page: Any, tmp_path: Path) -> None:
    with Served(painted(tmp_path / "run", settings=KINDS)) as served:
        for view in ("clips", "map", "plot", "votes", "try"):
            page.goto("about:blank")
            page.goto(f"{served.url}/#view={view}&settings=1,2,3,4,5,6,7")
            page.locator("nav button").last.wait_for()
            if view == "clips":
                page.keyboard.press("i")
                page.locator("summary").first.click()
            page.wait_for_timeout(300)
            shown = page.evaluate(
                "document.body.innerText + [...document.querySelectorAll('*')].flatMap((node) =>"
                " [node.title, node.value, node.ariaLabel]).join('\\n')"
            )
            assert not re.search(r"\[object|undefined|null|[{}]|NaN", shown), view
            told = "cfg rule apg, eta 0.2"
            assert told in page.text_content("#side")
        page.goto(f"{served.url}/#view=clips&settings=1,2,3,4,5,6,7")
        side = page.text_content("#side")
        assert "restart repeats 2, window 0.4 to 0.6" in side
        assert "schedule " in side
        assert "sigma 0.1 to 0.5" in side
        assert "cfg rule interval, window 0.1 to 0.8" in side
