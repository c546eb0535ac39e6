"""The parts that fields of settings and flags share: help text, words for a wrong value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from skipguide.files.text import displayable
from skipguide.method import validate
from skipguide.method.protocols import ReadOnlyData


def describe_field(must: str, help: str, default: Any = None, **limits: Any) -> Any:
    """Return a field with its help text and, for the error message, what its value must be."""
    return Field(default, description=help, json_schema_extra={"must": must}, **limits)


def requirement_of(model: type[BaseModel], name: str) -> str:
    """Return what the value of a field must be, in words."""
    extra = model.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["must"])


def flag_name(name: str) -> str:
    """Return how a setting is written on the command line."""
    return "PROMPT" if name == "prompt" else f"--{name.replace('_', '-')}"


def validation_messages(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    """Yield one sentence or two for each field that is wrong, and for what does not go together."""
    for entry in error.errors():
        yield _message(model, dict(entry))


def _message(model: type[BaseModel], error: ReadOnlyData) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    value: Any = error["input"]
    in_a_file = name == "preset" and isinstance(value, Mapping)
    if name in ("", "guidance") or in_a_file:  # they speak for themselves
        return str(error["ctx"]["error"])
    if error["type"] == "extra_forbidden":
        known = list(model.model_fields)
        advice = validate.did_you_mean(name, known, otherwise="Remove it.")
        return f"a flag must be one of {', '.join(known)}, but got {name!r}. {advice}"
    if error["type"] == "string_unicode":
        return (
            f"{name} must be {requirement_of(model, name)} in UTF-8, but"
            f" {displayable(str(value))!r} has other bytes. Rename it."
        )
    return (
        f"{name} must be {requirement_of(model, name)}, but got {value!r}. Set it with"
        f" {flag_name(name)}, or as {name} in the config file."
    )
