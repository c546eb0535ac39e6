"""The routes of the blind test: what a rater's page asks for and sends."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from skipguide.files import clips
from skipguide.files.sound import has_sound
from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.runs.study import Kind
from skipguide.studio import attention, blind_test, files, raters, study_tasks, vote_order
from skipguide.studio.blind_names import BlindNames
from skipguide.studio.blind_test import Task
from skipguide.studio.limits import Limits
from skipguide.studio.responses import RangedFile
from skipguide.studio.sealed import SealedVideos
from skipguide.studio.study_tasks import Test

# Of the time that the videos take, what must have passed before an answer can be one: a page may
# have shown the last frame a little early, but not half of a video.
_LEAST_SHARE = 0.8
MOST_CHANGES = 10  # of an answer
MOST_RATERS = 1000  # of a run without a study that says how many

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
    code: Annotated[str, Field(max_length=40)] = ""  # which proves it, where raters are strangers
    consent: Annotated[str, Field(max_length=64)] | None = None  # the text that was accepted
    kind: Kind | None = None  # of the test, which must be one before a name is taken for it
    settings: SettingIds = []


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    rater: RaterName
    key: BrowserKey | None = None  # of a browser that has taken the name


class NextBody(_Body):
    """The test that a rater takes part in; the study of the run where nothing is said."""

    kind: Kind | None = None
    settings: SettingIds = []
    skipped: Annotated[list[TaskName], Field(max_length=1000)] = []  # whose videos do not play


class AnswerBody(_Body):
    """The answers of a rater to a task."""

    task: TaskName
    answers: Annotated[dict[str, str], Field(max_length=10)]
    seconds: Annotated[float, Field(ge=0, le=86400)] | None = None


@dataclass(frozen=True)
class Hosting:
    """The limits and rules of a server that holds the test.

    Args:
        needs_codes: a name that is taken is gone on with only by its code, since raters who do not
            know each other have the same link.
    """

    limits: Limits = field(default_factory=Limits)
    needs_codes: bool = False


def add_study_routes(app: FastAPI, folder: Path, names: BlindNames, hosting: Hosting) -> None:
    """Add the blind test of a run to its server."""
    _add_entrance(app, folder, names, hosting)
    _add_tasks(app, folder, names, hosting)
    copies = SealedVideos()

    @app.get("/study/{name}")
    def video(name: Annotated[str, InPath(pattern=f"^{files.CLIP_PATTERN}$")]) -> FileResponse:
        name, _, suffix = name.partition(".")
        try:
            with Run.open(folder) as run:
                path = _find_video(run, names, name)
                if path is not None and path.suffix == f".{suffix}":
                    sealed = copies.copy(name, path)
                    tag = {"ETag": f'"{sealed.stem}"'}  # else of time and size
                    kind = clips.MEDIA_TYPES[path.suffix]
                    return RangedFile(sealed, media_type=kind, headers=tag)
        except (ValueError, OSError):
            pass  # their words have the key of the clip, which a rater is not to know
        raise HTTPException(404, "this video is not in the run any more, or cannot be read.")


def _find_video(run: Run, names: BlindNames, name: str) -> Path | None:
    """Return the file that a name of the test stands for; None if there is none.

    Raises:
        ValueError: if the clip has no video.
    """
    if (copy := names.find_copy(run, name)) is not None:  # first: of clips there are many to read
        return attention.find_video(run, *copy)
    key = names.find_video(run, name)
    return None if key is None else files.find_video(run, key)


def _add_entrance(app: FastAPI, folder: Path, names: BlindNames, hosting: Hosting) -> None:
    @app.get("/api/study")
    def study() -> PlainData:
        with Run.open(folder) as run:
            return {**study_tasks.describe(run), "needs_codes": hosting.needs_codes}

    @app.post("/api/study/begin")
    def begin(asked: Annotated[BeginBody, Body()], request: Request) -> PlainData:
        hosting.limits.check_newcomer(request.client.host if request.client else "")
        with Run.open(folder) as run:
            test = _find_test(run, asked.kind, asked.settings, asked.rater)
            _check_consent(run, test, asked)
        may_claim = not hosting.needs_codes or names.is_return_code(asked.rater, asked.code)
        who = raters.Newcomer(asked.rater, asked.key, asked.same, may_claim)
        most = test.study.most_raters if test and test.study else MOST_RATERS
        with Run.open(folder, writable=True) as run:
            found = raters.begin(run, who, most)
            _refuse_claim(found["status"], most)
            if asked.consent is not None and found["status"] != "taken":
                run.study.accept(found["rater"], asked.consent)
        return {
            **found,
            "votes": 0 if hosting.needs_codes and found["status"] == "taken" else found["votes"],
            "run": names.study(folder),
            "code": _code(names, hosting, found),
        }

    @app.post("/api/study/remove")
    def remove(asked: Annotated[_Body, Body()]) -> PlainData:
        hosting.limits.check_rater(asked.rater)
        with Run.open(folder, writable=True) as run:
            _check_rater(run, asked, hosting)
            run.study.wish_removal(asked.rater)
        return {"asked": True}


def _add_tasks(app: FastAPI, folder: Path, names: BlindNames, hosting: Hosting) -> None:
    @app.post("/api/study/next")
    def following(asked: Annotated[NextBody, Body()]) -> PlainData:
        hosting.limits.check_rater(asked.rater)
        with Run.open(folder) as run:
            _check_rater(run, asked, hosting)
            test = _find_test(run, asked.kind, asked.settings, asked.rater)
            if test is None:
                raise HTTPException(404, _NO_STUDY)
            _check_accepted(run, test, asked.rater)
        every = study_tasks.given(folder, test, asked.rater)
        with Run.open(folder) as run:
            still_open = study_tasks.still_open(run, test, every, asked.rater)
            left = vote_order.arrange(run, test, still_open, asked.rater)
            prompts = {prompt.id: prompt.text or prompt.image for prompt in run.prompts()}
        fit = [task for task in left if not names.is_among(task, asked.rater, asked.skipped)]
        return {
            "total": len(every) - len(still_open) + len(left),
            "left": len(left),
            "skipped": len(left) - len(fit),
            "questions": fit[0].questions if fit else {},
            "task": _describe_task(fit[0], prompts, names, asked.rater) if fit else None,
        }

    @app.post("/api/study/answer")
    def answer(given: Annotated[AnswerBody, Body()]) -> PlainData:
        hosting.limits.check_rater(given.rater)
        with Run.open(folder) as run:
            _check_rater(run, given, hosting)
            study = run.study.current()
            test = Test(study.kind, study.settings, study) if study else None
            if test is not None:
                _check_accepted(run, test, given.rater)
            among = study_tasks.known(run, test, given.rater) if test else None
            task = names.find_task(run, given.task, given.rater, among)
        if task is None:
            raise HTTPException(
                409,
                "an answer must be to a task that was given to this rater and is still in the run,"
                " but this one is not. Go on with the next one.",
            )
        _check_time(task, names.seconds_since(given.task))
        with Run.open(folder, writable=True) as run:
            return study_tasks.keep(
                run, study, task, given.rater, given.answers, given.seconds, MOST_CHANGES
            )


_NO_STUDY = (
    "this link fits no test: it does not say which videos the test is of, and the run has no study"
    " that goes on. Ask for the whole link."
)


def _find_test(run: Run, kind: Kind | None, settings: list[int], rater: str) -> Test | None:
    """Return the test that a link means; None where it says nothing and the run has no study.

    A link that fits no test is refused, so that no name is taken for nothing.
    """
    study = run.study.current()
    if study is not None:
        if kind is not None and (kind, set(settings)) != (study.kind, set(study.settings)):
            raise HTTPException(
                404,
                "this link fits no test: a study goes on in this run, and the link is of another"
                " test. Ask for the link of the study.",
            )
        return Test(study.kind, study.settings, study)
    if kind is None:
        return None
    try:
        blind_test.tasks(run.clips("done"), kind, settings, rater)
    except ValueError as error:
        raise HTTPException(404, f"this link fits no test: {error}") from None
    return Test(kind, tuple(settings))


def _check_consent(run: Run, test: Test | None, asked: BeginBody) -> None:
    """Refuse who has not accepted the text of the study; nothing is kept of them."""
    wanted = test.study.consent if test and test.study else None
    known = None if wanted is None else run.study.has_accepted(asked.rater, wanted)
    if asked.consent != wanted and not (known and asked.consent is None):
        raise HTTPException(428, _CONSENT)


def _check_accepted(run: Run, test: Test, rater: str) -> None:
    wanted = test.study.consent if test.study else None
    if wanted is not None and not run.study.has_accepted(rater, wanted):
        raise HTTPException(428, _CONSENT)


_CONSENT = (
    "the text of consent must be accepted before the first task, but it was not, or it has changed"
    " since. Open the test anew, and read it."
)


def _refuse_claim(status: str, most: int) -> None:
    if status == "full":
        raise HTTPException(
            403, f"this test takes {most} raters, and has as many. Thank you for coming."
        )
    if status == "wrong code":
        raise HTTPException(
            403,
            "a name that is taken can be gone on with only by its code, which the page shows to"
            " whoever took it. Correct the code, or begin under another name.",
        )


def _code(names: BlindNames, hosting: Hosting, found: PlainData) -> str | None:
    """Return the code of a rater, for that rater alone."""
    is_own = hosting.needs_codes and found["status"] in ("new", "known")
    return names.return_code(found["rater"]) if is_own else None


def _check_rater(run: Run, asked: _Body, hosting: Hosting) -> None:
    """Refuse who votes under the name of another, or, of strangers, under one that nobody took."""
    if hosting.needs_codes and asked.rater not in run.rater_keys():
        raise HTTPException(
            403,
            f"a name must be taken before anything is asked under it, but {asked.rater} is not."
            " Open the test anew, and begin.",
        )
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
            f"an answer must come after what is shown was seen, which takes {task.seconds:.1f} s,"
            f" but came {passed:.1f} s after it was given. Look at it to the end.",
        )


def _describe_task(
    task: Task, prompts: dict[int, str | None], names: BlindNames, rater: str
) -> PlainData:
    """Return a task as a rater gets it: nothing in it tells a setting, or a check."""
    videos = [
        {
            "url": f"study/{name}{clip.video.suffix if clip.video else '.mp4'}",
            "frames": clip.frames, "fps": float(clip.fps or 1),
            "width": clip.width, "height": clip.height,
            "sound": clip.video is not None and has_sound(clip.video),
        }
        for clip, name in zip(task.clips_in_order, names.name_videos(task), strict=True)
    ]  # fmt: skip
    return {
        "id": names.name_task(task, rater),
        "prompt": prompts[task.first.prompt],
        "videos": videos,
    }
