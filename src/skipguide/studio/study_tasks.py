"""The tasks of a rater: of a test that a link names all there are, of a study those that were given
out."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.runs.study import Kind, Study
from skipguide.studio import allocation, attention, blind_test
from skipguide.studio.blind_test import Task

# After this time without a vote the open tasks of a rater are given to others.
_ACTIVE = datetime.timedelta(hours=24)


@dataclass(frozen=True)
class Test:
    """The test that a rater takes part in: its kind and its settings.

    Args:
        study: that it belongs to; None for all tasks of the settings.
    """

    kind: Kind
    settings: tuple[int, ...]
    study: Study | None = None


def describe(run: Run) -> PlainData:
    """Return what a rater is told of the study before it begins; nothing of its settings."""
    pictures = any(clip.is_picture for clip in run.clips("done"))
    what = {"what": "picture" if pictures else "video"}
    study = run.study.current()
    if study is None:
        return {"study": None, **what}
    text = None if study.consent is None else run.study.consent_text(study.consent)
    consent = None if text is None else {"sha256": study.consent, "text": text}
    total = study.tasks + len(study.checks)
    return {"study": {"kind": study.kind, "tasks": total, "consent": consent}, **what}


def given(folder: Path, test: Test, rater: str) -> list[Task]:
    """Return the tasks of a rater in their order; of a study they are given out the first time."""
    with Run.open(folder) as run:
        if test.study is None:
            return blind_test.tasks(run.clips("done"), test.kind, test.settings, rater)
        if found := known(run, test, rater):
            return found
    with Run.open(folder, writable=True) as run:
        _give_out(run, test.study, rater)
        return known(run, test, rater)


def known(run: Run, test: Test, rater: str) -> list[Task]:
    """Return what a rater was given in a study so far."""
    assert test.study is not None
    assigned = run.study.assignments(test.study.id, rater)
    return blind_test.given_tasks(assigned, run.clips("done"), test.study)


def _give_out(run: Run, study: Study, rater: str) -> None:
    """Choose the tasks of a rater by what others have; two who begin at once do not know less."""
    since = datetime.datetime.now(datetime.timezone.utc) - _ACTIVE
    every = blind_test.find_tasks(run.clips("done"), study.kind, study.settings, rater)
    with run.study.transaction():
        if run.study.assignments(study.id, rater):
            return
        loads = run.study.loads(study.id, since.isoformat(timespec="seconds"))
        tasks = allocation.allocate(every, study.tasks, study.checks, loads, rater)
        run.study.assign(study.id, rater, tasks)


def still_open(run: Run, test: Test, every: Sequence[Task], rater: str) -> list[Task]:
    """Return which tasks a rater has not answered, in their order."""
    votes = run.votes()
    if test.study is None:
        return blind_test.open_tasks(every, votes, test.kind, rater)
    answered = {
        answer.name
        for answer in run.study.check_answers()
        if (answer.study, answer.rater) == (test.study.id, rater)
    }
    return blind_test.open_given(every, votes, test.study, rater, answered)


def keep(
    run: Run,
    study: Study | None,
    task: Task,
    rater: str,
    answers: Mapping[str, str],
    seconds: float | None,
    most_changes: int,
) -> PlainData:
    """Keep the answers to a task: votes, or how an attention check was answered.

    Raises:
        ValueError: for answers that the task does not have.
    """
    if task.check is not None and study is not None:
        blind_test.check_questions(task, answers)
        meant = {name: blind_test.resolve_side(answer, task) for name, answer in answers.items()}
        run.study.record_check(attention.judge(study, task.check, rater, meant, seconds))
        return {"votes": len(answers)}  # as of any other task
    votes = blind_test.build_votes(task, rater, answers, seconds)
    for vote in votes:
        of_study = {} if study is None else {"study": study.id, "consent": study.consent}
        run.vote(replace(vote, **of_study), most_changes)
    return {"votes": len(votes)}
