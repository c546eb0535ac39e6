"""The sizes and lengths that Open-Sora 1.2 was trained on (its opensora/datasets/aspect.py).

A size of a named resolution has the area of that resolution and the requested aspect ratio, with
each side rounded down to an even number. Seventeen ratios have names, as HEIGHT:WIDTH. The square
resolutions (256, 512, 1024, 2048, 2880) come from PixArt instead: forty cells of a grid whose unit
is a sixteenth of the side; their ratios are named by their value.
"""

from __future__ import annotations

import functools
import math
import re

Size = tuple[int, int]  # height, width, in pixels

AREAS = {
    "144p": 144 * 256, "240p": 240 * 426, "360p": 360 * 640, "480p": 480 * 854, "720p": 720 * 1280,
    "1080p": 1080 * 1920, "2k": 1440 * 2560, "4k": 2160 * 3840,
}  # fmt: skip
SIDES = {"256": 256, "512": 512, "1024": 1024, "2048": 2048, "2880": 2880}
RESOLUTIONS = (*AREAS, *SIDES)
SECONDS = (2, 4, 8, 16, 32)  # "2s" means 51 frames, whatever the fps
FRAMES_OF_2_SECONDS = 51
FRAMES_OF_A_CHUNK = 17  # frames that the temporal VAE encodes at a time

# HEIGHT:WIDTH -> the ratio of the published sizes; two differ from their names.
_RATIOS = {
    name: ratio or tuple(map(int, name.split(":")))
    for name, ratio in {
        "3:8": None, "9:21": None, "12:25": None, "1:2": None, "9:17": None, "27:50": (20, 37),
        "9:16": None,
        "5:8": None, "2:3": None, "3:4": None, "1:1": None, "4:3": None, "3:2": None, "16:9": None,
        "17:9": None,
        "2:1": None, "50:27": (25, 12),
    }.items()
}  # fmt: skip
# Published sizes that the rule misses by a pixel.
_IRREGULAR_SIZES = {
    ("240p", "2:3"): (262, 393),
    ("480p", "12:25"): (444, 925),
    ("480p", "4:3"): (740, 555),
}
# Cells of the square resolutions that are wider than high: widths by height, in sixteenths of the
# side.
_WIDE = {
    8: (32, 31, 30, 29), 9: (28, 27, 26), 10: (25, 24), 11: (23, 22, 21), 12: (21, 20),
    13: (19, 18), 14: (18, 17), 15: (17, 16),
}  # fmt: skip
_ONLY_WIDE = (11, 21)  # the one cell without an upright counterpart


def image_size(resolution: str, aspect_ratio: str) -> Size:
    """Return the height and width in pixels of a resolution at an aspect ratio.

    Args:
        resolution: "240p", "480p", "720p" ...: see RESOLUTIONS.
        aspect_ratio: HEIGHT:WIDTH, such as "9:16" for a wide video. For a square resolution also
            the value of one of its ratios, such as "0.57".

    Raises:
        ValueError: for an unknown resolution, or a ratio that it does not have.
    """
    sizes = image_sizes(resolution)
    name = aspect_ratio
    # Names of the form H:W become their quotient; of these upstream finds only 12:25.
    if resolution in SIDES and re.fullmatch(r"\d+:[1-9]\d*", aspect_ratio):
        height, width = map(int, aspect_ratio.split(":"))
        name = _ratio_name(height, width)
    if name not in sizes:
        raise ValueError(
            f"aspect_ratio of {resolution} must be one of {', '.join(sizes)} (height:width, or"
            f" their quotient), but got {aspect_ratio!r}. Choose the nearest one."
        )
    return sizes[name]


def image_sizes(resolution: str) -> dict[str, Size]:
    """Return all sizes of a resolution by the name of their aspect ratio.

    Raises:
        ValueError: for an unknown resolution.
    """
    if resolution in AREAS:
        return {name: _size(resolution, name) for name in _RATIOS}
    if resolution not in SIDES:
        raise ValueError(
            f"resolution must be one of {', '.join(RESOLUTIONS)}, but got {resolution!r}. Pass one"
            " of them, or height and width."
        )
    wide = [(high, width) for high, widths in _WIDE.items() for width in widths]
    tall = [(width, high) for high, width in reversed(wide) if (high, width) != _ONLY_WIDE]
    cells = [*wide, (16, 16), *tall]
    return dict(_name_size(cell, _cell_size(SIDES[resolution], cell)) for cell in cells)


def find_bucket(height: int, width: int) -> tuple[str, str] | None:
    """Return the resolution and aspect ratio of a size in pixels; None if it was not trained."""
    return _buckets().get((height, width))


def parse_num_frames(length: int | str) -> int:
    """Parse and check a number of frames.

    Args:
        length: frames, as 51 or "51", or one of "2s", "4s" ... "32s" or "1x" ... "16x", which count
            by 51 frames.

    Raises:
        ValueError: for anything else, and for 2 to 16 frames, which the noise schedule does not
            cover.
    """
    if length in (names := _lengths()):
        return names[str(length)]
    if (
        isinstance(length, bool)
        or not re.fullmatch(r"\d+", str(length))
        or not _is_possible(int(length))
    ):
        raise ValueError(
            f"num_frames must be 1 (an image), {FRAMES_OF_A_CHUNK} or more, or one of"
            f" {', '.join(names)}, but got {length!r}. Pass 51 for two seconds at 24 fps."
        )
    return int(length)


def _is_possible(frames: int) -> bool:
    return frames == 1 or frames >= FRAMES_OF_A_CHUNK


def _lengths() -> dict[str, int]:
    frames = [FRAMES_OF_2_SECONDS * seconds // 2 for seconds in SECONDS]
    return {f"{s}s": n for s, n in zip(SECONDS, frames, strict=True)} | {
        f"{s // 2}x": n for s, n in zip(SECONDS, frames, strict=True)
    }


def _size(resolution: str, name: str) -> Size:
    if (resolution, name) in _IRREGULAR_SIZES:
        return _IRREGULAR_SIZES[resolution, name]
    high, wide = _RATIOS[name]
    side = math.floor if resolution == "144p" else _round_to_even  # the smallest keeps odd sides
    height = side(math.sqrt(AREAS[resolution] * high / wide) + 1e-4)
    return height, side(height * wide / high + 1e-4)


def _round_to_even(length: float) -> int:
    """Return the even one of the two whole numbers around a length."""
    return math.ceil(length) // 2 * 2


def _cell_size(side: int, cell: Size) -> Size:
    if side == 2880 and sorted(cell) == [12, 21]:  # 60 units of 64 where the others have 59
        return (2112, 3840) if cell[0] == 12 else (3840, 2112)
    unit = 64 if side == 2880 else side // 16
    height, width = (part * side // (16 * unit) * unit for part in cell)
    return height, width


def _name_size(cell: Size, size: Size) -> tuple[str, Size]:
    """Return the name of a size; the longest of 2880, which are cut, are named by their cells."""
    longest = cell[0] == 8 or cell == (32, 8)
    return _ratio_name(*(cell if longest else size)), size


def _ratio_name(height: int, width: int) -> str:
    return str(round(height / width, 2))


@functools.cache
def _buckets() -> dict[Size, tuple[str, str]]:
    return {
        size: (name, ratio) for name in RESOLUTIONS for ratio, size in image_sizes(name).items()
    }
