"""Measure how the studio opens and scrolls a run of 1,000 clips, in a real Chromium.

`make bench-studio` runs this. The server is a process of its own, as for a user. Frame times come
from Chromium's own trace, not from a script on the page.

    python tests/support/studio_bench.py RUN [CLIPS]
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipguide.runs import Run
from support.large_run import make_large_run
from support.served import CHROMIUM, Verb, free_port, sync_api

CATEGORIES = ["devtools.timeline", "disabled-by-default-devtools.timeline.frame", "toplevel"]
SPEED, WAY = 1600, 16_000  # pixels a second, and in all: a finger that is in a hurry
VIEWPORT = {"width": 1440, "height": 900}
OPENINGS = 3

# Milliseconds from the start of the navigation until every video in the window shows a picture.
USABLE = """() => {
  const height = innerHeight;
  const seen = [...document.querySelectorAll(".screen")].filter((screen) => {
    const box = screen.getBoundingClientRect();
    return box.bottom > 0 && box.top < height;
  });
  const ready = seen.filter((screen) => screen.querySelector("video:not(.coming)")?.readyState >= 2
    || screen.querySelector(".note:not([hidden])"));
  return seen.length > 0 && ready.length === seen.length ? performance.now() : 0;
}"""


def main(folder: Path, clips: int) -> None:
    """Print the numbers of docs/studio.md."""
    if not (folder / "ledger.sqlite").is_file():
        make_large_run(folder, clips)
    every = address_of_all(folder)
    served = Verb(folder, port := free_port(), "--no-trials")
    url = f"http://127.0.0.1:{port}"
    try:
        for name, ask in (("first", 1), ("again", 5)):
            seconds = [_seconds_of(f"{url}/api/run") for _ in range(ask)]
            print(f"GET /api/run, {name}: {statistics.median(seconds) * 1000:.0f} ms")
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--enable-precise-memory-info"]
            )
            for name, said in (("first view", ""), (f"all {clips} clips", every)):
                opened = [_open(browser, url, said) for _ in range(OPENINGS)]
                print(f"{name}: usable after {statistics.median(opened):.0f} ms")
            for playing in (False, True):
                print(_describe(_scroll(browser, url, every, playing), playing))
            browser.close()
    finally:
        served.kill()


def address_of_all(folder: Path) -> str:
    """Return what stands after "#" in the address of all clips of a run."""
    with Run.open(folder) as run:
        prompts = ",".join(str(prompt.id) for prompt in run.prompts())
        seeds = ",".join(map(str, run.seeds()))
        settings = ",".join(str(setting.id) for setting in run.settings())
    return f"view=clips&prompts={prompts}&seeds={seeds}&settings={settings}"


def _seconds_of(url: str) -> float:
    start = time.perf_counter()
    with urllib.request.urlopen(url) as answer:
        answer.read()
    return time.perf_counter() - start


def _open(browser: Any, url: str, said: str) -> float:
    context = browser.new_context(viewport=VIEWPORT)
    page = context.new_page()
    page.goto(f"{url}/#{said}", wait_until="commit")
    while not (found := page.evaluate(USABLE)):
        page.wait_for_timeout(5)
    context.close()
    return found


def _scroll(browser: Any, url: str, said: str, playing: bool) -> dict[str, Any]:
    """Scroll through the grid with Chromium's own gesture; return what its trace says of it."""
    context = browser.new_context(viewport=VIEWPORT)
    page = context.new_page()
    page.goto(f"{url}/#{said}")
    while not page.evaluate(USABLE):
        page.wait_for_timeout(50)
    page.wait_for_timeout(500)
    if playing:
        page.keyboard.press("Space")
        page.wait_for_timeout(700)
    most = [0, 0]
    browser.start_tracing(page=page, categories=CATEGORIES)
    devtools = context.new_cdp_session(page)
    devtools.send(
        "Input.synthesizeScrollGesture",
        {"x": 800, "y": 450, "yDistance": -WAY, "speed": SPEED, "gestureSourceType": "mouse"},
    )
    trace = json.loads(browser.stop_tracing())
    most = page.evaluate(
        "() => [document.querySelectorAll('video').length,"
        " document.querySelectorAll('figure.cell').length]"
    )
    scrolled = page.evaluate("document.getElementById('main').scrollTop")
    context.close()
    return {**read_trace(trace["traceEvents"]), "elements": most, "scrolled": scrolled}


def read_trace(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the times between drawn frames and the tasks of the page's main thread, in ms."""
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["name"] == "thread_name"
    }
    drawn = sorted(event["ts"] for event in events if event["name"] == "DrawFrame")
    tasks = [
        event["dur"] / 1000
        for event in events
        if event["name"].endswith("RunTask")
        and names.get((event["pid"], event["tid"])) == "CrRendererMain"
        and "dur" in event
    ]
    between = [(b - a) / 1000 for a, b in itertools.pairwise(drawn)]
    return {"frames": between, "tasks": tasks}


def _describe(found: dict[str, Any], playing: bool) -> str:
    frames, tasks = sorted(found["frames"]), sorted(found["tasks"])
    seconds = sum(frames) / 1000
    return (
        f"scrolling {found['scrolled']:.0f} pixels {'while playing' if playing else 'paused'}:"
        f" {len(frames) / seconds:.0f} frames a second, frame times p50"
        f" {_quantile(frames, 0.5):.1f}, p95 {_quantile(frames, 0.95):.1f}, longest"
        f" {frames[-1]:.0f} ms; longest task of the page {tasks[-1]:.0f} ms; "
        f"{found['elements'][0]} videos, {found['elements'][1]} cells"
    )


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
