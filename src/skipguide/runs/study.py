"""A study of a run in its ledger: what is asked, whom it was given to, consents, attention checks.

Its tables are made with the first study, so that ledgers without one stay as they are; versions of
before ignore them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from skipguide.method.protocols import PlainData
from skipguide.runs.ledger import Ledger, to_json, utc_now

Kind = Literal["rating", "pair"]
CheckKind = Literal["same", "damaged"]
# A rater is left out who answers less than this share of at least so many checks as expected.
LEAST_PASSED, LEAST_CHECKS = 0.75, 2
COPIES = "checks"  # the folder of a run for the damaged copies of attention checks
RULE = (
    f"Who answers at least {LEAST_CHECKS} attention checks, and fewer than {LEAST_PASSED:.0%} of"
    " them as expected, is left out."
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS studies(
  id INTEGER PRIMARY KEY, content TEXT NOT NULL, made TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS consent_texts(
  sha256 TEXT PRIMARY KEY, text TEXT NOT NULL, made TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS consents(
  rater TEXT NOT NULL, sha256 TEXT NOT NULL, made TEXT NOT NULL, PRIMARY KEY(rater, sha256));
CREATE TABLE IF NOT EXISTS assignments(
  study INTEGER NOT NULL, rater TEXT NOT NULL, place INTEGER NOT NULL, first TEXT NOT NULL,
  second TEXT, left TEXT, check_name TEXT, made TEXT NOT NULL, PRIMARY KEY(study, rater, place));
CREATE TABLE IF NOT EXISTS check_answers(
  study INTEGER NOT NULL, rater TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
  clip TEXT NOT NULL, answer TEXT NOT NULL, passed INTEGER NOT NULL, seconds REAL,
  made TEXT NOT NULL, PRIMARY KEY(study, rater, name));
CREATE TABLE IF NOT EXISTS removal_wishes(rater TEXT PRIMARY KEY, made TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS removals(
  id INTEGER PRIMARY KEY, rater TEXT, votes INTEGER NOT NULL, made TEXT NOT NULL, content TEXT,
  restored TEXT)
"""
# What a rater has left in each table, beside votes and the keys of browsers.
RATER_TABLES = ("consents", "assignments", "check_answers", "removal_wishes")


@dataclass(frozen=True)
class Check:
    """An attention check: a clip beside itself, or beside a strongly damaged copy of it."""

    name: str
    kind: CheckKind
    clip: str  # its key


@dataclass(frozen=True)
class Study:
    """The tasks that every rater of a study gets.

    Args:
        settings: ids of those that are compared.
        tasks: of each rater, without the checks.
        consent: the SHA-256 of the text that is accepted first.
        most_raters: that can take part.
    """

    kind: Kind
    settings: tuple[int, ...]
    tasks: int
    checks: tuple[Check, ...] = ()
    consent: str | None = None
    most_raters: int = 200
    id: int = 0  # in the ledger

    @staticmethod
    def of(content: PlainData, number: int) -> Study:
        """Return a study as the ledger has it."""
        checks = tuple(Check(**check) for check in content["checks"])
        return Study(
            **{**content, "settings": tuple(content["settings"]), "checks": checks}, id=number
        )

    def content(self) -> PlainData:
        """Return all but its number, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "id"}


@dataclass(frozen=True)
class Assignment:
    """A task as it was given to a rater; of a pair with what is on the left.

    Args:
        check: the name of the attention check, if it is one.
    """

    first: str
    second: str | None
    left: Literal["first", "second"] | None
    check: str | None = None


@dataclass(frozen=True)
class Load:
    """The number of times that a task was given, and is judged or likely to be yet."""

    first: str
    second: str | None
    left: str | None


@dataclass(frozen=True)
class CheckAnswer:
    """The answer of a rater to an attention check."""

    study: int
    rater: str
    name: str
    kind: str
    clip: str
    answer: str
    passed: bool
    seconds: float | None = None
    made: str = ""


class StudyLedger:
    """The studies of a run; open for writing where something is kept."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger

    def _has_tables(self) -> bool:
        return self._ledger.has_table("studies")

    # --- what is asked ----------------------------------------------------------------------------

    def current(self) -> Study | None:
        """Return the study that goes on; None if there is none."""
        number = self._ledger.meta("study")
        if not number or not self._has_tables():
            return None
        rows = self._ledger.rows("SELECT * FROM studies WHERE id = ?", int(number))
        return Study.of(json.loads(rows[0]["content"]), rows[0]["id"]) if rows else None

    def begin(self, study: Study, consent: str | None = None) -> Study:
        """Let a study go on, and return it with its number.

        Args:
            study: a new one without a number, or one with the number of a study that it takes the
                place of, whose raters keep their tasks.
            consent: the text whose hash the study has.
        """
        with self._ledger.transaction():
            make_tables(self._ledger)
            if study.consent is not None and consent is not None:
                values = (study.consent, consent, utc_now())
                self._run("INSERT OR IGNORE INTO consent_texts VALUES (?, ?, ?)", values)
            content, number = to_json(study.content()), study.id
            if number:
                self._run("UPDATE studies SET content = ? WHERE id = ?", (content, number))
            else:
                same, more = {"content": content}, {"made": utc_now()}
                number = self._ledger.get_or_insert_id("studies", same, more)
            self._run("INSERT OR REPLACE INTO meta VALUES ('study', ?)", (str(number),))
        return Study.of(json.loads(content), number)

    def end(self) -> None:
        """End the study that goes on; what it has brought stays."""
        if self._ledger.meta("study"):
            with self._ledger.transaction():
                self._run("DELETE FROM meta WHERE key = 'study'", ())

    def consent_text(self, sha256: str) -> str | None:
        """Return a text of consent by its hash; None if the run has it not."""
        if not self._has_tables():
            return None
        rows = self._ledger.rows("SELECT text FROM consent_texts WHERE sha256 = ?", sha256)
        return rows[0]["text"] if rows else None

    # --- raters -----------------------------------------------------------------------------------

    def accept(self, rater: str, sha256: str) -> None:
        """Keep that a rater has accepted a text of consent."""
        with self._ledger.transaction():
            self._run("INSERT OR IGNORE INTO consents VALUES (?, ?, ?)", (rater, sha256, utc_now()))

    def has_accepted(self, rater: str, sha256: str) -> bool:
        """Return whether a rater has accepted a text of consent."""
        query = "SELECT 1 FROM consents WHERE rater = ? AND sha256 = ?"
        return self._has_tables() and bool(self._ledger.rows(query, rater, sha256))

    def consents(self) -> dict[str, str]:
        """Return the hash of the text that each rater accepted last."""
        if not self._has_tables():
            return {}
        rows = self._ledger.rows("SELECT rater, sha256 FROM consents ORDER BY made, rowid")
        return {row["rater"]: row["sha256"] for row in rows}

    def assignments(self, study: int, rater: str) -> list[Assignment]:
        """Return the tasks of a rater in their order; empty before they are given out."""
        rows = self._ledger.rows(
            "SELECT * FROM assignments WHERE study = ? AND rater = ? ORDER BY place", study, rater
        )
        return [
            Assignment(row["first"], row["second"], row["left"], row["check_name"]) for row in rows
        ]

    def raters(self, study: int) -> list[str]:
        """Return who was given tasks."""
        query = "SELECT DISTINCT rater FROM assignments WHERE study = ?"
        return [row["rater"] for row in self._ledger.rows(query, study)]

    def loads(self, study: int, active_since: str) -> list[Load]:
        """Return the tasks that are judged, or given to raters who were here since a time.

        A rater who went away before the end leaves the rest of their tasks to others.
        """
        rows = self._ledger.rows(
            "SELECT a.first, a.second, a.left FROM assignments a WHERE a.study = ? AND a.check_name"
            " IS NULL AND (EXISTS (SELECT 1 FROM votes v WHERE v.rater = a.rater AND v.first ="
            " a.first AND v.second IS a.second) OR a.made >= ? OR EXISTS (SELECT 1 FROM votes v"
            " WHERE v.rater = a.rater AND v.made >= ?))",
            study,
            active_since,
            active_since,
        )
        return [Load(row["first"], row["second"], row["left"]) for row in rows]

    def assign(self, study: int, rater: str, tasks: Sequence[Assignment]) -> None:
        """Give a rater tasks, in this order; call it within `transaction`."""
        made = utc_now()
        self._ledger.db.executemany(
            "INSERT INTO assignments VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (study, rater, place, task.first, task.second, task.left, task.check, made)
                for place, task in enumerate(tasks)
            ],
        )

    def transaction(self) -> Any:
        """Return a context in which nobody else changes the ledger."""
        return self._ledger.transaction()

    # --- attention checks -------------------------------------------------------------------------

    def record_check(self, answer: CheckAnswer) -> None:
        """Keep an answer to an attention check; the first one counts."""
        values = {**asdict(answer), "passed": int(answer.passed), "made": utc_now()}
        marks = ", ".join("?" * len(values))
        with self._ledger.transaction():
            self._run(
                f"INSERT OR IGNORE INTO check_answers({', '.join(values)}) VALUES ({marks})",
                tuple(values.values()),
            )

    def check_answers(self) -> list[CheckAnswer]:
        """Return all answers to attention checks, in the order in which they came."""
        if not self._has_tables():
            return []
        rows = self._ledger.rows("SELECT * FROM check_answers ORDER BY made, rowid")
        return [CheckAnswer(**{**dict(row), "passed": bool(row["passed"])}) for row in rows]

    def passed_checks(self) -> dict[str, tuple[int, int]]:
        """Return of each rater how many checks were answered as expected, and how many at all."""
        found: dict[str, tuple[int, int]] = {}
        for answer in self.check_answers():
            passed, count = found.get(answer.rater, (0, 0))
            found[answer.rater] = passed + answer.passed, count + 1
        return found

    def left_out(self) -> set[str]:
        """Return the raters who are left out of the results, by `RULE`."""
        return {
            rater
            for rater, (passed, count) in self.passed_checks().items()
            if count >= LEAST_CHECKS and passed < LEAST_PASSED * count
        }

    # --- wishes -----------------------------------------------------------------------------------

    def wish_removal(self, rater: str) -> None:
        """Keep that a rater asks for the removal of their votes."""
        with self._ledger.transaction():
            make_tables(self._ledger)
            self._run("INSERT OR IGNORE INTO removal_wishes VALUES (?, ?)", (rater, utc_now()))

    def removal_wishes(self) -> dict[str, str]:
        """Return who asks for removal, and since when."""
        if not self._has_tables():
            return {}
        rows = self._ledger.rows("SELECT * FROM removal_wishes ORDER BY made")
        return {row["rater"]: row["made"] for row in rows}

    def _run(self, query: str, values: Sequence[Any]) -> None:
        self._ledger.db.execute(query, values)


def make_tables(ledger: Ledger) -> None:
    """Make the tables of studies where they are missing; call it within `transaction`."""
    for statement in _SCHEMA.split(";\n"):
        ledger.db.execute(statement)
