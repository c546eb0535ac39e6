"""Make the pictures of a study that docs/studio.md shows: consent on a phone, and what the studio
shows of it at three widths. No video is on them, so that painted ones do.

    python tests/support/study_pictures.py RUN DOCS
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from skipguide.runs import Run
from skipguide.runs.study import Assignment, CheckAnswer
from skipguide.studio import blind_test
from support.painted import painted
from support.served import run_chromium
from support.shared import Shared

TEXT = """# Before you begin

You see **pairs of short videos** and say which one is better. It takes about ten minutes.

- You can stop at any time, and go on later.
- Kept are your answers, how long each took, and the name that you choose. It need not be your own.
- On the last page you can ask for the removal of your answers.

Some pairs are there to see whether somebody looks.
"""
LINK = "https://192.168.1.5:8701/vote?token=3603a2fb81921ceb28d88b4b02d2997e"
SIZES = {1440: 1240, 1024: 1500, 390: 2300}


def vote(folder: Path) -> None:
    """Let three simulated raters judge, one of whom does not look."""
    drawn = random.Random(0)
    with Run.open(folder, writable=True) as run:
        for rater, care in (("Ann", 1.0), ("Bo", 1.0), ("Cem", 0.0)):
            tasks = blind_test.tasks(run.clips("done"), "pair", [1, 2], rater)[:16]
            with run.study.transaction():
                given = [Assignment(task.first.key, None, None) for task in tasks]
                run.study.assign(1, rater, given)
            for task in tasks:
                left, right = (clip.setting for clip in task.clips_in_order)
                felt = care * (left - right) + drawn.gauss(0, 1)
                side = "left" if felt > 0 else "right"
                for one in blind_test.build_votes(task, rater, {"preference": side}, 4 + felt):
                    run.vote(one)
            for name in "ab":
                said = CheckAnswer(1, rater, name, "same", "", "tie", care > 0)
                run.study.record_check(said)


def main(folder: Path, docs: Path) -> None:
    """Make all pictures."""
    run = painted(folder, prompts=[f"a star, number {i}" for i in range(1, 9)])
    with Shared(run, 16, TEXT, LINK) as shared, run_chromium() as opened:
        phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
        page = opened.new_context(**phone, ignore_https_errors=True).new_page()
        page.goto(shared.link)
        page.locator("#consent").wait_for()
        page.screenshot(path=docs / "studio-consent.png")
        vote(run)
        for width, height in SIZES.items():
            page = opened.new_context(viewport={"width": width, "height": height}).new_page()
            page.goto(f"{shared.studio.url}/#view=votes")
            page.locator("#left-out").wait_for()
            page.locator("#qr summary").click()
            page.wait_for_timeout(800)
            page.screenshot(path=docs / f"studio-study-{width}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
