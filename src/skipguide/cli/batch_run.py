"""Make many videos, one after the other: a bar meanwhile, and at the end what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skipguide.cli.batch import Item
from skipguide.cli.console import ClipCounter
from skipguide.files.text import format_duration
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.generate.run import StepCallback, StepProgress

State = Literal["made", "there", "failed"]


@dataclass
class Outcome:
    """The outcome of an item."""

    item: Item
    target: Path
    state: State
    error: str | None = None
    payload: PlainData = field(default_factory=dict)  # of a video that is there


def run_all(
    items: Sequence[Item],
    targets: Sequence[Path],
    make: Callable[[Item, Path, StepCallback], tuple[State, PlainData]],
    quiet: bool,
) -> list[Outcome]:
    """Make all videos, one after the other; one that fails is told of, and the rest goes on.

    Args:
        make: makes the files of an item, and returns whether it did or they were there, and what
            is to be said of it.
        quiet: say nothing meanwhile.

    Raises:
        OSError: if the disk is full or cannot be written.
    """
    from skipguide.files import clips
    from skipguide.runs.engine import describe_error

    progress = _Progress(quiet, len(items))
    found: list[Outcome] = []
    with progress.display(f"{clips.noun(targets)}s", len(items)):
        for item, target in zip(items, targets, strict=True):
            progress.begin(item)
            try:
                state, payload = make(item, target, progress.on_step)
            except Exception as error:
                try:
                    said = describe_error(error).splitlines()[0].removeprefix("ValueError: ")
                except OSError as fatal:
                    raise OSError(
                        f"{fatal} {_count_there(found)} of {len(items)} are there; run the same"
                        " command again for the rest."
                    ) from error
                found.append(Outcome(item, target, "failed", said))
            else:
                found.append(Outcome(item, target, state, payload=payload))
            progress.end(found[-1])
    return found


def _count_there(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome.state != "failed" for outcome in outcomes)


@dataclass
class _Progress(ClipCounter):
    """The report on videos while they are made, and how long the rest takes."""

    total: int
    done: int = 0
    made: int = 0
    title: str = ""

    def begin(self, item: Item) -> None:
        """Note which video is being made."""
        self.title = item.title()
        self._show(self.title)

    def on_step(self, step: StepProgress) -> None:
        """Show a denoising step."""
        state = f"step {step.number}/{step.steps}" if step.number < step.steps else "decoding"
        self._show(f"{self.title}, {state}{self._left()}")

    def end(self, outcome: Outcome) -> None:
        """Note what became of a video, and print a line."""
        self.done += 1
        self.made += outcome.state == "made"
        words = {"made": "", "there": " is there already", "failed": f" failed: {outcome.error}"}
        shown = outcome.target if outcome.state != "failed" else outcome.item.title()
        left = self._left() if outcome.state == "made" and self.done < self.total else ""
        line = f"{self.done}/{self.total} {shown}{words[outcome.state]}{left}"
        self.print_line(line)
        self._show(self.title)

    def _left(self) -> str:
        if not self.made:
            return ""
        rest = (self.total - self.done) * (time.monotonic() - self.began) / self.made
        return f"; about {format_duration(rest)} left"

    def _show(self, state: str) -> None:
        self.update(completed=self.done, state=state)


def describe_outcomes(outcomes: Sequence[Outcome], what: str, where: str = "") -> str:
    """Return the result: how many were made, were there and failed, and which failed and why.

    Args:
        what: an item is, as in "video".
        where: they are, as in " in videos".
    """
    count = {
        state: sum(o.state == state for o in outcomes) for state in ("made", "there", "failed")
    }
    parts = [f"{count['made']} made"]
    parts += [f"{count['there']} there already"] if count["there"] else []
    parts += [f"{count['failed']} failed"] if count["failed"] else []
    failed = [
        f"failed: {outcome.item.title()}{_place(outcome.item)}: {outcome.error}"
        for outcome in outcomes
        if outcome.state == "failed"
    ]
    many = "" if len(outcomes) == 1 else "s"
    return "\n".join([f"{len(outcomes)} {what}{many}{where}: {', '.join(parts)}", *failed])


def _place(item: Item) -> str:
    return "" if item.row is None or not item.row.place else f" ({item.row.place})"


def outcome_payload(outcome: Outcome) -> PlainData:
    """Return what --json says of an item."""
    settings = outcome.item.settings
    return {
        "state": outcome.state,
        "prompt": settings.prompt,
        "image": settings.image,
        "seed": settings.seed,
        **({"error": outcome.error} if outcome.error else {}),
        **outcome.payload,
    }
