"""Studies, changed answers, removal and return of raters in a ledger, also in joined runs."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from skipguide.runs import Run, Vote
from skipguide.runs.merge import merge
from skipguide.runs.study import Assignment, Check, CheckAnswer, Study

TEXT, HASH = "I agree.", "f" * 64


@pytest.fixture
def run(painted_copy: Path) -> Path:
    """A run in which Ann and Bob have judged two pairs each in a study."""
    with Run.open(painted_copy, writable=True) as found:
        keys = sorted(clip.key for clip in found.clips("done"))
        study = found.study.begin(
            Study("pair", (1, 2), 2, (Check("c" * 16, "same", keys[0]),), HASH), TEXT
        )
        for rater in ("Ann", "Bob"):
            found.add_rater_key(rater, f"key of {rater}")
            found.study.accept(rater, HASH)
            with found.study.transaction():
                given = [Assignment(keys[i], keys[i + 1], "first") for i in (0, 2)]
                found.study.assign(study.id, rater, given)
            for i in (0, 2):
                found.vote(vote(rater, keys[i], keys[i + 1], study=study.id, consent=HASH))
            found.study.record_check(check(study.id, rater, passed=True))
    return painted_copy


def vote(rater: str, first: str, second: str, answer: str = "first", **more: object) -> Vote:
    made = Vote(rater, "pair", "preference", first, second, answer, "first", 2.0)
    return replace(made, **more)  # type: ignore[arg-type]


def check(study: int, rater: str, passed: bool, name: str = "c" * 16) -> CheckAnswer:
    return CheckAnswer(study, rater, name, "same", "0" * 16, "tie" if passed else "first", passed)


def content(folder: Path, rater: str) -> dict[str, list[dict[str, object]]]:
    """All rows that name a rater, but their numbers, read by SQLite alone."""
    db = sqlite3.connect(folder / "ledger.sqlite")
    db.row_factory = sqlite3.Row
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {}
    for table in tables:
        rows = [dict(row) for row in db.execute(f"SELECT * FROM {table}")]
        found[table] = [
            {key: value for key, value in row.items() if key != "id"}
            for row in rows
            if rater in row.values()
        ]
    db.close()
    return {table: rows for table, rows in found.items() if rows}


def test_a_removed_rater_comes_back_as_before(run: Path) -> None:
    before = content(run, "Ann")
    assert {"votes", "raters", "consents", "assignments", "check_answers"} == set(before)
    with Run.open(run, writable=True) as found:
        assert found.remove_rater("Ann") == 2
        assert [vote.rater for vote in found.votes()] == ["Bob", "Bob"]
        assert "Ann" not in found.rater_keys()
        assert [(one.rater, one.votes, one.can_be_restored) for one in found.removals()] == [
            ("Ann", 2, True)
        ]
        assert set(content(run, "Ann")) == {"removals"}
        assert found.restore_rater("Ann") == 2
        after = content(run, "Ann")
        assert after.pop("removals")[0]["restored"]
        assert after == before
        with pytest.raises(ValueError, match="has been taken since"):
            found.restore_rater("Ann")


def test_a_name_that_was_taken_since_is_not_mixed_up(run: Path) -> None:
    with Run.open(run, writable=True) as found:
        found.remove_rater("Ann")
        found.add_rater_key("Ann", "another Ann")
        with pytest.raises(ValueError, match="has been taken since"):
            found.restore_rater("Ann")
        with pytest.raises(ValueError, match="whose votes were removed and kept aside"):
            found.restore_rater("Cem")


def test_who_is_forgotten_has_left_nothing_but_a_number(run: Path) -> None:
    with Run.open(run, writable=True) as found:
        found.remove_rater("Ann")
        found.restore_rater("Ann")
        found.remove_rater("Ann")
        found.add_rater_key("Ann", "again")
        found.remove_rater("Ann", forget=True)
        assert {(one.rater, one.can_be_restored) for one in found.removals()} == {(None, False)}
        assert [one.votes for one in found.removals()] == [2, 2, 0]
    assert content(run, "Ann") == {}
    left = [path for path in run.glob("ledger.sqlite*") if b"key of Ann" in path.read_bytes()]
    assert left == []  # nor in pages that SQLite does not use any more


def test_changes_are_counted_and_end(run: Path) -> None:
    with Run.open(run, writable=True) as found:
        (own,) = [one for one in found.votes() if one.rater == "Ann"][:1]
        assert own.changes == 0
        for answer in ("first", "tie", "tie", "second"):  # the first is no change, nor the third
            found.vote(replace(own, answer=answer), most_changes=2)
        with pytest.raises(ValueError, match="an answer can be changed 2 times"):
            found.vote(replace(own, answer="tie"), most_changes=2)
        kept = next(one for one in found.votes() if (one.rater, one.first) == ("Ann", own.first))
        assert (kept.answer, kept.changes) == ("second", 2)


def test_who_fails_the_checks_is_not_counted(run: Path) -> None:
    """One of one, one of two, three of four."""
    with Run.open(run, writable=True) as found:
        study = found.study.current()
        assert study is not None
        found.study.record_check(check(study.id, "Ann", False))  # the first answer stays
        assert found.study.left_out() == set()
        found.study.record_check(check(study.id, "Ann", False, "second"))
        assert found.study.left_out() == {"Ann"}
        assert found.study.passed_checks() == {"Ann": (1, 2), "Bob": (1, 1)}
        assert [one.rater for one in found.counted_votes()] == ["Bob", "Bob"]
        assert len(found.votes()) == 4
        for name in ("third", "fourth"):
            found.study.record_check(check(study.id, "Ann", True, name))
        assert found.study.left_out() == set()


def test_a_ledger_of_before_is_read_and_written(painted_copy: Path) -> None:
    with Run.open(painted_copy) as found:
        assert (found.study.current(), found.removals(), found.counted_votes()) == (None, [], [])
        first, second = sorted(clip.key for clip in found.clips("done"))[:2]
    db = sqlite3.connect(painted_copy / "ledger.sqlite")
    db.execute(
        "INSERT INTO votes(rater, kind, question, first, second, answer, left, made) VALUES"
        " ('Old', 'pair', 'preference', ?, ?, 'tie', 'first', '2026-01-01')",
        (first, second),
    )
    db.commit()
    db.close()
    with Run.open(painted_copy, writable=True) as found:
        (own,) = found.votes()
        assert (own.rater, own.study, own.consent, own.changes) == ("Old", None, None, 0)
        found.vote(vote("Old", first, second))
        assert found.votes()[0].changes == 1
        assert found.remove_rater("Old") == found.restore_rater("Old") == 1


def test_a_study_keeps_its_number_with_another_text(run: Path) -> None:
    with Run.open(run, writable=True) as found:
        study = found.study.current()
        assert study is not None
        changed = found.study.begin(replace(study, consent="e" * 64), "I agree to more.")
        assert (changed.id, changed.consent) == (study.id, "e" * 64)
        assert found.study.consent_text(HASH) == TEXT  # what was accepted with votes of before
        assert len(found.study.assignments(study.id, "Ann")) == 2
        assert not found.study.has_accepted("Ann", "e" * 64)
        found.study.end()
        assert found.study.current() is None
        again = found.study.begin(replace(changed, id=0))
        assert again == changed  # the same questions are the same study


def test_studies_are_joined_with_their_votes(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    with Run.open(other, writable=True) as found:
        study = found.study.current()
        assert study is not None
        found.remove_rater("Ann")
        found.study.begin(replace(study, id=0, tasks=1))  # a second study
        found.study.record_check(check(study.id, "Bob", False, "another"))
    said = merge([run, other], tmp_path / "joined").notes
    assert any("Ann was removed from other, but has votes" in note for note in said)
    assert not [note for note in said if "cannot join" in note]
    with Run.open(tmp_path / "joined") as joined, Run.open(run) as before:
        assert [replace(one, made="") for one in joined.votes()] == [
            replace(one, made="") for one in before.votes()
        ]
        assert joined.study.left_out() == {"Bob"}  # one of two, of both runs together
        assert joined.study.current() is None
        assert joined.study.consents() == {"Ann": HASH, "Bob": HASH}


def test_who_comes_back_in_a_joined_run_is_in_the_study_of_before(
    run: Path, tmp_path: Path
) -> None:
    """A study of the second run has another number in the joined one."""
    other = tmp_path / "other"
    shutil.copytree(run, other)
    with Run.open(other, writable=True) as found:
        found.ledger.db.execute("UPDATE studies SET content = replace(content, 'same', 'damaged')")
        found.remove_rater("Ann", forget=True)
    with Run.open(run, writable=True) as found:
        found.remove_rater("Ann")
    merge([other, run], tmp_path / "joined")
    with Run.open(tmp_path / "joined", writable=True) as joined:
        assert joined.restore_rater("Ann") == 2
        assert {vote.study for vote in joined.votes() if vote.rater == "Ann"} == {2}
        assert len(joined.study.assignments(2, "Ann")) == 2
        assert joined.study.assignments(1, "Ann") == []


def test_who_was_removed_and_is_in_a_later_run_is_told(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    with Run.open(other, writable=True) as found:
        found.remove_rater("Ann")
        found.remove_rater("Bob")
        found.restore_rater("Bob")
    said = merge([other, run], tmp_path / "joined").notes
    (note,) = [note for note in said if "was removed" in note]
    assert note.startswith("Ann was removed from a run before")


def test_a_removal_that_both_runs_have_is_there_once(run: Path, tmp_path: Path) -> None:
    with Run.open(run, writable=True) as found:
        found.remove_rater("Ann")
        found.remove_rater("Bob", forget=True)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    with Run.open(run, writable=True) as found:
        removed = found.removals()
        found.add_rater_key("Ann", "another Ann")
        found.remove_rater("Ann")
    merge([run, other], tmp_path / "joined")
    with Run.open(tmp_path / "joined") as joined:
        assert joined.removals()[:2] == removed
        assert [one.votes for one in joined.removals()] == [2, 2, 0]
