"""The race of settings by blind votes: who is still in, whom to compare next, when it is over.

All of it is a function of the votes in the ledger, so that whoever asks (tune, the studio) gets the
same answer, and nothing is kept beside them.

**What is guaranteed.** A setting is out while its probability of being the strongest of all n is
below alpha / n, and the race is over when, with a probability of 1 - alpha, no setting wins more
than `margin` against the leader. These are posterior probabilities of the model of
`stats.active_pairs`: they do not depend on which pairs were chosen, how often somebody looked, or
why it was stopped (the likelihood has none of these in it). So, averaged over strengths that are
drawn from the prior, the best one is among those that are out in at most alpha of all races,
whenever one stops. That is no promise for one fixed set of strengths, as a confidence sequence
makes it; docs/decisions/088 has what was simulated there. The number that tune publishes comes from
votes on prompts that chose nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from statistics import NormalDist

from skipguide.method.protocols import PlainData
from skipguide.runs import Run, judged
from skipguide.stats import active_pairs
from skipguide.stats.active_pairs import Pair, Posterior
from skipguide.stats.preference import Duel

_NORMAL = NormalDist()


@dataclass(frozen=True)
class VoteRules:
    """The rules by which a setting goes, and by which the race is over.

    Args:
        alpha: the probability of a mistake that is taken.
        margin: the win rate against the leader that a setting must be able to have to matter.
        most_votes: after so many the race is over in any case.
        every_prompt: the race is over when each prompt has a vote, and not before: for an answer
            with the interval of a share, which must not depend on when it was stopped.
    """

    alpha: float = 0.05
    margin: float = 0.55
    most_votes: int = 400
    every_prompt: bool = False

    @classmethod
    def of(cls, asked: PlainData) -> VoteRules:
        """Return the rules of the race that `tune/race.json` says votes are wanted for."""
        return cls(every_prompt=bool(asked.get("every_prompt")))

    def __post_init__(self) -> None:
        if not (0 < self.alpha < 1 and 0.5 <= self.margin < 1 and self.most_votes > 0):
            raise ValueError(
                "a race by votes needs 0 < alpha < 1, 0.5 <= margin < 1 and most_votes > 0, but got"
                f" {self.alpha:g}, {self.margin:g} and {self.most_votes}. Correct them."
            )


@dataclass(frozen=True)
class WinRate:
    """The share of comparisons with CFG alone that a setting wins, with its 95 % interval."""

    value: float
    low: float
    high: float
    votes: int  # in which it met CFG alone itself


@dataclass(frozen=True)
class VoteState:
    """A race by votes as it stands.

    Args:
        racing: the settings that may be the best, and CFG alone, which never goes.
        out: the others, each with the reason in a sentence.
        leader: the strongest one so far.
        best: of each setting the probability that it is the best.
        win_rates: against CFG alone, of each other setting; also by way of votes against others.
        votes: how many count.
        pairs: two settings each, the one to show next first.
        more_votes: how many more are expected to be needed; None where that cannot be told.
        over: nothing is to be asked any more, and `why` says why.
    """

    racing: tuple[str, ...]
    out: Mapping[str, str]
    leader: str
    best: Mapping[str, float]
    win_rates: Mapping[str, WinRate]
    votes: int
    pairs: tuple[tuple[str, str], ...]
    more_votes: int | None
    over: bool
    why: str

    @property
    def pair(self) -> tuple[str, str] | None:
        """Return the two settings to compare next; None if there is nothing to ask."""
        return self.pairs[0] if self.pairs and not self.over else None

    @property
    def sentences(self) -> list[str]:
        """Return how it stands, in plain sentences."""
        if not self.votes:
            more = f" About {self.more_votes} are expected to be needed." if self.more_votes else ""
            return [f"There are no votes yet.{more}"] if not self.over else [self.why]
        count = f"{self.votes} vote{'s' * (self.votes != 1)}"
        lead = f"{self.leader} is the best of {len(self.best)} with a probability of"
        said = [f"After {count} {lead} {_percent(self.best[self.leader])}."]
        said += [f"{name} is out: {reason}" for name, reason in self.out.items()]
        if self.over:
            said.append(self.why)
        elif self.more_votes is not None:
            said.append(f"About {self.more_votes} more votes are expected to be needed.")
        return said

    def to_dict(self) -> PlainData:
        """Return all of it, ready for JSON."""
        return {**asdict(self), "pair": self.pair, "sentences": self.sentences}


def state(
    run: Run,
    names: Sequence[str],
    baseline: str,
    prompts: Sequence[int] | None = None,
    rules: VoteRules | None = None,
) -> VoteState:
    """Return how a race by votes stands.

    Args:
        names: the settings of the run that race, with that of CFG alone.
        baseline: the name of CFG alone.
        prompts: ids of the prompts whose votes count and that are shown; None for all.

    Raises:
        ValueError: for fewer than two settings, names that the run does not have, or a baseline
            that is none of them.
    """
    rules, ids = rules or VoteRules(), _find_settings(run, names, baseline)
    duels = _find_duels(run, set(ids.values()), prompts)
    found = judge(duels, ids, baseline, _shown_pairs(run, ids, prompts), rules)
    return _until_all_judged(found, duels, prompts or ()) if rules.every_prompt else found


def _until_all_judged(found: VoteState, duels: Sequence[Duel], prompts: Sequence[int]) -> VoteState:
    """Return a race that is over when each of the prompts has a vote."""
    left = len({*prompts} - {duel.cluster for duel in duels})
    if not found.pairs or not left:
        return replace(found, over=True, why="Every prompt that was kept back has a vote.")
    return replace(found, over=False, why="", more_votes=left)


def shares(
    run: Run, names: Sequence[str], baseline: str, prompts: Sequence[int] | None = None
) -> dict[str, dict[int, float]]:
    """Return of each setting and prompt the share of the votes against CFG alone that it won.

    That of CFG alone is 0.5 by definition, so that a difference is a win rate minus one half. A
    prompt without such a vote is not there.

    Raises:
        ValueError: as `state`.
    """
    ids = _find_settings(run, names, baseline)
    base = ids[baseline]
    scores: dict[int, dict[int, list[float]]] = {}
    for duel in _find_duels(run, set(ids.values()), prompts):
        if base not in (duel.first, duel.second):
            continue
        other, won = (
            (duel.first, duel.score) if duel.second == base else (duel.second, 1 - duel.score)
        )
        assert isinstance(duel.cluster, int)
        scores.setdefault(other, {}).setdefault(duel.cluster, []).append(won)
    found = {
        name: {prompt: sum(own) / len(own) for prompt, own in scores.get(number, {}).items()}
        for name, number in ids.items()
    }
    every = sorted({prompt for own in found.values() for prompt in own})
    return {**found, baseline: dict.fromkeys(every, 0.5)}


# --- what the run has -----------------------------------------------------------------------------


def _find_settings(run: Run, names: Sequence[str], baseline: str) -> dict[str, int]:
    known = {setting.name: setting.id for setting in run.settings()}
    unknown = [name for name in names if name not in known]
    if unknown or baseline not in names or len(set(names)) < max(len(names), 2):
        raise ValueError(
            "a race by votes needs two or more settings of the run, each once and CFG alone among"
            f" them, but got {', '.join(names) or 'none'} with {baseline} as CFG alone"
            + (f"; the run does not have {', '.join(unknown)}" if unknown else "")
            + ". Correct the names."
        )
    return {name: known[name] for name in names}


def _find_duels(run: Run, settings: set[int], prompts: Sequence[int] | None) -> list[Duel]:
    votes = [vote for vote in run.counted_votes() if vote.kind == "pair"]
    return [
        duel
        for duel in judged.duels(votes, judged.clips_of(run, votes))
        if {duel.first, duel.second} <= settings and (prompts is None or duel.cluster in prompts)
    ]


def _shown_pairs(run: Run, ids: Mapping[str, int], prompts: Sequence[int] | None) -> list[Pair]:
    """Return the pairs of settings that have finished videos of one prompt and seed."""
    cells: dict[tuple[int, int], set[int]] = {}
    for clip in run.clips("done"):
        if prompts is None or clip.prompt in prompts:
            cells.setdefault((clip.prompt, clip.seed), set()).add(clip.setting)
    return [
        pair
        for pair in combinations(ids.values(), 2)
        if any(set(pair) <= own for own in cells.values())
    ]


# --- what the votes say ---------------------------------------------------------------------------


def judge(
    duels: Sequence[Duel],
    ids: Mapping[str, int],
    baseline: str,
    shown: Sequence[Pair],
    rules: VoteRules,
) -> VoteState:
    """Return how a race stands, from its votes alone.

    Args:
        ids: of the settings that race, by name.
        shown: pairs of settings that can be compared.
    """
    found = active_pairs.posterior(duels, tuple(ids.values()))
    names = {number: name for name, number in ids.items()}
    met = Counter(_ordered(duel.first, duel.second) for duel in duels)
    best = {name: float(chance) for name, chance in zip(ids, found.chances, strict=True)}
    leader = names[found.names[int(found.mean.argmax())]]
    others = [name for name in ids if name != baseline]
    rates = {name: _win_rate(found, ids[name], ids[baseline], met) for name in others}
    least = rules.alpha / len(ids)
    out = {
        name: _say_out(best[name], len(ids), rates[name])
        for name in others
        if best[name] < least and name != leader
    }
    racing = tuple(name for name in ids if name not in out)
    ranked = _rank(found, [ids[name] for name in racing], shown, met)
    why = _say_over(found, ids[leader], leader, len(duels), bool(ranked), rules)
    rivals = [ids[name] for name in racing if name != leader and best[name] >= least]
    more = 0 if why else _expect_votes(found, ids[leader], rivals, rules, len(duels))
    pairs = tuple((names[first], names[second]) for first, second in ranked)
    return VoteState(racing, out, leader, best, rates, len(duels), pairs, more, bool(why), why)


def _rank(
    found: Posterior, racing: Sequence[int], shown: Sequence[Pair], met: Counter[Pair]
) -> list[Pair]:
    """Return the pairs that can be shown of settings in the race, the most telling one first."""
    pairs = [pair for pair in shown if set(pair) <= set(racing)]
    return active_pairs.rank_pairs(found, pairs, {pair: met[_ordered(*pair)] for pair in pairs})


def _ordered(first: int, second: int) -> Pair:
    return min(first, second), max(first, second)


def _win_rate(found: Posterior, setting: int, baseline: int, met: Counter[Pair]) -> WinRate:
    mean, deviation = found.difference(setting, baseline)
    half = _NORMAL.inv_cdf(0.975) * deviation
    value, low, high = (float(found.win_rate(at)) for at in (mean, mean - half, mean + half))
    return WinRate(value, low, high, met[_ordered(setting, baseline)])


def _say_out(chance: float, count: int, rate: WinRate) -> str:
    against = f"{_percent(rate.low)} to {_percent(rate.high)}"
    return (
        f"it is the best of {count} with a probability of {_percent(chance)}, and wins"
        f" {_percent(rate.value)} ({against}) against CFG alone."
    )


def _say_over(
    found: Posterior, leader: int, name: str, votes: int, can_ask: bool, rules: VoteRules
) -> str:
    """Return why the race is over; an empty text while it goes on."""
    better = found.chance_beyond(leader, math.log(rules.margin / (1 - rules.margin)))
    if votes and better <= rules.alpha:
        return (
            f"It is over: with a probability of {_percent(1 - better)} no other setting wins more"
            f" than {_percent(rules.margin)} against {name}."
        )
    if votes >= rules.most_votes:
        return (
            f"It is over after {votes} votes, the most that were wanted. With a probability of"
            f" {_percent(better)} another setting wins more than {_percent(rules.margin)} against"
            f" {name}."
        )
    if not can_ask:
        return "Nothing can be asked: no two settings in the race have videos of the same prompt."
    return ""


def _expect_votes(
    found: Posterior, leader: int, rivals: Sequence[int], rules: VoteRules, votes: int
) -> int:
    """Return how many more votes are expected to be needed.

    Each rival must be told from the leader with the precision that the rule for the end asks for,
    at the difference of strengths that is expected. It is a forecast, no limit.
    """
    margin = math.log(rules.margin / (1 - rules.margin))
    needed = _NORMAL.inv_cdf(1 - rules.alpha / max(len(rivals), 1))
    total = 0.0
    for rival in rivals:
        mean, deviation = found.difference(leader, rival)
        ratio = mean / deviation
        density = math.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
        apart = deviation * (2 * density + ratio * math.erf(ratio / math.sqrt(2)))  # E |difference|
        wins = float(found.win_rate(apart))
        told = wins * (1 - wins) / (1 + wins * (1 - wins) * 2 * found.prompt_spread**2)
        total += max((needed / (apart + margin)) ** 2 - deviation**-2, 0) / told
    return max(1, min(math.ceil(total), rules.most_votes - votes))


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.01 or 0.99 < share < 1 else f"{share:.0%}"
