"""Settings that have parts of their own (a rule for CFG, restarts, a schedule) as what guide()
takes.

torch is imported only where a setting of this kind is given, so that a wrong command line is
refused at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skipguide.generate.settings import SCALE_AXES, GenerationSettings, flag_name

if TYPE_CHECKING:
    from skipguide.method.cfg_rules import CFGRule
    from skipguide.method.restart import Restart
    from skipguide.method.terms import STG, Schedule

RULES = {
    "apg": "APG",
    "cfg-zero": "CFGZero",
    "tcfg": "TCFG",
    "interval": "Interval",
}  # classes of rules.py


def completed(settings: GenerationSettings) -> GenerationSettings:
    """The settings with every part of these written out, and a schedule's file read: a record that
    explains itself.

    Raises:
        ValueError: for a name or a number that is none, or a file that cannot be read.
    """
    found: dict[str, Any] = {}
    if settings.cfg_rule is not None:
        found["cfg_rule"] = {
            "name": settings.cfg_rule.get("name"),
            **_parts(rule_of(settings.cfg_rule)),
        }
    if settings.restart is not None:
        found["restart"] = tuple(_parts(restart) for restart in restarts_of(settings.restart))
    if settings.schedule is not None:
        found["schedule"] = tuple(bins_of(settings.schedule))
    return settings.model_copy(update=found)


def bins_of(schedule: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bins of a schedule, or of the file that has one, with all their parts.

    Raises:
        ValueError: for bins that are none, or a file that cannot be read.
    """
    return [_parts(entry) for entry in schedule_of(schedule).bins]


def rule_of(row: Mapping[str, Any]) -> CFGRule:
    """The rule in a setting such as {"name": "apg", "eta": 0.2}."""
    from skipguide.method import cfg_rules

    name = row.get("name")
    if not isinstance(name, str) or name not in RULES:
        raise ValueError(
            f"cfg_rule must begin with one of {', '.join(RULES)}, but got {name!r}. Write"
            f" {flag_name('cfg_rule')} apg."
        )
    return _made(
        "cfg_rule", getattr(cfg_rules, RULES[name]), {key: row[key] for key in row if key != "name"}
    )


def restarts_of(rows: Sequence[Mapping[str, Any]]) -> list[Restart]:
    """The restarts in a setting such as [{"window": [0.4, 0.6]}]."""
    from skipguide.method.restart import Restart

    return [_made("restart", Restart, row) for row in rows]


def schedule_of(given: str | Sequence[Mapping[str, Any]], seed: int = 0) -> Schedule:
    """The schedule in a file, or in a list of its bins.

    Args:
        seed: of what is drawn in its bins.
    """
    from skipguide.method.terms import Bin, Schedule

    if isinstance(given, str):
        return Schedule.from_yaml(given)
    return Schedule([_made("schedule", Bin, {**row, "seed": seed}) for row in given])


def terms_of(settings: GenerationSettings) -> Sequence[STG] | Schedule:
    """What is skipped: a schedule, or one term per scale above 0, all on the same layers and steps.

    Args:
        settings: complete ones, as `settings.resolve` returns them.
    """
    from skipguide.method.terms import STG, Random

    if settings.schedule is not None:
        return schedule_of(settings.schedule, settings.seed)
    assert settings.layers is not None
    layers = (
        list(settings.layers) if settings.random_share is None else Random(settings.random_share)
    )
    own = {
        name: getattr(settings, name)
        for name in ("skip", "start", "stop", "strength", "normalize", "every", "seed")
    }
    scales = {axis: getattr(settings, name) for name, axis in SCALE_AXES.items()}
    return [STG(layers, scale, axis=axis, **own) for axis, scale in scales.items() if scale]


def options_of(settings: GenerationSettings) -> dict[str, Any]:
    """What guide() gets beside terms."""
    return {
        "rescale": settings.rescale,
        "rescale_space": settings.rescale_space,
        "orthogonalize": bool(settings.orthogonalize),
        "cfg": None if settings.cfg_rule is None else rule_of(settings.cfg_rule),
        "restart": None if settings.restart is None else restarts_of(settings.restart),
    }


def _made(setting: str, kind: Any, parts: Mapping[str, Any]) -> Any:
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = [name for name in parts if name not in known]
    if unknown:
        has = ", ".join(known) or "none"
        raise ValueError(
            f"{setting} has the parts {has}, but got {', '.join(map(str, unknown))}. Correct the"
            " name."
        )
    try:
        return kind(**parts)
    except TypeError as error:  # a bin without its sigma
        raise ValueError(f"{setting} lacks a part: {error}. Write it.") from error


def _parts(made: Any) -> dict[str, Any]:
    """A rule, a restart or a bin as a setting; None and the seed, which is the video's, are left
    out."""
    parts = {
        field.name: getattr(made, field.name)
        for field in dataclasses.fields(made)
        if field.name != "seed"
    }
    return {name: _plain(value) for name, value in parts.items() if value is not None}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value
