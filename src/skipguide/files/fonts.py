"""A font for the captions of pictures: pillow's own, or one of the system for other scripts."""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import ImageFont

from skipguide.files.text import symbol_name, to_ascii

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts", "$WINDIR/Fonts",
)  # fmt: skip
# Those that have many scripts, in the order in which they are tried; after them all others.
PREFERRED = (
    "NotoSansCJK-Regular", "NotoSans-Regular", "DejaVuSans.", "Arial Unicode", "Hiragino Sans GB",
    "PingFang", "msgothic", "YuGothM", "msyh.", "malgun.", "arial.", "FreeSans.",
)  # fmt: skip
SUFFIXES = {".ttf", ".ttc", ".otf"}
_NO_CHARACTER = "\U0010ffff"  # no font has one: its picture is that of a missing character


def drawable(text: str) -> str:
    """Return the text with something in the place of characters that no font here has.

    A letter loses its accent, an emoji is written as its name, as in "[fox face]", and others are
    left out: "…".
    """
    missing = _missing(text, _best_font(text))
    written = "".join(_replacement(letter) if letter in missing else letter for letter in text)
    return re.sub("…+", "…", written)


def load(text: str, size: int) -> Font:
    """Return the font for a text of `drawable`, in pixels."""
    return _open(_best_font(text), size)


def _replacement(letter: str) -> str:
    if plain := to_ascii(letter):  # a letter with an accent
        return plain
    if name := symbol_name(letter):
        return f"[{name}]"
    if unicodedata.category(letter) in ("Mn", "Cf"):  # variants and joiners of emoji
        return ""
    return "…"


@functools.lru_cache(256)
def _best_font(text: str) -> str | None:
    """Return the file of the font that lacks the fewest characters; None is pillow's own."""
    best, fewest = None, len(_missing(text, None))
    for path in _system_fonts() if fewest else ():
        lacking = len(_missing(text, path))
        if lacking < fewest:
            best, fewest = path, lacking
        if not fewest:
            break
    return best


def _missing(text: str, path: str | None) -> set[str]:
    """Return the characters of a text that a font draws as it draws a missing one."""
    letters = {letter for letter in text if not letter.isspace()}
    try:
        font = _open(path, 16)
        nothing = _picture(font, _NO_CHARACTER)
        return {letter for letter in letters if _picture(font, letter) == nothing}
    except OSError:  # a damaged font, or one of bitmaps in other sizes
        return letters


def _picture(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask: Any = font.getmask(letter)
    return mask.size, bytes(mask)


@functools.lru_cache(64)
def _open(path: str | None, size: int) -> Font:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    """Return the files of the system's fonts, the preferred ones first."""
    found = sorted(_font_files())

    def rank(path: str) -> int:
        name = os.path.basename(path)
        return next((i for i, start in enumerate(PREFERRED) if name.startswith(start)), 99)

    return tuple(sorted(found, key=rank))


def _font_files() -> Iterator[str]:
    for folder in map(os.path.expanduser, map(os.path.expandvars, FOLDERS)):
        for path in Path(folder).rglob("*") if Path(folder).is_dir() else ():
            if path.suffix.lower() in SUFFIXES:
                yield str(path)
