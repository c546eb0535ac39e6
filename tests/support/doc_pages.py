"""Code in pages: blocks of Python, and command lines of skipguide."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from skipguide.cli import app

ROOT = Path(__file__).parents[2]
COMMAND: Any = get_command(app)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str  # path in the repository
    line: int  # of its first line of code
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """The pages with code: decisions are records of what was, and are not run."""
    found = [ROOT / "README.md", ROOT / "comfyui" / "README.md", *(ROOT / "docs").glob("*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str, page: str) -> Iterator[Block]:
    """The fenced blocks of a page, those in a list as well."""
    pattern = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    for match in pattern.finditer(text):
        indent, language, code = match.groups()
        code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        yield Block(page, text[: match.start(3)].count("\n") + 1, language, code)


def command_lines(text: str, page: str) -> list[tuple[str, list[str]]]:
    """The command lines of skipguide in blocks, indented lines and inline code, in words, each with
    where it stands."""
    found = []
    for block in blocks(text, page):
        if block.language != "python":
            found += [(str(block), words) for words in _words(block.code)]
    rest = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = "\n".join(re.findall(r"^    (.*)$", rest, re.MULTILINE))
    found += [(page, words) for words in _words(indented)]
    for code in re.findall(r"(?<!`)`(skipguide [^`]+)`(?!`)", rest):
        found += [(page, words) for words in _words(" ".join(code.split()))]
    return found


def _words(text: str) -> Iterator[list[str]]:
    """The words after `skipguide` in each line that has it, lines that go on joined."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if re.match(r"skipguide |torchrun .* skipguide ", line.strip()):
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), "&&"]:
                if word not in ("&&", ">", "|"):
                    words.append(word)
                    continue
                if "skipguide" in words:  # what a file or another program gets is none
                    yield words[words.index("skipguide") + 1 :]
                words = []


def parse(words: list[str]) -> None:
    """Read a command line as the real parser does, without running the verb."""
    command = COMMAND
    words = ["1" if word == "N" else word for word in words]  # a number, which the prose is about
    context = command.make_context("skipguide", list(words), resilient_parsing=False)
    while hasattr(command, "commands"):
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not rest:
            return
        name, command, rest = command.resolve_command(context, rest)
        if rest[-1:] == ["--help"]:
            return
        context = command.make_context(name, rest, parent=context)
