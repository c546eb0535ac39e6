"""The page docs/options.md, made from the help of `skipguide generate`."""

from __future__ import annotations

from typing import Any

from typer.main import get_command

from skipguide.cli import app
from skipguide.cli.help_groups import help_sections

HEAD = """\
# Options of `generate`

`compare` takes them too. In a plan of `sweep`, in the file of `--config` and in `Python` the same
names have `_` for `-`. This page is made from the help: `make options-page`.
"""


def options_page() -> str:
    group: Any = get_command(app)
    command = group.commands["generate"]
    context = command.make_context("generate", ["x"], resilient_parsing=True)
    parts = [HEAD]
    for title, entries in help_sections(command, context):
        rows = [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in entries]
        parts.append(
            "\n".join([f"## {title}", "", "| option | what it does |", "|---|---|", *rows])
        )
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(options_page(), end="")
