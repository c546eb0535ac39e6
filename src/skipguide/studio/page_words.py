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
)  # fmt: skip


def in_page_words(text: str) -> str:
    """Return an error with the names of the page's fields in the place of flags and keys."""
    for pattern, replacement in _ADVICE:
        text = re.sub(pattern, replacement, text)
    text = re.sub(_FLAG, lambda found: _quote(found[0].strip("-").replace("-", "_").lower()), text)
    keys = "|".join(name for name in LABELS if "_" in name)
    text = re.sub(rf"\b(?:{keys})\b", lambda found: _quote(found[0]), text)
    first = "layers|steps|start|stop|rescale|skip|term"  # words that mean the field at a beginning
    return re.sub(rf"^(?:{first})(?= must )", lambda found: _quote(found[0]), text)


def _quote(name: str) -> str:
    """Return a field as the page shows it; what has no field keeps its name, without dashes."""
    return f"“{LABELS[name]}”" if name in LABELS else name.replace("_", " ")


def describe_invalid(errors: Sequence[Any]) -> str:
    """Return what is wrong with a body in sentences, from pydantic's list of errors."""
    return " ".join(map(_describe_one, errors))


def _describe_one(error: Any) -> str:
    reason = str(error.get("msg", ""))
    if error.get("type") == "value_error":  # it speaks for itself
        return reason.removeprefix("Value error, ")
    name = next((str(part) for part in reversed(error["loc"]) if isinstance(part, str)), "body")
    reason = reason.removeprefix("Input should ")
    given = error.get("input")
    said = f", but got {given!r}" if isinstance(given, (str, int, float)) else ""
    return f"{LABELS.get(name, name)} must {reason}{said[:80]}. Correct it."
