"""Weights & Biases: a group for a run, a run of it for each setting.

A run that is not sent yet cannot be asked what it has, so a file beside it keeps what was logged.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from importlib import import_module
from pathlib import Path
from typing import Any

from skipguide.files.clips import is_picture
from skipguide.method.protocols import PlainData
from skipguide.runs.tracking.subject import Subject, TrackedClip, TrackedSetting, table

_FOLDER = "wandb"  # of the run directory, as W&B calls it itself


class WeightsAndBiases:
    """Logs to W&B, as its own environment says: WANDB_MODE=offline keeps it on this machine.

    Args:
        where: PROJECT or ENTITY/PROJECT; else WANDB_PROJECT, or "skipguide".
        folder: the run directory, whose `wandb/` has what is not sent.

    Raises:
        ValueError: if W&B does not let this user in.
    """

    def __init__(self, where: str | None, folder: Path):
        entity, _, project = (where or "").rpartition("/")
        self.entity = entity or None
        self.project = project or os.environ.get("WANDB_PROJECT") or "skipguide"
        self.folder = folder
        self._runs: dict[str, Any] = {}
        place = re.sub(r"\W+", "-", f"{self.entity or ''} {self.project}").strip("-")
        self._log = _Log(folder / _FOLDER / f"skipguide-{place}.jsonl")
        self._url: str | None = None
        _log_in()

    @property
    def place(self) -> str:
        """The address of the runs, or the command that sends them."""
        offline = f"wandb sync --append {self.folder / _FOLDER}/offline-run-*"
        return self._url or offline

    def update(self, subject: Subject) -> int:
        """Log what is not logged yet."""
        return sum(self._update_setting(subject, setting) for setting in subject.settings)

    def _update_setting(self, subject: Subject, setting: TrackedSetting) -> int:
        name = f"{subject.identity} {setting.identity}"
        logged = self._log.items(name)
        clips = 0
        for clip in sorted(setting.clips, key=lambda clip: clip.step):
            if new := _new_values(clip, logged):
                is_new = f"clip {clip.key}" in new
                clips += is_new
                self._open(subject, setting).log(_payload(clip, new, is_new))
                self._log.add(name, new)
        if setting.numbers:
            numbers = {"count": setting.count, **setting.numbers}
            item = f"numbers {json.dumps(numbers)}"
            if self._log.last_numbers(name) != item:
                run = self._open(subject, setting)
                run.summary.update(numbers)
                run.log({"clips": _table(setting)})
                self._log.add(name, [item])
        return clips

    def _open(self, subject: Subject, setting: TrackedSetting) -> Any:
        """Return the run of a setting, which goes on where there is one."""
        if setting.identity not in self._runs:
            run = _package().init(
                project=self.project,
                entity=self.entity,
                group=subject.name,
                name=setting.name,
                id=self._log.run_id(f"{subject.identity} {setting.identity}"),
                config=setting.parameters,
                job_type="setting",
                resume="allow",
                reinit="create_new",
                dir=str(self.folder),
                settings=_package().Settings(silent=True, console="off"),
            )
            run.define_metric("clip")
            run.define_metric("*", step_metric="clip")
            self._runs[setting.identity] = run
            self._url = run.url
        return self._runs[setting.identity]

    def close(self) -> None:
        """Finish the runs: what is on its way is sent."""
        for run in self._runs.values():
            run.finish()
        self._runs.clear()


class _Log:
    """A file of what was logged, a line at a time: [setting, [item, ...]]."""

    def __init__(self, path: Path):
        self.path = path
        self._items: dict[str, list[str]] = {}
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        for line in lines[:-1]:  # one without an end was being written when a process was killed
            with contextlib.suppress(ValueError):
                name, items = json.loads(line)
                self._items.setdefault(name, []).extend(items)
        self._is_whole = not lines or lines[-1] == b""

    def items(self, name: str) -> set[str]:
        """Return what was logged of a setting."""
        return set(self._items.get(name, ()))

    def last_numbers(self, name: str) -> str | None:
        """Return the numbers of a setting that were logged last."""
        found = [item for item in self._items.get(name, ()) if item.startswith("numbers ")]
        return found[-1] if found else None

    def run_id(self, name: str) -> str:
        """Return the id of the run of a setting, a new one the first time."""
        for item in self._items.get(name, ()):
            if item.startswith("id "):
                return item.removeprefix("id ")
        self.add(name, [f"id {secrets.token_hex(8)}"])
        return self.run_id(name)

    def add(self, name: str, items: list[str]) -> None:
        """Note what was logged."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps([name, items]).encode() + b"\n"
        with self.path.open("ab") as file:
            file.write(line if self._is_whole else b"\n" + line)
            file.flush()
            os.fsync(file.fileno())
        self._is_whole = True
        self._items.setdefault(name, []).extend(items)


def _package() -> Any:
    return import_module("wandb")


def _log_in() -> None:
    """Ask for the key of the user before anything is made, where W&B is to be reached.

    Raises:
        ValueError: if there is none.
    """
    settings = _package().setup().settings
    if getattr(settings, "mode", "online") in ("offline", "disabled", "dryrun"):
        return
    try:
        allowed = _package().login()
    except Exception as error:
        allowed, reason = False, f": {' '.join(str(error).split())[:200]}"
    else:
        reason = ""
    if not allowed:
        raise ValueError(
            f"--track wandb must know who you are, but W&B has no key{reason}. Run `wandb login`,"
            " or set WANDB_MODE=offline and send it later."
        )


def _new_values(clip: TrackedClip, logged: set[str]) -> list[str]:
    items = [f"clip {clip.key}"]
    items += [f"{name} {clip.key} {value!r}" for name, value in clip.numbers.items()]
    return [item for item in items if item not in logged]


def _payload(clip: TrackedClip, new: list[str], is_new: bool) -> PlainData:
    numbers = {
        name: value for name, value in clip.numbers.items() if f"{name} {clip.key} {value!r}" in new
    }
    caption = f"{clip.prompt}, seed {clip.seed}"
    payload = {"clip": clip.step, **numbers}
    if is_new:
        if is_picture(clip.video):
            payload["picture"] = _package().Image(str(clip.video), caption=caption)
        else:
            payload["video"] = _package().Video(str(clip.video), caption=caption, format="mp4")
    return payload


def _table(setting: TrackedSetting) -> Any:
    head, rows = table(setting)
    return _package().Table(columns=head, data=rows)
