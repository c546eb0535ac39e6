"""Track a run while it is made, or afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from skipguide.runs.run import Run
from skipguide.runs.tracking.subject import describe
from skipguide.runs.tracking.targets import Target, Tracker, open_tracker


class Tracking:
    """Several trackers of one run. `close` it, or use it as a context manager.

    A tracker that fails is told once and left alone from then on: clips cost more than charts, and
    what is missing there can be logged later.

    Args:
        folder: the run directory, which may be still to come.
        targets: as `parse_targets` returns them.
        tell: called with a sentence for a person.

    Raises:
        ValueError: if a package is missing, or a target refuses before anything is made.
    """

    def __init__(self, folder: Path, targets: Sequence[Target], tell: Callable[[str], None]):
        self.folder, self._tell = folder, tell
        self.failed: list[Target] = []
        self.logged: dict[Target, int] = {}  # clips
        self._open: dict[Target, Tracker] = {}
        self.places: dict[Target, str] = {}
        for target in targets:
            self._open[target] = open_tracker(target, folder)
            self.logged[target] = 0

    def update(self, keys: Collection[str] | None = None) -> None:
        """Log what is not there yet: of these clips, or of the whole run with its numbers."""
        if not self._open:
            return
        with Run.open(self.folder) as run:
            subject = describe(run, keys)
        for target, tracker in list(self._open.items()):
            try:
                self.logged[target] += tracker.update(subject)
                self.places[target] = tracker.place
            except Exception as error:  # of a library, of the network: of any kind
                self._give_up(target, error)

    def _give_up(self, target: Target, error: Exception) -> None:
        self._open.pop(target)
        self.failed.append(target)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        self._tell(
            f"tracking with {target} has stopped ({reason}). The run itself is not touched by it;"
            f" `skipguide runs track {self.folder} --to {target}` logs what is missing there."
        )

    def close(self) -> None:
        """Finish all trackers."""
        for target, tracker in list(self._open.items()):
            try:
                tracker.close()
            except Exception as error:
                self._give_up(target, error)
        self._open.clear()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
