"""The votes of a blind test as columns: wins against the baseline, strengths, ratings.

All votes on videos of the compared settings count. A cluster is a prompt: the votes on one prompt
are alike, whoever gave them and whatever the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from skipguide.metrics.comparison.cells import Cell, Group
from skipguide.metrics.comparison.columns import Column
from skipguide.runs import Clip, Run, Vote, judged
from skipguide.stats import intervals, preference
from skipguide.stats.estimate import Estimate
from skipguide.stats.paired import Difference, paired_difference, share_against_half
from skipguide.stats.preference import Duel

WINS, STRENGTH, RATING = "wins", "strength", "rating"  # before the question


def vote_columns(run: Run, group: Group) -> Iterator[Column]:
    """Yield the columns of each question that was answered on videos of the group."""
    votes = run.counted_votes()
    if not votes:
        return
    clips = judged.clips_of(run, votes)
    ids = {setting.id for setting in group.settings}
    asked: dict[tuple[str, str], list[Vote]] = {}
    for vote in votes:
        keys = [key for key in (vote.first, vote.second) if key is not None]
        if all(clips[key].setting in ids for key in keys):
            asked.setdefault((vote.kind, vote.question), []).append(vote)
    for (kind, question), own in asked.items():
        if kind == "pair":
            yield from _pair_columns(group, question, judged.duels(own, clips))
        else:
            yield _rating_column(group, question, own, clips)


# --- pairs ----------------------------------------------------------------------------------------


def _pair_columns(group: Group, question: str, duels: Sequence[Duel]) -> Iterator[Column]:
    against = {}
    if group.baseline is not None:
        against = _against(duels, group.baseline.id)
    if against:
        yield _win_column(question, against)
    found = preference.bradley_terry(duels)
    prompts = {
        setting: len({d.cluster for d in duels if setting in (d.first, d.second)})
        for setting in found
    }
    differences: dict[int, dict[int, Difference]] = {}

    def compare(a: int, b: int) -> Difference | None:
        if b not in differences:
            differences[b] = preference.strength_differences(duels, b)
        return differences[b].get(a)

    yield Column(
        f"{STRENGTH}: {question}", "votes", "strength", "higher", found, prompts, compare,
        untested=frozenset(against),
    )  # fmt: skip


def _against(duels: Sequence[Duel], base: int) -> dict[int, list[tuple[float, int]]]:
    """Return the scores of each setting against the baseline, with the prompt of each."""
    found: dict[int, list[tuple[float, int]]] = {}
    for duel in duels:
        prompt = duel.cluster
        assert isinstance(prompt, int)
        if duel.second == base:
            found.setdefault(duel.first, []).append((duel.score, prompt))
        elif duel.first == base:
            found.setdefault(duel.second, []).append((1 - duel.score, prompt))
    return found


def _win_column(question: str, against: Mapping[int, Sequence[tuple[float, int]]]) -> Column:
    parts = {setting: tuple(zip(*own, strict=True)) for setting, own in against.items()}
    return Column(
        f"{WINS}: {question}", "votes", "share", "higher",
        {setting: intervals.share(scores, prompts) for setting, (scores, prompts) in parts.items()},
        {setting: len(set(prompts)) for setting, (_, prompts) in parts.items()},
        lambda a, b: share_against_half(*parts[a]) if a in parts and b not in parts else None,
        reference=0.5,
    )  # fmt: skip


# --- ratings --------------------------------------------------------------------------------------


def _rating_column(
    group: Group, question: str, votes: Sequence[Vote], clips: Mapping[str, Clip]
) -> Column:
    given: dict[int, dict[Cell, list[float]]] = {}
    for vote in votes:
        clip = clips[vote.first]
        own = given.setdefault(clip.setting, {})
        own.setdefault((clip.prompt, clip.seed), []).append(float(vote.answer))

    def compare(a: int, b: int) -> Difference | None:
        """Compare the mean ratings of videos of the same prompt and seed."""
        both = [cell for cell in given.get(a, {}) if cell in given.get(b, {})]
        if not both:
            return None
        first, second = ([np.mean(given[s][cell]) for cell in both] for s in (a, b))
        return paired_difference(first, second, [prompt for prompt, _ in both])

    return Column(
        f"{RATING}: {question}", "votes", "mean", "higher",
        {setting: _rating(own) for setting, own in given.items()},
        {setting: len({prompt for prompt, _ in own}) for setting, own in given.items()}, compare,
    )  # fmt: skip


def _rating(given: Mapping[Cell, Sequence[float]]) -> Estimate:
    pairs = [(value, prompt) for (prompt, _), own in given.items() for value in own]
    return intervals.rating([v for v, _ in pairs], [p for _, p in pairs], judged.RATING_SCALE)
