"""The studies of a run, with consents, tasks, attention checks and removals, joined to another."""

from __future__ import annotations

import json
import shutil
from typing import Any

from skipguide.runs import study
from skipguide.runs.ledger import to_json
from skipguide.runs.merge_rows import Join, insert, rows

TABLES = ("studies", "consent_texts", *study.RATER_TABLES, "removals")


def join_studies(join: Join) -> None:
    """Join everything of studies but the votes; no study goes on in the joined run by itself."""
    _say_who_is_back(join)
    if not join.source.has_table("studies"):
        return
    study.make_tables(join.target)
    join.ids["studies"] = {
        row["id"]: _join_study(join, row) for row in rows(join.source, "studies")
    }
    for table in ("consent_texts", *study.RATER_TABLES):
        for row in rows(join.source, table):
            if "study" in row:
                row["study"] = join.id("studies", row["study"])
            insert(join.target, table, row)
    _join_removals(join)
    copies = join.origin / study.COPIES
    if copies.is_dir():
        shutil.copytree(copies, join.folder / study.COPIES, dirs_exist_ok=True)


def _join_study(join: Join, row: dict[str, object]) -> int:
    """Return the number of a study in the target; equal ones are one."""
    content = json.loads(str(row["content"]))
    content["settings"] = [join.id("settings", number) for number in content["settings"]]
    same = {"content": to_json(content)}
    return join.target.get_or_insert_id("studies", same, {"made": row["made"]})


def _join_removals(join: Join) -> None:
    voted = {row["rater"] for row in rows(join.target, "votes")}
    held = [_without_id(row) for row in rows(join.target, "removals")]
    for row in rows(join.source, "removals"):
        new = _without_id(row)
        if row["content"]:
            new["content"] = _with_studies_of_target(join, row["content"])
        if new not in held:  # of two runs one may be a copy of the other
            insert(join.target, "removals", new)
        if row["content"] and row["rater"] in voted:
            join.say(
                f"{row['rater']} was removed from {join.label}, but has votes in a run before it:"
                " these are kept. `skipguide votes remove` removes them."
            )


def _without_id(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "id"}


def _say_who_is_back(join: Join) -> None:
    """Note who was removed from a run before, but not from this one."""
    removed = {row["rater"] for row in rows(join.target, "removals") if row["content"]}
    for rater in sorted(removed & {row["rater"] for row in rows(join.source, "votes")}):
        join.say(
            f"{rater} was removed from a run before {join.label}, but has votes there: these are"
            " kept. `skipguide votes remove` removes them."
        )


def _with_studies_of_target(join: Join, content: str) -> str:
    """Return what was kept aside of a rater, with the numbers that studies have in the target."""
    found = json.loads(content)
    for own in found.values():
        for row in own:
            if row.get("study") is not None:
                row["study"] = join.id("studies", row["study"])
    return to_json(found)
