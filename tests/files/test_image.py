"""First frames: what is read from which files, what is refused in which words, and what a record
keeps."""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from skipguide.files import image as image_file
from skipguide.files import video

RED, WHITE = (255, 0, 0), (255, 255, 255)


def colours() -> Image.Image:
    """24 x 16, no two rows or columns alike."""
    y, x = np.mgrid[:16, :24]
    return Image.fromarray(np.stack([x * 10, y * 15, 255 - x * 5], -1).astype(np.uint8))


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def same(image: Image.Image, other: Image.Image) -> bool:
    return image.mode == other.mode == "RGB" and np.array_equal(
        np.asarray(image), np.asarray(other)
    )


# --- read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    assert same(image_file.read(saved(colours(), tmp_path / f"a.{suffix}", **options)), colours())


def test_the_name_says_nothing(tmp_path: Path) -> None:
    assert same(image_file.read(saved(colours(), tmp_path / "a.txt", format="PNG")), colours())


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    image = colours().convert(mode)
    assert same(image_file.read(saved(image, tmp_path / "a.tif")), image.convert("RGB"))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits(tmp_path: Path, suffix: str) -> None:
    grey = np.linspace(0, 65535, 16 * 24).reshape(16, 24)
    image = image_file.read(
        saved(Image.fromarray(grey.astype(np.uint16)), tmp_path / f"a.{suffix}")
    )
    assert image.mode == "RGB"
    assert abs(np.asarray(image)[..., 0] - grey / 257).max() < 1
    assert np.asarray(image).max() == 255


def test_32_bits_within_16(tmp_path: Path) -> None:
    grey = np.full((16, 16), 257 * 9, np.int32)
    assert set(
        np.asarray(image_file.read(saved(Image.fromarray(grey), tmp_path / "a.tif"))).flat
    ) == {9}


def half_transparent() -> Image.Image:
    """Left opaque red; right blue that is hidden."""
    image = Image.new("RGBA", (16, 16), (*RED, 255))
    image.paste((0, 0, 255, 0), (8, 0, 16, 16))
    return image


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    image = image_file.read(saved(half_transparent().convert(mode), tmp_path / "a.png"))
    assert image.getpixel((12, 8)) == WHITE
    assert image.getpixel((3, 8)) == (RED if mode != "LA" else (76, 76, 76))


def test_one_colour_that_stands_for_transparent(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), RED)
    image.paste((0, 0, 255), (8, 0, 16, 16))
    image = image_file.read(saved(image, tmp_path / "a.png", transparency=(0, 0, 255)))
    assert [image.getpixel((x, 8)) for x in (3, 12)] == [RED, WHITE]


def test_turned_as_the_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    image = image_file.read(saved(colours(), tmp_path / "a.png", exif=exif))
    assert same(image, colours().transpose(Image.Transpose.ROTATE_270))


def test_a_photo_with_a_preview_behind_it(tmp_path: Path) -> None:
    """What many cameras write: a JPEG of several pictures, of which the first one is the photo."""
    path = saved(
        colours(),
        tmp_path / "a.jpg",
        format="MPO",
        save_all=True,
        append_images=[colours().rotate(180)],
    )
    with Image.open(path) as file:
        assert getattr(file, "n_frames", 1) == 2
    assert abs(np.asarray(image_file.read(path)).astype(int) - np.asarray(colours())).mean() < 12


# --- refused --------------------------------------------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=f"^image must .*{re.escape(path.name)}.*{message}"):
        image_file.read(path)


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.png", r"is not a file\. Check the name\.$")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png", r"is not a file\. Check the name\.$")


DAMAGED = r"cannot be read as one \(.*\)\. Check the file, or save it again as PNG\.$"


@pytest.mark.parametrize(
    "content", [b"", b"this is no picture", b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>"]
)
def test_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", DAMAGED)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_breaks_off(tmp_path: Path, suffix: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    path = saved(noise, tmp_path / f"a.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, DAMAGED)


def outcome(path: Path) -> str:
    try:
        return image_file.read(path).mode
    except ValueError as error:
        return str(error)


def test_random_bytes_after_a_header_are_refused_in_words(tmp_path: Path) -> None:
    """Whatever the decoders raise, no other error comes out, and nothing hangs."""
    random = np.random.default_rng(0)
    for suffix in ("png", "gif", "tif", "webp", "bmp", "jpg"):
        content = bytearray(saved(colours(), tmp_path / f"a.{suffix}").read_bytes())
        for _ in range(40):
            for place in random.integers(4, len(content), 6):
                content[place] = random.integers(256)
            (tmp_path / f"b.{suffix}").write_bytes(content)
            assert outcome(tmp_path / f"b.{suffix}").startswith(("RGB", "image must "))


def test_a_video(tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", np.zeros((2, 32, 32, 3), np.uint8), 10, {})
    refused(tmp_path / "a.mp4", DAMAGED)


def png_of_zeros(path: Path, width: int, height: int) -> Path:
    """Only a header: what it announces must be refused before it is decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(
    ("width", "height", "came"),
    [
        (8001, 8000, "64"),
        (9000, 10_000, "90"),
        (10_000, 12_000, "120"),
        (100_000, 100_000, "many more"),
    ],
)
def test_huge(tmp_path: Path, width: int, height: int, came: str) -> None:
    """Pillow warns from 89 megapixels on and raises from 179 on: neither comes through."""
    path = png_of_zeros(tmp_path / "a.png", width, height)
    with pytest.raises(
        ValueError,
        match=(
            rf"^image must have at most 64 megapixels, but .*a\.png has {came}\. Make it smaller:"
            r" the model"
        ),
    ):
        image_file.read(path)


@pytest.mark.parametrize(("width", "height"), [(15, 64), (64, 15), (1, 1)])
def test_tiny(tmp_path: Path, width: int, height: int) -> None:
    refused(
        saved(Image.new("RGB", (width, height)), tmp_path / "a.png"),
        rf"is {width} x {height}\. Use a larger one\.$",
    )


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_several_frames(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    path = saved(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    refused(
        path, r"holds 3 frames or pages\. Save the one that the video should start from as PNG\.$"
    )
    assert image_file.read(saved(frames[0], tmp_path / f"b.{suffix}")).size == (16, 16)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bits(tmp_path: Path, dtype: Any) -> None:
    path = saved(Image.fromarray(np.full((16, 16), 100_000, dtype)), tmp_path / "a.tif")
    refused(path, r"\(it has 32 bits per channel and does not say which value is white\)")


# --- fitted to a video ----------------------------------------------------------------------------


def test_of_the_right_size_it_stays() -> None:
    assert same(image_file.fit_to_size(colours(), 24, 16), colours())


def test_cropped_around_the_centre_not_squashed() -> None:
    """A red frame of 8 pixels around a white square: what remains of 32 x 16 as a square is its
    middle."""
    image = Image.new("RGB", (32, 16), RED)
    image.paste(WHITE, (8, 0, 24, 16))
    assert set(np.asarray(image_file.fit_to_size(image, 16, 16)).reshape(-1)) == {255}
    wide = np.asarray(image_file.fit_to_size(image, 64, 32))
    assert wide.shape == (32, 64, 3)
    assert (wide[:, :12, 1] < 30).all()
    assert (wide[:, 20:44] > 225).all()


def test_padded_with_black_bars() -> None:
    """A red strip of 1000 x 100 in a square of 64 is 6 rows high, in its middle."""
    strip = Image.new("RGB", (1000, 100), RED)
    padded = np.asarray(image_file.fit_to_size(strip, 64, 64, pad=True))
    red = (padded == RED).all(-1)
    assert red.all(1).sum() == 6
    assert red[29:35].all()
    assert (padded[~red] == 0).all()
    assert same(image_file.fit_to_size(colours(), 24, 16, pad=True), colours())


@pytest.mark.parametrize(
    ("size", "video", "share"),
    [((1000, 100), (64, 64), 0.1), ((100, 1000), (64, 64), 0.1), ((30, 20), (96, 64), 1.0),
     ((4, 3), (16, 9), 0.75)],
)  # fmt: skip
def test_the_share_of_a_picture_that_a_video_shows(
    size: tuple[int, int], video: tuple[int, int], share: float
) -> None:
    assert image_file.visible_share(Image.new("RGB", size), *video) == pytest.approx(share)


# --- in a record ----------------------------------------------------------------------------------


def test_from_a_record_to_the_last_bit() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    entry = image_file.encode_for_record(noise)
    assert set(entry) == {"sha256", "png"}
    assert same(image_file.decode_from_record(entry, Path("a.mp4")), noise)


@pytest.mark.parametrize("entry", [None, "x", {}, {"png": 3}, []])
def test_no_picture_in_the_record(entry: Any) -> None:
    message = (
        r"^a video made from an image must carry it in its record, but the record of a\.mp4 has"
        r" none\. Use an undamaged"
    )
    with pytest.raises(ValueError, match=message):
        image_file.decode_from_record(entry, Path("a.mp4"))


@pytest.mark.parametrize("png", ["?", "AAAA", ""])
def test_a_damaged_picture_in_the_record(png: str) -> None:
    message = (
        r"^image must be an image file \(.*\), but the image in the record of a\.mp4 cannot be read"
        r" as one"
    )
    with pytest.raises(ValueError, match=message):
        image_file.decode_from_record({"png": png, "sha256": "0"}, Path("a.mp4"))


def test_another_picture_in_the_record() -> None:
    entry = {**image_file.encode_for_record(colours()), "sha256": "0" * 64}
    with pytest.raises(
        ValueError,
        match=r"^the image in the record of a\.mp4 must match the sha256 .* but does not",
    ):
        image_file.decode_from_record(entry, Path("a.mp4"))


def test_a_bomb_in_the_record(tmp_path: Path) -> None:
    path = png_of_zeros(tmp_path / "a.png", 10_000, 10_000)
    entry = {"png": base64.b64encode(path.read_bytes()).decode(), "sha256": ""}
    with pytest.raises(
        ValueError,
        match=r"^image must have at most 64 megapixels, but the image in the record of a\.mp4",
    ):
        image_file.decode_from_record(entry, Path("a.mp4"))


def test_the_record_has_no_metadata_of_the_file(tmp_path: Path) -> None:
    """Where a photo was taken is nobody's business."""
    exif = Image.Exif()
    exif[0x010E] = "my garden"
    entry = image_file.encode_for_record(
        image_file.read(saved(colours(), tmp_path / "a.jpg", exif=exif, comment="my garden"))
    )
    content = base64.b64decode(entry["png"])
    assert b"garden" not in content
    with Image.open(io.BytesIO(content)) as file:
        assert not file.getexif()


def test_the_record_has_no_profile_of_a_camera(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (32, 32), "red").save(path, icc_profile=profile)
    image = image_file.fit_to_size(image_file.read(path), 16, 16)
    png = base64.b64decode(image_file.encode_for_record(image)["png"])
    assert b"iCCP" not in png
    assert (
        image_file.decode_from_record(image_file.encode_for_record(image), path).tobytes()
        == image.tobytes()
    )


def profile_with_red_and_green_swapped() -> bytes:
    """sRGB in which what is called red is green: the tags of the two primaries change names."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return content.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_those_of_the_profile(tmp_path: Path, mode: str) -> None:
    """Phones save photos in Display P3, whose numbers mean other colours."""
    path, swapped = tmp_path / "a.png", profile_with_red_and_green_swapped()
    picture = colours().convert(mode)
    picture.save(path, icc_profile=swapped)
    shown = np.asarray(image_file.read(path)).astype(int)
    assert abs(shown - np.asarray(colours())[..., [1, 0, 2]]).max() <= 2


def test_a_profile_that_is_srgb_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, content in (("a", profile), ("b", b"no profile")):
        colours().save(tmp_path / f"{name}.png", icc_profile=content)
        assert image_file.read(tmp_path / f"{name}.png").tobytes() == colours().tobytes()


def test_an_address_is_not_taken_for_a_file() -> None:
    with pytest.raises(
        ValueError, match=r"on this machine, but got the address http://host/x\.png"
    ):
        image_file.read(Path("http://host/x.png"))


def test_a_text_is_said_to_be_in_no_format(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("words")
    with pytest.raises(ValueError, match=r"cannot be read as one \(it is in none of these formats"):
        image_file.read(tmp_path / "text.png")
