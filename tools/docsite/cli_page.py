"""The page of the command line, made from its help: every verb with its arguments and options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from skipguide.cli import app

HEAD = """\
# Command line

`skipguide VERB --help` prints what stands here. Results come as JSON with `--json` where a verb has
it; errors go to stderr and the exit code is then 1, or 2 for a command line that cannot be read.
"""
# The options of these are a page of their own.
LONG = {
    "generate": "[options.md](options.md)",
    "compare": "those of `generate`, [options.md](options.md)",
}


def cli_page() -> str:
    """Return the page."""
    parts = [HEAD]
    for name, command in commands():
        context = command.make_context(name, [], resilient_parsing=True)
        parts.append(_section(name, command, context))
    return "\n".join(parts)


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each verb and its command, as in ("runs compare", ...), in the order of the help."""
    yield from _below(get_command(app), ())


def _below(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _below(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def _section(name: str, command: Any, context: Any) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    text = inspect.cleandoc(command.help or "")
    lines = [f"## {name}\n", f"    skipguide {name} {usage}\n", f"{_prose(text)}\n"]
    if name in LONG:
        return "\n".join([*lines, f"Options: {LONG[name]}\n"])
    rows = [record for p in command.get_params(context) if (record := p.get_help_record(context))]
    rows = [row for row in rows if row[0] != "--help"]
    if rows:
        lines += ["| argument or option | what it does |", "|---|---|"]
        lines += [f"| `{_cell(option)}` | {_escape(_cell(said))} |" for option, said in rows]
    return "\n".join([*lines, ""])


def _prose(text: str) -> str:
    """Return the help with its paragraphs as they are; \b is Click's mark of lines to keep."""
    return _escape(text.replace("\b\n", ""))


def _escape(text: str) -> str:
    """Return text in which nothing is taken for HTML or emphasis."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
