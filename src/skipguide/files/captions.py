"""Lines of text in pictures, in any script: each character in a font that has it.

A line is cut into runs of one font and one direction. Pillow's Raqm shapes a run (Arabic letters
join, those of Devanagari change places) where libfribidi is there; runs of other directions than
their line are put into the order in which they are read.
"""

from __future__ import annotations

import bisect
import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont, features

from skipguide.files import fonts

_JOINER = "\u200d"


@dataclass(frozen=True)
class Run:
    """A part of a line in one font and one direction, by its place in the line from the left."""

    text: str
    font: str | None  # the file; None is pillow's own
    level: int  # odd from right to left


def drawable(text: str) -> str:
    """Return the text with something in the place of characters that no font here has."""
    primary = _primary_font(text)
    written = "".join(
        cluster
        if not fonts.missing(cluster, primary) or fonts.font_with(cluster) != ""
        else fonts.replacement(cluster)
        for cluster in clusters(text)
    )
    return re.sub("…+", "…", written)


def _primary_font(text: str) -> str | None:
    """Return the font of all that is no symbol; one of emoji has digits and spaces of its own."""
    letters = (letter for letter in text if unicodedata.category(letter) not in ("So", "Sk", "Me"))
    return fonts.best_font("".join(letters))


def clusters(text: str) -> list[str]:
    """Return the characters of a text as readers count them: accents, joined emoji, flags whole."""
    found: list[str] = []
    for letter in text:
        if found and _continues(found[-1], letter):
            found[-1] += letter
        else:
            found.append(letter)
    return found


def _continues(cluster: str, letter: str) -> bool:
    if cluster[-1] == _JOINER or letter == _JOINER or fonts.is_ignorable(letter):
        return not cluster.isspace()
    is_flag = "\U0001f1e6" <= letter <= "\U0001f1ff"
    if is_flag:
        return len(cluster) == 1 and "\U0001f1e6" <= cluster <= "\U0001f1ff"
    is_skin = "\U0001f3fb" <= letter <= "\U0001f3ff"
    return is_skin or unicodedata.category(letter)[0] == "M"


@functools.lru_cache(512)
def layout(text: str) -> tuple[Run, ...]:
    """Return the runs of a text of `drawable`, from left to right."""
    primary = _primary_font(text)
    if not fonts.missing(text, primary) and features.check("raqm"):
        return (Run(text, primary, 0),) if text else ()  # Raqm knows its directions itself
    parts = clusters(text)
    levels = _levels(parts)
    runs: list[Run] = []
    for cluster, level in zip(parts, levels, strict=True):
        font = primary if not fonts.missing(cluster, primary) else fonts.font_with(cluster)
        font = None if font == "" else font
        if runs and (runs[-1].level, runs[-1].font) == (level, font):
            runs[-1] = Run(runs[-1].text + cluster, font, level)
        else:
            runs.append(Run(cluster, font, level))
    return tuple(_in_reading_order(runs))


def _levels(parts: Sequence[str]) -> list[int]:
    """Return the level of each character by the rules of Unicode for text without marks of its own.

    A line begins in the direction of its first letter; numbers go from left to right; what has no
    direction has that of both its neighbours, or else that of the line.
    """
    kinds = [unicodedata.bidirectional(cluster[0]) for cluster in parts]
    strong = [{"L": "L", "R": "R", "AL": "R"}.get(kind) for kind in kinds]
    base = next(filter(None, strong), "L")
    found: list[str | None] = []
    last = base
    for kind, letter in zip(kinds, strong, strict=True):
        last = letter or last
        number = kind in ("EN", "AN")
        found.append(letter or (("N" if last == "R" else "L") if number else None))
    return [_level(kind, base) for kind in _fill_neutrals(found, base)]


def _fill_neutrals(found: Sequence[str | None], base: str) -> Iterator[str]:
    following = base
    after: list[str] = []  # the kind of the next letter that has one, from the end on
    for kind in reversed(found):
        following = kind or following
        after.append(following)
    before = base
    for kind, following in zip(found, reversed(after), strict=True):
        sides = {"R" if side == "N" else side for side in (before, following)}
        yield kind or (sides.pop() if len(sides) == 1 else base)
        before = kind or before


def _level(kind: str, base: str) -> int:
    if base == "L":
        return {"L": 0, "R": 1, "N": 2}[kind]
    return {"R": 1, "L": 2, "N": 2}[kind]


def _in_reading_order(runs: Sequence[Run]) -> list[Run]:
    """Reverse each stretch of runs from the highest level down to 1 (rule L2 of UAX 9)."""
    found = list(runs)
    for level in range(max((run.level for run in found), default=0), 0, -1):
        start = 0
        while start < len(found):
            end = start
            while end < len(found) and found[end].level >= level:
                end += 1
            found[start:end] = found[start:end][::-1]
            start = max(end, start + 1)
    return found


# --- drawing --------------------------------------------------------------------------------------


def length(text: str, size: int) -> float:
    """Return how wide a text of `drawable` is, in pixels."""
    return sum(_run_length(run, size) for run in layout(text))


def _run_length(run: Run, size: int) -> float:
    font = fonts.load(run.font, size)
    return font.getlength(_ordered(run), **_direction(run)) * _scale(font, size)


def _scale(font: fonts.Font, size: int) -> float:
    return size / font.size if fonts.is_of_pictures(font) else 1.0  # type: ignore[union-attr]


def _direction(run: Run) -> dict[str, Any]:
    several = run.level > 0 and features.check("raqm")
    return {"direction": "rtl" if run.level % 2 else "ltr"} if several else {}


def _ordered(run: Run) -> str:
    """Return the letters of a run as they are drawn; without Raqm that is from the left."""
    backwards = run.level % 2 and not features.check("raqm")
    return "".join(reversed(clusters(run.text))) if backwards else run.text


def fit(text: str, width: float, sizes: Sequence[int]) -> tuple[str, int]:
    """Return a text of `drawable` and the first size in which it fits, cut if it fits in none."""
    size = next((size for size in sizes if length(text, size) <= width), sizes[-1])
    if length(text, size) <= width:
        return text, size
    parts = clusters(text)

    def cut(count: int) -> str:
        return "".join(parts[:count]).rstrip("…") + "…" if count else ""

    def is_wide(count: int) -> bool:
        return length(cut(count), size) > width

    # Halved and not shortened by one: a prompt may have thousands of characters.
    return cut(bisect.bisect_left(range(1, len(parts)), True, key=is_wide)), size


def write(
    picture: Image.Image, place: tuple[int, int], text: str, size: int, ink: tuple[int, int, int]
) -> None:
    """Write a text of `drawable` into a picture.

    Args:
        place: the left end of the line, at the middle of its height.
    """
    runs, draw = layout(text), ImageDraw.Draw(picture)
    left, middle = float(place[0]), place[1]
    if len(runs) == 1 and not fonts.is_of_pictures(fonts.load(runs[0].font, size)):
        (run,) = runs
        font = fonts.load(run.font, size)
        draw.text(place, _ordered(run), fill=ink, font=font, anchor="lm", embedded_color=True,
                  **_direction(run))  # fmt: skip
        return
    baseline = middle + round(0.36 * size)
    for run in runs:
        font = fonts.load(run.font, size)
        if fonts.is_of_pictures(font) and isinstance(font, ImageFont.FreeTypeFont):
            _paste_pictures(picture, (round(left), middle), run, font, size)
        else:
            draw.text((left, baseline), _ordered(run), fill=ink, font=font, anchor="ls",
                      embedded_color=True, **_direction(run))  # fmt: skip
        left += _run_length(run, size)


def _paste_pictures(
    picture: Image.Image, place: tuple[int, int], run: Run, font: ImageFont.FreeTypeFont, size: int
) -> None:
    """Draw a run at the one size that its font has, and put it smaller into the picture."""
    box = font.getbbox(run.text, anchor="lm")
    wide, high = max(1, round(box[2])), max(1, round(box[3] - box[1]))
    large = Image.new("RGBA", (wide, high))
    ImageDraw.Draw(large).text((0, -box[1]), run.text, font=font, embedded_color=True, anchor="lm")
    scale = size / font.size
    shape = max(1, round(wide * scale)), max(1, round(high * scale))
    small = large.resize(shape, Image.Resampling.LANCZOS)
    picture.paste(small, (place[0], place[1] - shape[1] // 2), small)
