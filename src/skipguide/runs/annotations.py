"""Tags and notes: what people write on a run and on its clips.

Ledgers of before have no tables for them; the first tag or note makes them. Versions of before do
not look for them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from skipguide.runs.ledger import Ledger, to_json, utc_now
from skipguide.runs.run import Run

LONGEST_TAG, LONGEST_NOTE = 40, 4000  # characters
_RUN = ""  # stands for the run itself where a clip has its key
# What makes each table, where it is missing.
TABLES: Mapping[str, str] = {
    "tags": "CREATE TABLE IF NOT EXISTS tags(clip TEXT NOT NULL, name TEXT NOT NULL, made TEXT NOT"
    " NULL, PRIMARY KEY(clip, name)) WITHOUT ROWID",
    "notes": "CREATE TABLE IF NOT EXISTS notes(clip TEXT PRIMARY KEY, text TEXT NOT NULL, made"
    " TEXT NOT NULL) WITHOUT ROWID",
}


@dataclass(frozen=True)
class Annotation:
    """The tags of one thing, in the order of the alphabet, and its note."""

    tags: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Annotations:
    """The tags and notes of a run, and of those of its clips that have any."""

    run: Annotation = Annotation()
    clips: Mapping[str, Annotation] = field(default_factory=dict)  # by key

    def of(self, key: str) -> Annotation:
        """Return what is written on a clip."""
        return self.clips.get(key, Annotation())

    @property
    def tags(self) -> list[str]:
        """Every tag that a clip has, in the order of the alphabet."""
        return sorted({tag for found in self.clips.values() for tag in found.tags})


def read(run: Run) -> Annotations:
    """Return the tags and notes of a run and its clips."""
    tags: dict[str, list[str]] = {}
    for clip, name in _rows(run.ledger, "tags", "clip, name"):
        tags.setdefault(clip, []).append(name)
    notes: dict[str, str] = dict(_rows(run.ledger, "notes", "clip, text"))
    found = {
        clip: Annotation(tuple(sorted(tags.get(clip, ()))), notes.get(clip, ""))
        for clip in sorted({*tags, *notes})
    }
    return Annotations(found.pop(_RUN, Annotation()), found)


def version(run: Run) -> str:
    """Return a text that is another one after every change of a tag or a note."""
    rows = [_rows(run.ledger, "tags", "clip, name"), _rows(run.ledger, "notes", "clip, text")]
    return hashlib.sha256(to_json(rows).encode()).hexdigest()[:12]


def _rows(ledger: Ledger, table: str, columns: str) -> list[tuple[str, str]]:
    if not ledger.has_table(table):
        return []
    return [(row[0], row[1]) for row in ledger.rows(f"SELECT {columns} FROM {table} ORDER BY 1, 2")]


def change(
    run: Run,
    clips: Iterable[str] | None = None,
    add: Iterable[str] = (),
    remove: Iterable[str] = (),
    note: str | None = None,
) -> None:
    """Add and remove tags, and replace the note, of clips or of the run: all of it or nothing.

    Args:
        run: open for writing.
        clips: the keys of clips; None for the run itself.
        add: tags, which may be there already.
        remove: tags, which may be missing.
        note: the new text; "" removes the note, None leaves it.

    Raises:
        ValueError: for a key that the run does not have, or a tag or note that cannot be kept.
    """
    places = [_RUN] if clips is None else [run.clip(key).key for key in clips]
    add, remove = [check_tag(tag) for tag in add], [check_tag(tag) for tag in remove]
    if both := sorted({*add} & {*remove}):
        raise ValueError(
            f"a tag must be added or removed, but got both for {both[0]!r}. Leave one out."
        )
    note = None if note is None else check_note(note)
    made, ledger = utc_now(), run.ledger
    with ledger.transaction():
        for statement in TABLES.values():
            ledger.db.execute(statement)
        ledger.db.executemany(
            "INSERT OR IGNORE INTO tags VALUES (?, ?, ?)",
            [(place, tag, made) for place in places for tag in add],
        )
        ledger.db.executemany(
            "DELETE FROM tags WHERE clip = ? AND name = ?",
            [(place, tag) for place in places for tag in remove],
        )
        if note is not None:
            _write_note(ledger, places, note, made)


def _write_note(ledger: Ledger, places: Iterable[str], note: str, made: str) -> None:
    for place in places:
        if note:
            ledger.db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (place, note, made))
        else:
            ledger.db.execute("DELETE FROM notes WHERE clip = ?", (place,))


def check_tag(text: str) -> str:
    """Return a tag as it is kept: one space between words, one spelling of accents.

    Raises:
        ValueError: if it is empty, too long, has a comma or something that cannot be seen, or
            begins with a sign.
    """
    tag = unicodedata.normalize("NFC", " ".join(text.split()))
    if not 0 < len(tag) <= LONGEST_TAG:
        raise ValueError(
            f"a tag must have 1 to {LONGEST_TAG} characters, but got {len(tag)}. Choose another;"
            " a note holds more."
        )
    if "," in tag or tag[0] in "+-=@" or not tag.isprintable():
        raise ValueError(
            "a tag must have no comma and nothing that cannot be seen, and must not begin with one"
            f" of + - = @, but got {tag!r}. Choose another."
        )
    return tag


def check_note(text: str) -> str:
    """Return a note as it is kept: without spaces around it, with plain line ends.

    Raises:
        ValueError: if it is too long, or has something that cannot be seen.
    """
    note = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    hidden = next((each for each in note if unicodedata.category(each) in ("Cc", "Cs", "Co")
                   and each not in "\n\t"), None)  # fmt: skip
    if len(note) > LONGEST_NOTE or hidden is not None:
        got = f"{len(note)}" if hidden is None else f"U+{ord(hidden):04X}"
        raise ValueError(
            f"a note must have at most {LONGEST_NOTE} characters, and no control characters, but"
            f" got {got}. Shorten it, or leave that out."
        )
    return note


def find_key(run: Run, beginning: str) -> str:
    """Return the key of the clip that begins so.

    Raises:
        ValueError: if no clip of the run does, or several do.
    """
    rows = run.ledger.rows(
        "SELECT key FROM jobs WHERE substr(key, 1, ?) = ? LIMIT 2", len(beginning), beginning
    )
    if not beginning or len(rows) != 1:
        number = "several clips" if rows else "no clip"
        verb = "begin" if rows else "begins"
        raise ValueError(
            f"a clip must be named by its key, or the beginning of it, but {number} of"
            f" {run.folder} {verb} with {beginning!r}. `skipguide runs show {run.folder} --clips`"
            " lists them."
        )
    return rows[0]["key"]
