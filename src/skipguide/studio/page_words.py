"""The words of the page: what its fields are called, and what an error says to who fills them in.

Most errors are those of the command line, which name flags. A person on the page has no flags.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# Settings that the page has a field for, and what it calls them.
LABELS = {
    "prompt": "Prompt", "image": "Picture", "seed": "Seed", "layers": "Layers",
    "stg_scale": "Scale s", "spatial_scale": "Spatial s", "temporal_scale": "Temporal s",
    "guidance_scale": "CFG g", "steps": "Steps", "start": "From (part of the run)", "stop": "To",
    "rescale": "Rescale", "skip": "Skip", "term": "More terms", "rater": "Your name",
    "cfg_rule": "Rule of CFG", "nag": "NAG", "preset": "Preset",
}  # fmt: skip
_FLAG = r"(?:--[a-z][a-z-]*|PROMPT)"
# Advice that only the command line can follow, and what a person on the page can do.
_ADVICE: Sequence[tuple[str, str]] = (
    (r"^setting (['\"])trial .*?\1: ", ""),  # the name of the only one that is asked for
    (rf"Set it with {_FLAG}, or as \w+ in the config file\.", "Correct it."),
    (rf"Set it with {_FLAG}\.", "Fill it in."),
    (rf"Leave out ({_FLAG}), or choose another --model\.",
     r"Leave \1 empty, or start from a setting of another model."),
    (r"On the command line: --layers, or --stg-scale 0 for no STG\.",
     "Fill in --layers, or set --stg-scale to 0 for no STG."),
    (r"Use --dtype \w+ or \w+, or smaller scales\.", "Use smaller scales."),
    (r"stop must be larger than start \([^)]*\), but got start=(\S+), stop=(\S+)\. Widen the"
     r" window, or switch STG off with stg_scale=0\.",
     r"--stop must be larger than --start, but got \2 and \1. Widen the window, or set"
     r" --stg-scale to 0 for no STG."),
    (r", or --cfg-rule \w+\.", "."),
    (r", end it, or name another folder with --out\.", ", or end it."),
    (r", or choose (?:another folder|another|a folder on another disk) with --out\.", "."),
    (r"(?:Name|Choose) another with --out\.", "Choose another folder."),
    (r" `skipguide [^`]*` lists them\.", ""),
    (r" Take one of Run\.\w+\(\)\.", " Choose another one."),
)  # fmt: skip


def in_page_words(text: str) -> str:
    """Return an error with the names of the page's fields in the place of flags and keys."""
    for pattern, replacement in _ADVICE:
        text = re.sub(pattern, replacement, text)
    text = re.sub(_FLAG, lambda found: _quote(found[0].strip("-").replace("-", "_").lower()), text)
    keys = "|".join(name for name in LABELS if "_" in name)
    text = re.sub(rf"\b(?:{keys})\b", lambda found: _quote(found[0]), text)
    first = (
        "layers|steps|start|stop|rescale|skip|term|nag"  # words that mean the field at a beginning
    )
    return re.sub(rf"^(?:{first})(?= must )", lambda found: _quote(found[0]), text)


def _quote(name: str) -> str:
    """Return a field as the page shows it; what has no field keeps its name, without dashes."""
    return f"“{LABELS[name]}”" if name in LABELS else name.replace("_", " ")


def describe_invalid(errors: Sequence[Any]) -> str:
    """Return what is wrong with a body in sentences, from pydantic's list of errors."""
    return " ".join(dict.fromkeys(map(_describe_one, errors)))


# What pydantic says, by type of error, where its words are no part of a sentence.
_WHOLE = {
    "missing": "{name} must be given, but it is missing. Fill it in.",
    "extra_forbidden": "{name} is nothing that is asked for here. Leave it out.",
    "json_invalid": "the body must be JSON, but it cannot be read as such. Correct it.",
    "model_attributes_type": "the body must be a JSON object{came}. Correct it.",
    "string_pattern_mismatch": "{name} must be one that the studio gave out{came}. Open the page"
    " anew.",
}
_PARTS: Sequence[tuple[str, str]] = (
    (r"^(?:Input|String|List|Dictionary|Value|Data) should ", ""),
    (r", unable to parse string as an? \w+", ""),
    (r" after validation, not \d+$", ""),
    (r"\ba valid integer\b", "a whole number"),
    (r"\ba valid boolean\b", "true or false"),
    (r"\ba valid (string|number|list|dictionary)\b", r"a \1"),
    (r"\ba string\b", "a text"),
    (r"\ba dictionary\b", "an object"),
)  # fmt: skip


def _describe_one(error: Any) -> str:
    reason, kind = str(error.get("msg", "")), error.get("type")
    if kind == "value_error":  # it speaks for itself
        return reason.removeprefix("Value error, ")
    place = error["loc"]
    name = next((str(part) for part in reversed(place) if isinstance(part, str)), "body")
    name = LABELS.get(name, "the body" if name == "body" else name.replace("_", " "))
    if isinstance(place[-1], int):
        name = f"each of {name}"
    came = f", but got {_describe_value(error.get('input'))}"
    if kind in _WHOLE:
        return _WHOLE[kind].format(name=name, came=came)
    for pattern, replacement in _PARTS:
        reason = re.sub(pattern, replacement, reason)
    return f"{name} must {reason}{came}. Correct it."


def _describe_value(given: Any) -> str:
    if given is None:
        return "nothing"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, str):
        return repr(given if len(given) <= 60 else f"{given[:60]}...")
    if isinstance(given, (int, float)):
        return repr(given)[:60]
    return f"{len(given)} of them" if isinstance(given, (list, tuple)) else "an object"
