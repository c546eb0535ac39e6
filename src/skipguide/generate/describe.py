"""A request in a few words: the titles of videos, columns of tables, names of settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.generate.flags import SCALE_AXES, GuidanceFlags, from_guidance
from skipguide.generate.settings import GenerationSettings
from skipguide.method import parsing
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.models.places import format_lora

if TYPE_CHECKING:
    from skipguide.method.request import GuidanceRequest

# Columns of complete settings, in their order.
COLUMNS = [
    column
    for name in GenerationSettings.model_fields
    for column in ([name, *GuidanceFlags.model_fields] if name == "guidance" else [name])
]
_OF_TERMS = (
    "layers", *SCALE_AXES, "random_share", "skip", "strength", "normalize", "every", "start",
    "stop", "mask", "orthogonalize",
)  # fmt: skip


def describe_rule(request: GuidanceRequest) -> str:
    """Return " by apg", or nothing without a rule."""
    rule = request.to_dict().get("cfg")
    return f" by {rule['name']}" if rule else ""


def describe_method(settings: GenerationSettings, is_embedded: bool = False) -> str:
    """Return complete settings in a phrase, as in "CFG 4.5 + STG 1 (residual 8)".

    "no CFG + restart" is another; of a model whose CFG's scale is not known there is no number.

    Args:
        is_embedded: guidance_scale is an input of the model, and there is no CFG.
    """
    scale, lowest = settings.guidance_scale, settings.min_guidance_scale
    first = "" if lowest is None else f"{lowest:g} to "
    cfg = "CFG" if scale is None else f"CFG {first}{scale:g}" if scale > 1 else "no CFG"
    if is_embedded and scale is not None:
        cfg = f"no CFG, embedded guidance {scale:g}"
    found = [cfg + describe_rule(settings.request), *describe_terms(settings.request)]
    return " + ".join(found) + (f", cache {settings.cache}" if settings.cache else "")


def describe_terms(request: GuidanceRequest) -> list[str]:
    """Return what is added to CFG, a phrase each: "STG 1 (residual 8)", "SLG (residual 9)",
    "restart"; of terms alike but for scale and axis "STG spatial 2" and "temporal 0.5 (...)"."""
    return describe_guidance(request.to_dict())


def describe_guidance(content: ReadOnlyData) -> list[str]:
    """Describe the terms in the plain data of a complete request, as `describe_terms` does."""
    terms = content.get("terms", [])
    stg = [term for term in terms if term.get("kind", "stg") == "stg"]
    found = ["STG by noise level"] if content.get("schedule") else []
    found += _describe_alike(stg, bool(content.get("orthogonalize")))
    found += [f"SLG ({_what(term)})" for term in terms if term.get("kind") == "slg"]
    found += [_describe_nag(content["nag"])] if content.get("nag") else []
    found += [_describe_modality(term) for term in terms if term.get("kind") == "modality"]
    found += ["restart"] if content.get("restart") else []
    found += [f"skip_step {skipped}"] if (skipped := content.get("skip_step")) else []
    budget = content.get("budget")
    return found + ([] if budget is None else [f"budget {budget:g}"])


def _describe_nag(nag: ReadOnlyData) -> str:
    """Return "NAG 5", or with what is not usual in it "NAG 5 (tau 1.5, layers 3, 0-0.5)"."""
    found = [f"{name} {nag[name]:g}" for name in ("tau", "alpha") if name in nag]
    found += [f"layers {','.join(map(str, nag['layers']))}"] if nag.get("layers") else []
    window = nag.get("start", 0.0), nag.get("stop", 1.0)
    found += [f"{window[0]:g}-{window[1]:g}"] if window != (0.0, 1.0) else []
    return f"NAG {nag['scale']:g}" + (f" ({', '.join(found)})" if found else "")


def columns(complete: ReadOnlyData) -> PlainData:
    """Return complete settings as flat columns, for tables and the page of the studio.

    Where flags can say the guidance they are the columns (`layers`, `stg_scale`, ...); else
    `guidance` describes it in words, beside what flags have of the rest.
    """
    content = complete["guidance"]
    words = from_guidance(content)
    found = {**complete, "guidance": None, **(_in_words(content) if words is None else words)}
    if found.get("lora"):
        found["lora"] = [format_lora(entry) for entry in found["lora"]]
    return {name: found[name] for name in COLUMNS if found.get(name) is not None}


def _in_words(content: ReadOnlyData) -> PlainData:
    """Return terms that flags cannot say as one text, beside the flags of the rest."""
    of_terms = ("terms", "schedule", "orthogonalize", "share_prefix")
    rest = from_guidance({key: content[key] for key in content if key not in of_terms}) or {}
    phrases = " + ".join(describe_guidance({**content, "restart": None}))
    return {"guidance": phrases, **{name: rest[name] for name in rest if name not in _OF_TERMS}}


def _describe_alike(terms: Sequence[ReadOnlyData], orthogonal: bool) -> list[str]:
    if not terms:
        return []
    more = ", orthogonal" if orthogonal else ""
    if len({_what(term) for term in terms}) == 1:
        pushes = [_scale(term) for term in terms]
        pushes[-1] += f" ({_what(terms[0])}{more})"
        return [f"STG {pushes[0]}", *pushes[1:]]
    found = [f"STG {_scale(term)} ({_what(term)})" for term in terms]
    return [*found[:-1], found[-1][:-1] + more + ")"]


def _describe_modality(term: ReadOnlyData) -> str:
    """ "modality 3", and in parentheses what is not usual about it."""
    layers = ",".join(map(str, term.get("layers", ())))
    more = f"{layers}{_how_and_when(term)}".removeprefix(", ")
    return f"modality {_scale(term)}" + (f" ({more})" if more else "")


def _scale(term: ReadOnlyData) -> str:
    scale = term.get("scale", 1.0)
    listed = scale if isinstance(scale, (list, tuple)) else [scale]
    values = [f"{value:g}" for value in listed]
    shown = values if len(values) < 5 else [*values[:2], "...", values[-1]]
    return f"{term.get('axis') or ''} {','.join(shown)}".strip()


def _what(term: ReadOnlyData) -> str:
    """ "soft 0.5 2, normalized, 0.25-1": what is done to which layers, how, and when."""
    return " ".join(_what_words(term)) + _how_and_when(term)


def _how_and_when(term: ReadOnlyData) -> str:
    found = ", normalized" if term.get("normalize") else ""
    start, stop = term.get("start") or 0.0, term.get("stop", 1.0)
    found += f", {start:g}-{stop:g}" if (start, stop) != (0.0, 1.0) else ""
    found += f", mask {Path(mask['file']).name}" if (mask := term.get("mask")) else ""
    return found + (f", every {every}" if (every := term.get("every") or 1) != 1 else "")


def _what_words(term: ReadOnlyData) -> Iterator[str]:
    weak = term.get("weak")
    if weak is not None:
        yield weak if isinstance(weak, str) else f"{weak['lora']} at {weak['scale']:g}"
        return
    yield term.get("skip", "residual")
    if term.get("strength") is not None:
        yield f"{term['strength']:g}"
    layers = term["layers"]
    if isinstance(layers, Mapping):
        yield f"random {layers['random']:g}"
    else:
        yield parsing.format_layers(layers)
