"""The route that tags and notes are written by."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from skipguide.method.protocols import PlainData
from skipguide.runs import Run, annotations
from skipguide.runs.annotations import Annotation
from skipguide.studio import files

_Tags = Annotated[list[Annotated[str, Field(max_length=400)]], Field(max_length=40)]


class AnnotationBody(BaseModel):
    """Changes of the tags and the note of a clip, or without one of the run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    clip: Annotated[str, Field(pattern=f"^{files.KEY_PATTERN}$")] | None = None
    add: _Tags = []
    remove: _Tags = []
    note: Annotated[str, Field(max_length=20_000)] | None = None


def add_annotation_routes(app: FastAPI, folder: Path) -> None:
    """Add what writes tags and notes to the server of a run."""

    @app.post("/api/annotations")
    def write(asked: Annotated[AnnotationBody, Body()]) -> PlainData:
        if not os.access(folder, os.W_OK):
            raise HTTPException(
                403,
                "a run must be writable to take tags and notes, but this one is not. Ask whoever"
                " owns it.",
            )
        keys = None if asked.clip is None else [asked.clip]
        with Run.open(folder, writable=True) as run:
            annotations.change(run, keys, asked.add, asked.remove, asked.note)
            found = annotations.read(run)
        return describe(found.run if asked.clip is None else found.of(asked.clip))


def describe(annotation: Annotation) -> PlainData:
    """Return tags and note for the page."""
    return {"tags": list(annotation.tags), "note": annotation.note}
