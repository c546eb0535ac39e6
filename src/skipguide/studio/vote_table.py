"""Votes as a table, and what is known of each rater."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence

from skipguide.method.protocols import PlainData
from skipguide.runs import Clip, Run, Vote

COLUMNS: tuple[str, ...] = (
    "rater", "kind", "question", "prompt", "seed", "model", "first_setting", "second_setting",
    "answer", "winner", "shown_first", "seconds", "made", "first", "second",
)  # fmt: skip


def judged_clips(run: Run, votes: Sequence[Vote]) -> dict[str, Clip]:
    """Return the clips of the votes, also those that have a newer one."""
    clips = {clip.key: clip for clip in run.clips()}
    keys = {key for vote in votes for key in (vote.first, vote.second) if key is not None}
    return {**clips, **{key: run.clip(key) for key in keys - set(clips)}}


def vote_rows(run: Run) -> list[PlainData]:
    """Return one flat row per vote, in the order in which they were given.

    `winner` is the name of the setting that won a pair, empty for a tie; `shown_first` that of the
    one on the left, or above.
    """
    votes = run.votes()
    clips = judged_clips(run, votes)
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
            "first": vote.first, "second": vote.second,
        }  # fmt: skip
        rows.append({name: row[name] for name in COLUMNS})
    return rows


def rater_rows(run: Run) -> list[PlainData]:
    """Return one row per rater, in the order in which they came: what was judged, and how fast."""
    votes = run.votes()
    names = dict.fromkeys([*(vote.rater for vote in votes), *run.rater_keys()])
    return [_rater_row(name, [vote for vote in votes if vote.rater == name]) for name in names]


def _rater_row(name: str, own: Sequence[Vote]) -> PlainData:
    seconds = [vote.seconds for vote in own if vote.seconds is not None]
    return {
        "rater": name,
        "pairs": len({(vote.first, vote.second) for vote in own if vote.kind == "pair"}),
        "ratings": len({vote.first for vote in own if vote.kind == "rating"}),
        "votes": len(own),
        "median_seconds": statistics.median(seconds) if seconds else None,
        "newest": max((vote.made for vote in own), default=None),
    }


def to_csv(rows: Sequence[PlainData]) -> str:
    """Return rows of votes as CSV with a heading."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
