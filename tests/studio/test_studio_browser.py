"""The page in a real Chromium: play, step, wipe, difference, zoom, try, report. `make
test-studio` runs these.

Which frame a video shows is read from its pixels (painted.py), not from what the page says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skipguide.runs import Run
from skipguide.studio import report
from support.painted import FIRST, FPS, FRAMES, STEP, painted, pictures
from support.served import BROWSER, READ, Served, sync_api, until

pytestmark = BROWSER

EVIL = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 2</script>'
MANY = [f"prompt {i:02}" for i in range(25)]

WATCH = """(seconds) => new Promise((resolve) => {
  const read = READ, found = [], end = performance.now() + 1000 * seconds;
  const look = () => {
    found.push(read());
    performance.now() < end ? requestAnimationFrame(look) : resolve(found);
  };
  look();
})""".replace("READ", READ)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A run that no test changes."""
    with Served(
        painted(tmp_path_factory.mktemp("runs") / "first", prompts=["a red star", EVIL])
    ) as served:
        yield served


def opened(page: Any, served: Served, said: str = "settings=1,2,3,4") -> None:
    page.goto(f"{served.url}/#{said}")
    count = len(said.partition("settings=")[2].partition("&")[0].split(","))
    shows(page, [0] * count)


def shows(page: Any, frames: list[int]) -> None:
    """Wait until the videos show these frames."""
    until(page, READ, lambda found: found == frames)


# --- playing --------------------------------------------------------------------------------------


def test_playing_keeps_all_videos_within_one_frame(page: Any, first: Served) -> None:
    opened(page, first)
    page.keyboard.press("[")
    page.keyboard.press("Space")
    page.wait_for_timeout(800)  # of four videos, each begins when it can
    page.keyboard.press("l")
    seen, drifts = [], []
    for _ in range(
        4
    ):  # a machine that is busy with something else drops frames: one window without that is enough
        seen = page.evaluate(WATCH, 1.5)
        drifts = [max(frames) - min(frames) for frames in seen]
        if max(drifts) <= 1:
            break
        page.keyboard.press("Home")
        page.keyboard.press("Space")
        page.wait_for_timeout(800)
    assert max(drifts) <= 1, drifts
    assert sum(drift > 0 for drift in drifts) < 0.5 * len(drifts)  # mostly none
    assert seen[-1][0] - seen[0][0] == pytest.approx(1.5 * 12 * 0.5, abs=4)
    page.keyboard.press("Space")
    until(page, READ, lambda frames: len(set(frames)) == 1)


def test_steps_and_jumps_are_exact_everywhere(page: Any, first: Served) -> None:
    opened(page, first)
    for key, frame in (
        ("ArrowRight", 1), ("ArrowRight", 2), (".", 3), ("ArrowLeft", 2), ("PageDown", 12),
        ("End", FRAMES - 1), ("ArrowRight", FRAMES - 1), ("Home", 0), (",", 0),
    ):  # fmt: skip
        page.keyboard.press(key)
        shows(page, [frame] * 4)
        assert page.text_content("#place").startswith(f"{frame + 1} / {FRAMES} ")
    page.locator("#scrub").fill("17")
    shows(page, [17] * 4)
    sync_api.expect(page.locator('figure.cell[data-frame="17"]')).to_have_count(4)


def test_every_frame_can_be_reached(page: Any, first: Served) -> None:
    opened(page, first, "settings=1,4")
    for frame in range(1, FRAMES):
        page.keyboard.press("ArrowRight")
        shows(page, [frame] * 2)


def test_loop_begins_again_and_without_it_the_last_frame_stays(page: Any, first: Served) -> None:
    opened(page, first, "settings=1,2")
    for _ in range(2):
        page.keyboard.press("]")
    page.keyboard.press("Space")
    until(page, READ, lambda frames: frames[0] > 12)
    until(page, READ, lambda frames: frames[0] < 8)
    page.keyboard.press("l")
    shows(page, [FRAMES - 1] * 2)
    until(page, "document.getElementById('play').textContent.startsWith('Play')")


# --- comparing ------------------------------------------------------------------------------------


def brightness(page: Any, x: float, y: float) -> int:
    """Return the grey of the stage at a place, as it is drawn."""
    import io

    import PIL.Image

    picture = PIL.Image.open(io.BytesIO(page.locator(".stage").screenshot())).convert("L")
    value = picture.getpixel((int(x * (picture.width - 1)), int(y * (picture.height - 1))))
    assert isinstance(value, int)
    return value


def test_a_wipe_shows_one_video_on_each_side(page: Any, first: Served) -> None:
    """The right video has a white mark in the left quarter of its upper edge, the left one has
    none."""
    opened(page, first, "settings=1,3")
    page.keyboard.press("w")
    page.locator(".stage").wait_for()
    shows(page, [0, 0])
    grey = brightness(page, 0.1, 0.6)
    assert brightness(page, 0.1, 0.1) == pytest.approx(grey, abs=4)
    for _ in range(12):
        page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_timeout(200)
    assert brightness(page, 0.1, 0.1) > 230
    page.keyboard.press("x")
    page.wait_for_timeout(600)
    assert brightness(page, 0.1, 0.1) < 60
    box = page.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + 1, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 200)
    page.mouse.up()
    assert page.get_attribute(".divider", "aria-valuenow") == "70"


def test_a_drag_that_the_browser_takes_to_scroll_is_over(page: Any, first: Served) -> None:
    opened(page, first, "settings=1,3")
    page.keyboard.press("w")
    page.locator(".stage").wait_for()
    page.evaluate("""() => {
      const send = (target, name, clientX) => target.dispatchEvent(
        new PointerEvent(name, { clientX, bubbles: true, cancelable: true }));
      const { left, width } = document.querySelector(".stage").getBoundingClientRect();
      send(document.querySelector(".divider"), "pointerdown", left + width / 2);
      send(window, "pointermove", left + width * 0.25);
      send(window, "pointercancel", left + width * 0.25);
      send(window, "pointermove", left + width * 0.75);
    }""")
    assert page.get_attribute(".divider", "aria-valuenow") == "25"


def test_a_difference_is_black_where_nothing_differs(page: Any, first: Served) -> None:
    opened(page, first, "settings=1,3")
    page.keyboard.press("d")
    shows(page, [0, 0])
    page.keyboard.press("PageDown")
    shows(page, [10, 10])
    assert brightness(page, 0.6, 0.6) < 12
    assert brightness(page, 0.1, 0.1) > 200


def test_zoom_and_place_are_one_for_all(page: Any, first: Served) -> None:
    opened(page, first)
    every = "[...document.querySelectorAll('.pan')].map((pan) => getComputedStyle(pan).transform)"
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.keyboard.press("Shift+ArrowLeft")
    found = page.evaluate(every)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert found[0].startswith("matrix(4, 0, 0, 4, -")
    before = found[0]
    box = page.locator(".screen").nth(1).bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 80, box["y"] + 60)
    page.mouse.up()
    found = page.evaluate(every)
    assert len(set(found)) == 1
    assert found[0] != before
    page.keyboard.press("0")
    assert set(page.evaluate(every)) == {"matrix(1, 0, 0, 1, 0, 0)"}


def test_the_scale_is_a_slider_over_the_settings_that_exist(page: Any, first: Served) -> None:
    opened(page, first, "settings=2,4")
    page.keyboard.press("PageDown")
    shows(page, [10, 10])
    slider = page.locator("figure.cell").first.locator("input[type=range]")
    slider.fill("2")
    page.locator("figure.cell").first.locator("b", has_text="layers=4 scale=1").wait_for()
    shows(page, [10, 10])  # it stays at its frame
    slider.focus()
    title = page.locator("figure.cell").first.locator("b")
    for key, name in (
        ("Left", "stg layers=4 scale=0.5"),
        ("Left", "cfg"),
        ("Right", "stg layers=4 scale=0.5"),
    ):
        page.keyboard.press(
            f"Arrow{key}"
        )  # the slider keeps the focus, and its steps at the 0 that both layers share
        sync_api.expect(title).to_have_text(name)
    shows(page, [10, 10])


def test_prompts_and_seeds_and_settings_are_chosen_by_keys(page: Any, first: Served) -> None:
    opened(page, first, "settings=1,2")
    page.keyboard.press("3")
    assert page.locator("figure.cell").count() == 3
    page.keyboard.press("1")
    assert page.locator("figure.cell").count() == 2
    page.keyboard.press("s")
    assert page.text_content("h1").endswith("seed 1")
    page.keyboard.press("ArrowDown")
    assert page.text_content("h1").startswith("<img")
    page.keyboard.press("a")
    assert page.locator("section.row").count() == 4
    page.keyboard.press("i")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert "prompts=1%2C2" in page.url
    page.evaluate("location.hash = 'settings=4&prompts=1&seeds=1'")  # as a link does
    sync_api.expect(page.locator("figure.cell .title b")).to_have_text(["stg layers=8 scale=0.5"])


def test_a_prompt_is_text(page: Any, first: Served) -> None:
    page.goto(f"{first.url}/#prompts=2&settings=1")
    page.locator("h1").wait_for()
    assert page.text_content("h1") == f"{EVIL} seed 0"
    for view in "mpvtc":
        page.keyboard.press(view)
        page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_points_and_cells_open_their_clips(page: Any, first: Served) -> None:
    opened(page, first, "settings=1,2")
    page.keyboard.press("p")
    page.keyboard.press("ArrowDown")  # scrolls, where nothing plays
    assert "prompts=2" not in page.url
    page.locator(".point[data-setting='stg layers=8 scale=1'] circle").click()
    assert [b.text_content() for b in page.locator("figure.cell .title b").all()] == [
        "cfg",
        "stg layers=8 scale=1",
    ]
    page.keyboard.press("m")
    page.select_option("#map-measure", "passes_per_step")
    cell = page.locator("[data-setting='stg layers=4 scale=0.5']")
    assert cell.text_content() in cell.get_attribute(
        "aria-label"
    )  # who listens hears the number that is seen
    cell.focus()
    page.keyboard.press("Enter")
    assert [b.text_content() for b in page.locator("figure.cell .title b").all()] == [
        "cfg",
        "stg layers=4 scale=0.5",
    ]


def test_light_and_dark(page: Any, first: Served) -> None:
    opened(page, first, "settings=1")
    paper = "getComputedStyle(document.body).backgroundColor"
    page.keyboard.press("n")
    light = page.evaluate(paper)
    page.keyboard.press("n")
    dark = page.evaluate(paper)
    assert (
        sum(map(int, re.findall(r"\d+", light)))
        > 600
        > 150
        > sum(map(int, re.findall(r"\d+", dark)))
    )
    page.reload()
    page.locator("h1").wait_for()
    assert page.evaluate(paper) == dark


# The frames that the videos in the window show: [number by its pixels, place by its time].
INSIDE = (
    """() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const root = document.getElementById("main").getBoundingClientRect();
  const inside = [...document.querySelectorAll("main video:not(.coming)")].filter((video) => {
    const box = video.getBoundingClientRect();
    return Math.min(box.bottom, root.bottom) - Math.max(box.top, root.top) >= box.height / 2;
  });
  return inside.map((video) => {
    context.drawImage(video, 40, 40, 8, 8, 0, 0, 1, 1);
    const [grey] = context.getImageData(0, 0, 1, 1).data;
    return [Math.round((grey - FIRST) / STEP), video.currentTime * FPS];
  });
}""".replace("FIRST", str(FIRST))
    .replace("STEP", str(STEP))
    .replace("FPS", str(FPS))
)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A run of 250 clips that no test changes."""
    with Served(painted(tmp_path_factory.mktemp("runs") / "many", prompts=MANY)) as served:
        yield served


def opened_all(page: Any, served: Served) -> None:
    page.goto(f"{served.url}/#settings=1,2,3,4")
    page.locator("h1").wait_for()
    page.keyboard.press("a")
    until(page, READ, lambda frames: frames.count(0) >= 8)


def test_of_two_hundred_videos_only_those_near_the_window_are_on_the_page(
    page: Any, many: Served
) -> None:
    loaded = []
    page.on(
        "request",
        lambda request: loaded.append(request.url) if request.url.endswith(".mp4") else None,
    )
    opened_all(page, many)
    rows = page.locator("section.row")
    assert rows.first.get_attribute("aria-label") == "prompt 00, seed 0, row 1 of 50"
    assert page.locator("figure.cell").count() < 60
    assert len(set(loaded)) < 40
    height = page.evaluate("document.querySelector('.rows').offsetHeight")
    page.evaluate("document.getElementById('main').scrollTop = 1e6")
    page.locator("section[aria-label='prompt 24, seed 1, row 50 of 50'] video").nth(3).wait_for()
    assert page.locator("section[aria-label='prompt 00, seed 0, row 1 of 50']").count() == 0
    pair = [rows.nth(i).bounding_box()["y"] for i in (0, 1)]
    assert height == pytest.approx(50 * (pair[1] - pair[0]))
    page.keyboard.press("ArrowRight")
    until(page, READ, lambda frames: set(frames) == {1})
    until(page, "document.getElementById('drift').textContent", lambda text: text == "drift 0")
    page.keyboard.press("m")
    page.keyboard.press("c")
    page.locator("section[aria-label='prompt 24, seed 1, row 50 of 50']").wait_for()
    assert page.evaluate("document.getElementById('main').scrollTop") > 14_000
    page.keyboard.press("Shift+PageUp")
    until(page, "document.getElementById('main').scrollTop", lambda top: top < 13_900)


def test_a_choice_among_the_prompts_found_keeps_the_others(page: Any, many: Served) -> None:
    page.goto(f"{many.url}/#settings=1&prompts=1&seeds=0")
    page.locator("h1").wait_for()
    page.fill("#filter", "prompt 2")
    prompts = page.locator(".prompts button[aria-pressed]")
    assert prompts.all_text_contents() == [f"prompt {i}" for i in range(20, 25)]
    prompts.first.click(modifiers=["Control"])
    rows = "[...document.querySelectorAll('.rows h2')].map((row) => row.title)"
    until(page, rows, lambda now: now == ["prompt 00, seed 0", "prompt 20, seed 0"])
    page.fill("#filter", "prompt 21")
    prompts.first.click(modifiers=["Shift"])
    until(page, rows, lambda now: "prompt 05, seed 0" in now)
    assert "prompts=1%2C2%2C3" in page.url


def test_videos_that_found_no_room_are_loaded_when_there_is_some(page: Any, many: Served) -> None:
    page.set_viewport_size({"width": 1600, "height": 1200})
    page.goto(f"{many.url}/#settings=1,2,3,4,5")
    page.locator("h1").wait_for()
    page.keyboard.press("a")
    page.locator("aside select").select_option("120")
    places = """(inner) => [...document.querySelectorAll(`figure.cell:has(${inner})`)].map((cell) =>
      `${cell.closest("section").getAttribute("aria-label")} ${cell.dataset.setting}`)"""
    without = page.locator(".note:visible", has_text="Too many videos in the window")
    without.first.wait_for()
    page.wait_for_timeout(1000)
    refused = set(page.evaluate(places, ".note:not([hidden])"))
    page.evaluate("document.getElementById('main').scrollTop = 500")
    page.wait_for_timeout(2000)
    assert refused & set(page.evaluate(places, "video:not(.coming)"))


def test_videos_that_scroll_in_are_in_step_with_the_clock(page: Any, many: Served) -> None:
    """Each is shown within one frame of all others from its first picture on, by its pixels and
    by its time."""
    page.set_viewport_size({"width": 1000, "height": 640})
    opened_all(page, many)
    page.keyboard.press("Space")
    page.wait_for_timeout(700)
    page.mouse.move(600, 400)
    clips, off, apart, counts = set(), [], [], []
    for _ in range(6):
        page.mouse.wheel(0, 500)
        for shown in page.evaluate(WATCH.replace(READ, INSIDE), 0.8):
            numbers, times = [number for number, _ in shown], [time for _, time in shown]
            if len(shown) < 2 or max(times) - min(times) > FRAMES / 2:  # the loop begins again
                continue
            counts.append(len(shown))
            distance = max(numbers) - min(numbers)
            off.append(min(distance, FRAMES - distance))  # the first frame comes after the last
            apart.append(max(times) - min(times))
        clips.update(page.evaluate("[...document.querySelectorAll('video')].map((v) => v.src)"))
    assert len(clips) > 40  # so many scrolled in
    assert max(counts) >= 8
    assert len(off) > 30
    assert max(off) <= 1, off
    assert max(apart) < 1, apart


# --- making -------------------------------------------------------------------------------------


def test_a_video_is_made_from_the_page_and_another_cancelled(page: Any, own: Served) -> None:
    opened(page, own, "settings=1,3")
    page.keyboard.press("t")
    page.fill("[name=prompt]", "a green cross")
    page.fill("[name=layers]", "6")
    page.fill("[name=stg_scale]", "0.7")
    page.keyboard.press("Control+Enter")
    page.locator("text=step 1 of 2, 3 s left").wait_for()
    page.fill("[name=seed]", "5")
    page.click("form button[type=submit]")
    page.locator("[data-state=waiting] button", has_text="Cancel").click()
    page.locator("[data-state=cancelled]").wait_for()
    own.engine.go.set()
    page.locator("[data-state=done] button", has_text="See it").click()
    page.locator("figure.cell").first.wait_for()
    assert page.text_content("h1") == "a green cross seed 0"
    shows(page, [0])
    page.keyboard.press("t")
    page.fill("[name=layers]", "")
    page.fill("[name=stg_scale]", "")
    page.fill("[name=nag]", "5 tau=3")
    page.fill("[name=term]", "layers=7-9 scale=1\n\nkind=slg layers=4")
    page.click("form button[type=submit]")
    words = "STG 1 (residual 7,8,9) + SLG (residual 4) + NAG 5 (tau 3)"
    of_terms = page.locator("[data-state=done]", has_text=": term layers=7-9 scale=1+kind=slg")
    of_terms.locator("button", has_text="See it").click()
    page.locator("figcaption", has_text=words).wait_for()
    page.keyboard.press("t")
    assert page.input_value("[name=term]") == "layers=7,8,9 scale=1\nkind=slg layers=4"
    assert page.input_value("[name=nag]") == "5 tau=3"
    page.fill("[name=term]", "")
    page.fill("[name=layers]", "much")
    page.click("form button[type=submit]")
    page.locator("#message", has_text="“Layers” must be").wait_for()
    page.wait_for_timeout(100)


def test_a_trial_that_a_restart_has_lost_is_told(page: Any, own: Served) -> None:
    opened(page, own, "settings=1,3")
    page.keyboard.press("t")
    page.fill("[name=layers]", "6")
    page.keyboard.press("Control+Enter")
    page.locator("text=step 1 of 2").wait_for()
    own.trials._trials.clear()  # as of a server that has just started
    lost = page.locator(".trial[data-state=failed]", has_text="the studio was started anew")
    lost.wait_for()
    page.wait_for_timeout(700)
    lost.locator("button", has_text="Close").click()
    page.locator(".trial").wait_for(state="detached")


def test_a_video_is_made_from_a_picture(page: Any, tmp_path: Path) -> None:
    folder = painted(tmp_path / "run", seeds=[0], **pictures(tmp_path / "pictures"))
    with Served(folder) as served:
        served.engine.go.set()
        opened(page, served, "prompts=2&settings=1,2")
        assert page.text_content("h1") == "first.png seed 0"
        assert [b.text_content() for b in page.locator(".prompts [aria-pressed]").all()] == [
            "first.png", "first.png", "a red star", "a blue circle",
        ]  # fmt: skip
        page.keyboard.press("t")
        assert [o.text_content() for o in page.locator("[name=picture] option").all()] == [
            "none",
            *["first.png"] * 2,
        ]
        until(page, "document.querySelector('img').naturalWidth === 48")
        assert page.evaluate("document.querySelector('img').getAttribute('src')") == "/images/2"
        page.fill("[name=seed]", "3")
        page.keyboard.press("Control+Enter")
        page.locator("[data-state=done]", has_text="first.png · seed 3").locator(
            "button", has_text="See it"
        ).click()
        page.locator("figure.cell").first.wait_for()
        assert page.text_content("h1") == "first.png seed 3"
        page.keyboard.press("t")
        page.select_option("[name=picture]", "")
        assert page.locator("img").is_hidden()
        page.click("form button[type=submit]")
        page.locator(
            "#message", has_text="a trial must have a prompt, a picture or both"
        ).wait_for()
    with Run.open(folder) as run:
        (clip,) = (clip for clip in run.clips() if clip.seed == 3)
        assert (clip.prompt, len(run.prompts())) == (2, 4)


def test_a_report_plays_from_a_file(page: Any, first: Served, tmp_path: Path) -> None:
    with Run.open(first.folder) as run:
        report.write_report(run, tmp_path / "odd näme #1")
    page.goto(f"{(tmp_path / 'odd näme #1' / 'index.html').as_uri()}#settings=1,3")
    frames = (
        "[...document.querySelectorAll('figure.cell')].map((cell) => cell.dataset.frame).join()"
    )
    until(page, frames, lambda found: found == "0,0")
    page.keyboard.press("PageDown")
    until(page, frames, lambda found: found == "10,10")
    page.keyboard.press("Space")
    until(
        page,
        "[...document.querySelectorAll('video')].every((video) => !video.paused &&"
        " video.currentTime > 1)",
    )
    page.keyboard.press("d")
    page.locator(".stage").wait_for()
    page.keyboard.press("p")
    page.locator(".point").first.wait_for()
    page.keyboard.press("t")  # no key of this page: it makes no videos
    assert page.locator("#views button").all_text_contents()[-1].startswith("Votes")
    assert page.locator(".point").first.is_visible()
