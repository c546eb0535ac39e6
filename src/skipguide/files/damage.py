"""Tell a video file that has lost a part from one that is merely unusual.

A file is refused if it ends early or pauses *and* something shows that bytes are missing. Times
alone prove nothing: a picture may start late, pause, or stand still at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.video
import numpy as np

# What FFmpeg's readers say where bytes are missing or are not what they should be.
_COMPLAINTS = re.compile(
    r"ended prematurely|as first byte of an EBML number|exceeds containing master element"
    r"|Packet mismatch|CRC mismatch|incomplete packet|partial file|resync"
)
_CONTAINERS_WITH_COMPLAINTS = ("matroska", "ogg", "asf")  # they notice every loss
_TOLERANCE = 2.5  # frames at the end
_LONGEST_GAP = 1.5  # frames from one to the next, where bytes are known to be missing


@dataclass
class Timeline:
    """The times in seconds at which the packets of a video are shown, and what else they say."""

    spans: list[tuple[float, float]] = field(default_factory=list)  # start and end
    count: int = 0  # of packets that are shown
    complaint: str = ""  # FFmpeg's, of bytes that are missing or wrong

    def add(self, packet: av.Packet, start: int | None) -> None:
        """Add a packet, which starts at `start` if that is known."""
        self.count += 1
        # Joined streams have this too, where one ends and the next begins, and have lost nothing.
        if packet.is_corrupt and not self.complaint:
            self.complaint = f"packet {self.count} is corrupt"
        if start is not None:
            end = start + (packet.duration or 0)
            self.spans.append((float(start * packet.time_base), float(end * packet.time_base)))

    def starts(self) -> list[float]:
        """Return the starts in the order in which frames are shown."""
        return sorted(start for start, _ in self.spans)

    def median_gap(self) -> float:
        """Return the usual seconds from one frame to the next; 0 for a single frame."""
        return float(np.median(np.diff(self.starts()))) if len(self.spans) > 1 else 0.0


def find_complaint(messages: Iterable[tuple[int, str, str]], container: str) -> str:
    """Return what the reader of a container said about missing bytes; "" if nothing."""
    said = (text for _, name, text in messages if name == container)
    return next((" ".join(text.split()) for text in said if _COMPLAINTS.search(text)), "")


def check(
    timeline: Timeline,
    rate: Fraction | None,
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    path: Path,
) -> None:
    """Raise ValueError if a video has lost its end, or a part in the middle."""
    if not timeline.spans:
        return
    frame = max(float(1 / rate) if rate else 0.0, timeline.median_gap())
    lengths = declared_lengths(container, stream)
    silent = not any(name in container.format.name for name in _CONTAINERS_WITH_COMPLAINTS)
    if lengths and (timeline.complaint or silent):
        check_length(timeline, frame, min(lengths), path)
    check_gaps(timeline, frame, path)


def declared_lengths(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> list[float]:
    """Return the seconds of video that a file claims to have, in each place that makes a claim.

    One that is too long may be left over from another version of the file.
    """
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        # The duration that PyAV reports has been corrected to the packets that are there.
        return [float(stream.frames / stream.average_rate)]
    if stream.duration and stream.time_base:
        return [float(stream.duration * stream.time_base)]
    found = []
    # Matroska keeps the duration as text.
    words = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if words:
        found.append(int(words[1]) * 3600 + int(words[2]) * 60 + float(words[3]))
    alone = len(container.streams) == 1  # otherwise, sound may continue after the last frame
    if container.duration and (alone or found):
        found.append(container.duration / av.time_base)
    return found


def check_length(timeline: Timeline, frame: float, length: float, path: Path) -> None:
    """Raise if a video ends more than two frames early; `frame` is the seconds between two frames.

    Frames are not counted: a video of varying rate has fewer than its length times its rate. A
    length may count from the first frame or from time 0.
    """
    first = min(start for start, _ in timeline.spans)
    last = max(max(end, start + frame) for start, end in timeline.spans)
    there = max(last, last - first)
    if there < length - _TOLERANCE * frame:
        raise ValueError(
            f"a video must be complete, but {path} has {there:.2f} of the {length:.2f} seconds that"
            " it declares. Use an undamaged file."
        )


def check_gaps(timeline: Timeline, frame: float, path: Path) -> None:
    """Raise if a video pauses and FFmpeg skipped bytes of the file."""
    starts: Sequence[float] = timeline.starts()
    holes = np.flatnonzero(np.diff(starts) > _LONGEST_GAP * frame)
    if timeline.complaint and len(holes):
        raise ValueError(
            f"a video must be complete, but {path} lacks frames after second"
            f" {starts[holes[0]] - starts[0]:.2f} ({timeline.complaint}). Use an undamaged file."
        )
