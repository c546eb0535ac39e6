"""Answers that several routes give."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from skipguide.files import clips
from skipguide.runs import Run
from skipguide.studio import files
from skipguide.studio.page_words import in_page_words

_ONE_RANGE = r"(\d{1,18})-(\d{0,18})|-\d{1,18}"


_MOST_RANGES = 8


class Refused(Exception):
    """A request that is refused, in words for whoever sent it.

    Args:
        status: of HTTP.
        headers: further ones of the answer.
    """

    def __init__(self, status: int, words: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(words)
        self.status, self.words, self.headers = status, words, headers or {}


class RangedFile(FileResponse):
    """A file in ranges. A `Range` of another unit or form is ignored, as RFC 9110 (14.2) says."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the whole file where no range can be understood."""
        headers = [pair for pair in scope["headers"] if pair[0] != b"range" or _is_range(pair[1])]
        await super().__call__({**scope, "headers": headers}, receive, send)


def _is_range(value: bytes) -> bool:
    unit, _, ranges = value.decode("latin-1").partition("=")
    found = [re.fullmatch(_ONE_RANGE, part.strip()) for part in ranges.split(",")]
    # Who watches asks for one range; thousands would keep the server busy.
    return (
        unit.strip().lower() == "bytes"
        and len(found) <= _MOST_RANGES
        and all(one is not None and (not one[2] or int(one[1]) <= int(one[2])) for one in found)
    )


def video_response(folder: Path, name: str) -> FileResponse:
    """Return the video or picture of a clip, in ranges where they are asked for; 404 if there is
    none.

    Args:
        name: its key, and the suffix of its file.
    """
    key, _, suffix = name.partition(".")
    with Run.open(folder) as run, not_found_on_error():
        path = files.find_video(run, key)
        if path.suffix != f".{suffix}":
            raise ValueError(
                f"a clip must be asked for as what it is, {path.suffix}, but got .{suffix}."
            )
        return RangedFile(path, media_type=clips.MEDIA_TYPES[path.suffix])


@contextlib.contextmanager
def not_found_on_error() -> Iterator[None]:
    """Answer 404 in words where something is not in the run."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(404, in_page_words(str(error))) from None
