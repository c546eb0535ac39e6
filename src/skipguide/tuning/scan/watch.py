"""The scan as a part of a run: it watches the first videos of CFG alone, and what it saw stays
beside them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.runs import Run
from skipguide.runs.watch import Watched, watched_file
from skipguide.tuning.names import FOLDER
from skipguide.tuning.scan import map_files
from skipguide.tuning.scan import run as scan_run
from skipguide.tuning.scan.layer_map import LayerMap, ScanOptions, ScanRecord

if TYPE_CHECKING:
    from skipguide.tuning.scan.trajectory import TrajectoryScan


@dataclass(frozen=True)
class ScanWatch:
    """Scans a model while it makes a video, which stays what it is without."""

    options: ScanOptions
    folder: str = f"{FOLDER}/scan"

    @contextlib.contextmanager
    def attach(self, pipe: Any) -> Iterator[_ScanWatcher]:
        """Scan during the next call of a pipeline."""
        from skipguide.tuning.scan.trajectory import TrajectoryScan

        with TrajectoryScan(pipe, self.options) as scan:
            yield _ScanWatcher(scan)


@dataclass(frozen=True)
class _ScanWatcher:
    scan: TrajectoryScan

    def finish(self) -> Watched:
        """Return the record of the scan."""
        record = self.scan.record()
        return Watched(record.to_bytes(), spent(record)[1])


def spent(record: ScanRecord) -> tuple[float, float]:
    """Return the forward passes and the seconds that a scan took beside its video."""
    passes = record.forwards.sum() + record.strong_passes.sum()
    return float(passes), float(record.seconds_strong.sum() + record.seconds_weak.sum())


def find_record(folder: Path, key: str) -> ScanRecord | None:
    """Return what was scanned while a video was made; None if nothing was, or it is damaged."""
    path = folder / watched_file(ScanWatch(ScanOptions()), key)
    try:
        return ScanRecord.from_bytes(path.read_bytes())
    except (OSError, ValueError):  # the map says what is wrong with it
        return None


def with_levels(options: ScanOptions, levels: Sequence[float]) -> ScanOptions:
    """Return the options of a scan at other levels of noise."""
    return dataclasses.replace(options, levels=tuple(levels))


def read_map(folder: Path, setting: str, prompts: Sequence[int]) -> LayerMap:
    """Return the map of what was scanned in a run.

    Args:
        setting: the name of the setting whose videos were watched.
        prompts: the ids of their prompts.

    Raises:
        ValueError: if a video failed.
    """
    watch = ScanWatch(ScanOptions())
    with Run.open(folder) as run:
        number = next(entry.id for entry in run.settings() if entry.name == setting)
        clips = [clip for clip in run.clips() if clip.setting == number and clip.prompt in prompts]
    failed = next((clip for clip in clips if clip.status == "failed"), None)
    if failed is not None:
        reason = (failed.error or "").partition("\n")[0].rstrip(".")
        raise ValueError(
            f"the scan needs the videos of {setting!r}, but one of them failed: {reason}. Mend"
            " that, and run the same command again with --retry-failed."
        )
    paths = [folder / watched_file(watch, clip.key) for clip in clips]
    return LayerMap.build([ScanRecord.from_bytes(path.read_bytes()) for path in paths])


def remove_damaged(folder: Path) -> list[str]:
    """Remove the records of a run that cannot be read; return a sentence for each.

    The sweep of the scan makes those again that it needs.
    """
    place = folder / ScanWatch(ScanOptions()).folder
    return scan_run.remove_damaged(sorted(place.glob("*.safetensors")))


def write_map(folder: Path, layer_map: LayerMap) -> list[str]:
    """Write map.json, map.csv and map.png into a run; return what is to be said of it."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    return map_files.write(layer_map, place)
