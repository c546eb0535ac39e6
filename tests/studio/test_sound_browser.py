"""The page and the blind test play the sound of one video at a time, in a real Chromium.

What is heard is measured behind the video element, by the browser's own analyser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.served import BROWSER, READ, Browsers, Served, until
from support.shared import begin_study
from support.singing import singing

pytestmark = BROWSER

MUTED = (
    """() => [...document.querySelectorAll("main video:not(.coming)")].map((one) => one.muted)"""
)
# The strongest frequency that leaves a video, after what mutes it; 0 if nothing does.
LISTEN = """async () => {
  const context = window.ear ??= new AudioContext();
  await context.resume();
  const found = [];
  for (const video of document.querySelectorAll("main video:not(.coming)")) {
    if (!video.ear) {
      video.ear = new AnalyserNode(context, {fftSize: 8192, smoothingTimeConstant: 0});
      context.createMediaElementSource(video).connect(video.ear);
    }
    await new Promise((done) => setTimeout(done, 300));
    const bins = new Float32Array(video.ear.frequencyBinCount);
    video.ear.getFloatFrequencyData(bins);
    const best = bins.indexOf(Math.max(...bins));
    found.push(bins[best] < -80 ? 0 : best * context.sampleRate / 8192);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def sung(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(singing(tmp_path_factory.mktemp("runs") / "sung")) as served:
        yield served


def opened(page: Any, served: Served) -> None:
    page.goto(f"{served.url}/#settings=1,2,3")
    until(page, READ, lambda frames: frames == [0, 0, 0])


def muted(page: Any, wanted: list[bool]) -> None:
    until(page, MUTED, lambda found: found == wanted)


def test_one_at_a_time_by_key_and_by_click(page: Any, sung: Served) -> None:
    opened(page, sung)
    muted(page, [True, True, True])  # as browsers want it before a click
    assert page.locator("figure.cell .speaker").count() == 2  # the third has no sound
    for wanted in ([False, True, True], [True, False, True], [True, True, True]):
        page.keyboard.press("h")
        muted(page, wanted)
    speakers = page.locator("figure.cell .speaker")
    speakers.nth(1).click()
    muted(page, [True, False, True])
    speakers.nth(0).click()
    muted(page, [False, True, True])
    assert speakers.nth(0).get_attribute("aria-pressed") == "true"
    assert page.locator("#sound").get_attribute("aria-pressed") == "true"
    speakers.nth(0).click()
    muted(page, [True, True, True])


def test_the_heard_sound_is_that_of_its_video(page: Any, sung: Served) -> None:
    """And the pictures stay together while it keeps the time."""
    opened(page, sung)
    page.keyboard.press("Space")
    until(page, READ, lambda frames: frames[0] > 2)
    for pitch in ([400.0, 0.0], [0.0, 800.0]):
        page.keyboard.press("h")
        until(page, LISTEN, lambda found, pitch=pitch: found[:2] == pytest.approx(pitch, abs=12))
        until(page, READ, lambda frames: max(frames) - min(frames) <= 1)
    page.keyboard.press("Space")
    until(page, READ, lambda frames: len(set(frames)) == 1)


def test_sound_stays_with_the_place_in_another_way_to_compare(page: Any, sung: Served) -> None:
    opened(page, sung)
    page.keyboard.press("w")
    until(page, READ, lambda frames: frames == [0, 0])
    page.locator(".pair-captions .speaker").nth(1).click()
    muted(page, [True, False])
    page.keyboard.press("g")
    until(page, READ, lambda frames: frames == [0, 0, 0])
    muted(page, [True, True, True])


def test_files_are_served_with_their_sound(page: Any, sung: Served) -> None:
    opened(page, sung)
    page.keyboard.press("Space")
    counts = """() => [...document.querySelectorAll("main video:not(.coming)")].map(
      (video) => video.webkitAudioDecodedByteCount > 0)"""
    page.keyboard.press("h")
    until(page, counts, lambda found: found[0] and not found[2])


def test_a_and_b_of_a_blind_test_take_turns(browse: Browsers, tmp_path: Path) -> None:
    folder = singing(tmp_path / "run")
    begin_study(folder, tasks=1, checks=0, consent=None)
    with Served(folder) as served:
        page = browse()
        page.goto(f"{served.url}/vote")
        page.fill("#rater", "Ada")
        page.keyboard.press("Enter")
        until(page, MUTED, lambda found: found == [True, True])
        page.locator(".vote .speaker").nth(0).click()
        until(page, MUTED, lambda found: found == [False, True])
        until(page, MUTED, lambda found: found == [True, False])  # it began again: B's turn
        until(page, MUTED, lambda found: found == [False, True])
        page.locator("#left:enabled").wait_for()
        for wanted in ([True, False], [True, True]):
            page.keyboard.press("h")
            until(page, MUTED, lambda found, wanted=wanted: found == wanted)
