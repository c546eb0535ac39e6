"""Fonts for the captions of pictures: pillow's own, those of the system, and those of packages.

`skipguide[fonts]` brings some for nearly all scripts, and emoji, where the system has none.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from skipguide.files.text import symbol_name, to_ascii

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

VARIABLE = "SKIPGUIDE_FONTS"  # more folders, as PATH has them
FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts", "$WINDIR/Fonts",
    "$LOCALAPPDATA/Microsoft/Windows/Fonts", "/run/current-system/sw/share/X11/fonts",
    os.path.join(sys.prefix, "fonts"), os.path.join(sys.prefix, "share", "fonts"),
)  # fmt: skip
# Packages whose folders have fonts: those of skipguide[fonts], and matplotlib with its DejaVu.
PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk", "matplotlib")
# Those that have many scripts, in the order in which they are tried; after them all others.
PREFERRED = (
    "NotoSans-Regular", "NotoSans[", "DejaVuSans.", "NotoSansCJK", "Arial Unicode",
    "Hiragino Sans GB", "PingFang", "msgothic", "YuGothM", "msyh.", "malgun.", "arial.",
    "FreeSans.", "NotoSans", "NotoEmoji",
)  # fmt: skip
SUFFIXES = {".ttf", ".ttc", ".otf"}
# Of fonts of pictures, which are drawn at one of these sizes and then made smaller.
_PICTURE_SIZES = (109, 128, 136, 160, 96, 64)
_STYLES = re.compile(r"bold|italic|oblique|black|light|thin|mono|condensed|serif|color", re.I)
_OF_BOXES = ("LastResort", "AdobeBlank")  # fonts that have a box, or nothing, for each character
_NO_CHARACTER = "\U0010ffff"  # no font has one: its picture is that of a missing character
_IGNORED = ("Cf", "Mn", "Me", "Cc")  # categories of what may be left out of a character


def is_ignorable(letter: str) -> bool:
    """Return whether a letter is no picture of its own: a joiner, a variant, the colour of skin."""
    return unicodedata.category(letter) == "Cf" or 0xFE00 <= ord(letter) <= 0xFE0F


def replacement(cluster: str) -> str:
    """Return what stands in the place of a character that no font here has.

    A letter loses its accent, an emoji is written as its name, as in "[fox face]", and others are
    left out: "…".
    """
    if plain := to_ascii(cluster):  # a letter with an accent
        return plain
    if names := [name for letter in cluster if (name := symbol_name(letter))]:
        return "".join(f"[{name}]" for name in names)
    return "" if all(unicodedata.category(letter) in _IGNORED for letter in cluster) else "…"


@functools.lru_cache(256)
def best_font(text: str) -> str | None:
    """Return the file of the font that lacks the fewest characters; None is pillow's own."""
    best, fewest = None, len(missing(text, None))
    for path in system_fonts() if fewest else ():
        lacking = len(missing(text, path))
        if lacking < fewest:
            best, fewest = path, lacking
        if not fewest:
            break
    return best


@functools.lru_cache(4096)
def font_with(cluster: str) -> str | None:
    """Return the file of the first font that has a character; "" for none, None is pillow's own."""
    if not missing(cluster, None):
        return None
    return next((path for path in system_fonts() if not missing(cluster, path)), "")


def missing(text: str, path: str | None) -> set[str]:
    """Return the characters of a text that a font draws as it draws a missing one."""
    # The space too: some fonts of one script have none.
    letters = {letter for letter in text if not is_ignorable(letter)}
    return {letter for letter in letters if not _has(path, letter)}


@functools.lru_cache(1 << 16)
def _has(path: str | None, letter: str) -> bool:
    try:
        return _picture(path, letter) != _picture_of_nothing(path)
    except OSError:  # a damaged font
        return False


@functools.lru_cache(512)
def _picture_of_nothing(path: str | None) -> tuple[tuple[int, ...], bytes]:
    return _picture(path, _NO_CHARACTER)


def _picture(path: str | None, letter: str) -> tuple[tuple[int, ...], bytes]:
    font = _unshaped(path)
    if is_of_pictures(font) and isinstance(font, ImageFont.FreeTypeFont):
        box = font.getbbox(letter)
        picture = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(picture).text((0, 0), letter, font=font, embedded_color=True)
        return tuple(map(round, box)), picture.tobytes()
    mask: Any = font.getmask(letter)
    return mask.size, bytes(mask)


@functools.lru_cache(256)
def _unshaped(path: str | None) -> Font:
    """Open a font without Raqm, which would draw something beside an accent on its own."""
    if path is None:
        return ImageFont.load_default(16)
    return _open(path, (16, *_PICTURE_SIZES), ImageFont.Layout.BASIC)


def is_of_pictures(font: Font) -> bool:
    """Return whether a font has pictures of one size, as those of coloured emoji."""
    return getattr(font, "size", 0) in _PICTURE_SIZES


@functools.lru_cache(256)
def load(path: str | None, size: int) -> Font:
    """Open a font in pixels: pillow's own for None.

    A font of pictures comes at the size that it has; a variable one in its regular weight.

    Raises:
        OSError: for a damaged file.
    """
    if path is None:
        return ImageFont.load_default(size)
    font = _open(path, (size, *_PICTURE_SIZES))
    try:
        if b"Regular" in font.get_variation_names():
            font.set_variation_by_name("Regular")
    except (OSError, NotImplementedError):  # no variable font
        pass
    return font


def _open(
    path: str, sizes: tuple[int, ...], layout: ImageFont.Layout | None = None
) -> ImageFont.FreeTypeFont:
    """Open a font at the first size that it has."""
    try:
        return ImageFont.truetype(path, sizes[0], layout_engine=layout)
    except OSError as error:
        if "pixel size" not in str(error) or len(sizes) == 1:
            raise
    return _open(path, sizes[1:], layout)


@functools.cache
def system_fonts() -> tuple[str, ...]:
    """Return the files of all fonts, the preferred ones first."""
    found = sorted(_font_files())

    def rank(path: str) -> tuple[int, bool]:
        name = os.path.basename(path)
        place = next((i for i, start in enumerate(PREFERRED) if name.startswith(start)), 99)
        return place, bool(_STYLES.search(name.removeprefix(PREFERRED[min(place, 14)])))

    return tuple(sorted(found, key=rank))


def _font_files() -> Iterator[str]:
    more = filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
    for folder in dict.fromkeys((*more, *FOLDERS, *_package_folders())):
        place = Path(os.path.expanduser(os.path.expandvars(folder)))
        for path in place.rglob("*") if place.is_dir() else ():
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(_OF_BOXES):
                yield str(path)


def _package_folders() -> Iterator[str]:
    """Yield the folders of packages that have fonts, without importing them."""
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        yield from (found.submodule_search_locations or ()) if found else ()
