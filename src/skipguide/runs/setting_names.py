"""Names for settings of a plan that have none: what they differ in from the others of the plan.

"CFG", "STG 8 x1", "SLG 9", "guidance_scale=3", "STG 8 x1 steps=20". How a video is guided is said
by its terms alone; of all else only what is not the same in all settings.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skipguide.generate.flags import SCALE_AXES
from skipguide.method import parsing
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs.plan_grid import format_value

_SCALES = tuple(SCALE_AXES)
_OF_TERMS = (
    "layers", "random_share", "skip", "strength", "normalize", "every", "start", "stop",
    "orthogonalize", "slg_layers", "term", "schedule", "mask", *_SCALES,
)  # fmt: skip
_GUIDANCE = ("preset", "stg", "guidance", *_OF_TERMS)
_MAX_VALUE = 32  # characters; a negative prompt is longer


def fill_in_names(points: Sequence[tuple[str, ReadOnlyData]]) -> list[str]:
    """Return the names of settings, with one in the place of each that is "".

    Names depend on what the settings say and on their order, on nothing else.

    Args:
        points: names and words of all settings of a plan.
    """
    phrases = [_describe_guidance(words) for _, words in points]
    shown = len(set(phrases)) > 1
    varying = _varying_words([words for _, words in points])
    taken = Counter(name for name, _ in points if name)
    found: list[str] = []
    for (name, words), phrase in zip(points, phrases, strict=True):
        values = [f"{key}={_short(words[key])}" for key in varying if key in words]
        plain = " ".join([*([phrase] if shown or not values else []), *values])
        own = name or next(candidate for candidate in numbered(plain) if not taken[candidate])
        taken[own] += not name
        found.append(own)
    return found


def numbered(name: str) -> Iterator[str]:
    """Yield a name, and then "NAME (2)", "NAME (3)" and so on, for those that find it taken."""
    yield name
    for number in itertools.count(2):
        yield f"{name} ({number})"


def _varying_words(rows: Sequence[ReadOnlyData]) -> list[str]:
    """Return the words that are not the same in all settings, but for those of terms."""
    names = dict.fromkeys(name for words in rows for name in words if name not in _GUIDANCE)
    return [name for name in names if len({repr(words.get(name)) for words in rows}) > 1]


def _short(value: Any) -> str:
    text = " ".join(_written(value).split())
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 1]}…"


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(map(_written, value.values()))
    if isinstance(value, (list, tuple)) and any(isinstance(part, Mapping) for part in value):
        return " and ".join(map(_written, value))
    return format_value(value)


# --- how a video is guided ------------------------------------------------------------------------


def _describe_guidance(words: ReadOnlyData) -> str:
    """Return "STG 8 x1" and the like; "CFG" without anything beside it.

    The words need not be right yet: what is wrong with them is said elsewhere.
    """
    found = [*_describe_preset(words.get("preset")), *_describe_stg(words.get("stg"))]
    found += _describe_request(words.get("guidance"))
    found += _describe_flags({name: words[name] for name in _OF_TERMS if name in words})
    return " + ".join(found) or "CFG"


def _describe_preset(preset: Any) -> Iterator[str]:
    """Yield "preset tune", of a file its name without folder and suffix."""
    if preset is not None:
        yield f"preset {_short(Path(str(preset)).stem)}"


def _describe_stg(stg: Any) -> Iterator[str]:
    if stg == "preset":
        yield "STG preset"
    elif stg is not None:
        for term in stg if isinstance(stg, list) else [stg]:
            yield from _describe_term(term)


def _describe_request(guidance: Any) -> Iterator[str]:
    if guidance == "preset":
        yield "STG preset"
    if not isinstance(guidance, Mapping):
        return
    if "preset" in guidance:
        yield " ".join(["STG preset", *_pairs(guidance["preset"])])
    terms = guidance.get("terms")
    if terms == "preset":
        yield "STG preset"
    elif terms is not None:
        for term in _listed(terms):
            yield from _describe_term(term)
    yield from ["STG by noise level"] if guidance.get("schedule") else []
    others = ("preset", "terms", "schedule")
    yield from _pairs({name: guidance[name] for name in guidance if name not in others})


def _listed(terms: Any) -> list[Any]:
    try:
        found = parsing.parse_list(terms, "layers")
    except ValueError:
        return []
    return list(found) if isinstance(found, tuple) else []


def _describe_flags(flags: PlainData) -> Iterator[str]:
    if flags.get("schedule"):
        yield "STG by noise level"
    scales = {name: flags[name] for name in _SCALES if name in flags}
    on = {name: scale for name, scale in scales.items() if scale}
    shared = {name: flags[name] for name in flags if name not in (*_SCALES, "term", "slg_layers")}
    if on:
        for name, scale in on.items():
            yield from _describe_term({**shared, "scale": scale, "axis": SCALE_AXES[name]})
    elif not scales and (flags.get("layers") not in (None, "") or flags.get("random_share")):
        yield from _describe_term({**shared, "scale": None})
    for term in _listed(flags.get("term") or []):
        yield from _describe_term(term)
    if flags.get("slg_layers") not in (None, ""):
        yield f"SLG {_short(flags['slg_layers'])}"


def _describe_term(term: Any) -> Iterator[str]:
    """Yield "STG 8 x1 attention 0.2-0.8"; nothing for a scale of 0."""
    if not isinstance(term, Mapping):
        yield f"STG {_short(term)}"
        return
    scale = term.get("scale", 1.0)
    if scale == 0:
        return
    share, layers = term.get("random_share"), term.get("layers", term.get("weak", "preset"))
    if isinstance(layers, Mapping):
        share = layers.get("random")
    kind = {"slg": "SLG", "modality": "modality"}.get(str(term.get("kind")), "STG")
    layers = term.get("layers", "") if kind == "modality" else layers
    yield " ".join(
        filter(
            None,
            [
                kind,
                str(term.get("axis") or ""),
                f"random {_short(share)}" if share else _short(layers),
                f"x{_short(scale)}" if scale is not None and kind != "SLG" else "",
                *_details(term),
            ],
        )
    )


def _details(term: ReadOnlyData) -> Iterator[str]:
    """Yield what a term says beside layers and scale, where it is not the default."""
    if term.get("skip", "residual") != "residual":
        yield _short(term["skip"])
    if term.get("strength") is not None:
        yield _short(term["strength"])
    start, stop = term.get("start", 0), term.get("stop", 1)
    if (start, stop) != (0, 1):
        yield f"{_short(start)}-{_short(stop)}"
    yield from (f"every {term['every']}" for _ in range(term.get("every", 1) != 1))
    yield from (name for name in ("normalize", "orthogonalize") if term.get(name))
    known = (
        "layers",
        "weak",
        "scale",
        "skip",
        "strength",
        "start",
        "stop",
        "every",
        "axis",
        "kind",
    )
    more = ("normalize", "orthogonalize", "random_share", "schedule")
    yield from _pairs({name: term[name] for name in term if name not in (*known, *more)})


def _pairs(words: Any) -> list[str]:
    if not isinstance(words, Mapping):
        return []
    return [f"{name}={_short(value)}" for name, value in words.items()]
