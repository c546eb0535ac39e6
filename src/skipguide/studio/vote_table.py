"""Votes as a table, and what is known of each rater."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from skipguide.files import tables
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs import Run, Vote, judged

COLUMNS: tuple[str, ...] = (
    "rater", "kind", "question", "prompt", "seed", "model", "first_setting", "second_setting",
    "answer", "winner", "shown_first", "seconds", "made", "first", "second", "changes", "study",
    "consent", "counted",
)  # fmt: skip


def vote_rows(run: Run) -> list[PlainData]:
    """Return one flat row per vote, in the order in which they were given.

    `winner` is the name of the setting that won a pair, empty for a tie; `shown_first` that of the
    one on the left, or above. `changes` says how often the answer was replaced, `consent` is the
    SHA-256 of the text that the rater had accepted, and `counted` is False for raters who failed
    the attention checks.
    """
    votes, left_out = run.votes(), run.study.left_out()
    clips = judged.clips_of(run, votes)
    settings = {setting.id: setting for setting in run.settings()}
    prompts = {prompt.id: prompt.text or prompt.image for prompt in run.prompts()}
    rows = []
    for vote in votes:
        clip = clips[vote.first]
        names = {"first": settings[clip.setting].name, "second": None}
        if vote.second is not None:
            names["second"] = settings[clips[vote.second].setting].name
        row: PlainData = {
            "rater": vote.rater, "kind": vote.kind, "question": vote.question,
            "prompt": prompts[clip.prompt], "seed": clip.seed,
            "model": settings[clip.setting].model,
            "first_setting": names["first"], "second_setting": names["second"],
            "answer": vote.answer, "winner": names.get(vote.answer),
            "shown_first": names.get(vote.left or ""), "seconds": vote.seconds, "made": vote.made,
            "first": vote.first, "second": vote.second, "changes": vote.changes,
            "study": vote.study, "consent": vote.consent, "counted": vote.rater not in left_out,
        }  # fmt: skip
        rows.append({name: row[name] for name in COLUMNS})
    return rows


def rater_rows(run: Run) -> list[PlainData]:
    """Return one row per rater, in the order in which they came: what was judged, how fast, how
    attentively, and whether they ask to be removed."""
    votes, study = run.votes(), run.study
    of_study = {
        "checks": study.passed_checks(),
        "left_out": study.left_out(),
        "wishes": study.removal_wishes(),
        "consents": study.consents(),
    }
    by_rater: dict[str, list[Vote]] = {}
    for vote in votes:
        by_rater.setdefault(vote.rater, []).append(vote)
    names = dict.fromkeys([*by_rater, *run.rater_keys(), *of_study["wishes"]])
    return [_rater_row(name, by_rater.get(name, ()), of_study) for name in names]


def _rater_row(name: str, own: Sequence[Vote], of_study: ReadOnlyData) -> PlainData:
    seconds = [vote.seconds for vote in own if vote.seconds is not None]
    passed, checks = of_study["checks"].get(name, (0, 0))
    return {
        "rater": name,
        "pairs": len({(vote.first, vote.second) for vote in own if vote.kind == "pair"}),
        "ratings": len({vote.first for vote in own if vote.kind == "rating"}),
        "votes": len(own),
        "changes": sum(vote.changes for vote in own),
        "median_seconds": statistics.median(seconds) if seconds else None,
        "newest": max((vote.made for vote in own), default=None),
        "checks": checks,
        "checks_passed": passed,
        "left_out": name in of_study["left_out"],
        "consent": of_study["consents"].get(name),
        "asks_for_removal": of_study["wishes"].get(name),
    }


def removal_rows(run: Run) -> list[PlainData]:
    """Return one row per rater who was removed, in the order in which they were."""
    return [asdict(removal) for removal in run.removals()]


def writer_for(path: Path) -> Callable[[tables.Rows], None]:
    """Return the function that writes rows of votes to a file, by the ending of its name.

    Raises:
        ValueError: for another ending than .csv, .json and .parquet, or .parquet without pyarrow.
    """
    writers = {".csv": _write_csv, ".json": _write_json, ".parquet": _write_parquet}
    return tables.choose_writer(path, writers)


def _write_csv(path: Path, rows: tables.Rows) -> None:
    path.write_text(tables.to_csv(rows, COLUMNS), encoding="utf-8", newline="")


def _write_json(path: Path, rows: tables.Rows) -> None:
    text = json.dumps({"votes": rows}, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="")


def _write_parquet(path: Path, rows: tables.Rows) -> None:
    """Write columns of fixed types, so that a column without values has its type as well."""
    arrow, parquet = tables.import_pyarrow()
    kinds = {"seconds": "float64", "seed": "int64", "changes": "int64", "study": "int64"}
    kinds["counted"] = "bool_"
    schema = arrow.schema([(name, getattr(arrow, kinds.get(name, "string"))()) for name in COLUMNS])
    parquet.write_table(arrow.Table.from_pylist(list(rows), schema=schema), path)
