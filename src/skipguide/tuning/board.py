"""The state of a tuning for those who look at it: `tune/race.json`, written after every change.

Nothing of it decides anything: a tuning that goes on counts from its options and its videos."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipguide.method.protocols import PlainData
from skipguide.runs import storage
from skipguide.tuning.names import FOLDER
from skipguide.tuning.options import TuneOptions
from skipguide.tuning.plan.budget import ROUND, SHORTEST, Plan
from skipguide.tuning.race.candidates import Candidate
from skipguide.tuning.race.race import BASELINE, RaceState
from skipguide.tuning.scan import watch as scanning

STAGES = ("scan", "race", "scale", "window", "answer")
_WHAT = {
    "scan": "Every layer is skipped at a few noise levels of the model's own trajectories.",
    "race": "The shortlist, the published preset and CFG alone on the same prompts and noise.",
    "scale": "The scale of the winner: half and twice of it.",
    "window": "The part of the run in which the winner is on.",
    "answer": "The winner and CFG alone on prompts that chose nothing.",
}


class Board:
    """Writes the state of a tuning.

    Args:
        folder: of the run.
        options: of the tuning.
        label: the objective in words.
    """

    def __init__(self, folder: Path, options: TuneOptions, label: str):
        self.folder, self.options = folder, options
        self.stage = "scan"
        self.waiting: str | None = None
        self.done: dict[str, tuple[int, int | None]] = {}  # clips or rounds, and of how many
        self.plan: Plan | None = None
        self.sentences: tuple[str, ...] = ()
        self.notes: list[str] = []
        self.not_searched: list[str] = []  # of the notes, for the report
        self.metric = _metric(options, label)
        self.prompts: dict[str, list[int]] = {"race": [], "held_back": []}
        self.rounds: dict[str, RaceState] = {}
        self.candidates: dict[str, tuple[str, Candidate]] = {}  # name -> stage and candidate
        self.votes: PlainData | None = None
        self.vote_state: PlainData | None = None
        self.answer: PlainData | None = None
        self.winner: str | None = None
        self._scans: dict[str, tuple[float, float]] = {}  # key of a clip -> what its scan took

    def add(self, stage: str, candidates: Sequence[Candidate]) -> None:
        """Add candidates that come in at a stage."""
        for one in candidates:
            self.candidates.setdefault(one.name, (stage, one))

    def write(self) -> None:
        """Write the file."""
        content = {
            "format": 1,
            "stage": self.stage,
            "waiting": self.waiting,
            "stages": [self._describe_stage(name) for name in self._stages()],
            "budget": self._budget(),
            "plan": list(self.sentences),
            "notes": self.notes,
            "not_searched": self.not_searched,
            "metric": self.metric,
            "round_size": ROUND,
            "rounds": sum(len(state.rounds) for state in self.rounds.values()),
            "prompts": self.prompts,
            "candidates": [self._describe(name) for name in self.candidates],
            "votes": self.votes,
            "vote_state": self.vote_state,
            "answer": self.answer,
        }
        text = json.dumps(finite(content), allow_nan=False, ensure_ascii=False)
        storage.write_file(self.folder, f"{FOLDER}/race.json", text.encode())

    def _stages(self) -> Sequence[str]:
        known = [name for name in STAGES if name in self.done or name == self.stage]
        measures = self.options.objective.measures or self.options.objective.votes
        return STAGES if measures else [name for name in ("scan", "race") if name in known]

    def _describe_stage(self, name: str) -> PlainData:
        done, of = self.done.get(name, (0, None))
        return {"name": name, "done": done, "of": of, "what": _WHAT[name]}

    def _budget(self) -> PlainData:
        used, hours = self._used(), self.options.clock_hours
        return {
            **used,
            "passes": None if self.plan is None else self.plan.total,
            "seconds": None if hours is None else hours * 3600,
        }

    def seconds_used(self) -> float:
        """Return the seconds of all videos of the run and of its scan, by whichever process."""
        return self._used()["seconds_used"]

    def scan_passes(self) -> float:
        """Return the passes that the scan took beside its videos."""
        return self._used()["scan_passes"]

    def seconds_per_pass(self) -> float:
        """Return the seconds of a forward pass in the videos so far, with all that is beside it."""
        used = self._used()
        return max(used["seconds_used"] / max(used["passes_used"], 1.0), SHORTEST)

    def _used(self) -> PlainData:
        from skipguide.runs import Run
        from skipguide.runs.ledger import NotBegunError

        try:
            with Run.open(self.folder) as run:
                clips = run.clips("done")
                settings = {setting.id: setting.complete for setting in run.settings()}
        except NotBegunError:
            return {"passes_used": 0.0, "seconds_used": 0.0, "scan_passes": 0.0}
        scans = [self._scan_of(clip.key) for clip in clips]
        scanned, looked = (sum(column) for column in zip((0.0, 0.0), *scans, strict=True))
        passes = sum(
            (clip.passes_per_step or 0) * (settings[clip.setting].get("steps") or 0)
            for clip in clips
        )
        seconds = sum(clip.seconds or 0 for clip in clips)
        return {
            "passes_used": passes + scanned,
            "seconds_used": seconds + looked,
            "scan_passes": scanned,  # of these the ones that the scan took beside its videos
        }

    def _scan_of(self, key: str) -> tuple[float, float]:
        """Return the passes and seconds that a scan took beside its video, by its record."""
        if key not in self._scans:
            record = scanning.find_record(self.folder, key)
            self._scans[key] = (0.0, 0.0) if record is None else scanning.spent(record)
        return self._scans[key]

    def _describe(self, name: str) -> PlainData:
        stage, one = self.candidates[name]
        found = {
            **{key: value for key, value in one.to_dict().items() if key != "given"},
            "stage": stage,
            "state": "baseline" if one.role == BASELINE else "racing",
            "out_reason": None,
            "out_kind": None,
            "round_out": None,
            "value": None,
            "difference": None,
            "low": None,
            "high": None,
            "clips": 0,
        }
        for state in self.rounds.values():
            known = _standing(name, state)
            if known.get("clips", 0) < found["clips"]:  # a search has fewer than the race
                known = {key: known[key] for key in _EXIT if key in known}
            found |= known
        if name == self.winner:
            found["state"] = "winner" if one.role != BASELINE else "baseline"
        return found


_EXIT = ("state", "out_reason", "out_kind", "round_out")


def _standing(name: str, state: RaceState) -> PlainData:
    """Return what the rounds say of a candidate."""
    found: PlainData = {}
    for entry in state.rounds:
        for standing in entry.standings:
            if standing.name == name:
                found["value"] = standing.mean
                if standing.to_cfg is not None:
                    found |= {
                        "difference": standing.to_cfg.value,
                        "low": standing.to_cfg.low,
                        "high": standing.to_cfg.high,
                        "clips": standing.to_cfg.count,
                    }
    for gone in state.exits:
        if gone.name == name:
            found |= {"state": "out", "out_reason": gone.reason, "round_out": gone.round}
            found["out_kind"] = gone.kind
    return found


def _metric(options: TuneOptions, label: str) -> PlainData:
    asked = options.objective
    kind = "votes" if asked.votes else "distance" if asked.features else "metric"
    kind = kind if asked.measures or asked.votes else "none"
    content = asked.to_dict()
    return {
        "kind": kind,
        "name": label,
        "what": f"{label}; larger is better" if label else "",
        "parts": content.get("metrics", []),
        "floors": content.get("floors", []),
    }


def finite(value: Any) -> Any:
    """Replace numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return value
