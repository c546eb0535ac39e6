"""Captions in any script: fonts that have the characters, or words in their place, never boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools import subset
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from fontTools.ttLib.tables._g_l_y_f import Glyph
from PIL import Image, ImageDraw, ImageFont, features

from skipguide.files import captions, fonts, video

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
STAR = "Красная звезда"
INK = (235, 235, 235)


@pytest.fixture
def only_dejavu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from _with_folders(monkeypatch, (str(DEJAVU.parent),))


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    yield from _with_folders(monkeypatch, (str(tmp_path), "/nowhere"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DejaVu in three files: Latin, Hebrew and Arabic; and an emoji in colours."""
    folder = tmp_path_factory.mktemp("fonts")
    _write_part(folder / "Latin.ttf", [*range(0x20, 0x7F)])
    _write_part(folder / "Hebrew.ttf", [*range(0x5D0, 0x5EB)])
    _write_part(folder / "Arabic.ttf", [*range(0x620, 0x650), *range(0xFE70, 0xFEFD)])
    _write_fox(folder / "Fox.ttf")
    return folder


@pytest.fixture
def split_fonts(monkeypatch: pytest.MonkeyPatch, parts: Path) -> Iterator[None]:
    """The parts of DejaVu, the Latin one in the place of pillow's own font."""
    own = str(parts / "Latin.ttf")
    monkeypatch.setattr(ImageFont, "load_default", lambda size: ImageFont.truetype(own, size))
    yield from _with_folders(monkeypatch, (str(parts),))


def _with_folders(monkeypatch: pytest.MonkeyPatch, folders: tuple[str, ...]) -> Iterator[None]:
    monkeypatch.setattr(fonts, "FOLDERS", folders)
    monkeypatch.setattr(fonts, "PACKAGES", ())
    cached = (
        fonts.system_fonts, fonts.best_font, fonts.font_with, captions.layout, fonts.load,
        fonts._has, fonts._picture_of_nothing, fonts._unshaped,
    )  # fmt: skip
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def _write_part(path: Path, letters: list[int]) -> None:
    font = TTFont(DEJAVU)
    options = subset.Options(layout_features=["*"], notdef_outline=True)
    part = subset.Subsetter(options)
    part.populate(unicodes=letters)
    part.subset(font)
    font.save(path)


def _write_fox(path: Path) -> None:
    """Write a font of one emoji: a red square."""
    glyphs = {".notdef": TTGlyphPen(None).glyph(), "fox": _square(), "red": _square()}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({0x1F98A: "fox"})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Fox", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.setupCOLR({"fox": [("red", 0)]})
    builder.setupCPAL([[(1.0, 0.0, 0.0, 1.0)]])
    builder.save(str(path))


def _square() -> Glyph:
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


def drawn(text: str, size: int = 15) -> np.ndarray:
    picture = Image.new("RGB", (420, 30))
    captions.write(picture, (4, 15), text, size, INK)
    return np.asarray(picture)


def drawn_by_pillow(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> np.ndarray:
    picture = Image.new("RGB", (420, 30))
    ImageDraw.Draw(picture).text((4, 15), text, fill=INK, font=font, anchor="lm")
    return np.asarray(picture)


@pytest.mark.usefixtures("only_dejavu")
def test_another_script_is_drawn_with_a_font_that_has_it() -> None:
    assert captions.drawable(STAR) == STAR
    expected = drawn_by_pillow(STAR, ImageFont.truetype(str(DEJAVU), 15))
    assert np.array_equal(drawn(STAR), expected)
    latin = drawn_by_pillow("a red star", ImageFont.load_default(15))
    assert np.array_equal(drawn("a red star"), latin)


@pytest.mark.usefixtures("only_dejavu")
def test_fonts_of_boxes_for_all_characters_are_none() -> None:
    """matplotlib has one, and so has macOS."""
    assert (DEJAVU.parent / "LastResortHE-Regular.ttf").is_file()
    assert captions.drawable("赤い 🦊") == "… [fox face]"


@pytest.mark.skipif(not features.check("raqm"), reason="needs libfribidi")
@pytest.mark.usefixtures("split_fonts")
@pytest.mark.parametrize(
    "text",
    [
        "abc שלום def", "שלום abc 12 עולם", "a نجمة حمراء b", "نجمة (abc) صغيرة 12",
        "שלום نجمة abc", "12 שלום", "abc שלום 12 עולם def",
    ],
)  # fmt: skip
def test_runs_of_several_fonts_are_read_as_a_line_of_one(text: str) -> None:
    """Raqm, which knows the rules of Unicode and of Arabic, with one font that has all letters."""
    assert {run.font for run in captions.layout(text)} != {None}
    assert len(captions.layout(text)) > 1
    whole = drawn_by_pillow(text, ImageFont.truetype(str(DEJAVU), 15))
    alone = drawn(text)
    own, expected = (columns[..., 0].sum(0).astype(float) for columns in (alone, whole))
    shifted = [np.roll(own, shift) for shift in (-1, 0, 1)]  # of rounding, a pixel at a run's end
    closest = max(float(np.corrcoef(one, expected)[0, 1]) for one in shifted)
    backwards = float(np.corrcoef(own[::-1], expected)[0, 1])
    assert closest > 0.8 > backwards, (closest, backwards)
    assert captions.length(text, 15) == pytest.approx(
        ImageFont.truetype(str(DEJAVU), 15).getlength(text), abs=3
    )


@pytest.mark.usefixtures("split_fonts")
def test_emoji_are_drawn_in_their_colours_beside_text() -> None:
    text = "a 🦊\ufe0f runs"
    assert captions.drawable(text) == text
    picture = drawn(text).astype(int)
    red = (picture[..., 0] > 200) & (picture[..., 1] < 60)
    rows, columns = np.nonzero(red)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == pytest.approx((14, 14), abs=1)
    grey = picture[..., 0] == picture[..., 1]
    after = np.nonzero((grey & (picture[..., 0] > 100)).any(0))[0]
    assert after.min() < columns.min() < columns.max() < after.max()


def test_a_font_of_pictures_of_one_size_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noto Color Emoji has pictures of 109 pixels alone; a large DejaVu stands for it."""
    large = ImageFont.truetype(str(DEJAVU), 109)
    monkeypatch.setattr(fonts, "load", lambda path, size: large)
    monkeypatch.setattr(captions, "layout", lambda text: (captions.Run(text, "x", 0),))
    small = drawn("star").any((1, 2))
    assert captions.length("star", 15) == pytest.approx(large.getlength("star") * 15 / 109)
    assert 8 <= np.nonzero(small)[0].size <= 18


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ae\u0301b", ["a", "e\u0301", "b"]),
        ("👩\u200d🚀👨", ["👩\u200d🚀", "👨"]),
        ("🇩🇪🇫🇷", ["🇩🇪", "🇫🇷"]),
        ("🦊🏽 ❤\ufe0f1\ufe0f\u20e3", ["🦊🏽", " ", "❤\ufe0f", "1\ufe0f\u20e3"]),
        ("नि", ["नि"]),
    ],
)
def test_characters_as_readers_count_them(text: str, parts: list[str]) -> None:
    assert captions.clusters(text) == parts


@pytest.mark.usefixtures("no_fonts")
@pytest.mark.parametrize(
    ("text", "written"),
    [
        (STAR, "… …"),
        ("赤い星 STG 1", "… STG 1"),
        ("a 🦊 runs", "a [fox face] runs"),
        ("a ❤️", "a [heavy black heart]"),
        ("a 👩\u200d🚀", "a [woman][rocket]"),
        ("café (seed 3)", "cafe (seed 3)"),
        ("", ""),
    ],
)
def test_without_a_font_there_are_words_in_place_of_boxes(text: str, written: str) -> None:
    assert captions.drawable(text) == written
    assert captions.drawable(written) == written


@pytest.mark.usefixtures("no_fonts")
def test_a_strip_has_no_boxes() -> None:
    frames = {"CFG": np.zeros((2, 32, 64, 3), np.uint8)}
    strips = [video.make_frame_strip(frames, title) for title in ("🦊 …", "[fox face] …")]
    assert strips[0].tobytes() == strips[1].tobytes()


@pytest.mark.usefixtures("only_dejavu")
def test_a_long_line_is_cut_between_characters() -> None:
    text, size = captions.fit("e\u0301" * 100, 60, (15, 11))
    assert size == 11
    assert text.endswith("e\u0301…")
    assert captions.length(text, size) <= 60 < captions.length(f"e\u0301{text}", size)


def test_a_long_prompt_is_cut_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = "a fox runs over a calm sea at dawn. " * 100
    measured: list[str] = []
    length = captions.length
    monkeypatch.setattr(
        captions, "length", lambda text, size: (measured.append(text), length(text, size))[1]
    )
    text, size = captions.fit(prompt, 400, (15, 11))
    assert text.endswith("…")
    assert length(text, size) <= 400 < length(prompt[: len(text)] + "…", size)
    assert len(measured) < 20
