"""Watches on a pipeline while it makes a video; what they saw is kept beside the video."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Watched:
    """What a watch saw of one video.

    Args:
        content: a safetensors file.
        seconds: that the watch took by passes of its own; the times of the video are without them.
    """

    content: bytes
    seconds: float


class Watcher(Protocol):
    """A watch on one pipeline, while it is on."""

    def finish(self) -> Watched:
        """Return what was seen, when the video is made."""
        ...


class Watch(Protocol):
    """A watch, which can be sent to workers.

    What it saw lies in the run as `FOLDER/KEY.safetensors`, KEY being that of the video. It must
    not change the video.
    """

    @property
    def folder(self) -> str:
        """The folder in the run, as "tune/scan"."""
        ...

    def attach(self, pipe: Any) -> AbstractContextManager[Watcher]:
        """Watch the next call of a pipeline, while the block runs."""
        ...


def watched_file(watch: Watch, key: str) -> str:
    """Return the name of what a watch saw of a video, relative to the run."""
    return f"{watch.folder}/{key}.safetensors"
