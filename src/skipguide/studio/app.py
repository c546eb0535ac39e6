"""The server of the studio: the page, the videos of one run in ranges, its images, votes,
trials."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.studio import blind_test, files, page_data
from skipguide.studio.access import Guard, Policy
from skipguide.studio.blind_test import Kind, Task
from skipguide.studio.playground import TrialRequest, Trials

RaterName = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^\S(.*\S)?$")]
SettingIds = Annotated[list[int], Field(max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NextBody(_Body):
    """The test that a rater takes part in."""

    rater: RaterName
    kind: Kind
    settings: SettingIds


class AnswerBody(_Body):
    """The answers of a rater to a task."""

    rater: RaterName
    task: Annotated[str, Field(max_length=40)]
    answers: Annotated[dict[str, str], Field(max_length=10)]
    seconds: Annotated[float, Field(ge=0, le=86400)] | None = None


class TrialBody(_Body):
    """The video that a person asks for."""

    model: Annotated[str, Field(max_length=400)]
    prompt: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**53)]  # what JavaScript can count
    parameters: Annotated[PlainData, Field(max_length=40)]
    image_of: int | None = None  # the prompt whose picture it starts from


@dataclass
class _BlindNames:
    """Meaningless names of tasks and videos, for as long as the server runs."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    videos: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)

    def video(self, key: str) -> str:
        name = self._name(key)
        self.videos[name] = key
        return name

    def task(self, task: Task) -> str:
        name = self._name("\n".join((*(clip.key for clip in task.clips_in_order), "task")))
        self.tasks[name] = task
        return name

    def _name(self, text: str) -> str:
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()[:16]


def create_app(folder: Path, policy: Policy, trials: Trials | None = None) -> FastAPI:
    """Build the server of a run.

    Args:
        trials: makes what is asked for on the page; None makes nothing.

    Raises:
        ValueError: if there is no run in the folder.
    """
    Run.open(folder).close()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if trials is not None:
            trials.close()

    # No pages of documentation: they load scripts from elsewhere.
    app = FastAPI(
        title="skipguide studio", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_middleware(Guard, policy=policy)
    app.add_exception_handler(ValueError, _error_handler(400))
    app.add_exception_handler(OSError, _error_handler(503))
    _add_pages(app)
    _add_run_routes(app, folder, policy, trials is not None)
    _add_study_routes(app, folder)
    _add_trial_routes(app, trials)
    return app


def _error_handler(status: int) -> Callable[[Request, Exception], Response]:
    def answer(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return answer


def _add_pages(app: FastAPI) -> None:
    pages = {
        path: files.render_page(name)
        for path, name in (("/", "index.html"), ("/vote", "vote.html"))
    }

    @app.get("/")
    @app.get("/vote")
    def page(request: Request) -> Response:
        return Response(pages[request.url.path], media_type="text/html")

    @app.get("/static/{name}")
    def asset(name: str) -> Response:
        content = files.load_assets().get(name)
        if content is None:
            raise HTTPException(404)
        return Response(content, media_type=files.MEDIA_TYPES[Path(name).suffix])


def _add_run_routes(app: FastAPI, folder: Path, policy: Policy, makes: bool) -> None:
    @app.get("/api/run")
    def run() -> PlainData:
        with Run.open(folder) as found:
            writable = os.access(folder, os.W_OK)
            allowed = {"votes_allowed": writable, "trials_allowed": makes and writable}
            return {**page_data.describe(found), **allowed, "token_for_raters": policy.rater_token}

    @app.get("/api/counts")
    def counts() -> PlainData:
        with Run.open(folder) as found:
            return {"counts": found.counts(), "sweeping": found.is_sweeping}

    @app.get("/clips/{key}.mp4")
    def clip(key: Annotated[str, InPath(pattern=f"^{files.KEY_PATTERN}$")]) -> FileResponse:
        return _video_response(folder, key)

    @app.get("/images/{prompt}")
    def image(prompt: int) -> FileResponse:
        with Run.open(folder) as found, _not_found_on_error():
            path, kind = files.find_image(found, prompt)
            return FileResponse(path, media_type=kind)


def _video_response(folder: Path, key: str) -> FileResponse:
    with Run.open(folder) as run, _not_found_on_error():
        return FileResponse(files.find_video(run, key), media_type="video/mp4")


@contextlib.contextmanager
def _not_found_on_error() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise HTTPException(404, str(error)) from None


def _add_study_routes(app: FastAPI, folder: Path) -> None:
    blind = _BlindNames()

    @app.post("/api/study/next")
    def following(asked: Annotated[NextBody, Body()]) -> PlainData:
        with Run.open(folder) as run:
            every = blind_test.tasks(run.clips("done"), asked.kind, asked.settings, asked.rater)
            left = blind_test.open_tasks(every, run.votes(), asked.kind, asked.rater)
            prompts = {prompt.id: prompt.text or prompt.image for prompt in run.prompts()}
        state = {
            "total": len(every),
            "left": len(left),
            "questions": blind_test.QUESTIONS[asked.kind],
        }
        return {**state, "task": _describe_task(left[0], prompts, blind) if left else None}

    @app.post("/api/study/answer")
    def answer(given: Annotated[AnswerBody, Body()]) -> PlainData:
        task = blind.tasks.get(given.task)
        if task is None:
            raise HTTPException(
                409, "the server was started anew since this task was shown. Load the next one."
            )
        votes = blind_test.build_votes(task, given.rater, given.answers, given.seconds)
        with Run.open(folder, writable=True) as run:
            for vote in votes:
                run.vote(vote)
        return {"votes": len(votes)}

    @app.get("/study/{name}.mp4")
    def video(name: Annotated[str, InPath(pattern=f"^{files.KEY_PATTERN}$")]) -> FileResponse:
        key = blind.videos.get(name)
        if key is None:
            raise HTTPException(404)
        return _video_response(folder, key)


def _describe_task(task: Task, prompts: dict[int, str | None], blind: _BlindNames) -> PlainData:
    """Return a task as a rater gets it: nothing in it tells a setting."""
    videos = [
        {
            "url": f"study/{blind.video(clip.key)}.mp4", "frames": clip.frames,
            "fps": float(clip.fps or 1), "width": clip.width, "height": clip.height,
        }
        for clip in task.clips_in_order
    ]  # fmt: skip
    return {"id": blind.task(task), "prompt": prompts[task.first.prompt], "videos": videos}


def _add_trial_routes(app: FastAPI, trials: Trials | None) -> None:
    def allowed() -> Trials:
        if trials is None:
            raise HTTPException(403, "this studio makes no videos. Start it without --no-trials.")
        return trials

    @app.get("/api/trials")
    def every() -> list[PlainData]:
        return allowed().list()

    @app.post("/api/trials")
    def add(asked: Annotated[TrialBody, Body()]) -> PlainData:
        return allowed().add(TrialRequest(**asked.model_dump())).payload()

    @app.delete("/api/trials/{number}")
    def cancel(number: int) -> PlainData:
        return allowed().cancel(number).payload()
