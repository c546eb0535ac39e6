"""Read where to track, as users write it: tensorboard, mlflow:URI, wandb:ENTITY/PROJECT."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from skipguide.runs.tracking.subject import Subject

TRACKERS = ("wandb", "tensorboard", "mlflow")
_WANDB_REFUSES = "/\\#?%:"
_WANDB_NAME = re.compile(
    rf"[^{re.escape(_WANDB_REFUSES)}\s](?:[^{re.escape(_WANDB_REFUSES)}]{{0,127}})"
)


class Tracker(Protocol):
    """Something that runs are logged to. What it raises is told, and ends nothing else."""

    def update(self, subject: Subject) -> int:
        """Log what is not there yet, and return how many clips were."""
        ...

    def close(self) -> None:
        """Finish what is open; everything is on its way then."""
        ...

    @property
    def place(self) -> str:
        """The way to look at it: a command, or an address."""
        ...


@dataclass(frozen=True)
class Target:
    """One place to log to: a tracker, and the folder, address or project there, if one is named."""

    tracker: str
    where: str | None = None

    def __str__(self) -> str:
        return self.tracker if self.where is None else f"{self.tracker}:{self.where}"


def parse_targets(texts: Iterable[str]) -> list[Target]:
    """Return the targets of `--track`, each once.

    Raises:
        ValueError: for another tracker.
    """
    found = {}
    for text in texts:
        name, colon, where = text.partition(":")
        if name not in TRACKERS or (colon and not where):
            raise ValueError(
                f"--track must be {', '.join(TRACKERS[:-1])} or {TRACKERS[-1]}, or one of them with"
                " a place: tensorboard:FOLDER, mlflow:URI, wandb:PROJECT or wandb:ENTITY/PROJECT,"
                f" but got {text!r}. Correct it."
            )
        if name == "wandb" and where:
            _check_project(text, where)
        found[text] = Target(name, where or None)
    return list(found.values())


def _check_project(text: str, where: str) -> None:
    """Check PROJECT or ENTITY/PROJECT as W&B does, which says so only when it has begun."""
    parts = where.split("/")
    if len(parts) > 2 or not all(map(_WANDB_NAME.fullmatch, parts)):
        raise ValueError(
            "--track wandb must name PROJECT or ENTITY/PROJECT, each of 1 to 128 characters without"
            f" {' '.join(_WANDB_REFUSES)} in it, but got {text!r}. Correct it."
        )


def check_targets(targets: Iterable[Target]) -> None:
    """Check that the packages of the targets are there, before any work.

    Raises:
        ValueError: if one is not installed.
    """
    for target in targets:
        try:
            import_module(target.tracker)
        except ImportError as error:
            raise ValueError(
                f"--track {target.tracker} needs the package {target.tracker}, but {error}. Run"
                f" `pip install 'skipguide[{target.tracker}]'`."
            ) from None


def open_tracker(target: Target, folder: Path) -> Tracker:
    """Connect to a target, as far as that can be done before there is a run.

    Args:
        folder: the run directory, which may be still to come.

    Raises:
        ValueError: if the package is missing, or the target refuses.
    """
    check_targets([target])
    if target.tracker == "tensorboard":
        from skipguide.runs.tracking.to_tensorboard import TensorBoard

        return TensorBoard(Path(target.where) if target.where else folder / "tensorboard")
    if target.tracker == "mlflow":
        from skipguide.runs.tracking.to_mlflow import MLflow

        return MLflow(target.where)
    from skipguide.runs.tracking.to_wandb import WeightsAndBiases

    return WeightsAndBiases(target.where, folder)
