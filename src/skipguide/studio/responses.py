"""Answers that several routes give."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import FileResponse

from skipguide.runs import Run
from skipguide.studio import files


def video_response(folder: Path, key: str) -> FileResponse:
    """Return the video of a clip, in ranges where they are asked for; 404 if there is none."""
    with Run.open(folder) as run, not_found_on_error():
        return FileResponse(files.find_video(run, key), media_type="video/mp4")


@contextlib.contextmanager
def not_found_on_error() -> Iterator[None]:
    """Answer 404 in words where something is not in the run."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(404, str(error)) from None
