"""The first frame of an image-to-video run: read from a file, fitted to the video, recorded.

Images are 8-bit RGB everywhere outside this file.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

# Listed, because Pillow would run Ghostscript for some other formats.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # of these files
MIN_SIDE = 16  # pixels a side
MAX_MEGAPIXELS = 64  # megapixels
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def read(path: Path) -> Image.Image:
    """Read an image file as viewers show it.

    It is rotated as its EXIF data says, its colours are converted from those of its profile to
    sRGB, and transparent pixels are white.

    Raises:
        ValueError: if the file is not an image, is damaged, has several frames, or has a size out
            of range. The size is read from the header, before any pixel is decoded.
    """
    with opened(path) as picture:
        _check_size(picture, str(path))
        _check_frames(picture, path)
        return _convert_to_rgb(_convert_to_srgb(ImageOps.exif_transpose(picture)))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; none of its pixels is decoded yet.

    Raises:
        ValueError: if it is not an image, also of a damaged one while the block runs.
    """
    if address := re.match(r"(https?|ftp|s3|gs|data):/*(.*)", str(path)):  # a Path drops a slash
        raise ValueError(
            f"image must be a file on this machine, but got the address {address[1]}://{address[2]}"
            ". Download it, and name the file."
        )
    if not path.is_file():
        raise ValueError(f"image must be an image file, but {path} is not a file. Check the name.")
    with path.open("rb") as file, _explain_errors(str(path)):
        yield Image.open(file, formats=FORMATS)


class _ImageError(ValueError):
    """An error whose message is complete; `_explain_errors` passes it on unchanged."""


@contextlib.contextmanager
def _explain_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises for a damaged file into one sentence."""
    try:
        with warnings.catch_warnings():
            # Warnings are about odd metadata, and about sizes, where _check_size is stricter.
            warnings.simplefilter("ignore")
            yield
    except _ImageError:
        raise
    except Image.DecompressionBombError as error:  # too large for Pillow to give the size
        raise _too_large_error(name, "many more") from error
    except Exception as error:  # decoders raise nearly anything, even SyntaxError and struct.error
        kinds = ", ".join(FORMATS)
        unknown = isinstance(error, UnidentifiedImageError)  # whose text shows the open file
        reason = "it is in none of these formats" if unknown else error
        raise ValueError(
            f"image must be an image file ({kinds}), but {name} cannot be read as one ({reason})."
            " Check the file, or save it again as PNG."
        ) from error


def _check_size(picture: Image.Image, name: str) -> None:
    width, height = picture.size
    if width * height > MAX_MEGAPIXELS * 10**6:
        raise _too_large_error(name, f"{width * height / 1e6:.0f}")
    if min(picture.size) < MIN_SIDE:
        raise _ImageError(
            f"image must be at least {MIN_SIDE} pixels wide and high, but {name} is {width} x"
            f" {height}. Use a larger one."
        )


def _too_large_error(name: str, megapixels: str) -> _ImageError:
    return _ImageError(
        f"image must have at most {MAX_MEGAPIXELS} megapixels, but {name} has {megapixels}. Make it"
        " smaller: the model sees it at the size of the video anyway."
    )


def _check_frames(picture: Image.Image, path: Path) -> None:
    frames = getattr(picture, "n_frames", 1)
    # An MPO is a camera's JPEG with a preview or a depth map after the photo.
    if frames > 1 and picture.format != "MPO":
        raise _ImageError(
            f"image must be a single image, but {path} holds {frames} frames or pages. Save the one"
            " that the video should start from as PNG."
        )


def _convert_to_srgb(picture: Image.Image) -> Image.Image:
    """Convert an image with the profile of a camera or a press, such as Display P3 of phones."""
    content = picture.info.get("icc_profile")
    if not content or picture.mode not in ("RGB", "RGBA", "CMYK"):
        return picture
    mode = "RGB" if picture.mode == "CMYK" else picture.mode
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(profile, target, picture.mode, mode)
        # The many profiles that are sRGB by another name would only add rounding.
        colours = _colour_cube(picture.mode)
        change = np.asarray(ImageCms.applyTransform(colours, transform)).astype(int)
        if mode == picture.mode and abs(change - np.asarray(colours)).max() <= 2:
            return picture
        return ImageCms.applyTransform(picture, transform) or picture
    except (ImageCms.PyCMSError, OSError):  # a damaged profile, which viewers pass over
        return picture


def _colour_cube(mode: str) -> Image.Image:
    levels = np.stack(np.meshgrid(*[np.linspace(0, 255, 8)] * 3), -1).reshape(1, -1, 3)
    return Image.fromarray(levels.round().astype(np.uint8)).convert(mode)


def _convert_to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.partition(";")[0] in ("I", "F"):
        return _convert_16_bits(picture)
    if picture.mode in _ALPHA_MODES or "transparency" in picture.info:
        # Composited on white, as a web page shows it: dropping the alpha channel would reveal
        # colours that were hidden.
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(
            "RGB"
        )
    return picture.convert("RGB")


def _convert_16_bits(picture: Image.Image) -> Image.Image:
    """Scale 16-bit values to 8 bits; Pillow's own conversion clips everything above 255."""
    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("it has 32 bits per channel and does not say which value is white")
    return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")


def fit_to_size(picture: Image.Image, width: int, height: int, pad: bool = False) -> Image.Image:
    """Resize an image to the size of the video, without squashing it.

    An image that already has this size stays as it is.

    Args:
        picture: the image.
        width, height: of the video.
        pad: put black bars on two sides instead of cropping the image around its centre.
    """
    how = ImageOps.pad if pad else ImageOps.fit
    return how(picture, (width, height), Image.Resampling.LANCZOS)


def visible_share(picture: Image.Image, width: int, height: int) -> float:
    """Return the share of an image, up to 1, that is left when it is cropped to a shape."""
    ratio = (picture.width * height) / (picture.height * width)
    return min(ratio, 1 / ratio)


# --- in a record ----------------------------------------------------------------------------------


def encode_for_record(picture: Image.Image) -> dict[str, str]:
    """Return the image as PNG in base64 together with a hash of its pixels, ready for JSON."""
    file = io.BytesIO()
    # A new image from the pixels alone carries no camera profile.
    Image.fromarray(np.asarray(picture)).save(file, format="PNG", optimize=True)
    return {"sha256": _hash_pixels(picture), "png": base64.b64encode(file.getvalue()).decode()}


def decode_from_record(entry: object, source: Path) -> Image.Image:
    """Return the image kept in a record, exact to the last bit.

    Raises:
        ValueError: if there is none, or its pixels do not match the recorded hash.
    """
    name = f"the image in the record of {source}"
    if not isinstance(entry, Mapping) or not isinstance(entry.get("png"), str):
        raise ValueError(
            f"a video made from an image must carry it in its record, but the record of {source}"
            " has none. Use an undamaged file, or generate the video again."
        )
    with _explain_errors(name):
        picture = Image.open(
            io.BytesIO(base64.b64decode(entry["png"], validate=True)), formats=["PNG"]
        )
        _check_size(picture, name)
        picture = picture.convert("RGB")
    if _hash_pixels(picture) != entry.get("sha256"):
        raise ValueError(
            f"{name} must match the sha256 stored with it, but does not. Use an undamaged file."
        )
    return picture


def _hash_pixels(picture: Image.Image) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()
