"""Read settings as people write them, and files that they name. Layers, terms, rules and restarts
are read by `skipguide.method.parsing`. What cannot be read is a ValueError."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.method.protocols import PlainData, ReadOnlyData

if TYPE_CHECKING:
    from skipguide.families.preset_files import PresetFile
    from skipguide.generate.flags import GuidanceFlags
    from skipguide.method.request import GuidanceRequest

    Guidance = GuidanceRequest | GuidanceFlags | PlainData


def parse_fps(value: Any) -> Fraction | None:
    """24, 23.976, "24000/1001" -> a Fraction above 0 and at most 1000."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Fraction)):
        raise ValueError("not a number")
    try:
        rate = Fraction(value)
    except (OverflowError, ZeroDivisionError) as error:  # inf; "1/0"
        raise ValueError("not a finite number") from error
    if isinstance(value, float):
        rate = rate.limit_denominator(1001)  # 23.976 as it was meant, not as its 53 bits
    if not 0 < rate <= 1000:
        raise ValueError("out of range")
    return rate


def format_fps(rate: Fraction | None) -> int | str | None:
    """Return frames per second as JSON has them."""
    return rate if rate is None else int(rate) if rate.denominator == 1 else str(rate)


# --- guidance -------------------------------------------------------------------------------------


def parse_guidance(value: Any) -> Guidance | None:
    """Read the `guidance` of a video.

    Args:
        value: "preset", for what is published for the model; {"preset": flags}, for that with
            changes; or plain data of a GuidanceRequest. In the latter, terms may be "preset", and a
            term may leave out its layers: everything that is not said is the preset's then.

    Returns:
        A GuidanceRequest if nothing is left to a preset; else the flags, or the plain data.

    Raises:
        ValueError: if it is none of these.
    """
    from skipguide.generate.flags import GuidanceFlags, read_flags

    if value is None or isinstance(value, GuidanceFlags):
        return value
    if value == "preset":
        return GuidanceFlags()
    if isinstance(value, Mapping) and set(value) == {"preset"}:
        return read_flags(value["preset"] or {})
    from skipguide.method.request import GuidanceRequest

    if isinstance(value, GuidanceRequest):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(
            f"guidance must be preset, or lines such as terms: [{{layers: [8], scale: 1.0}}], but"
            f" got {value!r}. Correct it."
        )
    if isinstance(value.get("schedule"), str):
        raise ValueError(
            f"schedule must be read from its file first, but got the name {value['schedule']!r}."
            " Write the bins."
        )
    if not _lacks_something(value):
        return GuidanceRequest.from_dict(value)
    GuidanceRequest.from_dict(fill_in_terms(value, _STAND_IN))  # complains about all the rest
    return dict(value)


# Stands for a preset while terms are checked before a model is loaded.
_STAND_IN: tuple[PlainData, ...] = (
    {"layers": [0], "scale": 1.0, "axis": "spatial"},
    {"layers": [0], "scale": 1.0, "axis": "temporal"},
)


def _lacks_something(value: ReadOnlyData) -> bool:
    terms = value.get("terms")
    try:
        return terms == "preset" or any(_lacks_layers(term) for term in _listed(terms))
    except ValueError:  # no terms: the request says so, with all the rest that is wrong
        return False


def _lacks_layers(term: Any) -> bool:
    is_stg = isinstance(term, Mapping) and term.get("kind", "stg") == "stg"
    return is_stg and term.get("layers") is None and term.get("weak") is None


def _listed(terms: Any) -> list[Any]:
    from skipguide.method.parsing import parse_list

    found = parse_list(terms, "layers")
    return list(found) if isinstance(found, tuple) else []


def fill_in_terms(
    content: ReadOnlyData, preset: tuple[ReadOnlyData, ...], rescale: float = 0.0
) -> PlainData:
    """Return plain data of a GuidanceRequest with what it leaves out of STG terms filled in.

    Args:
        preset: the terms of the preset; what a term leaves out is taken from the first of them.
        rescale: that of the preset.
    """
    shared = {
        name: value for name, value in preset[0].items() if name not in ("scale", "axis")
    } if preset else {}  # fmt: skip
    terms = content.get("terms")
    if terms == "preset":
        found = [dict(term) for term in preset]
    else:
        found = [
            {**(shared if _takes_from_preset(row) else {}), **_said(row)}
            if isinstance(row, Mapping)
            else row
            for row in _listed(terms)
        ]
    return {"rescale": rescale, **content, "terms": found}


def _takes_from_preset(row: ReadOnlyData) -> bool:
    """Return whether a term is one that skips layers of the conditional pass, as presets do."""
    return row.get("kind", "stg") == "stg" and row.get("weak") is None


def _said(row: ReadOnlyData) -> PlainData:
    return {name: value for name, value in row.items() if value is not None}


def combine_guidance(block: Any, flags: ReadOnlyData) -> Any:
    """Put flags over the `guidance` of a file.

    Raises:
        ValueError: if both say which layers are skipped.
    """
    if block is None or block == "preset":
        return {"preset": dict(flags)}
    if not isinstance(block, Mapping):
        return block  # and is refused
    if set(block) == {"preset"}:
        return {"preset": {**(block["preset"] or {}), **flags}}
    same = {
        "rescale": "rescale", "rescale_space": "rescale_space", "orthogonalize": "orthogonalize",
        "cfg_rule": "cfg", "nag": "nag", "restart": "restart", "budget": "budget",
        "exact": "exact", "audio_rescale": "audio_rescale", "skip_step": "skip_step",
    }  # fmt: skip
    others = [name for name in flags if name not in same]
    if others:
        raise ValueError(
            f"guidance already has the terms, so it cannot be combined with {', '.join(others)}."
            " Write that into the terms of guidance, or leave guidance out."
        )
    return {**block, **{same[name]: value for name, value in flags.items()}}


def parse_preset(value: Any) -> PresetFile | None:
    """Read the `preset` of a video, of which `read_named_files` has read the file.

    Raises:
        ValueError: if it is none.
    """
    from skipguide.families import preset_files

    if value is None or isinstance(value, preset_files.PresetFile):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("not the content of a file")
    return preset_files.from_plain(value)


def read_named_files(given: ReadOnlyData, base: Path = Path()) -> PlainData:
    """Return settings with what is in a schedule's and a preset's file where its name was.

    So another content is another setting. The names of masks are those from the working directory
    then; their content is told apart by its hash.

    Args:
        given: settings or flags, or with a `guidance`, as people write them.
        base: the folder from which relative names count.

    Raises:
        ValueError: for a file that cannot be read or holds something else.
    """
    found = dict(given)
    if isinstance(found.get("preset"), (str, Path)):
        from skipguide.families import preset_files

        found["preset"] = preset_files.read_preset_file(found["preset"], base).for_ledger()
    if isinstance(found.get("schedule"), str):
        found["schedule"] = _read_bins(base / found["schedule"])
    found = _with_mask_names(found, base)
    guidance = found.get("guidance")
    if isinstance(guidance, Mapping):
        inner = guidance["preset"] if isinstance(guidance.get("preset"), Mapping) else guidance
        if isinstance(inner.get("schedule"), str):
            read = {**inner, "schedule": _read_bins(base / inner["schedule"])}
            found["guidance"] = read if inner is guidance else {"preset": read}
    return found


def _with_mask_names(given: ReadOnlyData, base: Path) -> PlainData:
    """Return settings, flags or a request with `base` before the names of masks in them."""
    if base == Path():
        return dict(given)
    found = dict(given)
    if isinstance(found.get("mask"), str):
        found["mask"] = str(base / found["mask"])
    for name in ("term", "terms"):
        with contextlib.suppress(ValueError):  # which are refused later, with all that is wrong
            rows = _listed(found.get(name))
            if any(isinstance(row, Mapping) and row.get("mask") for row in rows):
                found[name] = [_with_mask_names(row, base) for row in rows]
    for name in ("guidance", "preset"):
        if isinstance(found.get(name), Mapping):
            found[name] = _with_mask_names(found[name], base)
    return found


def _read_bins(path: Path) -> list[PlainData]:
    from skipguide.generate.flags import rows_in_full
    from skipguide.method.terms import Schedule

    return rows_in_full(Schedule.from_yaml(str(path)))
