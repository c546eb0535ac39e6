"""The sound of video files: 16-bit samples, written without loss and read back to the bit.

Samples are `(C, N)` int16 everywhere here, C channels of N samples. Sample 0 is heard when the
first frame is shown.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.container
import numpy as np
from numpy.typing import NDArray

from skipguide.files.frames import open_container

Samples = NDArray[np.int16]
FULL = 32767.0  # of 16 bits, what 1.0 of a pipeline's sound becomes, as in diffusers' encode_video
# Lossless, and played inside mp4 by Chrome, Edge, Firefox and Safari. What an AAC encoder writes
# depends on the machine, begins with silence of its own, and would be heard by every metric.
CODEC = "flac"
_LAYOUTS = {1: "mono", 2: "stereo"}


@dataclass(frozen=True, eq=False)
class Sound:
    """The sound of one video.

    Args:
        samples: `(C, N)` int16, of 1 or 2 channels.
        rate: samples per second of a channel.
        title: what a player calls it, where a file has several.

    Raises:
        ValueError: for samples of another shape or type, or a rate that is not positive.
    """

    samples: Samples
    rate: int
    title: str = ""

    def __post_init__(self) -> None:
        shape, kind = self.samples.shape, self.samples.dtype
        if kind != np.int16 or len(shape) != 2 or shape[0] not in _LAYOUTS or not shape[1]:
            raise ValueError(
                f"sound must be (C, N) int16 with 1 or 2 channels and N >= 1, but got {shape}"
                f" {kind}. Convert it with Sound.from_floats()."
            )
        if self.rate < 1:
            raise ValueError(
                f"the sampling rate of a sound must be positive, but got {self.rate}. Take that of"
                " the model's vocoder."
            )

    @classmethod
    def from_floats(cls, samples: NDArray[np.floating], rate: int, title: str = "") -> Sound:
        """Convert floats in [-1, 1], `(C, N)` or `(N,)`; what is louder is clipped.

        Raises:
            ValueError: if they are not finite, or have another shape.
        """
        if not np.isfinite(samples).all():
            raise ValueError(
                "sound must be finite, but has infinite or NaN samples. Use another dtype for the"
                " model, as bfloat16 or float32."
            )
        clipped = np.clip(np.atleast_2d(samples).astype(np.float64), -1, 1)
        return cls((clipped * FULL).round().astype(np.int16), rate, title)

    @property
    def seconds(self) -> float:
        """Return how long it lasts, in seconds."""
        return self.samples.shape[1] / self.rate

    @property
    def sha256(self) -> str:
        """A hash of the samples, those of the first channel first."""
        return hashlib.sha256(np.ascontiguousarray(self.samples).tobytes()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what a record says of it."""
        channels, count = self.samples.shape
        return {
            "sample_rate": self.rate, "channels": channels, "samples": count, "sha256": self.sha256
        }  # fmt: skip

    def mono(self, rate: int) -> NDArray[np.float32]:
        """Return the mean of the channels as floats `(N,)` in [-1, 1], at another sampling rate.

        It is resampled by FFmpeg's sinc filter.
        """
        mixed = (self.samples.astype(np.float32) / 32768).mean(0, dtype=np.float32)
        if rate == self.rate:
            return mixed
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        frame = _to_frame(mixed[None], self.rate, "fltp", "mono")
        parts = [*resampler.resample(frame), *resampler.resample(None)]
        found = np.concatenate([part.to_ndarray()[0] for part in parts])
        return _fit(found, round(len(mixed) * rate / self.rate))


def _fit(samples: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Cut, or fill up with silence: FFmpeg returns a few samples more or fewer than it should."""
    return np.pad(samples[:count], (0, max(0, count - len(samples))))


def _to_frame(samples: NDArray[Any], rate: int, sample_format: str, layout: str) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples), format=sample_format, layout=layout
    )
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    return frame


# --- in files -------------------------------------------------------------------------------------


def add_track(container: av.container.OutputContainer, sound: Sound) -> Iterator[av.Packet]:
    """Add a stream for a sound to a file that is written; the iterator encodes it.

    All streams of a file are added before anything is encoded.
    """
    layout = _LAYOUTS[len(sound.samples)]
    stream: Any = container.add_stream(CODEC, rate=sound.rate, layout=layout, format="s16")
    if sound.title:
        stream.metadata["handler_name"] = sound.title  # mp4's place for the name of a track
    packed = sound.samples.T.reshape(1, -1)  # channels of one time side by side

    def packets() -> Iterator[av.Packet]:
        yield from stream.encode(_to_frame(packed, sound.rate, "s16", layout))
        yield from stream.encode(None)

    return packets()


def read(path: Path, track: int = 0) -> Sound | None:
    """Decode the sound of a video file; None if it has none, or fewer tracks.

    It begins with the first frame: what is heard before is cut, and where it begins later there is
    silence. More than two channels are mixed into two.

    Raises:
        ValueError: if there is no such file, it is not a video, or its sound is damaged.
    """
    with open_container(path) as container:
        if track >= len(container.streams.audio):
            return None
        stream = container.streams.audio[track]
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        resampler = av.AudioResampler(format="s16p", layout=layout)
        begin, parts = None, []
        for frame in container.decode(stream):
            begin = frame.time if begin is None else begin
            parts += [part.to_ndarray() for part in resampler.resample(frame)]
        parts += [part.to_ndarray() for part in resampler.resample(None)]
        if not parts:
            return None
        samples = np.concatenate(parts, axis=1)
        late = (begin or 0.0) - _video_start(container)
        return Sound(_shift(samples, round(late * stream.rate)), stream.rate)


def has_sound(path: Path) -> bool:
    """Return whether an mp4 has a sound, from a few bytes of its index; False for other files.

    It takes a tenth of a millisecond, so that it can be asked of all clips of a run.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return any(
                _is_handler_of_sound(file, begin)
                for movie in _boxes(file, 0, path.stat().st_size, b"moov")
                for track in _boxes(file, *movie, b"trak")
                for media in _boxes(file, *track, b"mdia")
                for begin, _ in _boxes(file, *media, b"hdlr")
            )
    except OSError:
        return False


def _boxes(file: BinaryIO, begin: int, end: int, kind: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the content of each box of a kind begins and ends (ISO/IEC 14496-12)."""
    while begin + 8 <= end:
        file.seek(begin)
        size, found, content = int.from_bytes(file.read(4), "big"), file.read(4), begin + 8
        if size == 1:  # one that is larger than 4 GB
            size, content = int.from_bytes(file.read(8), "big"), begin + 16
        stop = end if size == 0 else begin + size
        if stop < content:
            return
        if found == kind:
            yield content, min(stop, end)
        begin = stop


def _is_handler_of_sound(file: BinaryIO, begin: int) -> bool:
    file.seek(begin + 8)
    return file.read(4) == b"soun"


def _video_start(container: av.container.InputContainer) -> float:
    stream = container.streams.video[0]
    start, base = stream.start_time, stream.time_base
    return float(start * base) if start is not None and base is not None else 0.0


def _shift(samples: Samples, late: int) -> Samples:
    if late >= 0:
        return np.pad(samples, ((0, 0), (late, 0)))
    return samples[:, -late:] if -late < samples.shape[1] else np.zeros_like(samples[:, :1])
