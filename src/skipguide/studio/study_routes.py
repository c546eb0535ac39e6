"""The routes of the blind test: what a rater's page asks for and sends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.studio import blind_test, files, raters
from skipguide.studio.blind_names import BlindNames
from skipguide.studio.blind_test import Kind, Task
from skipguide.studio.responses import video_response

# Of the time that the videos take, what must have passed before an answer can be one: a page may
# have shown the last frame a little early, but not half of a video.
_LEAST_SHARE = 0.8

RaterName = Annotated[str, Field(max_length=400), AfterValidator(raters.check_name)]
BrowserKey = Annotated[str, Field(min_length=16, max_length=64)]
SettingIds = Annotated[list[int], Field(max_length=200)]
TaskName = Annotated[str, Field(max_length=40)]


class BeginBody(BaseModel):
    """A browser that wants to vote under a name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rater: RaterName
    key: BrowserKey
    same: bool = False  # the name is taken, and the person says that it is their own
    kind: Kind | None = None  # of the test, which must be one before a name is taken for it
    settings: SettingIds = []


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    rater: RaterName
    key: BrowserKey | None = None  # of a browser that has taken the name


class NextBody(_Body):
    """The test that a rater takes part in."""

    kind: Kind
    settings: SettingIds
    skipped: Annotated[list[TaskName], Field(max_length=1000)] = []  # whose videos do not play


class AnswerBody(_Body):
    """The answers of a rater to a task."""

    task: TaskName
    answers: Annotated[dict[str, str], Field(max_length=10)]
    seconds: Annotated[float, Field(ge=0, le=86400)] | None = None


def add_study_routes(app: FastAPI, folder: Path, names: BlindNames) -> None:
    """Add the blind test of a run to its server."""

    @app.post("/api/study/begin")
    def begin(asked: Annotated[BeginBody, Body()]) -> PlainData:
        with Run.open(folder) as run:
            _check_link(run, asked)
        with Run.open(folder, writable=True) as run:
            found = raters.begin(run, asked.rater, asked.key, asked.same)
        return {**found, "run": names.study(folder)}

    @app.post("/api/study/next")
    def following(asked: Annotated[NextBody, Body()]) -> PlainData:
        with Run.open(folder) as run:
            _check_rater(run, asked)
            every = blind_test.tasks(run.clips("done"), asked.kind, asked.settings, asked.rater)
            left = blind_test.open_tasks(every, run.votes(), asked.kind, asked.rater)
            prompts = {prompt.id: prompt.text or prompt.image for prompt in run.prompts()}
        fit = [task for task in left if not names.is_among(task, asked.rater, asked.skipped)]
        return {
            "total": len(every),
            "left": len(left),
            "skipped": len(left) - len(fit),
            "questions": blind_test.QUESTIONS[asked.kind],
            "task": _describe_task(fit[0], prompts, names, asked.rater) if fit else None,
        }

    @app.post("/api/study/answer")
    def answer(given: Annotated[AnswerBody, Body()]) -> PlainData:
        with Run.open(folder) as run:
            _check_rater(run, given)
            task = names.find_task(run, given.task, given.rater)
        if task is None:
            raise HTTPException(
                409,
                "an answer must be to a task that was given to this rater and is still in the run,"
                " but this one is not. Go on with the next one.",
            )
        _check_time(task, names.seconds_since(given.task))
        votes = blind_test.build_votes(task, given.rater, given.answers, given.seconds)
        with Run.open(folder, writable=True) as run:
            for vote in votes:
                run.vote(vote)
        return {"votes": len(votes)}

    @app.get("/study/{name}.mp4")
    def video(name: Annotated[str, InPath(pattern=f"^{files.KEY_PATTERN}$")]) -> FileResponse:
        with Run.open(folder) as run:
            key = names.find_video(run, name)
        try:
            if key is not None:
                return video_response(folder, key)
        except HTTPException:
            pass  # its words have the key of the clip, which a rater is not to know
        raise HTTPException(404, "this video is not in the run any more, or cannot be read.")


def _check_link(run: Run, asked: BeginBody) -> None:
    """Refuse a link that fits no test, so that no name is taken for nothing."""
    if asked.kind is None:
        return
    try:
        blind_test.tasks(run.clips("done"), asked.kind, asked.settings, asked.rater)
    except ValueError as error:
        raise HTTPException(404, f"this link fits no test: {error}") from None


def _check_rater(run: Run, asked: _Body) -> None:
    if not raters.may_vote(run, asked.rater, asked.key):
        raise HTTPException(
            403,
            f"another browser votes as {asked.rater}. Open the test anew, and say there whether"
            " that is you.",
        )


def _check_time(task: Task, passed: float) -> None:
    """Refuse an answer that came before the videos can have been seen.

    A clock that was set back since tells nothing, and an answer must not be lost to it.
    """
    least = _LEAST_SHARE * task.seconds
    if 0 <= passed < least:
        raise HTTPException(
            425,
            f"an answer must come after the videos were seen, which takes {task.seconds:.1f} s, but"
            f" came {passed:.1f} s after they were given. Watch them to the end.",
        )


def _describe_task(
    task: Task, prompts: dict[int, str | None], names: BlindNames, rater: str
) -> PlainData:
    """Return a task as a rater gets it: nothing in it tells a setting."""
    videos = [
        {
            "url": f"study/{names.name_video(clip.key)}.mp4", "frames": clip.frames,
            "fps": float(clip.fps or 1), "width": clip.width, "height": clip.height,
        }
        for clip in task.clips_in_order
    ]  # fmt: skip
    return {
        "id": names.name_task(task, rater),
        "prompt": prompts[task.first.prompt],
        "videos": videos,
    }
