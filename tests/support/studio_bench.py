"""Measure how the studio opens and scrolls a run of 1,000 clips, in a real Chromium.

`make bench-studio` runs this; with BEFORE=COMMIT the studio of that commit is measured too, in the
same minutes. The server is a process of its own, as for a user. Frame times come from Chromium's
own trace, not from a script on the page; a page of plain boxes, scrolled alike, tells what the
machine can do at that moment. Of several tries the best one is told: what else runs on a machine
makes things slower, never quicker.

    python tests/support/studio_bench.py RUN [CLIPS [COMMIT]]
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skipguide.runs import Run
from support.large_run import make_large_run
from support.served import Verb, free_port, run_chromium

CATEGORIES = ["devtools.timeline", "disabled-by-default-devtools.timeline.frame", "toplevel"]
SPEED, WAY = 1600, 16_000  # pixels a second, and in all: a finger that is in a hurry
VIEWPORT = {"width": 1440, "height": 900}
OPENINGS, SCROLLS = 7, 3  # tries; the best one is told

# Milliseconds from the start of the navigation until every video in the window shows a picture.
USABLE = """() => {
  const main = document.getElementById("main").getBoundingClientRect();
  const seen = [...document.querySelectorAll(".screen")].filter((screen) => {
    const box = screen.getBoundingClientRect();
    return box.bottom > main.top && box.top < main.bottom;
  });
  const ready = seen.filter((screen) => screen.querySelector("video:not(.coming)")?.readyState >= 2
    || screen.querySelector(".note:not([hidden])"));
  return seen.length > 0 && ready.length === seen.length ? performance.now() : 0;
}"""
PLAIN = (
    "<main style='position:fixed;inset:0;overflow:auto'>"
    + "<div style='height:240px;background:#ddd;margin:10px'>plain</div>" * 400
    + "</main>"
)


def main(folder: Path, clips: int, before: str | None = None) -> None:
    """Print the numbers of docs/studio.md."""
    if not (folder / "ledger.sqlite").is_file():
        make_large_run(folder, clips)
    with run_chromium() as browser, source_of(before) as source:
        print(f"{'plain boxes, scrolled':34} {_frames(_best_scroll(browser, None))}")
        for name, path in ((before, source), ("now", None)) if before else (("now", None),):
            print(f"--- {name}")
            measure(browser, folder, path)


@contextmanager
def source_of(commit: str | None) -> Iterator[str | None]:
    """Unpack the package as it was into a folder that goes again."""
    if commit is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(["git", "archive", commit, "src"], check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
        yield f"{folder}/src"


def measure(browser: Any, folder: Path, source: str | None) -> None:
    """Print what a studio does with a run; `source` is the package to take, None the own."""
    every = address_of_all(folder)
    kept = os.environ.get("PYTHONPATH", "")
    if source is not None:
        os.environ["PYTHONPATH"] = os.pathsep.join([source, kept])
    served = Verb(folder, port := free_port(), "--no-trials")
    os.environ["PYTHONPATH"] = kept
    url = f"http://127.0.0.1:{port}"
    try:
        asked = min(_seconds_of(f"{url}/api/run") for _ in range(OPENINGS))
        print(f"{'the description of the run':34} {asked * 1000:.0f} ms")
        for name, said in (("one prompt", ""), ("all clips", every)):
            opened = min(_open(browser, url, said) for _ in range(OPENINGS))
            print(f"{f'{name}, all in the window shown':34} after {opened:.0f} ms")
        for name, plays in (("scrolled", False), ("scrolled while playing", True)):
            found = _best_scroll(browser, f"{url}/#{every}", plays)
            print(f"{name:34} {_frames(found)}; {found['videos']} videos, {found['cells']} cells")
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
    found = _until_usable(page)
    context.close()
    return found


def _until_usable(page: Any) -> float:
    page.locator("main .screen").first.wait_for(state="attached")
    while not (found := page.evaluate(USABLE)):
        page.wait_for_timeout(5)
    return found


def _best_scroll(browser: Any, address: str | None, plays: bool = False) -> dict[str, Any]:
    tries = [_scroll(browser, address, plays) for _ in range(SCROLLS)]
    return min(tries, key=lambda found: _at(found["frames"], 0.95))


def _scroll(browser: Any, address: str | None, plays: bool = False) -> dict[str, Any]:
    """Scroll through a page with Chromium's own gesture; return what its trace says of it."""
    context = browser.new_context(viewport=VIEWPORT)
    page = context.new_page()
    if address is None:
        page.set_content(PLAIN)
    else:
        page.goto(address)
        _until_usable(page)
        page.wait_for_timeout(500)
    if plays:
        page.keyboard.press("Space")
        page.wait_for_timeout(700)
    browser.start_tracing(page=page, categories=CATEGORIES)
    context.new_cdp_session(page).send(
        "Input.synthesizeScrollGesture",
        {"x": 800, "y": 450, "yDistance": -WAY, "speed": SPEED, "gestureSourceType": "mouse"},
    )
    trace = json.loads(browser.stop_tracing())
    counts = {
        name: page.locator(selector).count()
        for name, selector in (("videos", "video"), ("cells", "figure.cell"))
    }
    assert page.evaluate("document.querySelector('main').scrollTop") > 0.9 * WAY
    context.close()
    return {**read_trace(trace["traceEvents"]), **counts}


def read_trace(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the times between drawn frames, and the processor time of the main thread's tasks, in
    milliseconds."""
    threads = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["name"] == "thread_name"
    }
    drawn = sorted(event["ts"] for event in events if event["name"] == "DrawFrame")
    tasks = [
        event["tdur"] / 1000
        for event in events
        if event["name"].endswith("RunTask")
        and threads.get((event["pid"], event["tid"])) == "CrRendererMain"
        and "tdur" in event
    ]
    between = [(b - a) / 1000 for a, b in itertools.pairwise(drawn)]
    return {"frames": sorted(between), "tasks": sorted(tasks)}


def _frames(found: dict[str, Any]) -> str:
    frames, tasks = found["frames"], found["tasks"]
    at = [_at(frames, part) for part in (0.5, 0.95)]
    return (
        f"{1000 * len(frames) / sum(frames):.0f} frames a second, a frame after {at[0]:.1f} ms"
        f" (p50), {at[1]:.1f} ms (p95); of the page's own work"
        f" {sum(tasks) / len(frames):.1f} ms a frame, at most {tasks[-1]:.0f} ms at a time"
    )


def _at(ordered: Sequence[float], part: float) -> float:
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000, *sys.argv[3:4])
