"""The ledger of a run: one SQLite file that says what is to be made and what is done.

Readers and raters use it while a sweep writes (WAL). Every change is one transaction, so that a
process that is killed leaves the ledger as it was before or after it.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skipguide.method.protocols import ReadOnlyData

FORMAT = "1"
NAME = "ledger.sqlite"
_BUSY_SECONDS = 30.0
_SQLITE_FILES = ("", "-wal", "-journal")  # the ledger, and what is to be merged into it
_COPY_ATTEMPTS = 20

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE plans(id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, text TEXT NOT NULL, created
  TEXT NOT NULL);
CREATE TABLE models(id INTEGER PRIMARY KEY, name TEXT NOT NULL, weights TEXT NOT NULL, UNIQUE(name,
  weights));
CREATE TABLE prompts(
  id INTEGER PRIMARY KEY, text TEXT, image TEXT, image_sha256 TEXT, tags TEXT NOT NULL, sha256 TEXT
  NOT NULL UNIQUE);
CREATE TABLE settings(
  id INTEGER PRIMARY KEY, model INTEGER NOT NULL REFERENCES models(id), name TEXT NOT NULL, given
  TEXT NOT NULL,
  complete TEXT NOT NULL, passes_per_step REAL, UNIQUE(model, name));
CREATE TABLE environments(id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, content TEXT NOT
  NULL);
CREATE TABLE jobs(
  key TEXT PRIMARY KEY, setting INTEGER NOT NULL REFERENCES settings(id),
  prompt INTEGER NOT NULL REFERENCES prompts(id), seed INTEGER NOT NULL, position INTEGER NOT NULL,
  status TEXT NOT NULL DEFAULT 'pending' CHECK(status IN ('pending', 'running', 'done', 'failed')),
  attempts INTEGER NOT NULL DEFAULT 0, error TEXT, environment INTEGER REFERENCES environments(id),
  video TEXT, video_sha256 TEXT, video_bytes INTEGER, video_mtime_ns INTEGER, latents TEXT,
  latents_sha256 TEXT,
  frames INTEGER, height INTEGER, width INTEGER, fps TEXT, frames_sha256 TEXT,
  passes_per_step REAL, seconds_per_step REAL, seconds REAL, added TEXT NOT NULL, finished TEXT,
  CHECK((status = 'done') = (video IS NOT NULL)));
CREATE INDEX jobs_by_cell ON jobs(setting, prompt, seed);
CREATE TABLE plan_jobs(
  plan INTEGER NOT NULL REFERENCES plans(id), job TEXT NOT NULL REFERENCES jobs(key) ON DELETE
  CASCADE,
  PRIMARY KEY(plan, job)) WITHOUT ROWID;
CREATE TABLE metrics(
  job TEXT NOT NULL REFERENCES jobs(key) ON DELETE CASCADE, name TEXT NOT NULL, value REAL, made
  TEXT NOT NULL,
  PRIMARY KEY(job, name)) WITHOUT ROWID;
CREATE TABLE set_metrics(
  setting INTEGER NOT NULL REFERENCES settings(id) ON DELETE CASCADE, name TEXT NOT NULL, value
  REAL, low REAL,
  high REAL, count INTEGER NOT NULL, made TEXT NOT NULL, PRIMARY KEY(setting, name)) WITHOUT ROWID;
CREATE TABLE votes(
  id INTEGER PRIMARY KEY, rater TEXT NOT NULL, kind TEXT NOT NULL CHECK(kind IN ('rating', 'pair')),
  question TEXT NOT NULL, first TEXT NOT NULL REFERENCES jobs(key), second TEXT REFERENCES
  jobs(key), left TEXT,
  answer TEXT NOT NULL, seconds REAL, made TEXT NOT NULL);
CREATE UNIQUE INDEX votes_once ON votes(rater, kind, question, first, ifnull(second, ''));
"""


def utc_now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def to_json(value: Any) -> str:
    """Write a value as JSON so that equal values are equal texts."""
    return json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    )


class NotBegunError(ValueError):
    """There is no ledger in a folder yet, or nothing in it: no sweep has come so far."""


class Ledger:
    """A connection to the ledger of a run directory, for one thread.

    Args:
        folder: the run directory.
        mode: "create" makes the ledger if there is none; "write" and "read" need one. Where nothing
            can be written beside the ledger, "read" reads a copy of it, as it is now.

    Raises:
        ValueError: if there is no ledger, it is damaged, or its format is that of another version.
        OSError: if it cannot be written, for "create" and "write".
    """

    def __init__(self, folder: Path, mode: str):
        self.path = folder / NAME
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        if mode != "create" and not self.path.is_file():
            raise NotBegunError(
                f"a run must be a folder with a {NAME}, but {folder} is not one. `skipguide sweep`"
                " makes them; `skipguide runs ls` lists them."
            )
        try:
            with self.translate_errors():
                self.db = self._connect(mode)
                if mode == "create":
                    self._create()
            self._check_format()
        except BaseException:
            self.close()
            raise

    def _connect(self, mode: str) -> sqlite3.Connection:
        access = {"create": "rwc", "write": "rw", "read": "ro"}[mode]
        try:
            db = self._open(f"mode={access}")
            try:
                db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except sqlite3.OperationalError:
                db.close()
                raise
        except sqlite3.OperationalError:
            if mode != "read":
                raise
            return self._open_copy()
        if mode != "read":
            db.execute("PRAGMA journal_mode=WAL")
            # What a sweep has published it finds again after a power cut; what a rater has said
            # nobody does.
            db.execute(f"PRAGMA synchronous={'NORMAL' if mode == 'create' else 'FULL'}")
            db.execute("PRAGMA foreign_keys=ON")
        return db

    def _open_copy(self) -> sqlite3.Connection:
        """Open a copy of the ledger in a folder of the system.

        To read a ledger SQLite needs files beside it, for what is not merged into it yet. Told to
        do without (`immutable`), it leaves that out: the newest changes, or all.
        """
        self._copy = tempfile.TemporaryDirectory(prefix="skipguide-ledger-")
        copy = Path(self._copy.name) / NAME
        for _ in range(_COPY_ATTEMPTS):
            if self._copy_files(copy):
                db = self._open("mode=rw", copy)
                db.execute("PRAGMA query_only=ON")
                return db
        raise OSError(
            f"the ledger {self.path} must keep still while it is copied, because this process may"
            " not read it in its folder, but another one writes to it all the time. Wait for that"
            " one, or get the right to write to the folder."
        )

    def _copy_files(self, copy: Path) -> bool:
        """Copy the ledger with what is to be merged into it; False if it changed meanwhile."""
        before = self._file_states()
        for suffix in _SQLITE_FILES:
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
        try:
            for suffix in before:
                shutil.copyfile(f"{self.path}{suffix}", f"{copy}{suffix}")
        except FileNotFoundError:  # merged and removed meanwhile
            return False
        except OSError as error:
            raise OSError(
                f"a ledger must be readable, with the files beside it, but {error.filename} is"
                f" not: {error.strerror}. Ask its owner for the right to read it."
            ) from error
        return self._file_states() == before

    def _file_states(self) -> dict[str, tuple[int, int]]:
        """Return size and time of change of the ledger and of what is not merged into it yet."""
        found = {suffix: Path(f"{self.path}{suffix}") for suffix in _SQLITE_FILES}
        states = {suffix: path.stat() for suffix, path in found.items() if path.is_file()}
        return {suffix: (state.st_size, state.st_mtime_ns) for suffix, state in states.items()}

    def _open(self, query: str, path: Path | None = None) -> sqlite3.Connection:
        uri = f"{(path or self.path).absolute().as_uri()}?{query}"
        db = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        db.row_factory = sqlite3.Row
        return db

    def _create(self) -> None:
        with self.transaction():
            if not self.has_table("meta"):
                for statement in filter(str.strip, _SCHEMA.split(";\n")):
                    self.db.execute(statement)
                self.db.execute("INSERT INTO meta VALUES ('format', ?)", (FORMAT,))

    def _check_format(self) -> None:
        with self.translate_errors():
            known = self.has_table("meta")
            found = self.meta("format") if known else None
            empty = not known and not self.rows("SELECT 1 FROM sqlite_master")
        if empty:
            raise NotBegunError(
                f"the ledger {self.path} must be filled, but is empty: its sweep was ended before"
                " it wrote anything. Run that sweep again."
            )
        if found != FORMAT:
            raise ValueError(
                f"the ledger {self.path} must be of format {FORMAT}, but"
                f" {'is of another program' if found is None else f'is of format {found}'}. Use"
                " the version of skipguide that wrote it, or another folder."
            )

    def check(self) -> None:
        """Check all pages of the file; takes a moment per 10,000 clips.

        Raises:
            ValueError: if one is damaged.
        """
        with self.translate_errors():
            found = [str(row[0]) for row in self.db.execute("PRAGMA quick_check(3)")]
        if found != ["ok"]:
            raise _damaged_error(self.path, "; ".join(found))

    def copy_to(self, folder: Path) -> Ledger:
        """Copy the ledger to another folder, to try something on the copy."""
        with self.translate_errors(), contextlib.closing(sqlite3.connect(folder / NAME)) as target:
            self.db.backup(target)
        return Ledger(folder, "write")

    def close(self) -> None:
        """Close the connection; the file stays."""
        if hasattr(self, "db"):
            self.db.close()
        if self._copy is not None:
            self._copy.cleanup()

    # --- reading and writing ----------------------------------------------------------------------

    def has_table(self, name: str) -> bool:
        """Return whether there is a table of this name; ledgers of before lack what came later."""
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return bool(self.rows(query, name))

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise SQLite's errors as those of this library."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise _translate_error(self.path, error) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one transaction: all of it or nothing."""
        with self.translate_errors():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(
                    sqlite3.Error
                ):  # SQLite has rolled back itself after some errors
                    self.db.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Return all rows of a query."""
        with self.translate_errors():
            return self.db.execute(query, values).fetchall()

    def get_or_insert_id(
        self, table: str, same: ReadOnlyData, more: ReadOnlyData | None = None
    ) -> int:
        """Return the id of the row with these values; add it if there is none.

        Call it within `transaction`.

        Args:
            same: the values that identify the row.
            more: further values of a new row.
        """
        where = " AND ".join(f"{name} IS ?" for name in same)
        found = self.rows(f"SELECT id FROM {table} WHERE {where}", *same.values())
        if found:
            return found[0]["id"]
        new = {**same, **(more or {})}
        names, marks = ", ".join(new), ", ".join("?" * len(new))
        added = self.db.execute(
            f"INSERT INTO {table}({names}) VALUES ({marks})", list(new.values())
        ).lastrowid
        assert added is not None
        return added

    def meta(self, key: str) -> str | None:
        """Return one of the notes on the whole run; None if there is no such note."""
        found = self.rows("SELECT value FROM meta WHERE key = ?", key)
        return found[0]["value"] if found else None


def _damaged_error(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"the ledger must be a sound SQLite file, but {path} is damaged ({reason}). Move it away"
        " and run the sweep again: it takes over the existing videos. Metrics and votes can only"
        " come from a backup."
    )


_SQLITE_FULL, _SQLITE_BUSY = 13, 5  # SQLite's numbers of its errors


def _translate_error(path: Path, error: sqlite3.DatabaseError) -> Exception:
    code, text = getattr(error, "sqlite_errorcode", 0) & 0xFF, str(error)  # Python 3.10 has no code
    if code == _SQLITE_FULL or "full" in text:
        return OSError(
            f"the disk of {path} is full. Free some space and run the same command again;"
            " finished clips are kept."
        )
    if code == _SQLITE_BUSY or "locked" in text:
        return OSError(
            f"the ledger {path} must be writable within {_BUSY_SECONDS:g} s, but another process"
            " held it. End that process, or try again."
        )
    if isinstance(error, sqlite3.IntegrityError):
        return ValueError(
            f"the ledger {path} does not accept this: {text}. Use clips and settings of this run."
        )
    if isinstance(error, sqlite3.OperationalError):
        return OSError(
            f"the ledger must be in a folder that can be written, but {path} is not: {text}."
            " Check the folder."
        )
    return _damaged_error(path, text)
