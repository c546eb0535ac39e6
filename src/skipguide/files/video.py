"""Video files: mp4 that players show in the right colours, with the record of how it was made.

Frames are `(F, H, W, 3)` uint8 RGB everywhere here. A file appears under its name only when it is
complete.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from skipguide.files import captions
from skipguide.files.atomic import atomic_replace as atomic_replace
from skipguide.files.frames import Frames, VideoFile, ffmpeg_name, open_container
from skipguide.files.record_text import METADATA_TAG as METADATA_TAG
from skipguide.files.record_text import parse_record
from skipguide.files.record_text import sidecar_path as sidecar_path
from skipguide.files.sound import Sound, add_track
from skipguide.files.text import dump_json
from skipguide.method.protocols import PlainData, ReadOnlyData

_BT709 = 1  # the code of primaries, transfer and matrix in the tables of ITU-T H.273
_LIMITED_RANGE = 1
# Equal frames give equal bytes, on machines with other numbers of cores too. mbtree is off: where
# there is AVX-512, its code (x264 core 165) reads past the end of rows that are no multiple of 8
# blocks of 16 pixels, and with B-frames what lay there in memory decides on the quality of others.
_CODING = {"crf": "12", "g": "12", "mbtree": "0"}
_CONTAINER = {
    "movflags": "+faststart+use_metadata_tags",  # else ffmpeg drops keys that it does not know
    "max_interleave_delta": "0",  # sound and frames of one time lie together, however long it is
}
_ROOM = 1 << 16  # a file whose first bytes do not fit on the disk is never closed by PyAV
_THREADS = 4  # of frames: slices, and their number, would follow the machine's cores


def write(
    path: Path,
    frames: Frames,
    fps: Fraction | int | str,
    record: ReadOnlyData,
    sounds: Sequence[Sound] = (),
) -> None:
    """Write an mp4 with its record inside, and the same record beside it.

    The file is H.264 in yuv420p (all that browsers play), tagged BT.709 (untagged files are shown
    in wrong colours), with a key frame at least every 12 frames (players seek to key frames).
    Equal arguments give equal bytes.

    Args:
        sounds: each a track of its own, without loss; `sound.read` reads them. Players play the
            first one unless another is chosen.

    Raises:
        ValueError: if the frames have another shape or type, or an odd height or width.
    """
    _check_frames(frames)
    text = dump_json(record, indent=2, allow_nan=False)
    with atomic_replace(path, sidecar_path(path)) as (video_part, record_part):
        record_part.write_text(text + "\n", encoding="utf-8")
        _encode(video_part, frames, Fraction(fps), text, sounds)


def _check_frames(frames: Frames) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(
            f"frames must be (F, H, W, 3) uint8 with F >= 1, but got {frames.shape} {frames.dtype}."
            " Convert them first."
        )
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(
            f"height and width must be even for an mp4 (yuv420p), but got {height} x {width}."
            " Choose even numbers."
        )


def _encode(
    path: Path, frames: Frames, fps: Fraction, record: str, sounds: Sequence[Sound]
) -> None:
    path.write_bytes(bytes(_ROOM))  # which av.open empties again
    with av.open(ffmpeg_name(path), "w", format="mp4", options=dict(_CONTAINER)) as container:
        container.metadata[METADATA_TAG] = record
        stream = container.add_stream("libx264", rate=fps, options=dict(_CODING))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_type, context.thread_count = "FRAME", _THREADS
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED_RANGE
        tracks = [add_track(container, sound) for sound in sounds]
        for packet in itertools.chain.from_iterable(tracks):
            container.mux(packet)  # kept until the frames of its time are there
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())


def read(path: Path) -> tuple[Frames, Fraction]:
    """Decode a video into its frames `(F, H, W, 3)`, and return them with its frames per second.

    Frames are turned, mirrored and cropped as the file says, like in a player.

    Raises:
        ValueError: if there is no such file, it is not a video, or a part of it is damaged or
            missing.
        MemoryError: if the frames do not fit into memory; names the file.
    """
    file = VideoFile.open(path)
    if not file.rate:
        raise ValueError(
            f"a video must have a frame rate, but {path} has none. Convert it to one that has."
        )
    shape = (file.count, file.height, file.width, 3)
    try:
        return _fill(np.empty(shape, np.uint8), file), file.rate
    except MemoryError as error:
        raise MemoryError(
            f"all frames of {path} must fit into memory, but {file.count} of {file.width} x"
            f" {file.height} pixels need {math.prod(shape) / 2**30:.1f} GiB. Use a shorter or"
            " smaller video."
        ) from error


def _fill(frames: Frames, file: VideoFile) -> Frames:
    """Decode into one array, which grows only if there are more frames than were expected."""
    count = 0
    for convert in file.frames():
        if count == len(frames):
            frames = np.concatenate([frames, np.empty_like(frames[: max(1, count // 2)])])
        frames[count] = convert()
        count += 1
    return frames[:count]


def read_record(path: Path) -> PlainData:
    """Read the record of a video from its own metadata, or else from the sidecar.

    Web sites strip metadata, hence the sidecar.

    Raises:
        ValueError: if there is no such file, it is not a video, or neither place has a readable
            record.
    """
    with open_container(path) as container:
        # Containers other than mp4 return keys in upper case.
        text = next(
            (value for key, value in container.metadata.items() if key.lower() == METADATA_TAG),
            None,
        )
    return parse_record(path, text)


# --- pictures for people --------------------------------------------------------------------------

_BAR = 24  # pixels of a caption bar
_GAP = 4
_INK, _PAPER = (235, 235, 235), (24, 24, 27)


def enlarge(frames: Frames, factor: int) -> Frames:
    """Repeat every pixel as a square of `factor` pixels, so that players do not blur the video."""
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def place_side_by_side(columns: Mapping[str, Frames]) -> Frames:
    """Join videos of one size into one, each under its caption.

    Small videos are enlarged to about 256 pixels each.

    Args:
        columns: caption -> frames, from left to right.

    Raises:
        ValueError: if the videos differ in shape.
    """
    shapes = {frames.shape: None for frames in columns.values()}
    if len(shapes) > 1:
        raise ValueError(
            "videos side by side must all have the same shape, but got"
            f" {' and '.join(map(str, shapes))}. Resize or cut them."
        )
    count, height, width, _ = next(iter(shapes))
    factor = max(1, 256 // max(height, width))
    height, width = height * factor, width * factor
    canvas = Image.new("RGB", (len(columns) * (width + _GAP) - _GAP, _BAR + height), _PAPER)
    lefts = [column * (width + _GAP) for column in range(len(columns))]
    for left, caption in zip(lefts, columns, strict=True):
        _write_text(canvas, (left, 0), width, caption)
    out = np.repeat(np.asarray(canvas)[None], count, axis=0)
    for left, frames in zip(lefts, columns.values(), strict=True):
        out[:, _BAR:, left : left + width] = enlarge(frames, factor)
    return out


def stack_rows(rows: Mapping[str, Frames]) -> Image.Image:
    """Draw rows of pictures as one image, each row under its caption.

    Args:
        rows: caption -> `(1, H, W, 3)`, as `place_side_by_side` returns them, from top to bottom.
    """
    width = max(frames.shape[2] for frames in rows.values())
    heights = [_BAR + frames.shape[1] for frames in rows.values()]
    sheet = Image.new("RGB", (width, sum(heights) + _GAP * (len(rows) - 1)), _PAPER)
    top = 0
    for (caption, frames), height in zip(rows.items(), heights, strict=True):
        _write_text(sheet, (0, top), width, caption)
        sheet.paste(Image.fromarray(frames[0]), (0, top + _BAR))
        top += height + _GAP
    return sheet


def split_side_by_side(joined: Frames, count: int, shape: Sequence[int]) -> list[Frames]:
    """Return the videos that `place_side_by_side` has joined, at their own size.

    Args:
        joined: `(F, H, W, 3)`, decoded.
        count: how many they are.
        shape: of each, `(F, h, w, 3)`.

    Returns:
        The videos from left to right; none if the sizes do not agree.
    """
    factor = max(1, 256 // max(shape[1:3]))
    height, width = shape[1] * factor, shape[2] * factor
    if joined.shape[1:3] != (_BAR + height, count * (width + _GAP) - _GAP):
        return []
    lefts = [column * (width + _GAP) for column in range(count)]
    middle = factor // 2  # of a pixel that was made a square, where an encoder blurs it least
    return [
        joined[:, _BAR + middle :: factor, left + middle : left + width : factor] for left in lefts
    ]


def make_frame_strip(rows: Mapping[str, Frames], title: str, columns: int = 8) -> Image.Image:
    """Draw frames of several videos as one image: a row per video, with time going right.

    Args:
        rows: caption -> frames, all of one size.
        columns: how many frames of each, evenly spread from the first to the last.
    """
    height, width = next(iter(rows.values())).shape[1:3]
    factor = max(1, 192 // max(height, width))
    height, width = height * factor, width * factor
    columns = min(columns, *(len(frames) for frames in rows.values()))
    picture = Image.new(
        "RGB", (columns * (width + _GAP) - _GAP, _BAR + len(rows) * (_BAR + height)), _PAPER
    )
    _write_text(picture, (0, 0), picture.width, title)
    for row, (caption, frames) in enumerate(rows.items()):
        top = _BAR + row * (_BAR + height)
        _write_text(picture, (0, top), picture.width, caption)
        for column, pixels in enumerate(
            enlarge(frames[_evenly_spaced_indices(len(frames), columns)], factor)
        ):
            picture.paste(Image.fromarray(pixels), (column * (width + _GAP), top + _BAR))
    return picture


def _evenly_spaced_indices(count: int, columns: int) -> Sequence[int]:
    return np.linspace(0, count - 1, columns).round().astype(int).tolist()


def _write_text(picture: Image.Image, corner: tuple[int, int], width: int, text: str) -> None:
    """Write one line in a caption bar: smaller if it does not fit, cut if it still does not."""
    margin = 4
    text = captions.drawable(" ".join(text.split()))
    text, size = captions.fit(text, width - 2 * margin, (15, 13, 11))
    captions.write(picture, (corner[0] + margin, corner[1] + _BAR // 2), text, size, _INK)
