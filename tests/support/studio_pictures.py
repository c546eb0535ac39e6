"""Make the pictures of the voting page and of the studio on a phone that docs/studio.md shows.

`make studio-pictures` runs this: it sweeps a small run of lab-mochi into a folder of its own, which
takes some minutes, lets three simulated raters vote, and writes docs/studio-*.png.

    python tests/support/studio_pictures.py RUN DOCS
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skipguide.runs import Plan, Run
from skipguide.runs.local_engine import LocalEngine
from skipguide.runs.sweep import sweep
from skipguide.studio import blind_test
from support.served import CHROMIUM, Served, sync_api, until

PLAN = {
    "model": "lab-mochi",
    "prompts": [
        "a small red star orbiting over a blue background",
        "a large yellow moon spinning over a purple background",
        "a green cross bouncing on a striped brown background",
        "an orange triangle moving left on a grey background",
        "a small white ring bouncing over a green background",
        "a purple square spinning on a yellow background",
    ],
    "seeds": [0],
    "settings": [
        {"name": "cfg"},
        {"name": "stg", "stg": {"layers": [4], "scale": 1.0}},
        {"name": "stg strong", "stg": {"layers": [8], "scale": 2.0}},
    ],
}
PHONE: dict[str, Any] = {"is_mobile": True, "has_touch": True, "device_scale_factor": 1}
TALL, WIDE = {"width": 390, "height": 844}, {"width": 844, "height": 390}
_STRENGTHS = {1: 0.0, 2: 0.9, 3: -1.2}  # what the simulated raters think of the settings


def make_run(folder: Path) -> None:
    """Sweep the plan; what is there is not made again."""
    for _ in sweep(Plan.of(PLAN), folder, LocalEngine(folder / "work")):
        pass


def vote(folder: Path) -> None:
    """Let simulated raters judge everything, each with some chance in it."""
    drawn = random.Random(0)
    with Run.open(folder, writable=True) as run:
        for rater in ("simulated A", "simulated B", "simulated C"):
            for task in blind_test.tasks(run.clips("done"), "pair", [1, 2, 3], rater):
                left, right = (_STRENGTHS[clip.setting] for clip in task.clips_in_order)
                felt = left - right + drawn.gauss(0, 1)
                side = "tie" if abs(felt) < 0.2 else "left" if felt > 0 else "right"
                for given in blind_test.build_votes(task, rater, {"preference": side}, 6.0):
                    run.vote(given)
            for task in blind_test.tasks(run.clips("done"), "rating", [1, 2], rater):
                answers = {
                    name: _rating(drawn.gauss(3 + _STRENGTHS[task.first.setting], 1))
                    for name in blind_test.QUESTIONS["rating"]
                }
                for given in blind_test.build_votes(task, rater, answers, 20.0):
                    run.vote(given)


def _rating(felt: float) -> str:
    return str(min(max(round(felt), 1), 5))


@contextmanager
def browser() -> Iterator[Any]:
    """A Chromium without a window."""
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def picture_test(opened: Any, url: str, kind: str, out: Path, name: str, **how: Any) -> None:
    """Take a picture of a task whose answers are open."""
    page = opened.new_context(**how).new_page()
    page.goto(f"{url}/vote#kind={kind}&settings=1,2")
    page.fill("#rater", name)
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.answer')?.disabled === false")
    if kind == "rating":
        page.locator("fieldset:visible button").nth(3).click()
    page.locator(".play").click()
    page.wait_for_timeout(500)
    page.screenshot(path=out)
    page.context.close()


def picture_studio(opened: Any, url: str, said: str, out: Path, **how: Any) -> None:
    """Take a picture of a view of the studio."""
    page = opened.new_context(**how).new_page()
    page.goto(f"{url}/#{said}")
    page.locator("nav button").last.wait_for()
    page.wait_for_timeout(1500)
    for _ in range(8 if "view=clips" in said else 0):
        page.get_by_label("One frame on").click()
    page.wait_for_timeout(800)
    page.screenshot(path=out)
    page.context.close()


def main(folder: Path, docs: Path) -> None:
    """Make all pictures."""
    make_run(folder)
    desktop = {"viewport": {"width": 1280, "height": 800}}
    tall, wide = {"viewport": TALL, **PHONE}, {"viewport": WIDE, **PHONE}
    with Served(folder) as served, browser() as opened:
        url = served.url
        picture_test(opened, url, "pair", docs / "studio-vote.png", "Ann", **desktop)
        picture_test(opened, url, "pair", docs / "studio-phone-pair.png", "Bob", **tall)
        picture_test(opened, url, "rating", docs / "studio-phone-rating.png", "Cid", **tall)
        picture_test(opened, url, "pair", docs / "studio-phone-side.png", "Dee", **wide)
        with Run.open(folder, writable=True) as run:
            for name in list(run.rater_keys()):
                run.remove_rater(name)
        vote(folder)
        clips, votes = "view=clips&settings=1,2,3", "view=votes&settings=1,2"
        picture_studio(opened, url, clips, docs / "studio-phone-clips.png", **tall)
        picture_studio(opened, url, votes, docs / "studio-votes.png", **desktop)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
