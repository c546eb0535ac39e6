"""The votes of a run in its ledger: kept, counted, removed with their rater, and brought back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skipguide.method.protocols import PlainData
from skipguide.runs.entities import Vote
from skipguide.runs.ledger import Ledger, to_json, utc_now
from skipguide.runs.study import RATER_TABLES, make_tables

# Columns that ledgers of before do not have; versions of before neither read nor write them.
_LATER = {
    "study": "INTEGER", "consent": "TEXT", "changes": "INTEGER NOT NULL DEFAULT 0",
}  # fmt: skip
# Ledgers of before have no such table, and readers of before do not look for it.
RATER_TABLE = (
    "CREATE TABLE IF NOT EXISTS raters(name TEXT NOT NULL, key TEXT NOT NULL, made TEXT NOT NULL,"
    " PRIMARY KEY(name, key))"
)
_SAME = "rater = ? AND kind = ? AND question = ? AND first = ? AND second IS ?"


@dataclass(frozen=True)
class Removal:
    """A rater whose votes were taken out.

    Args:
        rater: the name; None where it was forgotten.
        can_be_restored: the votes are kept aside.
    """

    rater: str | None
    votes: int
    made: str
    can_be_restored: bool
    restored: str | None = None


class VoteLedger:
    """The votes and raters of a run; open for writing where something is changed."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger

    # --- votes ------------------------------------------------------------------------------------

    def keep(self, vote: Vote, most_changes: int | None = None) -> None:
        """Keep a judgement; the same rater's new answer to the same question replaces the old.

        Args:
            most_changes: how often an answer may be replaced by another one.

        Raises:
            ValueError: as `Run.vote`.
        """
        check_vote(vote)
        with self._ledger.transaction():
            self._add_columns()
            same = (vote.rater, vote.kind, vote.question, vote.first, vote.second)
            old = self._ledger.rows(f"SELECT answer, changes FROM votes WHERE {_SAME}", *same)
            changes = (
                (old[0]["changes"] or 0) + (old[0]["answer"] != vote.answer)
                if old
                else vote.changes
            )
            if most_changes is not None and old and changes > most_changes:
                raise ValueError(
                    f"an answer can be changed {most_changes} times, but this one was already."
                    " What was said last stays."
                )
            values = {**_values(vote), "made": utc_now(), "changes": changes}
            self._insert("votes", values, "OR REPLACE")

    def all(self) -> list[Vote]:
        """Return the votes, in the order in which they were given."""
        rows = self._ledger.rows("SELECT * FROM votes ORDER BY made, id")
        return [_vote(dict(row)) for row in rows]

    def version(self) -> str:
        """Return a text that is another one after every change of the votes or the raters."""
        (row,) = self._ledger.rows("SELECT count(*) AS n, ifnull(max(id), 0) AS newest FROM votes")
        seen = [sorted(self.keys())]  # who has begun is a rater before any vote
        if self._ledger.has_table("studies"):
            for table in ("check_answers", "removal_wishes"):
                counts = self._ledger.rows(f"SELECT count(*) AS n FROM {table}")
                seen += [table, str(counts[0]["n"])] if counts[0]["n"] else []
        return (
            f"{row['n']}-{row['newest']}-{hashlib.sha256(to_json(seen).encode()).hexdigest()[:8]}"
        )

    def _add_columns(self) -> None:
        known = {row["name"] for row in self._ledger.rows("PRAGMA table_info(votes)")}
        for name, kind in _LATER.items():
            if name not in known:
                self._ledger.db.execute(f"ALTER TABLE votes ADD COLUMN {name} {kind}")

    # --- raters -----------------------------------------------------------------------------------

    def keys(self) -> dict[str, set[str]]:
        """Return the names that raters have taken, each with what its browsers are known by."""
        found: dict[str, set[str]] = {}
        if self._ledger.has_table("raters"):
            for row in self._ledger.rows("SELECT name, key FROM raters ORDER BY made, rowid"):
                found.setdefault(row["name"], set()).add(row["key"])
        return found

    def add_key(self, name: str, key: str, only_first: bool = False) -> bool:
        """Keep that a browser votes under a name; see `Run.add_rater_key`."""
        with self._ledger.transaction():
            self._ledger.db.execute(RATER_TABLE)
            query = "SELECT 1 FROM raters WHERE name = ? AND key != ?"
            if only_first and self._ledger.rows(query, name, key):
                return False
            self._ledger.db.execute(
                "INSERT OR IGNORE INTO raters VALUES (?, ?, ?)", (name, key, utc_now())
            )
        return True

    # --- away, and back ---------------------------------------------------------------------------

    def remove(self, name: str, forget: bool = False) -> int:
        """Take the votes of a rater out of the run, and free the name; see `Run.remove_rater`."""
        if name not in self._names():
            raise ValueError(
                f"a rater must be one who has voted in the run, but got {name!r}. `skipguide votes"
                " show` lists them."
            )
        if forget:  # not even where SQLite keeps free pages
            self._ledger.db.execute("PRAGMA secure_delete=ON")
        with self._ledger.transaction():
            make_tables(self._ledger)
            self._ledger.db.execute(RATER_TABLE)
            content = self._content_of(name)
            for table, column in _tables_of_rater().items():
                self._ledger.db.execute(f"DELETE FROM {table} WHERE {column} = ?", (name,))
            votes = len(content["votes"])
            kept = (None, None) if forget else (name, to_json(content))
            self._ledger.db.execute(
                "INSERT INTO removals(rater, votes, made, content) VALUES (?, ?, ?, ?)",
                (kept[0], votes, utc_now(), kept[1]),
            )
            if forget:  # what was kept aside of them before, too
                self._ledger.db.execute(
                    "UPDATE removals SET rater = NULL, content = NULL WHERE rater = ?", (name,)
                )
        return votes

    def restore(self, name: str) -> int:
        """Bring back what was removed last of a rater; see `Run.restore_rater`."""
        if name in self._names():
            raise ValueError(
                f"the name of a removed rater must be free to be restored, but {name!r} has been"
                " taken since. Remove that rater first."
            )
        with self._ledger.transaction():
            make_tables(self._ledger)
            found = self._ledger.rows(
                "SELECT id, content FROM removals WHERE rater = ? AND content IS NOT NULL ORDER BY"
                " id DESC LIMIT 1",
                name,
            )
            if not found:
                raise ValueError(
                    f"a rater to restore must be one whose votes were removed and kept aside, but"
                    f" {name!r} is none. `skipguide votes show` lists them."
                )
            content = json.loads(found[0]["content"])
            self._ledger.db.execute(RATER_TABLE)
            self._add_columns()
            for table, rows in content.items():
                for row in rows:
                    self._insert(table, row, "OR IGNORE")
            self._ledger.db.execute(
                "UPDATE removals SET content = NULL, restored = ? WHERE id = ?",
                (utc_now(), found[0]["id"]),
            )
        return len(content["votes"])

    def removals(self) -> list[Removal]:
        """Return who was removed, in the order in which they were."""
        if not self._ledger.has_table("removals"):
            return []
        rows = self._ledger.rows("SELECT * FROM removals ORDER BY id")
        return [
            Removal(
                row["rater"], row["votes"], row["made"], row["content"] is not None, row["restored"]
            )
            for row in rows
        ]

    def _names(self) -> set[str]:
        rows = self._ledger.rows("SELECT DISTINCT rater FROM votes")
        names = {*self.keys(), *(row["rater"] for row in rows)}
        if self._ledger.has_table("studies"):
            for table in RATER_TABLES:
                found = self._ledger.rows(f"SELECT DISTINCT rater FROM {table}")
                names |= {row["rater"] for row in found}
        return names

    def _content_of(self, name: str) -> dict[str, list[PlainData]]:
        """Return all that the ledger has of a rater, by table; ids of rows are given anew."""
        return {
            table: [
                {key: value for key, value in dict(row).items() if key != "id"}
                for row in self._ledger.rows(f"SELECT * FROM {table} WHERE {column} = ?", name)
            ]
            for table, column in _tables_of_rater().items()
        }

    def _insert(self, table: str, row: Mapping[str, Any], how: str) -> None:
        marks = ", ".join("?" * len(row))
        self._ledger.db.execute(
            f"INSERT {how} INTO {table}({', '.join(row)}) VALUES ({marks})", list(row.values())
        )


def _tables_of_rater() -> dict[str, str]:
    """Return the tables that have something of a rater, each with the column of the name."""
    return {"votes": "rater", "raters": "name", **dict.fromkeys(RATER_TABLES, "rater")}


def _vote(row: Mapping[str, Any]) -> Vote:
    """Return a vote; ledgers of before, and those that were joined, lack what came later."""
    found = {name: value for name, value in row.items() if name in Vote.__dataclass_fields__}
    return Vote(**{**found, "changes": found.get("changes") or 0})


def _values(vote: Vote) -> PlainData:
    return {name: getattr(vote, name) for name in Vote.__dataclass_fields__}


# --- what a vote can be ---------------------------------------------------------------------------

_ANSWERS: Mapping[str, Sequence[str]] = {
    "rating": ("1", "2", "3", "4", "5"),
    "pair": ("first", "second", "tie"),
}


def check_vote(vote: Vote) -> None:
    """Refuse a vote that is none.

    Raises:
        ValueError: for an answer that its kind does not have, or sides that do not fit.
    """
    answers = _ANSWERS.get(vote.kind, ())
    if vote.answer not in answers:
        raise ValueError(
            "a vote of kind rating must have an answer from 1 to 5, and a pair first, second or"
            f" tie, but got {vote.kind!r} with {vote.answer!r}. Correct it."
        )
    if (vote.kind == "pair") != (vote.second is not None) or (vote.kind == "pair") != (
        vote.left in ("first", "second")
    ):
        raise ValueError(
            f"a pair must have `second` and `left`, and a rating neither, but got {vote!r}."
            " Correct it."
        )
    if vote.second is not None and vote.first >= vote.second:
        raise ValueError(
            "first must be the smaller key of a pair, so that every pair has one spelling, but"
            f" got {vote.first!r} and {vote.second!r}. Swap them, and the answer."
        )
