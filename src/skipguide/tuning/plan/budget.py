"""The plan of a tuning: what each stage gets of the budget, and what it can resolve.

Everything is counted in forward passes of one sample. Hours are turned into passes once, by the
times of one conditional and one weak pass, and what a video takes besides (text, decoding, writing)
counts as passes too. These times are kept in the run, so that a tuning that goes on later makes the
same plan."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skipguide.files.text import format_count
from skipguide.method.protocols import PlainData
from skipguide.tuning.names import FOLDER
from skipguide.tuning.options import TuneOptions
from skipguide.tuning.race.candidates import Candidate

_FILE = f"{FOLDER}/timing.json"
_SCAN_SHARE = 0.25  # of the budget, at most
_ANSWER_SHARE = 0.3  # of what the scan leaves
_SEARCH_SHARE = 0.3  # of what scan and answer leave
_FINALISTS = 3  # winner, CFG alone, and the cheapest of the tied or CFG at the same price
ROUND = 4  # prompts of a round
_FEWEST = 3  # candidates: CFG alone and two cells
SHORTLIST = 3  # cells of the scan that race


@dataclass(frozen=True)
class Timing:
    """The times on which a plan stands.

    Args:
        pass_seconds: of one forward pass of one sample.
        weak_seconds: of one weak pass that skips the middle layer.
        beside_seconds: of a video, beside its passes; an estimate until videos are made.
        workers: videos made at a time.
        steps, plain_passes: of a video; passes per step without STG.
        preset_cost: forward passes per step that the published setting adds.
    """

    pass_seconds: float
    weak_seconds: float
    beside_seconds: float
    workers: int
    steps: int
    plain_passes: int
    preset_cost: float = 1.0

    @property
    def beside(self) -> float:
        """What a video takes beside its passes, in passes."""
        return self.beside_seconds / self.pass_seconds if self.pass_seconds else 0.0

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
        return Timing(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the times of a tuning must be JSON, but {path} is damaged ({error}). Remove it: they"
            " are measured again."
        ) from None


def keep_timing(folder: Path, timing: Timing) -> None:
    """Write the times into the run."""
    from skipguide.runs import storage

    content = json.dumps(dataclasses.asdict(timing)).encode()
    storage.write_atomically(folder, _FILE, content)


@dataclass(frozen=True)
class Plan:
    """What each stage gets, in forward passes of one sample.

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


def make_plan(
    options: TuneOptions, timing: Timing, weak_passes: float, scanned_share: float = 1.0
) -> Plan:
    """Divide the budget.

    Args:
        weak_passes: forward passes that the weak passes of one state take together.
        scanned_share: the cost of a pass at the size of the scan, as a part of one at full size.
    """
    total = total_passes(options, timing)
    scan, prompts, levels, note = _plan_scan(options, timing, total, weak_passes, scanned_share)
    left, notes = max(0.0, total - scan), [note] if note else []
    if scan > total:
        notes.append(
            f"the budget of {total:.0f} passes does not pay for the scan alone, which takes"
            f" {scan:.0f}: more than the budget will be spent"
        )
    seeds, kept = max(len(options.seeds), 1), len(options.split()[1])
    dear = clip_passes(options, timing, timing.steps * (timing.plain_passes + 1.0))
    plain = clip_passes(options, timing, float(timing.steps * timing.plain_passes))
    per_prompt = seeds * (plain + (_FINALISTS - 1) * dear)
    held_back = min(kept, int(_ANSWER_SHARE * left / per_prompt))
    answer = held_back * per_prompt
    if held_back < kept:
        notes.append(
            f"the answer is measured on {held_back} of the {kept} prompts that are kept back, for"
            " more would not fit into the budget"
        )
    race = (left - answer) * (1 - _SEARCH_SHARE)
    per_round = ROUND * seeds * dear
    number = int(race / (2 * per_round))
    if number < _FEWEST:
        notes.append(
            f"the race has {race:.0f} passes, which pay for {race / per_round:.1f} rounds of one"
            f" setting: too few to tell {_FEWEST} apart; a budget of about"
            f" {_needed(total, race, per_round):.0f} passes would do"
        )
    number = min(max(number, _FEWEST), _most_candidates(options, timing))
    there = -(-len(options.split()[0]) // ROUND)
    rounds = min(max(1, int(race / (number * per_round))), there)
    if race > 2 * number * there * per_round:
        notes.append(
            f"the budget is more than {len(options.prompts)} prompts can use: about"
            f" {scan + answer + number * there * per_round * (1 + _SEARCH_SHARE):.0f} of"
            f" {total:.0f} passes will be used; give more prompts, or --seeds"
        )
    return Plan(
        total, scan, race, left - answer - race, answer, prompts, levels, held_back, number,
        rounds, tuple(notes),
    )  # fmt: skip


def _most_candidates(options: TuneOptions, timing: Timing) -> int:
    """Return how many settings there can be: CFG alone and the shortlist at each scale, and two."""
    scales = max(2, len(options.guidance_scales)) if timing.plain_passes > 1 else 1
    return scales * (1 + SHORTLIST) + 2


def _plan_scan(
    options: TuneOptions, timing: Timing, total: float, weak_passes: float, scanned_share: float
) -> tuple[float, int, tuple[float, ...], str | None]:
    """Return the passes of the scan, its prompts and levels, and what had to give way."""
    plain = clip_passes(options, timing, float(timing.steps * timing.plain_passes))
    # The videos of a scan at full size are the first ones of CFG alone, of all seeds.
    clip = plain * (len(options.seeds) if options.scan_size is None else scanned_share)
    wanted = min(options.scan_prompts, len(options.split()[0])), options.scan.levels
    scan, prompts, levels = 0.0, *wanted
    for number, chosen in _smaller_scans(*wanted):
        prompts, levels = number, chosen
        scan = number * (clip + len(chosen) * (weak_passes + 1) * scanned_share)
        if scan <= _SCAN_SHARE * total:
            break
    if (prompts, levels) == wanted:
        return scan, prompts, levels, None
    note = (
        f"the scan looks at {format_count(prompts, 'prompt')} and"
        f" {format_count(len(levels), 'noise level')} instead of {wanted[0]} and {len(wanted[1])},"
        f" because it would take more than {_SCAN_SHARE:.0%} of the budget"
    )
    return scan, prompts, levels, note


def _smaller_scans(prompts: int, levels: tuple[float, ...]) -> list[tuple[int, tuple[float, ...]]]:
    """Return a scan, and smaller ones: one prompt orders the layers nearly as well as four do."""
    few = (levels[0], levels[-1]) if len(levels) > 2 else levels
    found = [(prompts, levels), (min(prompts, 2), levels), (min(prompts, 2), few), (1, few)]
    return list(dict.fromkeys(found))


def _needed(total: float, race: float, per_round: float) -> float:
    wanted = 2 * _FEWEST * per_round
    return total + (wanted - race) / ((1 - _ANSWER_SHARE) * (1 - _SEARCH_SHARE))


def fitting(candidates: Sequence[Candidate], plan: Plan) -> list[Candidate]:
    """Return as many of the candidates as the plan lets race; the first ones matter most."""
    return list(candidates[: plan.candidates])


# --- by the clock ---------------------------------------------------------------------------------

_STOPS = f"{FOLDER}/stops.json"


def stage_seconds(plan: Plan, timing: Timing, stage: str) -> float:
    """Return the seconds after which a stage has to be over, from the beginning of the tuning."""
    until = plan.scan + plan.race
    until += {"scale": 0.5, "window": 1.0}.get(stage, 0.0) * plan.search
    return timing.seconds(until)


def read_stops(folder: Path, hours: float | None) -> dict[str, int]:
    """Return after how many rounds the clock has ended races of a tuning of so many hours.

    With other hours nothing has ended yet.
    """
    path = folder / _STOPS
    if hours is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found["rounds"]) if found["hours"] == hours else {}
    except (ValueError, KeyError, TypeError):  # a race that goes on a little longer is no harm
        return {}


def keep_stops(folder: Path, hours: float, rounds: dict[str, int]) -> None:
    """Keep after how many rounds the clock has ended races, so that they end there again."""
    from skipguide.runs import storage

    content = json.dumps({"hours": hours, "rounds": rounds}).encode()
    storage.write_atomically(folder, _STOPS, content)
