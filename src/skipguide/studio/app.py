"""The server of the studio: the page, the videos of one run in ranges, its images, votes,
trials."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from skipguide.files.text import displayable
from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.runs.ledger import NAME as LEDGER
from skipguide.studio import files, study_plan, trial_files, vote_table
from skipguide.studio.access import Guard, Policy
from skipguide.studio.annotation_routes import add_annotation_routes
from skipguide.studio.blind_names import BlindNames
from skipguide.studio.limits import Limits
from skipguide.studio.page_words import describe_invalid, in_page_words
from skipguide.studio.playground import TrialRequest, Trials
from skipguide.studio.responses import (
    RangedFile,
    Refused,
    not_found_on_error,
    video_response,
)
from skipguide.studio.run_page import RunPage
from skipguide.studio.sharing import Sharing
from skipguide.studio.study_routes import Hosting, add_study_routes
from skipguide.studio.vote_routes import add_vote_routes


class TrialBody(BaseModel):
    """The video that a person asks for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(max_length=400)]
    prompt: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**53)]  # what JavaScript can count
    parameters: Annotated[PlainData, Field(max_length=40)]
    image_of: int | None = None  # the prompt whose picture it starts from


def create_app(
    folder: Path,
    policy: Policy,
    trials: Trials | None = None,
    now: Callable[[], float] = time.time,
    sharing: Sharing | None = None,
) -> FastAPI:
    """Build the server of a run.

    Args:
        trials: makes what is asked for on the page; None makes nothing.
        now: the time in seconds, by which votes are refused that nobody can have thought about.
        sharing: how raters reach another server, for them alone.

    Raises:
        ValueError: if there is no run in the folder.
    """
    Run.open(folder).close()
    run_page = _run_page(folder, policy, trials is not None, sharing)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Whoever opens the page does not wait for what can be ready by then.
        threading.Thread(target=_try_to_read, args=(run_page,), daemon=True).start()
        yield
        if trials is not None:
            trials.close()

    app = _new_app(folder, policy, lifespan)
    _add_pages(app, {"/": "index.html", "/vote": "vote.html"})
    _add_run_routes(app, folder, run_page)
    add_study_routes(app, folder, BlindNames(policy.key("names"), now), Hosting())
    add_vote_routes(app, folder)
    add_annotation_routes(app, folder)
    _add_trial_routes(app, folder, trials)
    _answer_head(app)
    return app


def create_rater_app(
    folder: Path,
    policy: Policy,
    now: Callable[[], float] = time.time,
    limits: Limits | None = None,
) -> FastAPI:
    """Build the server for raters from outside: the blind test of a run, and nothing else of it.

    Args:
        policy: of `raters_only`, with the token and secret of the studio's own.
        now: as in `create_app`.

    Raises:
        ValueError: if there is no run in the folder.
    """
    Run.open(folder).close()
    limits = limits or Limits()
    app = _new_app(folder, policy, None, limits)
    _add_pages(app, {"/vote": "vote.html"})

    @app.get("/")
    def entrance() -> Response:
        return RedirectResponse("/vote", 303)

    add_study_routes(app, folder, BlindNames(policy.key("names"), now), Hosting(limits, True))
    _answer_head(app)
    return app


def _new_app(folder: Path, policy: Policy, lifespan: Any, limits: Limits | None = None) -> FastAPI:
    # No pages of documentation: they load scripts from elsewhere.
    app = FastAPI(
        title="skipguide studio", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_middleware(Guard, policy=policy, limits=limits)
    _add_error_handlers(app, folder, policy.raters_only)
    return app


def _try_to_read(run_page: RunPage) -> None:
    with contextlib.suppress(ValueError, OSError):  # told to whoever asks
        run_page.text()


def _add_error_handlers(app: FastAPI, folder: Path, raters_only: bool) -> None:
    """Refuse in the words of the page, and say it where the run itself is gone.

    Args:
        raters_only: what names the run or a path is not told.
    """

    def handler(status: int) -> Callable[[Request, Exception], Response]:
        def answer(_: Request, error: Exception) -> Response:
            if not (folder / LEDGER).is_file():
                return JSONResponse(
                    {"error": _GONE if raters_only else _describe_gone(folder)}, 410
                )
            said = displayable(in_page_words(str(error)))
            if raters_only and (status != 400 or os.sep in said):
                said = _AT_FAULT
            return JSONResponse({"error": said}, status)

        return answer

    def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return JSONResponse({"error": error.words}, error.status, error.headers)

    def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        detail = [{key: entry[key] for key in ("loc", "msg", "type")} for entry in error.errors()]
        said = describe_invalid(error.errors())
        return JSONResponse({"error": said, "detail": detail}, 422)

    def not_allowed(request: Request, _: Exception) -> Response:
        methods = _allowed_methods(app, request)
        said = f"{request.url.path} takes {' and '.join(methods)}, but got {request.method}."
        return JSONResponse({"error": said}, 405, {"Allow": ", ".join(methods)})

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(ValueError, handler(400))
    app.add_exception_handler(OSError, handler(503))
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(405, not_allowed)


_GONE = "this test is not there any more. Ask whoever holds it."
_AT_FAULT = "the test cannot be read or kept at the moment. If it stays so, tell whoever holds it."


def _describe_gone(folder: Path) -> str:
    name = displayable(folder.resolve().name)
    return (
        f"a run must be a folder with a {LEDGER}, but {name} is not there any more: it"
        " was deleted, moved or renamed while the studio was open. Put it back, or start the studio"
        " with another run."
    )


def _allowed_methods(app: FastAPI, request: Request) -> list[str]:
    """Return what an address takes, of all routes that have it."""
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    same = [route for route in routes if route.path_regex.match(request.url.path)]
    return sorted({method for route in same for method in route.methods or ()})


def _answer_head(app: FastAPI) -> None:
    """Let every address that takes GET take HEAD, as HTTP asks; the guard drops the content."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")


def _add_pages(app: FastAPI, names: Mapping[str, str]) -> None:
    pages = {path: files.render_page(name) for path, name in names.items()}

    async def page(request: Request) -> Response:
        return Response(pages[request.url.path], media_type="text/html")

    for path in pages:
        app.add_api_route(path, page)

    @app.get("/static/{name}")
    async def asset(name: str) -> Response:
        content = files.load_assets().get(name)
        if content is None:
            raise HTTPException(404)
        return Response(content, media_type=files.MEDIA_TYPES[Path(name).suffix])


def _run_page(folder: Path, policy: Policy, makes: bool, sharing: Sharing | None) -> RunPage:
    """Return what the page knows of the run and of this server."""

    def more(run: Run) -> PlainData:
        writable = _is_writable(folder)
        return {
            "votes_allowed": writable,
            "trials_allowed": makes and writable,
            "presets": trial_files.preset_choices(folder) if makes and writable else [],
            "token_for_raters": policy.rater_token,
            "hosts_for_raters": policy.hosts,
            "names_for_raters": sorted(policy.names),
            "sharing": asdict(sharing) if sharing else None,
            "study": study_plan.describe(run),
            "removed": vote_table.removal_rows(run),
        }

    return RunPage(folder, more)


def _add_run_routes(app: FastAPI, folder: Path, run_page: RunPage) -> None:
    @app.get("/api/run")
    def run(since: str | None = None) -> Response:
        return Response(run_page.text(since), media_type="application/json")

    @app.get("/api/counts")
    def counts() -> PlainData:
        with Run.open(folder) as found:
            return {
                "counts": found.counts(),
                "sweeping": found.is_sweeping,
                "votes_version": found.votes_version(),
                "state": run_page.state(),
            }

    @app.get("/clips/{name}")
    def clip(name: Annotated[str, InPath(pattern=f"^{files.CLIP_PATTERN}$")]) -> FileResponse:
        return video_response(folder, name)

    @app.get("/images/{prompt}")
    def image(prompt: int) -> FileResponse:
        with Run.open(folder) as found, not_found_on_error():
            path, kind = files.find_image(found, prompt)
            return RangedFile(path, media_type=kind)


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK)


def _add_trial_routes(app: FastAPI, folder: Path, trials: Trials | None) -> None:
    def allowed() -> Trials:
        if trials is None:
            raise HTTPException(403, "this studio makes no videos: it was started so.")
        return trials

    @app.get("/api/trials")
    def every() -> list[PlainData]:
        return allowed().list()

    @app.post("/api/trials")
    def add(asked: Annotated[TrialBody, Body()]) -> PlainData:
        makes = allowed()
        if (folder / LEDGER).is_file() and not _is_writable(folder):
            raise HTTPException(
                403,
                "a run must be writable to take videos, but this one is not. Ask whoever owns it,"
                " or open the studio on a copy.",
            )
        return makes.add(TrialRequest(**asked.model_dump())).payload()

    @app.delete("/api/trials/{number}")
    def cancel(number: int) -> PlainData:
        return allowed().cancel(number).payload()
