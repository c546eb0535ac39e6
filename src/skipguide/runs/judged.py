"""Votes with the clips that they are of, as what `skipguide.stats` counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skipguide.runs.entities import Clip, Vote
from skipguide.runs.run import Run
from skipguide.stats.preference import Duel

RATING_SCALE = (1.0, 5.0)
_SCORES = {"first": 1.0, "tie": 0.5, "second": 0.0}


def clips_of(run: Run, votes: Sequence[Vote]) -> dict[str, Clip]:
    """Return the clips of the votes, also those that have a newer one."""
    clips = {clip.key: clip for clip in run.clips()}
    keys = {key for vote in votes for key in (vote.first, vote.second) if key is not None}
    return {**clips, **{key: run.clip(key) for key in keys - set(clips)}}


def duels(votes: Sequence[Vote], clips: Mapping[str, Clip]) -> list[Duel]:
    """Return the votes on pairs as duels of their settings; a cluster is a prompt."""
    return [
        Duel(
            clips[vote.first].setting,
            clips[vote.second].setting,
            _SCORES[vote.answer],
            clips[vote.first].prompt,
        )
        for vote in votes
        if vote.second is not None
    ]
