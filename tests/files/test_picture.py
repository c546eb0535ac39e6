"""PNG and WebP files with their record: what comes back out of them, for others too."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from skipguide.files import clips, picture, places
from skipguide.files.video import Frames

RECORD = {
    "settings": {"prompt": 'ein Fuchs < 狐 & "🦊" ]]>', "fps": None},
    "image": {"png": "x" * 3_000_000},  # larger than what Pillow takes of compressed text
}


@pytest.fixture(scope="module")
def frames() -> Frames:
    return np.random.default_rng(0).integers(0, 256, (1, 40, 52, 3), np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_pixels_and_record_come_back_and_equal_ones_give_equal_bytes(
    tmp_path: Path, frames: Frames, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    clips.write(path, frames, None, RECORD)
    first = path.read_bytes()
    clips.write(path, frames, None, RECORD)
    assert path.read_bytes() == first
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == [path.name, f"{path.name}.json"]
    back, rate = clips.read(path)
    assert rate is None
    assert np.array_equal(back, frames)
    assert json.loads(clips.sidecar_path(path).read_text(encoding="utf-8")) == RECORD
    clips.sidecar_path(path).unlink()
    assert clips.read_record(path) == RECORD


def test_png_by_the_letter_of_its_specification(tmp_path: Path, frames: Frames) -> None:
    """Chunks read by hand: the record is UTF-8 in an iTXt chunk before the pixels."""
    picture.write(tmp_path / "a.png", frames, RECORD)
    content, at, found = (tmp_path / "a.png").read_bytes(), 8, []
    while at < len(content):
        (length,), kind = struct.unpack(">I", content[at : at + 4]), content[at + 4 : at + 8]
        data = content[at + 8 : at + 8 + length]
        assert struct.unpack(">I", content[at + 8 + length : at + 12 + length]) == (
            zlib.crc32(kind + data),
        )
        found.append((kind, data))
        at += 12 + length
    assert [kind for kind, _ in found[:2]] == [b"IHDR", b"iTXt"]
    keyword, _, rest = found[1][1].partition(b"\0")
    assert (keyword, rest[:2]) == (b"skipguide", b"\0\0")  # not compressed
    language, translated, text = rest[2:].split(b"\0", 2)
    assert language == translated == b""
    assert json.loads(text.decode()) == RECORD


def test_webp_has_an_xmp_packet_that_is_xml(tmp_path: Path, frames: Frames) -> None:
    picture.write(tmp_path / "a.webp", frames, RECORD)
    with Image.open(tmp_path / "a.webp") as opened:
        packet = opened.info["xmp"].decode()
    text = ElementTree.fromstring(packet).findtext(".//{urn:skipguide}record")
    assert text is not None
    assert json.loads(text) == RECORD


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_record_without_folders_and_without_itself(
    tmp_path: Path, frames: Frames, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    picture.write(path, frames, {"weights": "/folder/of/somebody.safetensors"})
    cleaned = tmp_path / f"b{suffix}"
    cleaned.write_bytes(places.clip_without_folders(path))
    assert picture.read_record(cleaned) == {"weights": "somebody.safetensors"}
    assert np.array_equal(picture.read(cleaned), frames)
    cleaned.write_bytes(picture.encode(frames, suffix, None))
    with pytest.raises(
        ValueError, match=r"^a picture must carry a skipguide record .*b\..* neither"
    ):
        picture.read_record(cleaned)
    clips.sidecar_path(cleaned).write_text('{"a": 1}', encoding="utf-8")
    assert clips.read_record(cleaned) == {"a": 1}


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_a_picture_that_lost_its_end_is_refused(
    tmp_path: Path, frames: Frames, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    picture.write(path, frames, {})
    path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 3])
    with pytest.raises(ValueError, match=r"^image must be an image file .* cannot be read as one"):
        clips.read(path)


@pytest.mark.parametrize(
    ("shape", "suffix", "message"),
    [
        ((2, 16, 16, 3), ".png", "a picture must be (1, H, W, 3) uint8, but got (2, 16, 16, 3)"),
        ((1, 16, 16, 4), ".png", "a picture must be (1, H, W, 3) uint8, but got (1, 16, 16, 4)"),
        ((1, 16, 16_385, 3), ".webp", "a WebP has at most 16383 pixels a side, but the picture is"),
    ],
)
def test_what_is_no_picture_leaves_nothing(
    tmp_path: Path, shape: tuple[int, ...], suffix: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        picture.write(tmp_path / f"a{suffix}", np.zeros(shape, np.uint8), {})
    assert not list(tmp_path.iterdir())
