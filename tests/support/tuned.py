"""A run of `skipguide tune` at any of its stages, with painted videos: maps, races and answers of
made-up numbers, in the files that tune writes.

    python tests/support/tuned.py RUN [STAGE]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from skipguide.runs import Run
from skipguide.tuning.scan import ranking
from skipguide.tuning.scan.layer_map import LayerMap
from skipguide.tuning.scan.record import Cell
from support.painted import painted

Stage = Literal["plan", "scan", "race", "votes", "answer", "none"]
PROMPTS = [f"a {colour} star on a {ground} background" for colour in ("red", "blue", "green")
           for ground in ("grey", "white", "black", "brown")]  # fmt: skip
RACE, HELD_BACK = list(range(1, 9)), list(range(9, 13))
COMMAND = "skipguide generate 'A PROMPT' --model lab-mochi --preset runs/tune/tune.toml"

# name, role, cell, guidance scale, passes, difference, half of its interval, round in which it went
_RACED: list[tuple[str, str, str | None, float, float, float, float, int | None]] = [
    ("cfg 4.5", "cfg", None, 4.5, 16.0, 0.0, 0.0, None),
    ("cfg 2.25", "cfg-low", None, 2.25, 16.0, -0.041, 0.025, 1),
    ("cfg 4.5, 10 steps", "cfg-price", None, 4.5, 20.0, 0.008, 0.015, None),
    ("blocks:4 residual, cfg 4.5", "scan", "blocks:4 residual", 4.5, 20.0, 0.019, 0.014, None),
    ("blocks:8 residual, cfg 4.5", "scan", "blocks:8 residual", 4.5, 18.0, -0.012, 0.011, 2),
    ("blocks:5 attention, cfg 2.25", "scan", "blocks:5 attention", 2.25, 20.0, 0.002, 0.02, None),
    ("blocks:4 residual, cfg 4.5, scale 1", "search", "blocks:4 residual", 4.5, 20.0, 0.027, 0.013,
     None),
]  # fmt: skip
_WINNER = 6
_TITLES = {"cfg": "CFG alone", "cfg-low": "CFG alone at scale 2.25",
           "cfg-price": "CFG alone with 10 steps"}  # fmt: skip


def layer_map(
    depth: int = 12, skips: tuple[str, ...] = ("residual", "attention"), prompts: int = 4
) -> LayerMap:
    """A map with an idle, a broken and two edge layers, and cells that push the same way."""
    random = np.random.default_rng(7)
    cells = tuple(Cell(f"blocks:{i}", skip) for i in range(depth) for skip in skips)
    places = np.repeat(np.arange(depth, dtype=float), len(skips))
    count = len(cells)
    ratio = 0.05 + 0.3 * random.random(count)
    ratio[2 * len(skips)], ratio[-1] = 0.01, 0.9
    middle = 1 - np.abs(places / (depth - 1) - 0.5)
    means = {
        "ratio": ratio,
        "hf": 0.3 + 0.3 * middle + 0.1 * random.random(count),
        "cos_c": 0.2 - 0.3 * middle + 0.1 * random.random(count),
        "cos_cfg": random.uniform(-0.3, 0.3, count),
    }
    kinds = ranking.kinds(ratio, places)
    score = ranking.scores(means, places, depth)
    counted = np.array([not kind for kind in kinds])
    rank = ranking.places_in_order(score, counted)
    near = np.exp(-np.abs(np.subtract.outer(places, places)) / 2)
    return LayerMap(
        family="mochi", denoiser="MochiTransformer3DModel", depth=depth, width=96,
        outputs=("video",), prompts=prompts, levels=(0.95, 0.8, 0.6, 0.3), num_places=depth,
        cells=cells, places=places, costs=1 - places / depth, means=means,
        lows={name: value - 0.03 for name, value in means.items()},
        highs={name: value + 0.03 for name, value in means.items()},
        by_level={name: value[:, None] * [1.1, 1.0, 0.9, 0.8] for name, value in means.items()},
        score=score, rank=rank, rank_low=np.maximum(rank - 2, 1),
        rank_high=np.minimum(rank + 3, counted.sum()), first_three=np.clip(1.1 - 0.15 * rank, 0, 1),
        kinds=kinds, clusters=ranking.clusters(near), gram=near, forwards=88.0,
        seconds_strong=3.0, seconds_weak=21.0,
    )  # fmt: skip


def candidates(stage: Stage) -> list[dict[str, Any]]:
    """The candidates of race.json, as they stand at a stage."""
    rows = []
    for i, (name, role, cell, scale, passes, difference, half, gone) in enumerate(_RACED):
        if role == "search" and stage != "answer":
            continue
        known = stage in ("race", "answer") and role != "cfg"
        state = "baseline" if role == "cfg" else "out" if gone and known else "racing"
        ends = f"({difference - half:.3f} to {difference + half:.3f})"
        reason = f"{name} went: its difference to the leader is {difference:.3f} {ends}."
        rows.append({
            "name": name, "title": _TITLES.get(role, name), "role": role,
            "passes": passes, "cell": cell, "guidance_scale": scale,
            "scale": 2.0 if cell else 0.0, "start": 0.0, "stop": 1.0,
            "stage": "scale" if role == "search" else "race",
            "state": "winner" if stage == "answer" and i == _WINNER else state,
            "out_reason": reason if state == "out" else None,
            "out_kind": "behind" if state == "out" else None,
            "round_out": gone if state == "out" else None,
            "value": 0.61 + difference if stage in ("race", "answer") else None,
            "difference": difference if known else None,
            "low": difference - half if known else None,
            "high": difference + half if known else None,
            "clips": 0 if stage in ("plan", "scan") else 4 * (gone or 2),
        })  # fmt: skip
    return rows


def answer() -> dict[str, Any]:
    """The content of answer.json."""
    winner = _RACED[_WINNER][0]
    return {
        "verdict": "use", "use": winner, "winner": winner, "metric": "sharpness",
        "sentences": [
            f"Use {winner}: on 4 prompts that chose nothing its sharpness is 0.021 higher than"
            " that of CFG alone (0.009 to 0.033).",
            "Motion is 99 % of that of CFG alone; the floor is 97 %.",
        ],
        "gain": {"value": 0.021, "low": 0.009, "high": 0.033, "n": 4},
        "floors": [{"metric": "motion", "value": 0.99, "low": 0.96, "high": 1.02, "floor": 0.97,
                    "held": True}],
        "command": COMMAND, "preset": "tune.toml",
        "raced": [
            {"name": row["name"], "title": row["title"], "passes": row["passes"],
             "value": 0.61 + (row["difference"] or 0),
             "low": 0.59 + (row["difference"] or 0), "high": 0.63 + (row["difference"] or 0),
             "difference": row["difference"], "difference_low": row["low"],
             "difference_high": row["high"], "n": row["clips"], "held_back": i in (0, _WINNER)}
            for i, row in enumerate(candidates("answer"))
        ],
    }  # fmt: skip


def race(stage: Stage) -> dict[str, Any]:
    """The content of race.json at a stage."""
    order = ("scan", "race", "scale", "window", "answer")
    at = {"plan": 0, "scan": 0, "race": 1, "votes": 1, "answer": 5, "none": 1}[stage]
    counts = (4, 48, 24, 16, 12)
    done = [
        of if i < at else (of // 3 if i == at and stage != "plan" else 0)
        for i, of in enumerate(counts)
    ]
    names = [row["name"] for row in candidates(stage)]
    waiting = (
        "12 votes are there. Judge pairs in the studio with `skipguide studio runs/tune`, then run"
        " the same command again: it goes on from there."
    )
    kind = {"votes": "votes", "none": "none"}.get(stage, "metric")
    return {
        "format": 1, "stage": "done" if stage == "answer" else order[at],
        "waiting": waiting if stage == "votes" else None,
        "stages": [
            {"name": name, "done": have, "of": None if stage == "plan" and i else of,
             "what": f"What the {name} is for, in a sentence."}
            for i, (name, have, of) in enumerate(zip(order, done, counts, strict=True))
        ],
        "budget": {"passes_used": 40.0 + 12 * sum(done), "passes": 2000.0,
                   "seconds_used": 31.0 + 5 * sum(done), "seconds": 1800.0},
        "plan": ["One strong pass takes 0.31 s and a weak one 0.17 s.",
                 "16 prompts a setting: differences of sharpness above .01 can be seen."],
        "notes": ["lab-mochi has no published preset: nothing of the kind races."],
        "metric": {"kind": kind, "name": "sharpness" if kind == "metric" else "",
                   "what": "sharpness; larger is better", "parts": [["sharpness", 1.0]],
                   "floors": [["motion", 0.97]]},
        "round_size": 4, "rounds": 2 if at else 0,
        "prompts": {"race": RACE, "held_back": HELD_BACK},
        "candidates": [] if stage in ("plan", "scan") else candidates(stage),
        "votes": {"names": names, "baseline": names[0], "prompts": RACE}
        if stage == "votes" else None,
        "answer": answer() if stage == "answer" else None,
    }  # fmt: skip


def tuned(folder: Path, stage: Stage = "answer", depth: int = 12) -> Path:
    """Write a run as tune leaves it at a stage."""
    settings: list[dict[str, Any]] = []
    for name, role, cell, scale, *_ in _RACED:
        if role == "search" and stage != "answer":
            continue
        row: dict[str, Any] = {"name": name, "guidance_scale": scale}
        row |= {"steps": 3} if role == "cfg-price" else {}
        if cell is not None:
            layer = int(cell.split()[0].removeprefix("blocks:"))
            row["stg"] = {"layers": [layer], "scale": 1.0 if role == "search" else 2.0}
        settings.append(row)
    chosen = settings[:1] if stage in ("plan", "scan") else settings
    painted(folder, prompts=PROMPTS, seeds=[0], settings=chosen)
    write(folder, stage, depth)
    return folder


def write(folder: Path, stage: Stage, depth: int = 12) -> None:
    """Write the files of `tune/` of a stage."""
    own = folder / "tune"
    own.mkdir(exist_ok=True)
    (own / "race.json").write_text(json.dumps(race(stage)), encoding="utf-8")
    if stage != "plan":
        (own / "map.json").write_text(layer_map(depth).to_json(), encoding="utf-8")
    if stage == "answer":
        (own / "answer.json").write_text(json.dumps(answer()), encoding="utf-8")
        (folder / "tune.toml").write_text("# made up\n", encoding="utf-8")


def settings_of(folder: Path) -> dict[str, int]:
    """The ids of the settings of a run by their names."""
    with Run.open(folder) as run:
        return {setting.name: setting.id for setting in run.settings()}


if __name__ == "__main__":
    wanted: Any = sys.argv[2] if len(sys.argv) > 2 else "answer"
    tuned(Path(sys.argv[1]), wanted)
