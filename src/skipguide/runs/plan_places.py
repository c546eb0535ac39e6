"""Files that the settings of a plan name count from the folder of the plan, if they lie there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.models import parsing


def from_plan_folder(words: ReadOnlyData, base: Path) -> PlainData:
    """Return settings in which LoRAs, components and base models are found from anywhere.

    What is no file or folder beside the plan stays as it is written: a hub id, or a path from the
    current folder. What is wrong is left for the settings to say.

    Args:
        base: the folder of the plan.
    """
    out = dict(words)
    if isinstance(out.get("base_model"), str):
        out["base_model"] = _place(out["base_model"], base)
    try:
        loras = parsing.parse_loras(out.get("lora"))
        components = parsing.parse_components(out.get("component"))
    except ValueError:
        return out
    if loras and all(isinstance(entry, dict) for entry in loras):
        out["lora"] = [_with_place(entry, base) for entry in loras]
    if components:
        pairs = (entry.split("=", 1) for entry in components)
        out["component"] = [f"{name}={_place(path, base)}" for name, path in pairs]
    return out


def _with_place(lora: ReadOnlyData, base: Path) -> PlainData:
    path = lora.get("path")
    return {**lora, **({"path": _place(path, base)} if isinstance(path, str) else {})}


def _place(path: Any, base: Path) -> str:
    beside = base / path
    return str(beside) if beside.exists() and not Path(path).exists() else path
