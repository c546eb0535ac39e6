"""Video files: mp4 that players show in the right colours, with the record of how it was made.

Frames are `(F, H, W, 3)` uint8 RGB everywhere here. A file appears under its name only when it is
complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error
import av.video
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from skipguide.files import fonts
from skipguide.method.protocols import PlainData, ReadOnlyData

Frames = NDArray[np.uint8]

METADATA_TAG = "skipguide"
_BT709 = 1  # the code of primaries, transfer and matrix in the tables of ITU-T H.273
_LIMITED_RANGE = 1


def sidecar_path(path: Path) -> Path:
    """Return the path of the record beside a video: star.mp4.json."""
    return path.with_name(path.name + ".json")


@contextlib.contextmanager
def atomic_replace(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield temporary names in the same folders, which replace `paths` if the block succeeds."""
    # A file name may have 255 bytes, so a long name is cut before anything is added to it.
    parts = tuple(
        path.with_name(f".{path.name[:50]}.{os.getpid()}-{i}.part") for i, path in enumerate(paths)
    )
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield parts
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def write(path: Path, frames: Frames, fps: Fraction | int | str, record: ReadOnlyData) -> None:
    """Write an mp4 with its record inside, and the same record beside it.

    The file is H.264 in yuv420p (all that browsers play), tagged BT.709 (untagged files are shown
    in wrong colours), with a key frame at least every 12 frames (players seek to key frames).

    Raises:
        ValueError: if the frames have another shape or type, or an odd height or width.
    """
    _check_frames(frames)
    text = json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False)
    with atomic_replace(path, sidecar_path(path)) as (video_part, record_part):
        record_part.write_text(text + "\n", encoding="utf-8")
        _encode(video_part, frames, Fraction(fps), text)


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


def _encode(path: Path, frames: Frames, fps: Fraction, record: str) -> None:
    # Without use_metadata_tags ffmpeg drops keys that it does not know.
    with av.open(
        str(path), "w", format="mp4", options={"movflags": "+faststart+use_metadata_tags"}
    ) as container:
        container.metadata[METADATA_TAG] = record
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12", "g": "12"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED_RANGE
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())


def read(path: Path) -> tuple[Frames, Fraction]:
    """Decode a video into its frames `(F, H, W, 3)`, and return them with its frames per second.

    Raises:
        ValueError: if there is no such file, it is not a video, or a part of it is damaged or
            missing.
    """
    with _open_video(path) as container:
        stream = container.streams.video[0]
        frames, shown = _decode(container, path)
        rate, length = stream.average_rate, _declared_length(container)
        kind = container.format.name
    if not frames or not rate:
        raise ValueError(
            f"a video must have frames and a frame rate, but {path} has none. Use an undamaged"
            " file."
        )
    if kind != "gif" and shown:  # every frame of a GIF has its own duration
        _check_length(shown, float(1 / rate), length, path)
        if "mp4" not in kind:  # an mp4 has an index, which reveals every missing frame
            _check_gaps(shown, float(1 / rate), path)
    return np.stack(frames), rate


def _decode(
    container: av.container.InputContainer, path: Path
) -> tuple[list[Frames], list[tuple[float, float]]]:
    """Return the frames, and the start and end of each packet of them in seconds."""
    frames, shown = [], []
    for packet in container.demux(container.streams.video[0]):
        # The only times in an AVI are the positions of its packets, in decoding order.
        start = packet.dts if container.format.name == "avi" else packet.pts
        if start is not None:
            shown.append(
                (
                    float(start * packet.time_base),
                    float((start + (packet.duration or 0)) * packet.time_base),
                )
            )
        for frame in packet.decode():
            if packet.is_corrupt or frame.is_corrupt:
                raise ValueError(
                    f"a video must be complete, but frame {len(frames)} of {path} is damaged. Use"
                    " an undamaged file."
                )
            frames.append(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
    return frames, shown


def _declared_length(container: av.container.InputContainer) -> float | None:
    """Return the seconds of video that a file claims to have; None if it makes no claim."""
    stream = container.streams.video[0]
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        # The duration that PyAV reports has been corrected to the packets that are there.
        return float(stream.frames / stream.average_rate)
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska keeps the duration as text.
    words = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if words:
        return int(words[1]) * 3600 + int(words[2]) * 60 + float(words[3])
    alone = len(container.streams) == 1  # otherwise, sound may continue after the last frame
    return container.duration / av.time_base if container.duration and alone else None


def _check_length(
    shown: Sequence[tuple[float, float]], frame: float, length: float | None, path: Path
) -> None:
    """Raise if a video ends more than two frames early; `frame` is the seconds between two frames.

    Frames are not counted: a video of varying rate has fewer than its length times its rate.
    """
    first = min(start for start, _ in shown)
    there = max(max(end, start + frame) for start, end in shown) - first
    if length is not None and there < length - 2.5 * max(frame, _median_frame_gap(shown)):
        raise ValueError(
            f"a video must be complete, but {path} has {there:.2f} of the {length:.2f} seconds that"
            " it declares. Use an undamaged file."
        )


def _check_gaps(shown: Sequence[tuple[float, float]], frame: float, path: Path) -> None:
    """Raise if a video at a steady rate pauses for more than two frames, once or twice.

    This is what damage that the reader skipped looks like. A video of varying rate pauses more
    often.
    """
    starts = np.sort([start for start, _ in shown])
    holes = np.flatnonzero(np.diff(starts) > 2.5 * max(frame, _median_frame_gap(shown)))
    if len(starts) > 10 and 0 < len(holes) <= 2:
        raise ValueError(
            f"a video must be complete, but {path} lacks frames after second"
            f" {starts[holes[0]] - starts[0]:.2f}. Use an undamaged file; if the video really"
            " pauses there, convert it to a constant frame rate."
        )


def _median_frame_gap(shown: Sequence[tuple[float, float]]) -> float:
    return (
        float(np.median(np.diff(np.sort([start for start, _ in shown])))) if len(shown) > 1 else 0.0
    )


def read_record(path: Path) -> PlainData:
    """Read the record of a video from its own metadata, or else from the sidecar.

    Web sites strip metadata, hence the sidecar.

    Raises:
        ValueError: if there is no such file, it is not a video, or neither place has a readable
            record.
    """
    with _open_video(path) as container:
        # Containers other than mp4 return keys in upper case.
        text = next(
            (value for key, value in container.metadata.items() if key.lower() == METADATA_TAG),
            None,
        )
    where = path
    if text is None:
        where = sidecar_path(path)
        if not where.is_file():
            raise ValueError(
                f'a video must carry a skipguide record (metadata tag "{METADATA_TAG}" or the file'
                f" {where.name} beside it), but {path} has neither. Use a video that skipguide"
                " wrote, or put its .json back."
            )
        text = where.read_text(encoding="utf-8", errors="replace")
    return _parse_record(text, where)


def _parse_record(text: str, where: Path) -> PlainData:
    try:
        record = json.loads(text)
    except json.JSONDecodeError:
        record = None
    if not isinstance(record, dict):
        raise ValueError(
            f"a record must be a JSON object, but that of {where} starts with {text[:20]!r}. Use"
            " an undamaged file."
        )
    return record


@contextlib.contextmanager
def _open_video(path: Path) -> Iterator[av.container.InputContainer]:
    if not path.is_file():
        raise ValueError(f"a video file is needed, but {path} is not a file. Check the name.")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(
                    f"a video file is needed, but {path} has no video stream. Check the name."
                )
            yield container
    except av.error.FFmpegError as error:
        reason = error.strerror
        raise ValueError(
            f"a video file is needed, but {path} cannot be read as one ({reason}). Check the file."
        ) from error


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
    text = fonts.drawable(" ".join(text.split()))
    margin, draw = 4, ImageDraw.Draw(picture)
    sizes = [fonts.load(text, size) for size in (15, 13, 11)]
    font = next((font for font in sizes if font.getlength(text) <= width - 2 * margin), sizes[-1])
    while text and font.getlength(text) > width - 2 * margin:
        text = text.rstrip("…")[:-1] + "…" if len(text) > 1 else ""
    draw.text((corner[0] + margin, corner[1] + _BAR // 2), text, fill=_INK, font=font, anchor="lm")
