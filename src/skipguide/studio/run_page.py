"""The description of a run for its page, as JSON: made anew only where the run has changed, and
told as what has changed since."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs import Run
from skipguide.runs.ledger import NAME as LEDGER
from skipguide.studio import page_data
from skipguide.tuning.report import shown

_KEPT = 8  # descriptions that a page may still have, one per change of the run
_SETTLED = 100_000_000  # nanoseconds; a file that was written later may change within its time
_SUFFIXES = ("", "-wal", "-journal")

State = tuple[object, ...]


@dataclass(frozen=True)
class _Described:
    """A description, in parts that are compared as text."""

    version: str
    parts: ReadOnlyData  # name -> JSON
    clips: ReadOnlyData  # "prompt/seed/setting" -> JSON

    def whole(self) -> str:
        parts = [f"{json.dumps(name)}:{text}" for name, text in self.parts.items()]
        clips = ",".join(self.clips.values())
        return f'{{"version":"{self.version}",{",".join(parts)},"clips":[{clips}]}}'

    def since(self, before: _Described) -> str:
        """Return the parts and the clips that differ, and the places of clips that are gone."""
        parts = {name: t for name, t in self.parts.items() if before.parts.get(name) != t}
        clips = [text for place, text in self.clips.items() if before.clips.get(place) != text]
        gone = json.dumps([place for place in before.clips if place not in self.clips])
        told = ",".join(f"{json.dumps(name)}:{text}" for name, text in parts.items())
        return (
            f'{{"version":"{self.version}","since":"{before.version}","parts":{{{told}}},'
            f'"clips":[{",".join(clips)}],"gone":{gone}}}'
        )


class RunPage:
    """Describes a run to any number of pages, from any thread.

    Args:
        folder: of the run.
        more: what the server adds to the description of a run.
    """

    def __init__(self, folder: Path, more: Callable[[Run], PlainData]):
        self.folder, self.more = folder, more
        self._lock = threading.Lock()
        self._state: State | None = None
        self._kept: OrderedDict[str, _Described] = OrderedDict()

    def text(self, since: str | None = None) -> str:
        """Return the whole description as JSON, or what has changed since a version of it.

        Of a version that is not known any more it is the whole.

        Raises:
            ValueError: if there is no run any more, as `Run.open`.
        """
        with self._lock:
            now = self._describe()
            before = self._kept.get(since or "")
        return now.whole() if before is None else now.since(before)

    def state(self) -> str:
        """Return a text that is another one when something has been written to the run."""
        return hashlib.sha256(repr(self._find_state()).encode()).hexdigest()[:16]

    def _find_state(self) -> State:
        """Return size and time of the ledger and of what tune has written; both change with
        everything written."""
        found: list[object] = []
        for suffix in _SUFFIXES:
            try:
                stat = os.stat(self.folder / f"{LEDGER}{suffix}")
            except FileNotFoundError:
                continue
            if stat.st_size:  # SQLite makes empty ones to read by
                found += [suffix, stat.st_size, stat.st_mtime_ns]
        return (*found, *shown.find_state(self.folder))

    def _describe(self) -> _Described:
        state = self._find_state()
        newest = max((part for part in state[2::3] if isinstance(part, int)), default=0)
        with Run.open(self.folder) as run:
            state = (*state, run.is_sweeping, os.access(self.folder, os.W_OK))
            if state == self._state:
                return next(reversed(self._kept.values()))
            found = _split({**page_data.describe(run), **self.more(run)})
        self._kept[found.version] = found
        self._kept.move_to_end(found.version)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        self._state = state if time.time_ns() - newest > _SETTLED else None
        return found


def _split(described: PlainData) -> _Described:
    clips = {
        f"{clip['prompt']}/{clip['seed']}/{clip['setting']}": _to_json(clip)
        for clip in described.pop("clips")
    }
    parts = {name: _to_json(value) for name, value in described.items()}
    digest = hashlib.sha256()
    for text in (*parts.values(), *clips.values()):
        digest.update(text.encode())
    return _Described(digest.hexdigest()[:16], parts, clips)


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
