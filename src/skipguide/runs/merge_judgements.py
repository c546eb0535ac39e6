"""The numbers, votes, tags and notes of a run, joined to those of another."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from skipguide.runs import annotations, merge_studies
from skipguide.runs.ledger import Ledger
from skipguide.runs.merge_rows import Join, insert, rows
from skipguide.runs.run import REPLICATES, state_name
from skipguide.runs.votes import RATER_TABLE

_JOINED = {
    "meta", "plans", "models", "prompts", "settings", "environments", "jobs", "plan_jobs",
    "metrics", "set_metrics", "votes", "raters", *annotations.TABLES, *merge_studies.TABLES,
}  # fmt: skip


def join_metrics(join: Join) -> None:
    """Join the numbers of single clips; of two values the newer one stays."""
    held = {(row["job"], row["name"]): row for row in rows(join.target, "metrics", "job, name")}
    differing = []
    for row in rows(join.source, "metrics", "job, name"):
        other = held.get((row["job"], row["name"]))
        if row["job"] in join.others:
            continue
        if other is None:
            insert(join.target, "metrics", row)
        elif row["value"] != other["value"]:
            differing.append((row, other))
            if row["made"] > other["made"]:
                insert(join.target, "metrics", row, replace=True)
    if differing:
        row, other = differing[0]
        more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        join.say(
            f"{row['name']} of the clip {row['job']} is {row['value']:g} in {join.label} and"
            f" {other['value']:g} before it{more}: the newer values are kept."
        )


def join_set_metrics(join: Join) -> None:
    """Join the numbers of sets; of two the one of more videos stays, or else the newer one."""
    order = "setting, name"
    held = {(row["setting"], row["name"]): row for row in rows(join.target, "set_metrics", order)}
    for row in rows(join.source, "set_metrics", order):
        source_id = row["setting"]
        row["setting"] = join.id("settings", source_id)
        other = held.get((row["setting"], row["name"]))
        if other is not None and other["value"] != row["value"]:
            join.say(
                f"{row['name']} of the setting {_setting_name(join, row['setting'])!r} is"
                f" {row['value']:g} of {row['count']} videos in {join.label} and"
                f" {other['value']:g} of {other['count']} before it: that of more videos is kept,"
                " or else the newer one. `skipguide evaluate` measures all of them together."
            )
        if other is None or _rank(row) > _rank(other):
            insert(join.target, "set_metrics", row, replace=True)
            _copy_state(join, row, source_id)


def say_what_is_partial(target: Ledger, notes: list[str]) -> None:
    """Note the settings whose metrics of sets are of some of their videos only."""
    done = {
        row["setting"]: row["n"]
        for row in target.rows(
            "SELECT setting, count(*) AS n FROM jobs WHERE status = 'done' GROUP BY setting"
        )
    }
    names = {row["id"]: row["name"] for row in target.rows("SELECT id, name FROM settings")}
    found = {
        row["setting"]: row["count"]
        for row in rows(target, "set_metrics", "setting, name")
        if row["count"] < done.get(row["setting"], 0)
    }
    for setting, count in found.items():
        notes.append(
            f"the metrics of sets of {names[setting]!r} are of {count} of its {done[setting]}"
            " videos: `skipguide evaluate` measures all of them."
        )


def _rank(row: Mapping[str, Any]) -> tuple[int, str]:
    return row["count"], row["made"]


def _setting_name(join: Join, number: int) -> str:
    return join.target.rows("SELECT name FROM settings WHERE id = ?", number)[0]["name"]


def _copy_state(join: Join, row: Mapping[str, Any], source_id: int) -> None:
    """Copy what is kept of a metric: sums, so that further videos can be added to them, and
    replicates, so that settings can be compared."""
    for name in (row["name"], row["name"] + REPLICATES):
        state = join.origin / state_name(source_id, name)
        if state.is_file():
            place = join.folder / state_name(row["setting"], name)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(state, place)


# --- votes ----------------------------------------------------------------------------------------

_QUESTION = ("rater", "kind", "question", "first", "second")
_GIVEN = ("kind", "question", "first", "second", "answer", "left", "seconds", "made")


def join_votes(join: Join) -> None:
    """Join the votes and the raters; of two answers to one question the newer one stays."""
    _join_raters(join)
    votes = rows(join.target, "votes", "id")
    held = {tuple(row[name] for name in _QUESTION): row for row in votes}
    given = {tuple(row[name] for name in _GIVEN) for row in votes if row["seconds"] is not None}
    changed: dict[str, int] = {}
    for row in rows(join.source, "votes", "made, id"):
        new = {name: value for name, value in row.items() if name != "id"}
        if row.get("study") is not None:
            new["study"] = join.id("studies", row["study"])
        other = held.get(tuple(row[name] for name in _QUESTION))
        if other is None and tuple(row[name] for name in _GIVEN) in given:
            continue  # the same vote, from a report that does not tell the names of raters
        if other is not None and other["answer"] != row["answer"]:
            changed[row["rater"]] = changed.get(row["rater"], 0) + 1
        if other is None or row["made"] > other["made"]:
            insert(join.target, "votes", new, replace=True)
    for rater, count in changed.items():
        join.say(
            f"{rater} has answered {count} questions in another way in {join.label}: the newer"
            " answers are kept."
        )


def _join_raters(join: Join) -> None:
    if not (found := rows(join.source, "raters", "made, rowid")):
        return
    join.target.db.execute(RATER_TABLE)
    keys: dict[str, set[str]] = {}
    for row in rows(join.target, "raters"):
        keys.setdefault(row["name"], set()).add(row["key"])
    for row in found:
        insert(join.target, "raters", row)
    for name in dict.fromkeys(row["name"] for row in found):
        own = {row["key"] for row in found if row["name"] == name}
        if name in keys and not own & keys[name]:
            join.say(
                f"raters of the name {name} in {join.label} and before it are taken for one person."
            )


# --- tags and notes -------------------------------------------------------------------------------


def join_annotations(join: Join) -> None:
    """Join the tags; where both have a note, the second one stands below the first."""
    tags, notes = rows(join.source, "tags", "clip, name"), rows(join.source, "notes", "clip")
    if not tags and not notes:
        return
    for statement in annotations.TABLES.values():
        join.target.db.execute(statement)
    for row in tags:
        insert(join.target, "tags", row)
    held = {row["clip"]: row["text"] for row in rows(join.target, "notes", "clip")}
    for row in notes:
        other = held.get(row["clip"])
        if other is None:
            insert(join.target, "notes", row)
        elif row["text"] not in other:
            text = f"{other}\n{row['text']}"[: annotations.LONGEST_NOTE]
            insert(join.target, "notes", {**row, "text": text}, replace=True)


def say_what_is_left(join: Join) -> None:
    """Note the tables of other versions, which nobody here knows how to join."""
    found = join.source.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    unknown = {row["name"] for row in found if not row["name"].startswith("sqlite_")} - _JOINED
    if unknown:
        join.say(
            f"{join.label} has what this version of skipguide cannot join:"
            f" {', '.join(sorted(unknown))}. It stays in that run alone."
        )
