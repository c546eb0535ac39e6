"""Pictures on the page and in the blind test, in a real Chromium. `make test-studio` runs these.

Which part of a picture is shown is read from its colours (painted.py), not from what the page says.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from skipguide.runs import Run
from skipguide.studio import report
from support.painted import HEIGHT, WIDTH, Sketcher, painted
from support.served import BROWSER, Served, sync_api, until

pytestmark = BROWSER

SHOWN = '[...document.querySelectorAll("main .screen img:not(.coming)")]'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = [
        {"name": "cfg", "guidance_scale": 4.5},
        {"name": "stg", "guidance_scale": 4.5, "stg": {"layers": [8], "scale": 1.0}},
        {"name": "webp", "stg": {"layers": [8], "scale": 2.0}, "picture_format": "webp"},
    ]
    return painted(
        tmp_path_factory.mktemp("runs") / "pictures", Sketcher(), settings=settings, seeds=[0]
    )


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with Served(folder) as found:
        yield found


def opened(page: Any, address: str, count: int) -> None:
    page.goto(address)
    until(
        page, f"{SHOWN}.filter((one) => one.naturalWidth === {WIDTH}).length", lambda n: n == count
    )


def places(page: Any, x: float = 0.5, y: float = 0.5) -> list[tuple[float, float]]:
    """Return which place of its picture each screen shows at (x, y), in pixels of the picture."""
    page.wait_for_timeout(50)
    found = []
    for screen in page.locator("main .screen").all():
        drawn = PIL.Image.open(io.BytesIO(screen.screenshot())).convert("RGB")
        pixel = drawn.getpixel((int(x * drawn.width), int(y * drawn.height)))
        assert isinstance(pixel, tuple)
        found.append((pixel[0] / 255 * WIDTH, pixel[1] / 255 * HEIGHT))
    return found


def assert_all_at(page: Any, x: float, y: float, at: tuple[float, float] = (0.5, 0.5)) -> None:
    """All pictures show one place, to two grey values."""
    for place in places(page, *at):
        assert place == pytest.approx((x, y), abs=2.5 * WIDTH / 255)


def test_the_wheel_a_drag_and_a_double_click_move_all_pictures(page: Any, served: Served) -> None:
    opened(page, f"{served.url}/#settings=1,2,3", 3)
    assert_all_at(page, WIDTH / 2, HEIGHT / 2)
    box = page.locator("main .screen").nth(1).bounding_box()
    quarter = box["x"] + box["width"] / 4, box["y"] + box["height"] / 4
    page.mouse.move(*quarter)
    page.mouse.wheel(0, -416)  # exp(416 / 300) is 4
    assert_all_at(page, WIDTH / 4, HEIGHT / 4, (0.25, 0.25))  # what is under the pointer stays
    assert_all_at(page, WIDTH / 4 + WIDTH / 16, HEIGHT / 4 + HEIGHT / 16)
    page.mouse.down()
    page.mouse.move(quarter[0] + box["width"] / 4, quarter[1], steps=4)
    page.mouse.up()
    assert_all_at(page, WIDTH / 4, HEIGHT / 4 + HEIGHT / 16)
    page.mouse.dblclick(*quarter)
    assert_all_at(page, WIDTH / 2, HEIGHT / 2)


def test_keys_zoom_to_full_size_and_back(page: Any, served: Served) -> None:
    opened(page, f"{served.url}/#settings=1,2", 2)
    page.keyboard.press("f")
    box = page.locator("main .screen").first.bounding_box()
    left, right = places(page, 0.25)[0], places(page, 0.75)[0]
    # a pixel of the picture is one of the screen
    assert right[0] - left[0] == pytest.approx(box["width"] / 2, abs=4 * WIDTH / 255)
    page.keyboard.press("Shift+ArrowLeft")
    assert_all_at(page, WIDTH / 2 - 0.1 * box["width"], HEIGHT / 2)
    page.keyboard.press("0")
    page.keyboard.press("+")
    assert_all_at(page, WIDTH / 2 + WIDTH / 8, HEIGHT / 2, (0.75, 0.5))
    page.keyboard.press("0")
    for name in ("#play", "#scrub", "#place", "#speed", "#loop"):
        assert not page.locator(name).is_visible()  # nothing plays


def test_wipe_difference_and_many_rows_show_pictures(page: Any, served: Served) -> None:
    opened(page, f"{served.url}/#settings=1,2&mode=wipe", 2)
    page.keyboard.press("d")
    page.wait_for_timeout(100)
    drawn = PIL.Image.open(io.BytesIO(page.locator(".stage").screenshot())).convert("RGB")
    red, green, blue = np.asarray(drawn.resize((1, 1)))[0, 0]
    assert (red, green) == (0, 0)
    assert blue > 200  # 100, four times
    page.keyboard.press("g")
    page.keyboard.press("a")
    until(page, f"{SHOWN}.length", lambda count: count == 4)
    page.locator("main .screen").first.hover()
    page.mouse.wheel(0, -300)  # scrolls
    assert page.evaluate("document.documentElement.style.getPropertyValue('--zoom')") in ("", "1")


def test_a_report_shows_pictures_without_a_server(page: Any, folder: Path, tmp_path: Path) -> None:
    with Run.open(folder) as run:
        report.write_report(run, tmp_path / "report")
    opened(page, f"{(tmp_path / 'report/index.html').as_uri()}#settings=1,3", 2)
    assert_all_at(page, WIDTH / 2, HEIGHT / 2)


def test_a_blind_vote_on_two_pictures(page: Any, folder: Path, tmp_path: Path) -> None:
    own = painted(tmp_path / "own", Sketcher(), prompts=["a star"], seeds=[0])
    with Served(own) as served:
        held: list[Any] = []
        page.route("**/study/*.png", lambda route: held.append(route))
        page.goto(f"{served.url}/vote#kind=pair&settings=1,5")
        page.locator("#rater").fill("Ann")
        assert page.title() == "Which picture is better?"
        page.keyboard.press("Enter")
        sync_api.expect(page.locator(".told")).to_have_text("Look at both first.")
        sync_api.expect(page.locator("#left")).to_be_disabled()
        for route in held:
            route.continue_()
        until(page, f"{SHOWN}.length", lambda count: count == 2)
        assert page.locator(".answers h2").text_content().endswith("better picture of this text?")
        page.keyboard.press("f")
        page.keyboard.press("Shift+ArrowLeft")
        first, second = places(page)
        assert first == second != pytest.approx((WIDTH / 2, HEIGHT / 2), abs=20)
        sync_api.expect(page.locator("#left")).to_be_enabled()
        page.keyboard.press("ArrowLeft")
        sync_api.expect(page.locator("#finished")).to_be_visible()
    with Run.open(own) as run:
        (vote,) = run.votes()
    assert (vote.kind, vote.question, vote.answer) == ("pair", "preference", vote.left)
