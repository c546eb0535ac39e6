"""Frames of a video file, one after the other, as a player shows them.

Players turn, mirror and crop a picture by what the file says; so does this. What players also do
and this does not (stretch pixels that are not square, map HDR colours) is in `VideoFile.notes`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.container
import av.error
import av.logging
import av.video
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from skipguide.files import damage
from skipguide.files.damage import Timeline

Frames = NDArray[np.uint8]

_HDR = {16: "PQ", 18: "HLG"}  # transfer functions of ITU-T H.273
_WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}  # primaries of the same tables
_CROP = re.compile(r"[Ff]rame [Cc]ropping: (\d+)/(\d+)/(\d+)/(\d+)")
# FFmpeg's messages are read where they are evidence of damage; they are not for the terminal.
logging.getLogger("libav").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Crop:
    """Pixels that a file says not to show at each border, before the picture is turned."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0


# Whether to swap the axes of a picture, and then to mirror x and y.
Turn = tuple[bool, bool, bool]


@dataclass(frozen=True)
class View:
    """The crop and the turn of the pictures of a file, in this order."""

    crop: Crop
    turn: Turn | None


@dataclass(frozen=True)
class VideoFile:
    """A video file that is whole, and what is known of it without decoding all of it."""

    path: Path
    stream: int  # which of the streams of the file is read
    rate: Fraction | None  # frames per second; None if nothing tells
    count: int  # frames expected; a few files have other numbers of packets than of frames
    height: int
    width: int
    view: View
    notes: tuple[str, ...]  # what players honour and this does not, in words

    @classmethod
    def open(cls, path: Path) -> VideoFile:
        """Look at a file: all its packets, and its first frame.

        Raises:
            ValueError: if there is no such file, it is not a video, or a part of it is missing.
        """
        # A short file is read whole as it is opened.
        with _ffmpeg_messages() as messages, open_container(path) as container:
            stream = _choose_stream(container, path)
            first, timeline = _scan(container, stream, path)
            if first is None:
                raise ValueError(
                    f"a video must have frames, but {path} has none. Use an undamaged file."
                )
            rate = _frame_rate(stream, timeline)
            complaint = damage.find_complaint(messages, container.format.name)
            timeline.complaint = complaint or timeline.complaint
            if container.format.name != "gif":  # every frame of a GIF has its own duration
                damage.check(timeline, rate, container, stream, path)
            matrix = _display_matrix(first)
            turn = None if matrix is None else _quarter_turn(matrix)
            view = View(_read_crop(container, stream), turn)
            height, width, _ = to_rgb(first, view).shape
            notes = tuple(_notes(container, stream, first, matrix))
            count = timeline.count
            return cls(path, stream.index, rate, count, height, width, view, notes)

    def frames(self) -> Iterator[Callable[[], Frames]]:
        """Yield a function for each frame, which converts it to `(H, W, 3)` uint8 RGB.

        Raises:
            ValueError: if a frame is damaged, or differs from the others in size.
        """
        with open_container(self.path) as container:
            for number, frame in enumerate(_decode(container, self.stream, self.path)):
                yield functools.partial(self._convert, frame, number)

    def _convert(self, frame: av.VideoFrame, number: int) -> Frames:
        pixels = to_rgb(frame, self.view)
        if pixels.shape[:2] != (self.height, self.width):
            raise ValueError(
                f"the frames of a video must have one size, but {self.path} has {self.width} x"
                f" {self.height} and, from frame {number} on, {pixels.shape[1]} x"
                f" {pixels.shape[0]}. Convert it to one size."
            )
        return pixels


def ffmpeg_name(path: Path) -> str:
    """Return the name by which FFmpeg opens a file, whatever stands in its path.

    What stands before a colon is a protocol to FFmpeg, as in http: or dir:1/a.mp4.
    """
    return f"file:{path}"


@contextlib.contextmanager
def open_container(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a file that has a video stream.

    Raises:
        ValueError: if it cannot be read as one, also later, while the block runs.
    """
    if not path.is_file():
        raise ValueError(f"a video file is needed, but {path} is not a file. Check the name.")
    if path.suffix.lower() == ".json":
        raise ValueError(f"a video file is needed, but {path} is a JSON file. {_video_of(path)}")
    try:
        with av.open(ffmpeg_name(path)) as container:
            if not container.streams.video:
                raise ValueError(
                    f"a video file is needed, but {path} has no video stream. Check the name."
                )
            yield container
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        reason = error.strerror
        raise ValueError(
            f"a video file is needed, but {path} cannot be read as one ({reason}). Check the file."
        ) from error


def _video_of(record: Path) -> str:
    """Say which video a JSON file lies beside: a record has the name of its video, and .json."""
    video = record.with_suffix("")
    if video.suffix.lower() not in (".mp4", ".mkv", ".mov", ".webm", ".avi", ".png", ".webp"):
        return "Name a video."
    there = "Name that." if video.is_file() else "It is not there: put both into one folder."
    return f"It is the record of the video {video}. {there}"


@contextlib.contextmanager
def _ffmpeg_messages() -> Iterator[list[tuple[int, str, str]]]:
    """Collect what FFmpeg says on this thread: level, who says it, text."""
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(False)  # else a file that is read again says nothing
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(before[0])
        av.logging.set_skip_repeated(before[1])


def _choose_stream(
    container: av.container.InputContainer, path: Path
) -> av.video.stream.VideoStream:
    """Return the stream that players show: the best of those that are not cover pictures."""
    moving = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not moving:
        raise ValueError(
            f"a video file is needed, but {path} has a cover picture and no video stream. Check"
            " the name."
        )
    best = container.streams.best("video")
    return next((stream for stream in moving if stream is best), moving[0])


def _read_crop(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Crop:
    """Read how a container crops the picture; PyAV has this only in FFmpeg's own words.

    A crop that the codec declares is applied by the decoder.
    """
    text = cast(Any, container).dumps_format()  # empty unless messages are collected
    _, _, own = text.partition(f"Stream #0:{stream.index}")
    found = _CROP.search(own.partition("Stream #0:")[0])
    return Crop(*map(int, found.groups())) if found else Crop()


def _scan(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, path: Path
) -> tuple[av.VideoFrame | None, Timeline]:
    """Go through all packets; only the first ones are decoded, up to the first frame."""
    first, timeline = None, Timeline()
    # The only times in an AVI are the positions of its packets, in decoding order.
    by_position = container.format.name == "avi"
    decoder = _Decoder(path)
    for packet in container.demux(stream):
        if packet.size and not packet.is_discard:
            timeline.add(packet, packet.dts if by_position else packet.pts)
        if first is None:
            first = next(iter(decoder.decode(packet)), None)
    return first, timeline


def _decode(
    container: av.container.InputContainer, index: int, path: Path
) -> Iterator[av.VideoFrame]:
    stream = container.streams[index]
    assert isinstance(stream, av.video.stream.VideoStream)
    decoder = _Decoder(path)
    for packet in container.demux(stream):
        yield from decoder.decode(packet)


class _Decoder:
    """Decodes packets in order, and tells damage from a file that was cut before a key frame.

    What comes before the first key frame needs frames that are not in the file: players leave it
    out and begin with the key frame.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.started, self.start = False, -math.inf  # has a key frame come, and when it is shown

    def decode(self, packet: av.Packet) -> Iterator[av.VideoFrame]:
        if packet.is_keyframe and not self.started:
            self.started = True
            self.start = -math.inf if packet.pts is None else packet.pts
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError:
            if self.started:
                raise
            return
        for frame in decoded:
            assert isinstance(frame, av.VideoFrame)
            if frame.is_corrupt:
                if not self.started or (frame.pts is not None and frame.pts < self.start):
                    continue
                raise ValueError(
                    f"a video must be complete, but frame {self.count} of {self.path} is damaged."
                    " Use an undamaged file."
                )
            self.count += 1
            yield frame


def _frame_rate(stream: av.video.stream.VideoStream, timeline: Timeline) -> Fraction | None:
    """Return the frames per second that the file states, or else those of its time stamps."""
    gap = timeline.median_gap()
    return (
        stream.average_rate
        or stream.guessed_rate
        or (Fraction(1 / gap).limit_denominator(1001) if gap else None)
    )


def _notes(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    frame: av.VideoFrame,
    matrix: tuple[int, ...] | None,
) -> Iterator[str]:
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        yield (
            f"its pixels are {aspect.numerator}:{aspect.denominator} and not square: players"
            " stretch it, it is read unstretched"
        )
    if matrix is not None and _quarter_turn(matrix) is None:
        a, b = matrix[0], matrix[1]
        degrees = math.degrees(math.atan2(b, a))
        yield (
            f"it is to be shown turned by {degrees:.0f} degrees, which is no quarter turn: it is"
            " read unturned"
        )
    if frame.interlaced_frame:
        yield "it is interlaced: many players deinterlace it, it is read with both fields"
    if int(frame.color_trc) in _HDR:
        yield (
            f"its colours are HDR ({_HDR[int(frame.color_trc)]}): players map them to the screen,"
            " they are read unmapped"
        )
    elif int(frame.color_primaries) in _WIDE:
        yield (
            f"its colours are wider than those of screens ({_WIDE[int(frame.color_primaries)]}):"
            " players map them, they are read unmapped"
        )
    for kind, words in (("SPHERICAL", "spherical (360 degrees)"), ("STEREO3D", "stereoscopic")):
        if frame.side_data.get(kind) is not None:
            yield f"it is {words}: it is read as the flat picture in the file"
    others = [one for one in container.streams.video if one is not stream]
    others = [one for one in others if not one.disposition & Disposition.attached_pic]
    if others:
        yield f"it has {len(others) + 1} video streams: only the one that players choose is read"


# --- pixels ---------------------------------------------------------------------------------------


def to_rgb(frame: av.VideoFrame, view: View) -> Frames:
    """Convert a frame to `(H, W, 3)` uint8: cropped, on white where transparent, and turned."""
    if any(component.is_alpha for component in frame.format.components):
        pixels = _on_white(np.asarray(frame.to_ndarray(format="rgba"), np.uint8))
    else:
        pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    height, width = pixels.shape[:2]
    crop = view.crop
    pixels = pixels[crop.top : height - crop.bottom, crop.left : width - crop.right]
    return np.ascontiguousarray(pixels if view.turn is None else _turn(pixels, *view.turn))


def _on_white(pixels: Frames) -> Frames:
    """Composite `(H, W, 4)` on white, as a web page shows it and as images are read."""
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return pixels[..., :3]
    mixed = pixels[..., :3] * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Return a, b, u, c, d, v, x, y, w: a pixel at (p, q) is shown at (a p + c q, b p + d q).

    It is read of one frame only: PyAV keeps a frame whose side data was read until the next garbage
    collection.
    """
    found = frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else struct.unpack("=9i", bytes(found))


def _quarter_turn(matrix: tuple[int, ...]) -> Turn | None:
    """Return whether to swap the axes, and then to mirror x and y; None for other matrices.

    Scales do not matter: FFmpeg has put them into the aspect ratio of the pixels.
    """
    a, b, _, c, d = matrix[:5]
    if b == c == 0 and a and d:
        return False, a < 0, d < 0
    if a == d == 0 and b and c:
        return True, c < 0, b < 0
    return None


def _turn(pixels: Frames, swapped: bool, mirrored_x: bool, mirrored_y: bool) -> Frames:
    pixels = pixels.swapaxes(0, 1) if swapped else pixels
    return pixels[:: -1 if mirrored_y else 1, :: -1 if mirrored_x else 1]
