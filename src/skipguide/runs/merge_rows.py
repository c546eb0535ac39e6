"""The plans, models, settings, prompts and clips of a run, joined to those of another."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skipguide.generate.record import upgrade_settings
from skipguide.models.places import without_places
from skipguide.runs import storage as files
from skipguide.runs.ledger import Ledger, to_json
from skipguide.runs.prompt_rows import tags_from_ledger

_RANKS = {"done": 2, "failed": 1}  # of a clip that both have, the one that is further stays
_NAMED = 3  # clips of a note; a run can have thousands
_FILE_COLUMNS = (
    "video", "video_sha256", "video_bytes", "video_mtime_ns", "latents", "latents_sha256",
)  # fmt: skip


@dataclass
class Join:
    """One run on its way into another, and what is said about it."""

    target: Ledger
    folder: Path  # of the target
    source: Ledger
    origin: Path  # of the source
    label: str  # what the source is called
    notes: list[str]
    # From ids of the source to those of the target.
    ids: dict[str, dict[int, int]] = field(default_factory=dict)
    # Clips whose frames are others in the source, so that its numbers are of something else.
    others: set[str] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)  # clips whose files are not those of the ledger

    def say(self, sentence: str) -> None:
        """Note something that a person should know."""
        self.notes.append(sentence)

    def id(self, table: str, number: int) -> int:
        """Return the id in the target of a row of the source."""
        return self.ids[table][number]


def rows(ledger: Ledger, table: str, order: str = "rowid") -> list[dict[str, Any]]:
    """Return all rows of a table; none where the ledger has no such table."""
    if not ledger.has_table(table):
        return []
    return [dict(row) for row in ledger.rows(f"SELECT * FROM {table} ORDER BY {order}")]


def insert(ledger: Ledger, table: str, row: Mapping[str, Any], replace: bool = False) -> int:
    """Add a row; a column that the table lacks is added first, for ledgers of later versions.

    Args:
        replace: a row with the same key is replaced; else it stays.
    """
    known = {column["name"] for column in ledger.rows(f"PRAGMA table_info({table})")}
    for name in row.keys() - known:
        ledger.db.execute(f'ALTER TABLE {table} ADD COLUMN "{name}"')
    names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
    conflict = "REPLACE" if replace else "IGNORE"
    cursor: sqlite3.Cursor = ledger.db.execute(
        f"INSERT OR {conflict} INTO {table}({names}) VALUES ({marks})", list(row.values())
    )
    return cursor.lastrowid or 0


def join_rows(join: Join) -> None:
    """Join everything that clips refer to."""
    join.ids["plans"] = _join_same(join, "plans", ("sha256",))
    join.ids["environments"] = _join_same(join, "environments", ("sha256",))
    join.ids["prompts"] = _join_same(join, "prompts", ("sha256",))
    join.ids["models"] = _join_models(join)
    join.ids["settings"] = _join_settings(join)
    _copy_images(join)


def _join_same(join: Join, table: str, same: tuple[str, ...]) -> dict[int, int]:
    """Join rows that are one where these columns are equal."""
    found = {}
    known = {tuple(row[name] for name in same): row for row in rows(join.target, table)}
    for row in rows(join.source, table):
        held = known.get(tuple(row[name] for name in same))
        new = {name: value for name, value in row.items() if name != "id"}
        found[row["id"]] = held["id"] if held else insert(join.target, table, new)
        if held and row.get("tags") != held.get("tags"):
            title = str(row["text"] or row["image"])[:60]
            join.say(
                f"the prompt {title!r} has other tags in {join.label}; those of before are kept."
            )
    return found


def _join_models(join: Join) -> dict[int, int]:
    """Join models of equal weights: the folder of one model has another name elsewhere."""
    found = {}
    for row in rows(join.source, "models"):
        known = rows(join.target, "models")
        same = [held for held in known if held["weights"] == row["weights"]]
        named = [held for held in same if held["name"] == row["name"]]
        local = same if "sha256" in json.loads(row["weights"]) else []
        held = next(iter([*named, *local]), None)
        new = {name: value for name, value in row.items() if name != "id"}
        found[row["id"]] = held["id"] if held else insert(join.target, "models", new)
    return found


def _join_settings(join: Join) -> dict[int, int]:
    """Join settings of equal content; another content under a known name gets a new name."""
    by_cell = dict(_cells(join.target))
    cells: dict[int, list[tuple[str, str]]] = {}
    for cell, setting in _cells(join.source):
        cells.setdefault(setting, []).append(cell)
    found = {}
    for row in rows(join.source, "settings"):
        known = rows(join.target, "settings")
        model = join.id("models", row["model"])
        alike = [held["id"] for held in known if held["model"] == model and _is_equal(held, row)]
        # Clips of one key are of one setting, whatever a version has called its parameters.
        shared = {by_cell[cell] for cell in cells.get(row["id"], ()) if cell in by_cell}
        held = next(iter(alike or sorted(shared)), None)
        if held is None:
            held = _add_setting(join, {**row, "model": model}, {h["name"] for h in known})
        found[row["id"]] = held
        name = next((other["name"] for other in known if other["id"] == held), row["name"])
        if name != row["name"]:
            join.say(f"the setting {row['name']!r} of {join.label} is {name!r} of the others.")
    return found


def _cells(ledger: Ledger) -> Iterator[tuple[tuple[str, str], int]]:
    """Yield (key, hash of the prompt) and setting of each clip whose prompt changes none."""
    prompts = {
        row["id"]: row["sha256"]
        for row in rows(ledger, "prompts")
        if not tags_from_ledger(json.loads(row["tags"]))[1]
    }
    for row in rows(ledger, "jobs"):
        if row["prompt"] in prompts:
            yield (row["key"], prompts[row["prompt"]]), row["setting"]


def _is_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return _content(one) == _content(other)


def _content(row: Mapping[str, Any]) -> str:
    return to_json(without_places(upgrade_settings(json.loads(row["complete"]))))


def _add_setting(join: Join, row: dict[str, Any], taken: set[str]) -> int:
    name = row["name"]
    if name in taken:
        row["name"] = next(each for each in _names(name, join.label) if each not in taken)
        join.say(
            f"the setting {name!r} of {join.label} has other parameters than the one of that name"
            f" before it: it is called {row['name']!r} now."
        )
    return insert(join.target, "settings", {k: v for k, v in row.items() if k != "id"})


def _names(name: str, label: str) -> Iterator[str]:
    yield f"{name} ({label})"
    number = 2
    while True:
        yield f"{name} ({label} {number})"
        number += 1


def _copy_images(join: Join) -> None:
    for row in rows(join.source, "prompts"):
        if row["image"] is None or row["image_sha256"] is None:
            continue
        image = join.origin / files.image_name(row["image_sha256"], row["image"])
        if image.is_file():  # runs of older versions have kept none
            files.copy_image(join.folder, image)


# --- clips ----------------------------------------------------------------------------------------


def join_jobs(join: Join) -> None:
    """Join the clips, with their files: each key once."""
    held = {row["key"]: row for row in rows(join.target, "jobs")}
    positions = [row["position"] for row in held.values()]
    offset = max(positions, default=-1) + 1
    for row in rows(join.source, "jobs"):
        new = {
            **row,
            "setting": join.id("settings", row["setting"]),
            "prompt": join.id("prompts", row["prompt"]),
            "environment": join.ids["environments"].get(row["environment"]),
            "position": row["position"] + offset,
            "status": "pending" if row["status"] == "running" else row["status"],
        }
        _join_job(join, new, held.get(row["key"]))
    for row in rows(join.source, "plan_jobs", "plan, job"):
        insert(join.target, "plan_jobs", {**row, "plan": join.id("plans", row["plan"])})
    if join.others:
        join.say(
            f"{name_clips(sorted(join.others))} other frames in {join.label}: those of before are"
            " kept, with their numbers."
        )


def say_what_is_lost(target: Ledger, lost: Mapping[str, list[str]], notes: list[str]) -> None:
    """Note the clips whose files are missing or damaged, by run, when all runs are joined: another
    run may have them."""
    done = {row["key"] for row in target.rows("SELECT key FROM jobs WHERE status = 'done'")}
    for label, keys in lost.items():
        for taken, what in (
            (True, "taken from another run"),
            (False, "to be made again, by a sweep of the plan"),
        ):
            if found := [key for key in keys if (key in done) == taken]:
                notes.append(
                    f"{name_clips(found)} no file in {label}, or not the one that was written:"
                    f" {'it is' if len(found) == 1 else 'they are'} {what}."
                )


def name_clips(keys: Sequence[str]) -> str:
    """Return "the clip K has", or "N clips (K, K, K, ...) have"."""
    if len(keys) == 1:
        return f"the clip {keys[0]} has"
    named = ", ".join([*keys[:_NAMED], *(["..."] if len(keys) > _NAMED else [])])
    return f"{len(keys)} clips ({named}) have"


def _join_job(join: Join, row: dict[str, Any], held: Mapping[str, Any] | None) -> None:
    if held is None:
        insert(join.target, "jobs", _with_files(join, row))
        return
    if row["status"] == held["status"] == "done":
        if row["frames_sha256"] != held["frames_sha256"]:
            join.others.add(row["key"])
        elif row["latents"] and not held["latents"]:
            _copy_latents(join, row)
        return
    row = _with_files(join, row)
    if _RANKS.get(row["status"], 0) > _RANKS.get(held["status"], 0):
        same = ("key", "setting", "prompt", "position", "added")  # a place in the plan of before
        changed = {name: value for name, value in row.items() if name not in same}
        assigned = ", ".join(f'"{name}" = ?' for name in changed)
        query = f"UPDATE jobs SET {assigned} WHERE key = ?"
        join.target.db.execute(query, [*changed.values(), row["key"]])


def _with_files(join: Join, row: dict[str, Any]) -> dict[str, Any]:
    """Copy the files of a clip; one that is missing or damaged is to be made again."""
    if row["status"] != "done":
        return row
    key = row["key"]
    suffix = Path(row["video"]).suffix
    video, latents = f"{files.VIDEOS}/{key}{suffix}", f"{files.LATENTS}/{key}.safetensors"
    sound = _copy(join, row["video"], video, row["video_sha256"])
    if sound and row["latents"]:
        sound = _copy(join, row["latents"], latents, row["latents_sha256"])
    if not sound:
        join.lost.append(key)
        (join.folder / video).unlink(missing_ok=True)
        return {**row, "status": "pending", **dict.fromkeys(_FILE_COLUMNS)}
    _copy(join, f"{row['video']}.json", f"{video}.json", None)
    stat = (join.folder / video).stat()
    named = {"video": video, "latents": latents if row["latents"] else None}
    return {**row, **named, "video_bytes": stat.st_size, "video_mtime_ns": stat.st_mtime_ns}


def _copy_latents(join: Join, row: Mapping[str, Any]) -> None:
    latents = f"{files.LATENTS}/{row['key']}.safetensors"
    if _copy(join, row["latents"], latents, row["latents_sha256"]):
        join.target.db.execute(
            "UPDATE jobs SET latents = ?, latents_sha256 = ? WHERE key = ?",
            (latents, row["latents_sha256"], row["key"]),
        )


def _copy(join: Join, name: str, new: str, digest: str | None) -> bool:
    """Copy a file of the source onto the disk; False if there is none, or not the one expected."""
    path, place = join.origin / name, join.folder / new
    if not path.resolve().is_relative_to(join.origin.resolve()) or not path.is_file():
        return False
    place.parent.mkdir(exist_ok=True)
    found = hashlib.sha256()
    with path.open("rb") as read, place.open("wb") as write:
        while block := read.read(1 << 20):
            found.update(block)
            write.write(block)
        write.flush()
        os.fsync(write.fileno())
    return digest is None or found.hexdigest() == digest
