"""`skipguide studio --tasks`: begin a study, or go on with the one that the run has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.runs import Run
    from skipguide.runs.study import Kind, Study


@dataclass(frozen=True)
class Wishes:
    """The options of a study, see `studio`."""

    tasks: int | None
    kind: Kind | None
    settings: tuple[str, ...]
    consent: Path | None
    checks: int | None
    raters: int
    most_raters: int
    no_study: bool

    def details(self) -> dict[str, bool]:
        """Return which options are given that say more of a study than --tasks."""
        return {
            "--kind": self.kind is not None,
            "--setting": bool(self.settings),
            "--consent": self.consent is not None,
            "--checks": self.checks is not None,
        }


def begin(folder: Path, wishes: Wishes) -> Study | None:
    """Begin the study that is asked for, or go on with that of the run; tell which.

    Raises:
        ValueError: if the run has not what it needs.
    """
    from skipguide.runs import Run
    from skipguide.studio import attention, study_plan

    if wishes.no_study and (wishes.tasks or any(wishes.details().values())):
        raise ValueError(
            "--no-study must come without the options of a study, but both came. Leave one out."
        )
    with Run.open(folder) as run:
        study = run.study.current()
    if alone := [flag for flag, given in wishes.details().items() if given and not wishes.tasks]:
        raise ValueError(
            f"{alone[0]} must come with --tasks, which makes a test a study, but came without it."
            " Add --tasks 20, or leave it out."
        )
    if wishes.no_study and study is not None:
        with Run.open(folder, writable=True) as run:
            run.study.end()
        typer.echo("The study has ended; its votes stay.", err=True)
        study = None
    elif wishes.tasks is not None:
        text = study_plan.read_consent(wishes.consent) if wishes.consent else None
        with Run.open(folder, writable=True) as run:
            study = study_plan.plan_study(
                run, wishes.kind or "pair", wishes.settings, wishes.tasks, wishes.checks, text,
                wishes.most_raters,
            )  # fmt: skip
            attention.prepare(run, study)
            study = run.study.begin(study, text)
    if study is not None:
        with Run.open(folder) as run:
            _tell(run, study, wishes.raters)
    return study


def _tell(run: Run, study: Study, raters: int) -> None:
    """Say what each rater is asked, and what as many of them are likely to see."""
    from skipguide.stats import power
    from skipguide.studio import study_plan

    what = "pairs" if study.kind == "pair" else "videos"
    parts = [f"{study.tasks} {what}", f"{len(study.checks)} attention checks"]
    consent = f" after the text of consent {study.consent[:12]}" if study.consent else ""
    typer.echo(
        f"Study {study.id}: each rater judges {' and '.join(parts)} of {len(study.settings)}"
        f" settings{consent}. --no-study ends it.",
        err=True,
    )
    if study.kind == "pair":
        known = study_plan.sizes(run.folder)
        design = power.Design(raters, study.tasks, known["prompts"], known["settings"])
        told: PlainData = study_plan.estimate_power(design)
        typer.echo(" ".join(told["sentences"]), err=True)
