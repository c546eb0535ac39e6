"""Trials: videos that a person asks for on the page, one at a time, by a model that stays loaded.

A trial is a plan of one setting, prompt and seed, swept into the same run as every other plan: an
existing video is not made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skipguide.generate.describe import COLUMNS
from skipguide.generate.flags import SCALE_AXES
from skipguide.method import validate
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.models.places import without_places
from skipguide.runs import Plan, Run
from skipguide.runs.ledger import to_json
from skipguide.studio import files, trial_files
from skipguide.studio.page_words import in_page_words

if TYPE_CHECKING:
    from skipguide.generate.run import StepProgress
    from skipguide.runs.engine import Engine
    from skipguide.runs.jobs import ResolvedSetting

State = Literal["waiting", "running", "done", "failed", "cancelled"]
MAX_WAITING = 8  # trials that may wait
_MAX_FINISHED = 50  # trials that are over, for the page to show
PARAMETERS = tuple(
    name for name in COLUMNS if name not in ("prompt", "image", "seed", "model", "device")
)
_NAMED_PARAMETERS = (
    "preset",
    "layers",
    "skip",
    *SCALE_AXES,
    "slg_layers",
    "term",
    "guidance_scale",
    "cfg_rule",
    "nag",
    "restart",
    "steps",
    "rescale",
)  # in the name of a setting


@dataclass(frozen=True)
class TrialRequest:
    """The video that is asked for."""

    model: str
    prompt: str | None
    seed: int
    parameters: ReadOnlyData  # settings and flags of `skipguide generate`, or `guidance`
    image_of: int | None = None  # the prompt of the run whose picture it starts from


@dataclass
class Trial:
    """A video that was asked for, and how far it is."""

    id: int
    ask: TrialRequest
    name: str  # of its setting
    image: str | None = None  # the name of its picture
    state: State = "waiting"
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    key: str | None = None  # of its clip
    error: str | None = None
    stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def payload(self) -> PlainData:
        """Return the trial ready for JSON."""
        same = ("id", "name", "image", "state", "step", "steps", "seconds_left", "key", "error")
        return {**{name: getattr(self, name) for name in same}, "ask": asdict(self.ask)}


class _Cancelled(BaseException):
    """Raised to end a trial; no Exception, because engines take those for failures of the job."""


class Trials:
    """The queue of trials of a run and its thread, which starts with the first trial.

    Args:
        folder: the run directory.
        engine: makes the engine, which holds the model from then on.
    """

    def __init__(self, folder: Path, engine: Callable[[], Engine]):
        self.folder, self._make_engine = folder, engine
        self._engine: Engine | None = None
        self._trials: list[Trial] = []
        # A page that outlives the server must not take a trial for one of the server before.
        self._numbers = itertools.count(int(time.time() * 1000))
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    @classmethod
    def local(cls, folder: Path) -> Trials:
        """Return trials that are made in this process."""

        def engine() -> Engine:
            from skipguide.runs.local_engine import LocalEngine
            from skipguide.runs.storage import WORK

            return LocalEngine(folder / WORK)

        return cls(folder, engine)

    def add(self, ask: TrialRequest) -> Trial:
        """Put a trial at the end of the queue.

        Raises:
            ValueError: if the queue is full, or as `build_plan`.
        """
        (prompt,) = build_plan(
            self.folder, ask
        ).prompts  # complains now about what is wrong without the model
        with self._changed:
            if sum(trial.state == "waiting" for trial in self._trials) >= MAX_WAITING:
                raise ValueError(
                    f"at most {MAX_WAITING} trials may wait, and as many do. Cancel one, or wait."
                )
            trial = Trial(
                next(self._numbers), ask, trial_name(ask), prompt.image and prompt.image.name
            )
            over = [trial for trial in self._trials if trial.state not in ("waiting", "running")]
            self._trials = [old for old in self._trials if old not in over[:-_MAX_FINISHED]] + [
                trial
            ]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work_loop, name="trials", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return trial

    def cancel(self, number: int) -> Trial:
        """Take a trial out of the queue, or end it after its step.

        Raises:
            ValueError: if there is none of this number.
        """
        with self._changed:
            trial = next((trial for trial in self._trials if trial.id == number), None)
            if trial is None:
                raise ValueError(
                    f"a trial must be one of the queue, but got {number}. Look at the list again."
                )
            trial.stop.set()
            if trial.state == "waiting":
                trial.state = "cancelled"
        return trial

    def list(self) -> list[PlainData]:
        """Return all trials, the oldest first."""
        with self._changed:
            return [trial.payload() for trial in self._trials]

    def close(self) -> None:
        """End the current trial and the thread."""
        with self._changed:
            self._closed = True
            for trial in self._trials:
                trial.stop.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=60)
        if self._engine is not None:
            self._engine.close()

    # --- the thread -------------------------------------------------------------------------------

    def _work_loop(self) -> None:
        while (trial := self._next_trial()) is not None:
            state: State = "failed"
            try:
                state = self._run_trial(trial)
            except _Cancelled:
                state = "cancelled"
            except Exception as error:  # of a model, a disk, another sweep: for the person to read
                trial.error = in_page_words(str(error)) or type(error).__name__
            with self._changed:
                trial.state = state

    def _next_trial(self) -> Trial | None:
        with self._changed:
            while not self._closed:
                waiting = next((trial for trial in self._trials if trial.state == "waiting"), None)
                if waiting is not None:
                    waiting.state = "running"
                    return waiting
                self._changed.wait()
        return None

    def _run_trial(self, trial: Trial) -> State:
        from skipguide.runs.engine import JobFailed, read_start_image
        from skipguide.runs.jobs import build_jobs
        from skipguide.runs.sweep import sweep

        def on_step(step: StepProgress) -> None:
            if trial.stop.is_set():
                raise _Cancelled
            trial.step, trial.steps, trial.seconds_left = step.number, step.steps, step.seconds_left

        self._engine = engine = self._engine or self._make_engine()
        plan, state = build_plan(self.folder, trial.ask), "done"
        surveyed = engine.survey(plan.settings, read_start_image(plan.prompts[0].image))
        known = _existing_setting_name(self.folder, surveyed[0])
        if known is not None:  # a plan that calls it otherwise would rename it
            plan = build_plan(self.folder, trial.ask, known)
            surveyed = [replace(surveyed[0], setting=plan.settings[0])]
            trial.name = known
        how: PlainData = dict(retry_failed=True, measure=False, keep_pending=False, on_step=on_step)
        with contextlib.closing(sweep(plan, self.folder, engine, **how)) as happenings:
            for happening in happenings:
                if trial.stop.is_set():
                    raise _Cancelled
                if isinstance(happening, JobFailed):
                    trial.error = in_page_words(happening.error.splitlines()[0])
                    state = "failed"
        trial.key = (
            build_jobs(plan, surveyed, engine.versions())[0].key if state == "done" else None
        )
        return state


def _existing_setting_name(folder: Path, surveyed: ResolvedSetting) -> str | None:
    """Return the name under which the run already has a setting; None if it has not."""
    from skipguide.runs.jobs import setting_content

    model = surveyed.setting.generation.model
    content = to_json(without_places(setting_content(surveyed.complete)))
    with Run.open(folder) as run:
        same = (
            entry.name
            for entry in run.settings()
            if entry.model == model and to_json(without_places(entry.complete)) == content
        )
        return next(same, None)


def build_plan(folder: Path, ask: TrialRequest, name: str | None = None) -> Plan:
    """Build the plan of a trial.

    Args:
        name: of its setting; None makes one of its content.

    Raises:
        ValueError: for a model or an image that the run does not have, a trial with neither text
            nor image, or a parameter that does not exist or may not be set.
    """
    with Run.open(folder) as run:
        _check_request(ask, [model.name for model in run.models()])
        trial_files.check_files(run, ask.parameters)
        shared = trial_files.of_model(run, ask.model)
        image = (
            None
            if ask.image_of is None
            else files.find_image(run, ask.image_of)[0].relative_to(folder)
        )
    prompt = ask.prompt if image is None else {"prompt": ask.prompt, "image": str(image)}
    setting = {"name": name or trial_name(ask), **shared, **ask.parameters}
    return Plan.of(
        {"model": ask.model, "prompts": [prompt], "seeds": [ask.seed], "settings": [setting]},
        folder,
    )


def _check_request(ask: TrialRequest, models: Sequence[str]) -> None:
    if ask.model not in models:
        raise ValueError(
            f"model must be one of the run, {', '.join(models)}, but got {ask.model!r}. Choose one"
            " of them."
        )
    unknown = sorted(set(ask.parameters) - set(PARAMETERS))
    if unknown:
        raise ValueError(
            f"a trial may set {', '.join(PARAMETERS)}, but got {', '.join(unknown)}."
            f" {validate.did_you_mean(unknown[0], PARAMETERS, 'Leave it out.')}"
        )
    if _names_a_file(ask.parameters):
        raise ValueError(
            "the schedule of a trial must be a list of bins, because trials read no files, but"
            " got a name. Write the bins."
        )
    if ask.prompt is None and ask.image_of is None:
        raise ValueError(
            "a trial must have a prompt, a picture or both, but got neither. Write a prompt, or"
            " choose a picture."
        )


def _names_a_file(parameters: ReadOnlyData) -> bool:
    """Return whether a schedule is the name of a file, which no visitor may have read."""
    guidance = parameters.get("guidance")
    inside = [guidance, guidance.get("preset")] if isinstance(guidance, Mapping) else []
    places = [place for place in (parameters, *inside) if isinstance(place, Mapping)]
    return any(isinstance(place.get("schedule"), str) for place in places)


def trial_name(ask: TrialRequest) -> str:
    """Name a trial's setting by its main parameters and a hash of all, so that no two share a
    name."""
    content = to_json({"model": ask.model, **ask.parameters})
    given = [(name, ask.parameters[name]) for name in _NAMED_PARAMETERS if ask.parameters.get(name)]
    words = ", ".join(f"{name.replace('_', ' ')} {_format_value(value)}" for name, value in given)
    otherwise = "guidance of its own" if ask.parameters.get("guidance") else "plain"
    return f"trial {hashlib.sha256(content.encode()).hexdigest()[:4]}: {words or otherwise}"


def _format_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(map(_format_value, value))
    if isinstance(value, Mapping):
        parts = (
            f"{name} {_format_part(name, part)}" for name, part in value.items() if name != "name"
        )
        return " ".join([*filter(None, [value.get("name")]), *parts])
    return f"{value:g}" if isinstance(value, float) else str(value)


def _format_part(name: str, value: Any) -> str:
    if name in ("window", "sigma") and isinstance(value, (list, tuple)):  # from one to the other
        return ":".join(map(_format_value, value))
    return _format_value(value)
