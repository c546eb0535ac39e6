"""Read files of prompts row by row: text, CSV and TSV, JSON and JSON lines.

What a row means is decided in `prompts`.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipguide.method import documents
from skipguide.method.validate import ProblemCollector

PROMPT_COLUMNS = ("prompt", "prompt_en")
_TABLES = {".csv": ",;\t", ".tsv": "\t", ".tab": "\t"}  # suffix -> what may separate its cells
_LINES_OF_JSON = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Row:
    """One row of a file of prompts.

    Args:
        place: where it stands, for errors.
        content: a text, or what a row says by its names.
        number: its name or its number in a JSON file.
    """

    place: str
    content: Any
    number: str | None = None


def read_rows(path: Path, problems: ProblemCollector) -> Iterator[Row]:
    """Yield the rows of a file, by what its name ends with.

    Args:
        problems: gets what is wrong with single rows, which are left out.

    Raises:
        ValueError: if it cannot be read, or is not what its name says.
    """
    ending, text = path.suffix.lower(), read_text(path)
    if ending in _TABLES:
        yield from _table_rows(text, _TABLES[ending], path, problems)
    elif ending == ".json":
        yield from _json_rows(text, path)
    elif ending in _LINES_OF_JSON:
        yield from _lines_of_json(text, path, problems)
    else:
        yield from _text_rows(text, path)


def read_text(path: Path) -> str:
    """Return the text of a file, without its byte order mark, and with LF at the ends of lines.

    Raises:
        ValueError: if it cannot be read, or is no text in UTF-8, or in UTF-16 with its mark.
    """
    try:
        content = path.read_bytes()
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        advice = "Check it." if isinstance(error, OSError) else "Save it as UTF-8."
        raise ValueError(
            f"prompts must be a readable file, but {path} is not: {reason}. {advice}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


# --- text -----------------------------------------------------------------------------------------


def _text_rows(text: str, path: Path) -> Iterator[Row]:
    """Yield one prompt per line; lines that begin with # are comments, with \\# prompts."""
    found = [
        Row(f"line {number}", line.strip())
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if found and (names := _header_names(found[0].content)):
        raise ValueError(
            f"a text file of prompts must have a prompt on each line, but {path} begins with the"
            f" columns {', '.join(names)}. Name it .csv or .tsv, or remove that line."
        )
    for row in found:
        yield Row(row.place, row.content.removeprefix("\\") if row.content[:2] == "\\#" else (
            row.content
        ))  # fmt: skip


def _header_names(line: str) -> list[str]:
    """Return the names of columns if a line is the header of a table with a column of prompts."""
    names = [name.strip(" \"'") for name in re.split(r"[,;\t]", line)]
    are_names = len(names) > 1 and all(re.fullmatch(r"\w+", name) for name in names)
    return names if are_names and set(map(str.lower, names)) & set(PROMPT_COLUMNS) else []


# --- tables ---------------------------------------------------------------------------------------


def _table_rows(
    text: str, separators: str, path: Path, problems: ProblemCollector
) -> Iterator[Row]:
    """Yield the rows of a table with a header, by the names of its columns in lower case."""
    lines = text.split("\n")
    start = next((i for i, line in enumerate(lines) if not _is_before_header(line)), len(lines))
    separator = _find_separator(lines[start] if start < len(lines) else "", separators)
    source = _TableLines(lines, start)
    reader = csv.reader(source, delimiter=separator, strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        _check_columns(names, path)
        source.begin_row()
        for cells in reader:
            place = f"line {source.first}"
            source.begin_row()
            content: dict[str, str] = {}
            with problems.attempt():
                content = _name_cells(names, cells, place, path)
            if content:
                yield Row(place, content)
    except csv.Error as error:
        raise ValueError(_describe_csv_error(error, source.first or 1, source.read, path)) from None


class _TableLines:
    """The lines of a table for csv, without comments between rows, and with their numbers.

    A # within a cell of several lines is no comment: csv asks for those lines before the row ends.
    """

    def __init__(self, lines: Sequence[str], start: int):
        self._lines, self.read, self.first = lines, start, 0  # numbers of lines, from 1

    def begin_row(self) -> None:
        """Note that the line that comes next begins a row."""
        self.first = 0

    def __iter__(self) -> _TableLines:
        return self

    def __next__(self) -> str:
        while self.read < len(self._lines):
            line = self._lines[self.read]
            self.read += 1
            if self.first or not line.startswith("#"):
                self.first = self.first or self.read
                last = self.read == len(self._lines)
                return line if last else f"{line}\n"
        raise StopIteration


def _describe_csv_error(error: csv.Error, first: int, last: int, path: Path) -> str:
    """Say what is wrong with a row that begins on the line `first` and was read to `last`."""
    reason, line = str(error), last
    advice = 'Put cells with quotes in quotes, each " doubled.'
    too_long = reason.startswith("field larger than")
    if too_long or reason.startswith("unexpected end"):  # the rest of the file is one cell
        line = first
        advice = f"Most often a closing quote is missing in its row: add it. {advice}"
    if too_long:
        reason = f"a cell has more than {csv.field_size_limit()} characters"
    return f"a table of prompts must be sound, but line {line} of {path} is not: {reason}. {advice}"


def _is_before_header(line: str) -> bool:
    """Tell whether a line is empty, a comment, or a spreadsheet's word on its separator."""
    return not line.strip() or line.lstrip().startswith("#") or line.lower().startswith("sep=")


def _find_separator(header: str, separators: str) -> str:
    """Return what separates the names in the header; some spreadsheets write ; for a comma."""
    return max(separators, key=header.count)


def _check_columns(names: Sequence[str], path: Path) -> None:
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValueError(
            f"the columns of a table must have names of their own, but {path} has"
            f" {', '.join(twice)} twice. Rename one."
        )
    found = [name for name in PROMPT_COLUMNS if name in names]
    if len(found) > 1:
        raise ValueError(
            f"a table must have one column of prompts, but {path} has {' and '.join(found)}, and"
            " either may be meant. Rename the one that is not."
        )
    if len(found) != 1 and not (not found and "image" in names):
        came = ", ".join(name[:40] or "one without a name" for name in names) or "none"
        raise ValueError(
            f"a table of prompts must begin with the names of its columns, one of them prompt, but"
            f" {path} has the columns {came}. Name them; if each line is a prompt, name the file"
            " .txt."
        )


def _name_cells(
    names: Sequence[str], cells: Sequence[str], place: str, path: Path
) -> dict[str, str]:
    if any(cell.strip() for cell in cells[len(names) :]):
        raise ValueError(
            f"a row of a table must have no more cells than there are columns, {len(names)}, but"
            f" {place} of {path} has {len(cells)}. Put prompts with commas in quotes."
        )
    filled = {name: cell.strip() for name, cell in zip(names, cells, strict=False)}
    return {name: cell for name, cell in filled.items() if name and cell}


# --- JSON -----------------------------------------------------------------------------------------


def _json_rows(text: str, path: Path) -> Iterator[Row]:
    try:
        content = documents.load_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"a file of prompts named .json must be JSON, but {path} is not: {error}. Correct it."
        ) from None
    except documents.DuplicateKeys as error:
        raise ValueError(
            f"a file of prompts must have every key once, but in {path} {error}"
        ) from None
    if isinstance(content, dict):
        rows = list(content.items())
    elif isinstance(content, list):
        rows = list(enumerate(content))
    else:
        rows = []
    for number, row in rows:
        yield Row(f"row {number}", row, str(number))


def _lines_of_json(text: str, path: Path, problems: ProblemCollector) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            row = None
            with problems.attempt():
                row = _line_of_json(line, number, path)
            if row is not None:
                yield row


def _line_of_json(line: str, number: int, path: Path) -> Row:
    try:
        return Row(f"line {number}", documents.load_json(line, number))
    except documents.DuplicateKeys as error:
        raise ValueError(
            f"each line of {path.name} must have every key once, but in {path} {error}"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"each line of {path.name} must be JSON, a text or a row with prompt, but line"
            f" {number} of {path} is not: {error}. Correct it."
        ) from None
