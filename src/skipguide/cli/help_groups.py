"""The help of `generate` and `compare` in groups: what people use first, then one subject each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand

from skipguide.generate.flags import GuidanceFlags
from skipguide.models.settings import ModelSettings

MODEL = "Model and memory"
GUIDANCE = "More guidance"
# Title -> parameters of the verbs, in the order of the help. Where the rest of a schema goes is
# said by `_GROUP_OF_SCHEMA`, so that a new setting has a place.
GROUPS: dict[str, tuple[str, ...]] = {
    "Most used": (
        "model", "image", "negative_prompt", "layers", "stg_scale", "guidance_scale", "steps",
        "seed", "num_frames", "out", "out_dir",
    ),
    "Size and speed of the video": ("height", "width", "fps", "cache", "picture_format"),
    GUIDANCE: ("preset",),
    MODEL: ("parallel",),
    "Text and image": (
        "max_sequence_length", "image_fit", "min_guidance_scale", "motion_bucket_id",
        "noise_aug_strength", "decode_chunk_size",
    ),
    "Many prompts": ("prompts", "prompt_file", "seeds"),
    "Files and output": ("config", "overwrite", "as_json", "help"),
}  # fmt: skip
_GROUP_OF_SCHEMA = {GuidanceFlags: GUIDANCE, ModelSettings: MODEL}


def group_of(name: str) -> str:
    """Return the title under which the help lists a parameter.

    Raises:
        KeyError: for one without a group.
    """
    for title, names in GROUPS.items():
        if name in names:
            return title
    for schema, title in _GROUP_OF_SCHEMA.items():
        if name in schema.model_fields:
            return title
    raise KeyError(name)


class GroupedCommand(TyperCommand):
    """A command whose help lists its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, and then one section per group."""
        for title, entries in help_sections(self, ctx):
            with formatter.section(title):
                formatter.write_dl(entries)


class PanelCommand(TyperCommand):
    """A command whose help lists its options by the `rich_help_panel` that each names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, options without a panel, and then one section per panel."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            is_argument = parameter.param_type_name == "argument"
            title = "Arguments" if is_argument else _panel_of(parameter)
            if (record := parameter.get_help_record(ctx)) is not None:
                sections.setdefault(title, []).append(record)
        for title, entries in sections.items():
            if entries:
                with formatter.section(title):
                    formatter.write_dl(entries)


def _panel_of(parameter: Any) -> str:
    return getattr(parameter, "rich_help_panel", None) or "Options"


def help_sections(command: Any, ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the title of each section of the help, and its options with what they mean."""
    arguments: list[tuple[str, str]] = []
    found: dict[str, list[tuple[int, tuple[str, str]]]] = {title: [] for title in GROUPS}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            arguments.append(record)
            continue
        title = group_of(parameter.name)
        listed = GROUPS[title]
        rank = listed.index(parameter.name) if parameter.name in listed else len(listed)
        found[title].append((rank, record))
    if arguments:
        yield "Arguments", arguments
    for title, entries in found.items():
        if entries:
            yield title, [record for _, record in sorted(entries, key=lambda entry: entry[0])]
