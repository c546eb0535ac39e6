"""Make the pictures of docs/studio.md.

`make studio-pictures` runs this: it sweeps a small run of lab-mochi into a folder of its own, which
takes some minutes, measures it, lets three simulated raters vote, and writes docs/studio-*.png.

    python tests/support/studio_pictures.py RUN DOCS [NAME...]

With names only those pictures are made: `studio-votes studio-map`.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipguide.runs import Plan, Run
from skipguide.runs.local_engine import LocalEngine
from skipguide.runs.sweep import sweep
from support.judges import let_judge
from support.served import Served, run_chromium, until

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
        {"name": "stg of layer 8", "stg": {"layers": [8], "scale": 1.0}},
        {"name": "stg strong of 4", "stg": {"layers": [4], "scale": 2.0}},
    ],
}
PHONE: dict[str, Any] = {"is_mobile": True, "has_touch": True, "device_scale_factor": 1}
TALL, WIDE = {"width": 390, "height": 844}, {"width": 844, "height": 390}
HEIGHTS = {1440: 900, 1024: 768, 390: 844}  # of windows, by their width
METRICS = "fvd:judge,vendi:judge,temporal_flickering"
_STRENGTHS = {1: 0.0, 2: 0.9, 3: -1.2, 4: 0.5, 5: 0.2}  # what the simulated raters think


@dataclass(frozen=True)
class Picture:
    """A picture of the studio: `said` is what stands after "#" in its address."""

    name: str
    said: str
    width: int = 1440
    theme: str = "light"
    below: str = ""  # the element that is scrolled to
    bare: bool = False  # of the run without metrics and votes


_ONE, _ALL = "view=clips&settings=1,2,3,4,5", "view=clips&prompts=1,2,3,4,5,6&settings=1,2,3"
_PLOT = "view=plot&x=vendi:judge&y=fvd:judge&colour=passes_per_step"
PICTURES = [
    Picture("studio-grid", _ONE), Picture("studio-grid-1024", _ONE, 1024),
    Picture("studio-phone-clips", "view=clips&settings=1,2,3", 390),
    Picture("studio-rows", _ALL, theme="dark"),
    Picture("studio-map", "view=map"), Picture("studio-plot", _PLOT),
    Picture("studio-phone-plot", _PLOT, 390),
    Picture("studio-votes", "view=votes", below="#results"),
    Picture("studio-votes-1024", "view=votes", 1024, "dark", "#matrix"),
    Picture("studio-phone-matrix", "view=votes", 390, below="#matrix"),
    Picture("studio-empty", "view=map", 1024, bare=True),
    Picture("studio-phone-empty", "view=plot", 390, "dark", bare=True),
]  # fmt: skip


def make_run(folder: Path) -> None:
    """Sweep the plan; what is there is not made again."""
    for _ in sweep(Plan.of(PLAN), folder, LocalEngine(folder / "work")):
        pass


def measure(folder: Path) -> None:
    """Measure the run against real clips of the lab, as a user does."""
    with tempfile.TemporaryDirectory() as real:
        reference = f"{real}/clips"
        _skipguide("lab", "clips", reference, "--count", "64")
        _skipguide("evaluate", str(folder), "--reference", reference, "--metrics", METRICS)


def _skipguide(*words: str) -> None:
    script = "from skipguide.cli import main; main()"
    subprocess.run([sys.executable, "-c", script, *words], check=True)


def vote(folder: Path) -> None:
    """Let simulated raters judge everything."""
    with Run.open(folder, writable=True) as run:
        let_judge(run, _STRENGTHS.__getitem__, random.Random(0))


@contextmanager
def bare_copy(folder: Path) -> Iterator[Path]:
    """Copy the run as it is before anybody has measured it or voted."""
    with tempfile.TemporaryDirectory() as other:
        bare = Path(other) / folder.name
        shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("work", "metrics"))
        with sqlite3.connect(bare / "ledger.sqlite") as db:
            for table in ("votes", "metrics", "set_metrics"):
                db.execute(f"DELETE FROM {table}")
        db.close()
        yield bare


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


def picture_studio(opened: Any, url: str, wanted: Picture, out: Path) -> None:
    """Take a picture of a view of the studio."""
    phone = PHONE if wanted.width == 390 else {}
    size = {"width": wanted.width, "height": HEIGHTS[wanted.width]}
    page = opened.new_context(viewport=size, color_scheme=wanted.theme, **phone).new_page()
    page.goto(f"{url}/#{wanted.said}")
    page.locator("nav button").last.wait_for()
    page.wait_for_timeout(2500)
    for _ in range(8 if "view=clips" in wanted.said else 0):
        page.get_by_label("One frame on").click()
    if wanted.below:
        page.evaluate(f"document.querySelector('{wanted.below}').scrollIntoView()")
    page.wait_for_timeout(1000)
    page.screenshot(path=out)
    page.context.close()


def picture_votes(opened: Any, url: str, docs: Path) -> None:
    """Take the pictures of the page for raters."""
    desktop = {"viewport": {"width": 1280, "height": 800}}
    tall, wide = {"viewport": TALL, **PHONE}, {"viewport": WIDE, **PHONE}
    picture_test(opened, url, "pair", docs / "studio-vote.png", "Ann", **desktop)
    picture_test(opened, url, "pair", docs / "studio-phone-pair.png", "Bob", **tall)
    picture_test(opened, url, "rating", docs / "studio-phone-rating.png", "Cid", **tall)
    picture_test(opened, url, "pair", docs / "studio-phone-side.png", "Dee", **wide)


def main(folder: Path, docs: Path, names: Sequence[str] = ()) -> None:
    """Make all pictures, or those of some names."""
    make_run(folder)
    wanted = [picture for picture in PICTURES if not names or picture.name in names]
    with run_chromium() as opened, bare_copy(folder) as bare:
        with Served(bare) as served:
            if not names or "studio-vote" in names:
                picture_votes(opened, served.url, docs)
            with Run.open(bare, writable=True) as run:
                for name in list(run.rater_keys()):
                    run.remove_rater(name)
            for picture in wanted:
                if picture.bare:
                    picture_studio(opened, served.url, picture, docs / f"{picture.name}.png")
        measure(folder)
        vote(folder)
        with Served(folder) as served:
            for picture in wanted:
                if not picture.bare:
                    picture_studio(opened, served.url, picture, docs / f"{picture.name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
