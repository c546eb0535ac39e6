"""docs/why.md: a template whose every number is a field, filled from docs/why/numbers.json.

    [[value SETTING MEASURE]]            30.9 % (28.0 to 33.8), over networks
    [[gain SETTING BASE MEASURE]]        -5.2 (-7.0 to -3.4) points, on the same networks and noise
    [[state PLACE PUSH NAME]]            one of why.STATES, such as [[state own-late stg-1 uphill]]
    [[predicts PLACE NAME SETTING MEASURE]]  correlation over the layers
    [[table NAME]]                       methods, layers, beside, scales
    [[plan NAME]]                        networks, steps, samples

The sentences around the fields are written by hand, in why.md beside this file."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from skipguide.lab import training_loop
from skipguide.paper import why
from skipguide.paper.tables import format_estimate, markdown_table
from skipguide.paper.why import Found, Plan
from skipguide.stats.estimate import Estimate

FIELD = re.compile(r"\[\[([^\[\]]+)\]\]")
SHARES = ("strays", "other", "coverage")  # shown in percent
DIGITS = {"log_density": 2, "thickness": 2, "energy": 4, "best": 2}
TITLES = {
    "log_density": "log-density ↑", "strays": "off the tree, % ↓", "other": "other class, %",
    "coverage": "covered, % ↑", "thickness": "thickness", "energy": "energy distance ↓",
}  # fmt: skip
CHANGES = ("strays", "coverage", "other", "thickness", "energy")
METHODS = {
    "real": "real points", "exact": "exact velocity", "none": "no guidance",
    **{f"cfg-{g:g}": f"CFG, g = {g:g}" for g in why.CFG},
    **{f"auto-{s:g}": f"Autoguidance, s = {s:g}" for s in why.AUTO},
}  # fmt: skip


# --- files ----------------------------------------------------------------------------------------


def write_numbers(plan: Plan, networks: Sequence[dict[str, Any]], docs: Path) -> Path:
    """Write the numbers, a network a line, with five digits."""
    lines = [json.dumps(_round(one)) for one in networks]
    text = f'{{"plan": {json.dumps(dataclasses.asdict(plan))}, "networks": [\n'
    path = numbers_path(docs)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, text + ",\n".join(lines) + "\n]}\n")
    return path


def read_numbers(docs: Path) -> tuple[Plan, Found]:
    """Read what `write_numbers` wrote.

    Raises:
        ValueError: if there is none.
    """
    path = numbers_path(docs)
    if not path.is_file():
        raise ValueError(f"{path} is not there. Run `skipguide paper why` without --text-only.")
    data = json.loads(path.read_text())
    return Plan(**data["plan"]), Found(data["networks"])


def numbers_path(docs: Path) -> Path:
    """Return where the numbers are."""
    return docs / "why" / "numbers.json"


def write_page(docs: Path) -> Path:
    """Fill the template from the numbers that are in a folder."""
    path = docs / "why.md"
    _write(path, fill(*read_numbers(docs)))
    return path


def _write(path: Path, text: str) -> None:
    with training_loop.atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _round(one) for name, one in value.items()}
    return [_round(one) for one in value] if isinstance(value, list) else float(f"{value:.5g}")


# --- fields ---------------------------------------------------------------------------------------


def fill(plan: Plan, found: Found) -> str:
    """Return the page."""
    template = resources.files("skipguide.paper").joinpath("why.md").read_text(encoding="utf-8")

    def replace(match: re.Match[str]) -> str:
        verb, *rest = match.group(1).split()
        if verb == "table":
            return "\n".join(TABLES[rest[0]](found))
        if verb == "plan":
            return f"{getattr(plan, rest[0]):,}"
        if verb in ("value", "gain"):
            return show(getattr(found, verb)(*rest), rest[-1], signed=verb == "gain")
        if verb in ("state", "predicts"):
            signed = verb == "predicts" or rest[-1] not in ("error", "guided", "length")
            return show(getattr(found, verb)(*rest), "", signed)
        raise ValueError(f"why.md has a field of an unknown kind: {match.group(0)}")

    return FIELD.sub(replace, template)


def show(found: Estimate, measure: str, signed: bool = False, unit: bool = True) -> str:
    """Format an estimate; shares in percent, and their differences in points."""
    if measure not in SHARES:
        return format_estimate(found, DIGITS.get(measure, 2), signed)
    low, high = (None if one is None else 100 * one for one in (found.low, found.high))
    text = format_estimate(Estimate(100 * found.value, low, high, found.count), 1, signed)
    if not unit:
        return text
    value, _, interval = text.partition(" ")
    return f"{text} points" if signed else f"{value} % {interval}".rstrip()


# --- tables ---------------------------------------------------------------------------------------


def _methods_table(found: Found) -> list[str]:
    rows = [
        [title, *(show(found.value(name, one), one, unit=False) for one in why.MEASURES)]
        for name, title in METHODS.items()
    ]
    return markdown_table(["", *TITLES.values()], rows)


def _layers_table(found: Found) -> list[str]:
    """Each push at its scale less no guidance, beside what it does on the network's own way."""
    ways = {"auto": ("auto-0.5", "Autoguidance, s = 0.5"), "cfg": ("cfg-1.5", "CFG, g = 1.5")}
    ways |= {f"stg-{one}": (f"stg-{one}-0.5", f"STG, layer {one}, s = 0.5") for one in why.LAYERS}
    rows = []
    for push, (setting, title) in ways.items():
        changes = [found.gain(setting, "none", one) for one in CHANGES]
        states = [found.state("own-late", push, one) for one in ("uphill", "felt", "against")]
        marked = [_mark(one, name) for one, name in zip(changes, CHANGES, strict=True)]
        rows.append([title, *marked, *(_mark(one, "") for one in states)])
    heading = ["less no guidance", *(TITLES[one] for one in CHANGES)]
    return markdown_table([*heading, "uphill", "felt", "against the error"], rows)


def _beside_table(found: Found) -> list[str]:
    """Each weak model beside CFG, less that CFG alone."""
    g, s = why.BOTH
    rows = []
    for name in ("auto", *map(str, why.LAYERS)):
        title = f"Autoguidance, s = {s:g}" if name == "auto" else f"STG, layer {name}, s = {s:g}"
        changes = [found.gain(f"both-{name}", f"cfg-{g:g}", one) for one in CHANGES]
        rows.append([title, *map(_mark, changes, CHANGES)])
    return markdown_table([f"less CFG alone, g = {g:g}", *(TITLES[one] for one in CHANGES)], rows)


def _mark(found: Estimate, measure: str) -> str:
    """Format a difference, bold if its interval excludes 0."""
    text = show(found, measure, signed=True, unit=False)
    return f"**{text}**" if found.sign else text


def _scales_table(found: Found) -> list[str]:
    """Strays and coverage of each layer along the scale, plain and normalized."""
    names = [f"stg-{{}}-{s:g}" for s in why.STG] + [f"norm-{{}}-{s:g}" for s in why.NORMAL]
    heads = [f"s = {s:g}" for s in why.STG] + [f"normalized, s = {s:g}" for s in why.NORMAL]
    rows = []
    for layer in why.LAYERS:
        pairs = [
            [found.value(name.format(layer), one).value for one in ("strays", "coverage")]
            for name in names
        ]
        rows.append([f"layer {layer}", *(f"{100 * a:.0f} / {100 * b:.0f}" for a, b in pairs)])
    return markdown_table(["off the tree / covered, %", *heads], rows)


TABLES = {
    "scales": _scales_table,
    "methods": _methods_table,
    "layers": _layers_table,
    "beside": _beside_table,
}
