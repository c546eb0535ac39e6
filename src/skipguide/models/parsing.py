"""Read the settings of a model that have a small grammar: LoRAs, components, scheduler, offload.

What a wrong value must be is said by the field, in `settings.ModelSettings`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from skipguide.method.protocols import PlainData

DENOISERS = ("transformer", "transformer_2", "unet")  # components of pipelines, in their order
QUANTIZATIONS = ("int8", "fp8", "nf4")
QUANTIZERS = ("quanto", "torchao", "bitsandbytes")
_OFFLOAD = r"model|sequential|group(:[1-9]\d*)?"
_SCHEDULER = r"\w+(:\w+=[^,=]+(,\w+=[^,=]+)*)?"
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"


def parse_loras(value: Any) -> Any:
    """Return LoRAs as plain data: from PATH, PATH:SCALE, NAME=PATH:SCALE with the name of a
    denoiser, {path, scale}, or a list of these."""
    if value is None:
        return None
    return tuple(_parse_lora(entry) for entry in (value if _is_list(value) else [value])) or None


def _parse_lora(entry: Any) -> Any:
    if not isinstance(entry, str):
        return entry
    named = re.fullmatch(rf"(?P<name>{'|'.join(DENOISERS)})=(?P<rest>.+)", entry)
    component = {"component": named["name"]} if named else {}
    entry = named["rest"] if named else entry
    # The last colon, so that C:\loras\x.safetensors stays a path.
    found = re.fullmatch(rf"(?P<path>.+):(?P<scale>{_NUMBER})", entry, re.IGNORECASE)
    if found and not Path(entry).exists():  # a folder may have such a name
        return {"path": found["path"], "scale": float(found["scale"]), **component}
    return {"path": entry, **component}


def parse_components(value: Any) -> Any:
    """Return components as a tuple of NAME=PATH, in the order of their names.

    Raises:
        ValueError: for something else, or a component that is named twice.
    """
    if value is None:
        return None
    if isinstance(value, dict):
        value = [f"{name}={path}" for name, path in value.items()]
    entries = list(value) if _is_list(value) else [value]
    if not all(isinstance(entry, str) and re.fullmatch(r"\w+=.+", entry) for entry in entries):
        raise ValueError("component must be NAME=PATH")
    names = [entry.partition("=")[0] for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError("component must name each component once")
    return tuple(sorted(entries)) or None


def parse_offload(value: Any) -> Any:
    """Return "model", "sequential", "group" or "group:N".

    Raises:
        ValueError: for something else.
    """
    if value is None or (isinstance(value, str) and re.fullmatch(_OFFLOAD, value)):
        return value
    raise ValueError("offload must be one of those")


def parse_quantize(value: Any) -> Any:
    """Return a quantization, with the library if it was named: "int8", "int8:torchao".

    Raises:
        ValueError: for something else.
    """
    if value is None:
        return None
    kind, _, library = str(value).partition(":")
    if isinstance(value, str) and kind in QUANTIZATIONS and library in ("", *QUANTIZERS):
        return value
    raise ValueError("quantize must be one of those")


def parse_scheduler(value: Any) -> Any:
    """Return a scheduler as NAME or NAME:OPTION=VALUE,... in one spelling.

    The name is that of diffusers' class, with or without the word Scheduler at its end.

    Raises:
        ValueError: for something else.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(_SCHEDULER, value):
        raise ValueError("scheduler must be a name, or a name and options")
    name, colon, options = value.partition(":")
    given = re.findall(r"(\w+)=", options)
    if len(set(given)) < len(given):
        raise ValueError("scheduler must have each option once")
    return name.removesuffix("Scheduler") + colon + options


def split_scheduler(scheduler: str) -> tuple[str, PlainData]:
    """Return the name of a scheduler's class and its options, read as YAML reads values."""
    import yaml

    name, _, text = scheduler.partition(":")
    pairs = (pair.partition("=") for pair in text.split(",") if pair)
    return f"{name}Scheduler", {key: yaml.safe_load(value) for key, _, value in pairs}


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))
