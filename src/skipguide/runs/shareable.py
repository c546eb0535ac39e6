"""A run's ledger for other people: all that was made and judged, nobody's name and no folder.

It is written anew, row by row in one order, so that equal runs are equal files, and nothing that
was removed lies in free pages.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from skipguide.files.places import data_without_folders, json_without_folders, without_folders
from skipguide.method.documents import load_yaml
from skipguide.runs import annotations, study
from skipguide.runs.ledger import Ledger, to_json
from skipguide.runs.merge_rows import insert, rows

CLIPS = "clips"  # the folder of the videos, as the page of a report has it
_ORDERS = {
    "meta": "key", "plans": "id", "models": "id", "prompts": "id", "settings": "id",
    "environments": "id", "jobs": "rowid", "plan_jobs": "plan, job",
    "metrics": "job, name", "set_metrics": "setting, name", "votes": "id", "studies": "id",
    "consent_texts": "sha256", "consents": "rowid", "check_answers": "rowid",
    "tags": "clip, name", "notes": "clip",
}  # fmt: skip
_RATER_TABLES = ("votes", "check_answers", "consents")  # that are sent; no keys, no removals
Row = dict[str, Any]
# Reads a video of the run and writes what is sent of it: (key, name in the run) -> content.
KeepVideo = Callable[[str, str], bytes]


def identity(ledger: Ledger) -> str:
    """Return what a run is known by, in whichever folder: 12 hexadecimal digits."""
    first = ledger.rows("SELECT sha256, created FROM plans ORDER BY id LIMIT 1")
    content = [list(row) for row in first] + [ledger.meta("merged")]
    return _digest(to_json(content))[:12]


def write_shareable(
    source: Ledger, folder: Path, keep_video: KeepVideo, with_names: bool = False
) -> None:
    """Write the ledger of a run for other people into an empty folder.

    Args:
        source: the ledger; it is read as it is at one moment.
        keep_video: called for each finished clip; what it returns is what the ledger describes.
        with_names: keep the names of raters.
    """
    with contextlib.closing(Ledger(folder, "create")) as target:
        # One plain file, which needs none beside it to be read.
        target.db.execute("PRAGMA journal_mode=DELETE")
        source.db.execute("BEGIN")
        try:
            with target.transaction():
                _write_rows(source, target, keep_video, with_names)
        finally:
            source.db.execute("COMMIT")


def _write_rows(source: Ledger, target: Ledger, keep_video: KeepVideo, with_names: bool) -> None:
    def unnamed(row: Row) -> Row:
        return row if with_names else {**row, "rater": raters[row["rater"]]}

    change: Mapping[str, Callable[[Row], Row]] = {
        "plans": _plan, "prompts": _prompt, "settings": _setting, "environments": _environment,
        "notes": _note, "jobs": lambda row: _job(row, keep_video),
        **dict.fromkeys(_RATER_TABLES, unnamed),
    }  # fmt: skip
    raters = _names_of_nobody(source)
    for statement in annotations.TABLES.values():
        target.db.execute(statement)
    if source.has_table("studies"):  # by whose checks raters are left out
        study.make_tables(target)
    target.db.execute("DELETE FROM meta")
    for table, order in _ORDERS.items():
        found = rows(source, table, order)
        if table == "meta":
            found = [row for row in found if row["key"] in ("format", "merged")]
        found = _models(found) if table == "models" else found
        for row in found:
            insert(target, table, change.get(table, dict)(row))


def _names_of_nobody(source: Ledger) -> dict[str, str]:
    """Return another name for each rater, which stays and which no rater of another run has.

    It is drawn from what a browser made up, or else from the first thing that was said, so that
    nobody can find the name by trying some.
    """
    found: dict[str, str] = {}
    for row in rows(source, "raters", "made, rowid"):
        found.setdefault(row["name"], row["key"])
    for table in _RATER_TABLES:
        for row in rows(source, table, "made, rowid"):
            said = {name: value for name, value in row.items() if name != "rater"}
            found.setdefault(row["rater"], to_json([table, said]))
    run = identity(source)
    return {name: f"rater {_digest(f'{run} {drawn}')[:8]}" for name, drawn in found.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _models(found: list[Row]) -> list[Row]:
    """Name models by their last folders; of two with one name, the second gets a number."""
    taken: set[str] = set()
    for row in found:
        short = name = without_folders(row["name"])
        number = 2
        while name in taken:
            name, number = f"{short} {number}", number + 1
        taken.add(name)
        row["name"] = name
    return found


def _prompt(row: Row) -> Row:
    return {**row, "tags": json_without_folders(row["tags"])}


def _plan(row: Row) -> Row:
    return {**row, "text": plan_without_folders(row["text"])}


def plan_without_folders(text: str) -> str:
    """Take the folders out of a plan, whose comments stay where that can be done line by line."""
    import yaml

    try:
        content = load_yaml(text)
    except (yaml.YAMLError, ValueError):  # of another version
        return "\n".join(map(without_folders, text.split("\n")))
    cleaned, lines = _clean_plan(content), text
    for value in sorted(_paths(content), key=len, reverse=True):
        lines = lines.replace(value, without_folders(value))
    lines = "\n".join(
        line if line.lstrip()[:1] != "#" else without_folders(line) for line in lines.split("\n")
    )
    with contextlib.suppress(yaml.YAMLError, ValueError):
        if load_yaml(lines) == cleaned and without_folders(_comments(lines)) == _comments(lines):
            return lines
    # A path was written over two lines, or a folder is named in a comment behind a value.
    return yaml.safe_dump(cleaned, sort_keys=False, allow_unicode=True, width=1000)


def _comments(text: str) -> str:
    return "\n".join(line[line.index("#") :] for line in text.split("\n") if "#" in line)


def _clean_plan(content: Any) -> Any:
    """Return a plan without folders; what its prompts say stays."""
    if isinstance(content, dict):
        return {name: _clean_entry(name, value) for name, value in content.items()}
    return data_without_folders(content)


def _clean_entry(name: str, value: Any) -> Any:
    if name == "prompts" and isinstance(value, list):
        return [each if isinstance(each, str) else _clean_plan(each) for each in value]
    return value if name in ("prompt", "negative_prompt") else _clean_plan(value)


def _paths(content: Any, name: str = "") -> Iterator[str]:
    """Yield the values of a plan that are paths with folders."""
    if isinstance(content, str):
        if _clean_entry(name, content) != content:
            yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _paths(value, key)
    elif isinstance(content, list):
        for value in content:
            yield from _paths(value, "prompt" if name == "prompts" else name)


def _setting(row: Row) -> Row:
    return {**row, **{name: json_without_folders(row[name]) for name in ("given", "complete")}}


def _environment(row: Row) -> Row:
    """Keep the versions and the class of the machine, without everything that is installed."""
    content = {k: v for k, v in json.loads(row["content"]).items() if k != "packages"}
    return {**row, "content": json_without_folders(to_json(content))}


def _note(row: Row) -> Row:
    return {**row, "text": without_folders(row["text"])}


def _job(row: Row, keep_video: KeepVideo) -> Row:
    error = row["error"] and without_folders(row["error"].splitlines()[0])
    status = "pending" if row["status"] == "running" else row["status"]
    row = {**row, "error": error, "status": status, "latents": None, "latents_sha256": None}
    if status != "done":
        return row
    content = keep_video(row["key"], row["video"])
    digest = hashlib.sha256(content).hexdigest()
    suffix = Path(row["video"]).suffix
    described = {"video": f"{CLIPS}/{row['key']}{suffix}", "video_sha256": digest}
    return {**row, **described, "video_bytes": len(content), "video_mtime_ns": 0}
