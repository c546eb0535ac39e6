"""The plan of a tuning: what each stage gets of the budget, and what it can resolve.

Everything is counted in forward passes of one sample. Hours are turned into passes once, by the
time of one pass, and what a video takes besides (text, decoding, writing) counts as passes too.
These times are kept in the run, so that a tuning that goes on later makes the same plan."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skipguide.files.text import format_count
from skipguide.method.protocols import PlainData
from skipguide.method.validate import is_number
from skipguide.tuning.names import ANSWER, FOLDER
from skipguide.tuning.options import FEWEST_KEPT, TuneOptions, kept_budget
from skipguide.tuning.race.candidates import Candidate

_FILE = f"{FOLDER}/timing.json"
SHORTEST = 1e-6  # seconds of a pass that is over before a coarse clock ticks
_SCAN_SHARE = 0.25  # of the budget, at most
_ANSWER_SHARE = 0.3  # of what the scan leaves
_SEARCH_SHARE = 0.3  # of what scan and answer leave
FINALISTS = 5  # CFG alone, the best, the best with STG, CFG at its price, the cheapest tied
ROUND = 4  # prompts of a round
_FEWEST = 3  # candidates: CFG alone and two cells
_ROUNDING = 1e-9  # of numbers of passes
SHORTLIST = 3  # cells of the scan that race


@dataclass(frozen=True)
class Timing:
    """The times on which a plan stands.

    Args:
        pass_seconds: of one forward pass of one sample.
        beside_seconds: of a video, beside its passes; an estimate until videos are made.
        workers: videos made at a time.
        steps, plain_passes: of a video; passes per step without STG.
        preset_cost: forward passes per step that the published setting adds.
    """

    pass_seconds: float
    beside_seconds: float
    workers: int
    steps: int
    plain_passes: int
    preset_cost: float = 1.0

    def __post_init__(self) -> None:
        above = ("pass_seconds", "workers", "steps", "plain_passes")
        for name, value in vars(self).items():
            if not is_number(value) or value < 0 or (name in above and value == 0):
                least = "above 0" if name in above else "of 0 or more"
                raise ValueError(f"{name} must be a finite number {least}, but is {value!r}")

    @property
    def beside(self) -> float:
        """The time that a video takes beside its passes, counted in passes."""
        return self.beside_seconds / self.pass_seconds

    def seconds(self, passes: float) -> float:
        """Return how long so many passes take, all workers together."""
        return passes * self.pass_seconds / self.workers


def read_timing(folder: Path) -> Timing | None:
    """Return the times that were measured when the tuning began; None before that.

    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("weak_seconds", None)  # of runs of before: it was no more than noise
        return Timing(**content)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the times of a tuning must be as tune measured them, but {path} is damaged"
            f" ({error}). Remove it, and run the same command again: they are measured anew."
        ) from None


def keep_timing(folder: Path, timing: Timing) -> None:
    """Write the times into the run."""
    from skipguide.runs import storage

    content = json.dumps(dataclasses.asdict(timing)).encode()
    storage.write_file(folder, _FILE, content)


@dataclass(frozen=True)
class Plan:
    """A plan: how many forward passes of one sample each stage gets, and what they are for.

    Args:
        total: of all.
        scan, race, search, answer: of each stage.
        scan_prompts: on how many prompts the scan looks.
        levels: at which levels of noise.
        held_back: on how many of the prompts that were kept back the answer is measured.
        candidates: how many race at most.
        rounds: of the race that its passes pay for, if nobody goes.
        notes: what had to give way, a sentence each.
    """

    total: float
    scan: float
    race: float
    search: float
    answer: float
    scan_prompts: int
    levels: tuple[float, ...]
    held_back: int
    candidates: int
    rounds: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> PlainData:
        """Return it ready for JSON."""
        return dataclasses.asdict(self)


def total_passes(options: TuneOptions, timing: Timing) -> float:
    """Return the whole budget in passes."""
    if options.passes is not None:
        return options.passes
    assert options.clock_hours is not None  # there is one budget
    return options.clock_hours * 3600 * timing.workers / timing.pass_seconds


def clip_passes(options: TuneOptions, timing: Timing, passes: float) -> float:
    """Return what a video costs of the budget: its passes, and what it takes besides.

    A budget in passes counts passes alone.
    """
    return passes if options.passes is not None else passes + timing.beside


def denoising_share(options: TuneOptions, timing: Timing) -> float:
    """Return which part of what a video costs of the budget are forward passes."""
    passes = float(timing.steps * timing.plain_passes)
    return passes / clip_passes(options, timing, passes)


@dataclass(frozen=True)
class _Prices:
    """The prices of videos in passes of the budget, and the numbers of prompts to make them on.

    Args:
        plain, dear: a video of CFG alone, and the dearest one with STG.
        seeds: videos of a setting on a prompt.
        racing, kept: prompts that choose, and that are kept back.
    """

    plain: float
    dear: float
    seeds: int
    racing: int
    kept: int

    @classmethod
    def of(cls, options: TuneOptions, timing: Timing) -> _Prices:
        racing, kept = options.split()
        plain, dear = (
            clip_passes(options, timing, timing.steps * (timing.plain_passes + extra))
            for extra in (0.0, 1.0)
        )
        return cls(plain, dear, options.most_seeds, len(racing), len(kept))

    @property
    def rounds(self) -> int:
        """The rounds that there are prompts for."""
        return -(-self.racing // ROUND)

    def round(self, settings: int) -> float:
        """Return the cost of a round of so many settings, CFG alone among them."""
        prompts = min(ROUND, self.racing)
        return prompts * self.seeds * (self.plain + (settings - 1) * self.dear)

    def settings(self, passes: float, rounds: int) -> int:
        """Return how many settings so many passes pay for."""
        prompts = min(ROUND, self.racing)
        per_prompt = passes / rounds / (prompts * self.seeds)
        return 1 + math.floor((per_prompt - self.plain) / self.dear + _ROUNDING)

    def answer(self, finalists: int) -> float:
        """Return the cost of the finalists, CFG alone among them, on a prompt that is kept back."""
        return self.seeds * (self.plain + (finalists - 1) * self.dear)


def make_plan(
    options: TuneOptions, timing: Timing, weak_passes: float, scanned_share: float = 1.0
) -> Plan:
    """Divide the budget.

    Args:
        weak_passes: forward passes that the weak passes of one state take together.
        scanned_share: the cost of a pass at the size of the scan, as a part of one at full size.

    Raises:
        ValueError: for a budget that does not pay for the smallest tuning, with what would.
    """
    total, prices = total_passes(options, timing), _Prices.of(options, timing)
    scans = _scans(options, timing, weak_passes, scanned_share)
    rest = _smallest_rest(options, timing, prices, total, scans[-1].passes)
    most = min(_SCAN_SHARE * total, total - rest)
    scan = next((one for one in scans if one.passes <= most), scans[-1])
    notes = [_less_scan(scan, scans[0])] if scan is not scans[0] else []
    left = total - scan.passes
    held_back, answer = _plan_answer(options, prices, left)
    if held_back < prices.kept and _has_answer(options):
        notes.append(
            f"the answer is measured on {held_back} of the {prices.kept} prompts that are kept"
            " back, for more would not fit into the budget"
        )
    searched = _SEARCH_SHARE if options.objective.measures else 0.0
    race = min(left - answer, max(prices.round(_FEWEST), (left - answer) * (1 - searched)))
    number, more = _plan_race(options, timing, prices, race)
    per_round = prices.round(number)
    rounds = min(max(1, math.floor(race / per_round + _ROUNDING)), prices.rounds)
    if more:
        wanted = _needed(options, prices, scans[0].passes)
        notes.append(f"{more}; a budget of about {_budget_words(options, timing, wanted)} would do")
    elif race > 2 * prices.rounds * per_round:
        used = prices.rounds * per_round / (1 - searched)
        notes.append(
            f"the budget is more than {len(options.prompts)} prompts can use: about"
            f" {scan.passes + answer + used:.0f} of {total:.0f} passes will be used; give more"
            " prompts, or --seeds"
        )
    return Plan(
        total, scan.passes, race, left - answer - race, answer, scan.prompts, scan.levels,
        held_back, number, rounds, tuple(notes),
    )  # fmt: skip


def _has_answer(options: TuneOptions) -> bool:
    return options.objective.measures or options.objective.votes


def _plan_answer(options: TuneOptions, prices: _Prices, left: float) -> tuple[int, float]:
    """Return on how many prompts the answer is measured, and its passes."""
    if not _has_answer(options):
        return 0, 0.0
    per_prompt = prices.answer(_finalists(options))
    fewest = min(prices.kept, FEWEST_KEPT)
    held_back = min(prices.kept, max(fewest, int(_ANSWER_SHARE * left / per_prompt)))
    return held_back, held_back * per_prompt


def _finalists(options: TuneOptions) -> int:
    return 2 if options.objective.votes else FINALISTS


def _plan_race(
    options: TuneOptions, timing: Timing, prices: _Prices, race: float
) -> tuple[int, str]:
    """Return how many settings race, and what is to be said where they are too few."""
    rounds = min(2, prices.rounds)
    number, most = prices.settings(race, rounds), _most_candidates(options, timing)
    said = ""
    if number < _FEWEST:
        said = (
            f"the race has {race:.0f} passes, which pay for"
            f" {race / prices.round(_FEWEST):.1f} rounds of {_FEWEST} settings: too few to tell"
            " them apart"
        )
    return min(max(number, _FEWEST), most), said


def _smallest_rest(
    options: TuneOptions, timing: Timing, prices: _Prices, total: float, scan: float
) -> float:
    """Return what the smallest race and answer cost.

    Raises:
        ValueError: if a budget does not pay for them beside the smallest scan.
    """
    answer = 0.0
    if _has_answer(options):
        answer = min(prices.kept, FEWEST_KEPT) * prices.answer(_finalists(options))
    race = prices.round(_FEWEST)
    least = scan + race + answer
    if total >= least:
        return race + answer
    raise ValueError(
        f"the budget must pay for the smallest tuning, which takes {least:.0f} forward passes"
        f" (scan {scan:.0f}, a race of {_FEWEST} settings {race:.0f}, answer {answer:.0f}), but got"
        f" {total:.0f}. Give {_budget_words(options, timing, least)} or more, fewer seeds, or"
        " videos of fewer steps."
    )


def _budget_words(options: TuneOptions, timing: Timing, passes: float) -> str:
    """Return what to type for so many passes, rounded up."""
    if options.passes is not None:
        return f"--passes {math.ceil(passes)}"
    hours = passes * timing.pass_seconds / timing.workers / 3600
    digits = 1 - math.floor(math.log10(hours))
    return f"--hours {math.ceil(hours * 10**digits) / 10**digits:g}"


def _most_candidates(options: TuneOptions, timing: Timing) -> int:
    """Return how many settings there can be: CFG alone and the shortlist at each scale, and two."""
    scales = max(2, len(options.guidance_scales)) if timing.plain_passes > 1 else 1
    return scales * (1 + SHORTLIST) + 2


@dataclass(frozen=True)
class _Scan:
    """A scan that a plan may choose."""

    prompts: int
    levels: tuple[float, ...]
    passes: float


def _scans(
    options: TuneOptions, timing: Timing, weak_passes: float, scanned_share: float
) -> list[_Scan]:
    """Return the scan that is wanted, and smaller ones down to the smallest.

    One prompt orders the layers nearly as well as four do.
    """
    plain = clip_passes(options, timing, float(timing.steps * timing.plain_passes))
    # The videos of a scan at full size are the first ones of CFG alone.
    clip = plain if options.scan_size is None else plain * scanned_share
    prompts = min(options.scan_prompts, len(options.split()[0]))
    levels = options.scan.levels
    few = (levels[0], levels[-1]) if len(levels) > 2 else levels
    sizes = [(prompts, levels), (min(prompts, 2), levels), (min(prompts, 2), few), (1, few)]
    return [
        _Scan(
            number,
            chosen,
            number * options.most_seeds * (clip + len(chosen) * (weak_passes + 1) * scanned_share),
        )
        for number, chosen in dict.fromkeys(sizes)
    ]


def _less_scan(scan: _Scan, wanted: _Scan) -> str:
    return (
        f"the scan looks at {format_count(scan.prompts, 'prompt')} and"
        f" {format_count(len(scan.levels), 'noise level')} instead of {wanted.prompts} and"
        f" {len(wanted.levels)}, because it would take more than {_SCAN_SHARE:.0%} of the budget"
    )


def _needed(options: TuneOptions, prices: _Prices, scan: float) -> float:
    """Return a budget with which the race has two rounds of the fewest settings."""
    race = min(2, prices.rounds) * prices.round(_FEWEST)
    if not _has_answer(options):
        return scan + race
    race /= 1 - (_SEARCH_SHARE if options.objective.measures else 0.0)
    per_prompt = prices.answer(_finalists(options))
    fewest = race + min(prices.kept, FEWEST_KEPT) * per_prompt
    left = max(fewest, race / (1 - _ANSWER_SHARE))
    return scan + min(left, race + prices.kept * per_prompt)


def fitting(candidates: Sequence[Candidate], plan: Plan) -> list[Candidate]:
    """Return as many of the candidates as the plan lets race; the first ones matter most."""
    return list(candidates[: plan.candidates])


def check_budget(folder: Path, options: TuneOptions, timing: Timing) -> None:
    """Check that a tuning that has its answer is not made again with a smaller budget.

    Raises:
        ValueError: for a smaller one, which would have fewer prompts to decide by.
    """
    then = kept_budget(folder)
    if then is None or not (folder / ANSWER).is_file():
        return
    before = total_passes(dataclasses.replace(options, **then), timing)
    now = total_passes(options, timing)
    if now < before * (1 - _ROUNDING):
        words = [_budget_words(options, timing, passes) for passes in (before, now)]
        raise ValueError(
            f"the tuning in {folder} has an answer and last ran with {words[0]}, so that it needs"
            f" as much or more, but got {words[1]}. Give as much, or choose another folder with"
            " --out."
        )
