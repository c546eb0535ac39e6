"""Captions in any script: a font that has the characters, or words in their place, never boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from skipguide.files import fonts, video

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
STAR = "Красная звезда"


@pytest.fixture
def only_dejavu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from _with_folders(monkeypatch, (str(DEJAVU),))


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    yield from _with_folders(monkeypatch, (str(tmp_path), "/nowhere"))


def _with_folders(monkeypatch: pytest.MonkeyPatch, folders: tuple[str, ...]) -> Iterator[None]:
    monkeypatch.setattr(fonts, "FOLDERS", folders)
    for cached in (fonts._system_fonts, fonts._best_font):
        cached.cache_clear()
    yield
    for cached in (fonts._system_fonts, fonts._best_font):
        cached.cache_clear()


def drawn(text: str, font: fonts.Font) -> np.ndarray:
    picture = Image.new("L", (300, 30))
    ImageDraw.Draw(picture).text((2, 2), text, fill=255, font=font)
    return np.asarray(picture)


@pytest.mark.usefixtures("only_dejavu")
def test_another_script_is_drawn_with_a_font_that_has_it() -> None:
    assert fonts.drawable(STAR) == STAR
    expected = drawn(STAR, ImageFont.truetype(str(DEJAVU / "DejaVuSans.ttf"), 15))
    assert np.array_equal(drawn(STAR, fonts.load(STAR, 15)), expected)
    latin = drawn("a red star", ImageFont.load_default(15))
    assert np.array_equal(drawn("a red star", fonts.load("a red star", 15)), latin)


@pytest.mark.usefixtures("no_fonts")
@pytest.mark.parametrize(
    ("text", "written"),
    [
        (STAR, "… …"),
        ("赤い星 STG 1", "… STG 1"),
        ("a 🦊 runs", "a [fox face] runs"),
        ("a ❤️", "a [heavy black heart]"),
        ("café (seed 3)", "cafe (seed 3)"),
        ("", ""),
    ],
)
def test_without_a_font_there_are_words_in_place_of_boxes(text: str, written: str) -> None:
    assert fonts.drawable(text) == written
    assert fonts.drawable(written) == written


@pytest.mark.usefixtures("no_fonts")
def test_a_strip_has_no_boxes() -> None:
    frames = {"CFG": np.zeros((2, 32, 64, 3), np.uint8)}
    strips = [video.make_frame_strip(frames, title) for title in ("🦊 …", "[fox face] …")]
    assert strips[0].tobytes() == strips[1].tobytes()
