"""TensorBoard: event files in the folder of the run, a subfolder for each setting.

Each update is one event file, written under another name first. It begins with the list of what
is in it, from which the next process knows what is there.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from skipguide.files import folders
from skipguide.method.protocols import PlainData
from skipguide.runs.ledger import to_json
from skipguide.runs.tracking.glance import make_gif
from skipguide.runs.tracking.subject import Subject, TrackedClip, TrackedSetting, table

_MARK = "skipguide"  # in the names of our files, and before their lists


class TensorBoard:
    """Logs to a folder that `tensorboard --logdir` shows."""

    def __init__(self, logdir: Path):
        folders.check_writable(logdir, "the folder of --track tensorboard")
        self.logdir = logdir
        self._known: set[str] | None = None

    @property
    def place(self) -> str:
        """The command that shows it."""
        return f"tensorboard --logdir {self.logdir}"

    def update(self, subject: Subject) -> int:
        """Write one event file per setting that has something new."""
        if self._known is None:
            self._known = set(_read_items(self.logdir))
        clips = 0
        for setting in subject.settings:
            new = {
                item: event for item, event in _events(subject, setting) if item not in self._known
            }
            if new:
                self._write(setting, new)
                clips += sum(item.startswith("clip ") for item in new)
        return clips

    def _write(self, setting: TrackedSetting, new: dict[str, PlainData]) -> None:
        event, message = _event_types()
        assert self._known is not None
        folder = self.logdir / (re.sub(r"[^\w.,=+() -]+", "_", setting.name).strip(". ") or "_")
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        listed = message(level=message.INFO, message=_MARK + to_json(list(new)))
        # TensorBoard reads files in the order of their names, and none that is before the last.
        path = folder / f"events.out.tfevents.{time.time_ns():020d}.{_MARK}"
        part = folder / f".{path.name.replace('tfevents', 'part')}"
        try:
            with part.open("wb") as file:
                writer = import_module("tensorboard.summary.writer.record_writer").RecordWriter(
                    file
                )
                begin = {"file_version": "brain.Event:2"}, {"log_message": listed}
                for fields in ({"wall_time": now, **head} for head in begin):
                    writer.write(event(**fields).SerializeToString())
                for fields in map(_made, new.values()):
                    writer.write(event(**fields).SerializeToString())
                writer.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        self._known.update(new)

    def close(self) -> None:
        """Do nothing: every file is closed."""


def _event_types() -> tuple[Any, Any]:
    events = import_module("tensorboard.compat.proto.event_pb2")
    return events.Event, events.LogMessage


def _summary_type() -> Any:
    return import_module("tensorboard.compat.proto.summary_pb2").Summary


def _read_items(logdir: Path) -> Iterator[str]:
    """Yield what is in the event files already."""
    loaders = import_module("tensorboard.backend.event_processing.event_file_loader")
    event, _ = _event_types()
    for path in sorted(logdir.glob(f"*/*tfevents*.{_MARK}")):
        for record in itertools.islice(loaders.RawEventFileLoader(str(path)).Load(), 2):
            text = event.FromString(record).log_message.message
            if text.startswith(_MARK):
                yield from json.loads(text.removeprefix(_MARK))


def _made(given: PlainData) -> PlainData:
    """Return the fields of an event; pictures are made as late as this."""
    if "video" not in given:
        return given
    summaries = _summary_type()
    gif = make_gif(given["video"])
    picture = summaries.Image(
        height=gif.height, width=gif.width, colorspace=3, encoded_image_string=gif.content
    )
    summary = summaries(value=[summaries.Value(tag=given["tag"], image=picture)])
    return {"wall_time": given["wall_time"], "step": given["step"], "summary": summary}


def _events(subject: Subject, setting: TrackedSetting) -> Iterator[tuple[str, PlainData]]:
    """Yield what there is to log of a setting, each under a name by which it is known again."""
    from torch.utils.tensorboard.summary import hparams, text

    own, now = f"{subject.identity} {setting.identity}", time.time()
    begun = min(clip.finished for clip in setting.clips)
    for summary in hparams(setting.parameters, {})[1:]:
        (tag,) = (value.tag for value in summary.value)
        known = to_json(setting.parameters)
        yield f"{tag} {own} {known}", {"wall_time": begun, "summary": summary}
    for clip in setting.clips:
        yield from _clip_events(clip)
    if setting.numbers:
        for name, value in setting.numbers.items():
            event = _scalar(name, value, setting.count, now)
            yield f"{name} {own} {setting.count} {value!r}", event
        told = _as_markdown(setting)
        yield (
            f"clips {own} {told}",
            {"wall_time": now, "step": setting.count, "summary": text("clips", told)},
        )


def _clip_events(clip: TrackedClip) -> Iterator[tuple[str, PlainData]]:
    place = {"wall_time": clip.finished, "step": clip.step}
    yield f"clip {clip.key}", {**place, "tag": f"clips/{clip.title}", "video": clip.video}
    for name, value in clip.numbers.items():
        event = _scalar(name, value, clip.step, clip.finished)
        yield f"{name} {clip.key} {value!r}", event


def _scalar(name: str, value: float, step: int, moment: float) -> PlainData:
    summaries = _summary_type()
    summary = summaries(value=[summaries.Value(tag=name, simple_value=value)])
    return {"wall_time": moment, "step": step, "summary": summary}


def _as_markdown(setting: TrackedSetting) -> str:
    def line(cells: list[Any]) -> str:
        return f"| {' | '.join('' if c is None else str(c).replace('|', '/') for c in cells)} |"

    head, rows = table(setting)
    return "\n".join(map(line, [head, ["---"] * len(head), *rows]))
