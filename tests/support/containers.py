"""Video files in many containers, and their bytes changed by hand, for the tests of reading."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

KINDS = {  # suffix -> muxer, encoder
    "mp4": ("mp4", "libx264"), "mov": ("mov", "libx264"), "mkv": ("matroska", "libx264"),
    "webm": ("webm", "libvpx"), "avi": ("avi", "mpeg4"), "ts": ("mpegts", "libx264"),
    "mpg": ("mpeg", "mpeg2video"), "flv": ("flv", "libx264"), "wmv": ("asf", "wmv2"),
    "ogv": ("ogg", "libvpx"),
}  # fmt: skip


def noise(count: int, height: int = 48, width: int = 64) -> Frames:
    """Frames `(count, H, W, 3)` that do not compress, so that files are large enough to damage."""
    return np.random.default_rng(0).integers(0, 255, (count, height, width, 3), np.uint8)


def encode(
    path: Path,
    frames: Frames,
    starts: Sequence[int] | None = None,
    rate: int = 12,
    options: Mapping[str, str] | None = None,
    muxer: Mapping[str, str] | None = None,
    change: Callable[[Any], None] = lambda stream: None,
    sound: int = 0,
) -> Path:
    """Encode frames, shown at `starts` / `rate` seconds, in the container that the suffix says.

    Args:
        options: of the encoder. muxer: of the container.
        change: is called with the stream before the first frame.
        sound: seconds of silence beside the video.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    container_format, codec = KINDS[path.suffix[1:]]
    rate = 24 if codec == "mpeg2video" else rate
    with av.open(str(path), "w", format=container_format, options=dict(muxer or {})) as container:
        # Without mbtree, which makes other bytes each time (skipguide.files.video).
        usual = {"g": "6", **({"mbtree": "0"} if codec == "libx264" else {})}
        stream: Any = container.add_stream(codec, rate=rate, options={**usual, **(options or {})})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        stream.codec_context.thread_count = 1  # starting threads takes longer than the work
        change(stream)
        audio: Any = container.add_stream("aac", rate=8000) if sound else None
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = starts[i] if starts else i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            _mux_silence(container, audio, sound)
    return path


def _mux_silence(container: Any, stream: Any, seconds: int) -> None:
    for i in range(seconds * 8):
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts = 8000, 1024 * i
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def copy(source: Path, target: Path, first: int, muxer: Mapping[str, str] | None = None) -> Path:
    """Copy a video without encoding it, from packet `first` on, as `ffmpeg -ss ... -c copy`."""
    options = dict(muxer or {})
    with (
        av.open(str(source)) as given,
        av.open(str(target), "w", format=KINDS[target.suffix[1:]][0], options=options) as made,
    ):
        stream = made.add_stream_from_template(given.streams.video[0])
        for i, packet in enumerate(given.demux(video=0)):
            if i >= first and packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    return target


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a, b, c, d into the matrix of the track header (ISO 14496-12, 8.3.2) of an mp4."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 4 + 20 + 16  # version 0: times and ids, layer and volume
    a, b, c, d = matrix
    content[start : start + 36] = struct.pack(
        ">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30
    )
    path.write_bytes(content)
    return path


def insert_box(path: Path, parents: Sequence[bytes], box: bytes) -> Path:
    """Append a box to the last of `parents` in an mp4 whose index is at its end."""
    content, position, sizes, end = bytearray(path.read_bytes()), 0, [], 0
    for name in parents:
        while content[position + 4 : position + 8] != name:
            position += struct.unpack(">I", content[position : position + 4])[0]
        sizes.append(position)
        end = position + struct.unpack(">I", content[position : position + 4])[0]
        position += 8 + {b"stsd": 8, b"avc1": 78}.get(name, 0)
    for place in sizes:
        (size,) = struct.unpack(">I", content[place : place + 4])
        content[place : place + 4] = struct.pack(">I", size + len(box))
    content[end:end] = box
    path.write_bytes(content)
    return path
