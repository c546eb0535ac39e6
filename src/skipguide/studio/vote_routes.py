"""The routes for who holds a test: its votes as a table, and raters to remove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from skipguide.files.tables import to_csv
from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.studio import qr, vote_table

LinkText = Annotated[str, Query(min_length=1, max_length=qr.MOST_LETTERS)]


class RestoreBody(BaseModel):
    """A rater to bring back."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=400)]


def add_vote_routes(app: FastAPI, folder: Path) -> None:
    """Add what the votes page of a run asks for to its server."""

    @app.get("/votes.csv")
    def as_csv() -> Response:
        with Run.open(folder) as run:
            text = to_csv(vote_table.vote_rows(run), vote_table.COLUMNS)
        return Response(text, headers=_download("csv"), media_type="text/csv; charset=utf-8")

    @app.get("/votes.json")
    def as_json() -> Response:
        with Run.open(folder) as run:
            return JSONResponse({"votes": vote_table.vote_rows(run)}, headers=_download("json"))

    @app.delete("/api/raters")
    def remove(name: Annotated[str, Query(max_length=400)], forget: bool = False) -> PlainData:
        with Run.open(folder, writable=True) as run:
            return {"removed": run.remove_rater(name, forget)}

    @app.post("/api/raters/restore")
    def restore(asked: Annotated[RestoreBody, Body()]) -> PlainData:
        with Run.open(folder, writable=True) as run:
            return {"restored": run.restore_rater(asked.name)}

    @app.get("/qr.svg")
    def as_svg(text: LinkText) -> Response:
        return Response(qr.to_svg(text), media_type="image/svg+xml")

    @app.get("/qr.png")
    def as_png(text: LinkText) -> Response:
        return Response(qr.to_png(text), media_type="image/png")

    def _download(ending: str) -> dict[str, str]:
        return {"Content-Disposition": f'attachment; filename="votes.{ending}"'}
