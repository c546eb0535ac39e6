"""Make the pictures of a tuning that docs/studio.md shows.

`make studio-pictures` runs this: it tunes lab-mochi into a folder of its own, which takes some
minutes, and writes docs/studio-tune*.png and docs/studio-phone-tune.png. A folder that is there is
tuned on, which takes none.

    python tests/support/tune_pictures.py RUN DOCS
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from support.served import Served, run_chromium
from support.studio_pictures import HEIGHTS, PHONE

SHAPES = ("star", "moon", "cross", "triangle", "ring", "square")
COLOURS = ("red", "yellow", "green", "brown", "white", "purple")
MOTIONS = ("orbiting", "spinning", "bouncing", "moving left")
PROMPTS = [
    f"a {COLOURS[i % 6]} {SHAPES[(5 * i + i // 6) % 6]} {MOTIONS[i % 4]} on a grey background"
    for i in range(24)
]
OPTIONS = ["--passes", "3600", "--steps", "8", "--metric", "sharpness", "--floor", "motion=0.9"]
# name -> width, theme, the element that is scrolled to
PICTURES = {
    "studio-tune": (1440, "light", ""),
    "studio-tune-map": (1024, "dark", "#scan-map"),
    "studio-phone-tune": (390, "light", "#race"),
}


def make_run(folder: Path) -> None:
    """Tune lab-mochi as a user does."""
    prompts = folder.with_name(f"{folder.name}.txt")
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    words = ["tune", "--model", "lab-mochi", "--prompts", str(prompts), "--out", str(folder)]
    script = "from skipguide.cli import main; main()"
    subprocess.run([sys.executable, "-c", script, *words, *OPTIONS], check=True)


def picture(opened: Any, url: str, width: int, theme: str, below: str, out: Path) -> None:
    """Take a picture of the page of a tuning."""
    size = {"width": width, "height": HEIGHTS[width]}
    phone = PHONE if width == 390 else {}
    page = opened.new_context(viewport=size, color_scheme=theme, **phone).new_page()
    page.goto(f"{url}/#view=tune")
    page.locator("#scan-first").wait_for()
    if below:
        page.evaluate(f"document.querySelector('{below}').scrollIntoView()")
    page.wait_for_timeout(500)
    page.screenshot(path=out)
    page.context.close()


def main(folder: Path, docs: Path) -> None:
    """Make all pictures."""
    make_run(folder)
    with Served(folder) as served, run_chromium() as opened:
        for name, (width, theme, below) in PICTURES.items():
            picture(opened, served.url, width, theme, below, docs / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
