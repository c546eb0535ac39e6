"""The proof of `skipguide tune` as tables and as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from skipguide.method.protocols import PlainData
from skipguide.paper.tables import format_estimate, markdown_table
from skipguide.paper.tune_maps import OBJECTIVES
from skipguide.paper.tune_power import RULES, TRUTHS, Honesty, Power
from skipguide.paper.tune_proof import ENOUGH, MapReliability, Proof, ScanCost
from skipguide.stats.estimate import Estimate

MEASURES = {**OBJECTIVES, "frechet": "Frechet"}
DIGITS = {**dict.fromkeys(OBJECTIVES, 3), "frechet": 2}


def format_proof(found: Proof) -> str:
    """Format all tables, in Markdown."""
    parts = ["Reliability of exhaustive layer maps", "", *_reliability_table(found.reliabilities)]
    for one in found.powers:
        parts += ["", f"{one.map.title}, {MEASURES[one.objective]}", "", *_power_table(one)]
        parts += ["", *_power_sentences(one)]
    if found.honesties:
        parts += ["", "What is claimed on prompts that chose nothing", ""]
        parts += _honesty_table(found.honesties)
    if found.costs:
        parts += ["", "What a scan costs", "", *_cost_table(found.costs)]
    return "\n".join(parts)


def _reliability_table(found: Sequence[MapReliability]) -> list[str]:
    rows = []
    for one in found:
        values = one.found
        digits = DIGITS[one.measure]
        shown = f"{values.best:.2f} ({values.low:.2f} to {values.high:.2f})"
        rows.append(
            [
                one.map.title, MEASURES[one.measure], str(values.cells), str(values.prompts),
                f"{values.between:.{digits}f}", f"{values.error:.{digits}f}",
                f"{values.value:.2f}", f"**{shown}**" if values.best >= ENOUGH else shown,
            ]
        )  # fmt: skip
    heading = [
        "map", "measure", "cells", "prompts", "sd between cells", "error of a cell",
        "reliability", "of cells on the same prompts",
    ]  # fmt: skip
    return markdown_table(heading, rows)


def _power_table(one: Power) -> list[str]:
    rows = []
    for rule, title in RULES.items():
        gain = "" if rule == "none" else format_estimate(one.gains[rule], 3, signed=True)
        rows.append([title, f"{one.clips[rule]:.0f}", f"{one.means[rule]:.3f}", gain])
    return markdown_table(["rule", "clips", MEASURES[one.objective], "gain over no STG"], rows)


def _power_sentences(one: Power) -> Iterator[str]:
    def shown(estimate: Estimate) -> str:
        return format_estimate(estimate, 4, signed=True)

    share = one.clips["tune"] / one.clips["exhaustive"]
    yield (
        f"- scan and race less exhaustive search: {shown(one.to_exhaustive)} over prompts,"
        f" {shown(one.repeats_to_exhaustive)} over {one.repeats} repeats;"
        f" {one.shortfall:.1%} of the objective (at worst {one.most_shortfall:.1%}), with"
        f" {share:.1%} of its clips"
    )
    yield (
        f"- less the middle layer: {shown(one.to_middle)} over prompts,"
        f" {shown(one.repeats_to_middle)} over repeats"
    )
    picks = ", ".join(f"{name} {count}" for name, count in one.picks.items())
    yield f"- picked: {picks}"


def _honesty_table(found: Sequence[Honesty]) -> list[str]:
    rows = []
    for one in found:
        rows.append(
            [
                one.map.title, MEASURES[one.objective],
                TRUTHS[one.truth], "+".join(map(str, one.prompts)),
                f"{one.best:+.3f}", _percent(one.claimed), _percent(one.wrongly), str(one.won),
                "" if one.covered is None else _percent(one.covered),
            ]
        )  # fmt: skip
    heading = [
        "map", "measure", "truth", "prompts: race + kept back", "best true gain",
        "gain claimed", "wrongly", "repeats", "interval holds the truth",
    ]  # fmt: skip
    return markdown_table(heading, rows)


def _percent(one: Estimate) -> str:
    ends = "" if one.low is None or one.high is None else f" ({one.low:.1%} to {one.high:.1%})"
    return f"{one.value:.1%}{ends}"


def _cost_table(found: Sequence[ScanCost]) -> list[str]:
    rows = [
        [
            one.path.stem, str(len(one.map.cells)), str(one.map.prompts), str(len(one.map.levels)),
            f"{one.forwards:.2f}",
            ", ".join(f"{skip} {ratio:.3f}" for skip, ratio in one.ratios.items()),
        ]
        for one in found
    ]  # fmt: skip
    heading = [
        "scan", "cells", "prompts", "noise levels", "forwards a state", "by skip, to (L - 1) / 2"
    ]  # fmt: skip
    return markdown_table(heading, rows)


# --- plain data -----------------------------------------------------------------------------------


def proof_data(found: Proof) -> PlainData:
    """Return everything ready for JSON."""
    return {
        "reliability": [
            {**_map_data(one), "measure": one.measure, **vars(one.found)}
            for one in found.reliabilities
        ],
        "power": [_power_data(one) for one in found.powers],
        "honesty": [_honesty_data(one) for one in found.honesties],
        "scans": [
            {"file": one.path.name, "forwards_per_state": one.forwards, "ratios": one.ratios}
            for one in found.costs
        ],
    }


def _map_data(one: MapReliability | Power | Honesty) -> PlainData:
    return {"model": one.map.model, "map": one.map.name}


def _power_data(one: Power) -> PlainData:
    return {
        **_map_data(one), "objective": one.objective, "repeats": one.repeats, "clips": one.clips,
        "means": one.means, "gains": {rule: vars(gain) for rule, gain in one.gains.items()},
        "to_exhaustive": vars(one.to_exhaustive), "to_middle": vars(one.to_middle),
        "repeats_to_exhaustive": vars(one.repeats_to_exhaustive),
        "repeats_to_middle": vars(one.repeats_to_middle), "shortfall": one.shortfall,
        "picks": one.picks,
    }  # fmt: skip


def _honesty_data(one: Honesty) -> PlainData:
    return {
        **_map_data(one), "objective": one.objective, "prompts": list(one.prompts),
        "truth": one.truth, "repeats": one.repeats, "best_true_gain": one.best,
        "claimed": vars(one.claimed), "wrongly": vars(one.wrongly), "won": one.won,
        "covered": None if one.covered is None else vars(one.covered),
    }  # fmt: skip
