"""Tables of rows with names: CSV, and files whose kind is the ending of their name."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from skipguide.files.atomic import atomic_replace

Rows = Sequence[Mapping[str, Any]]


def to_csv(rows: Rows, names: Sequence[str] | None = None) -> str:
    """Return rows as CSV with a heading.

    Args:
        names: the columns; None for all names that the rows have, in the order of the first use.
    """
    out = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row) if names is None else names
    writer = csv.DictWriter(out, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def import_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its module of Parquet.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise ValueError(
            "Parquet needs the package pyarrow, but it is not installed. Run `pip install pyarrow`,"
            " or name the file .csv."
        ) from None


def choose_writer(
    path: Path, writers: Mapping[str, Callable[[Path, Rows], object]]
) -> Callable[[Rows], None]:
    """Return the function that writes rows to a file, whole or not at all.

    Args:
        writers: ending of a name -> what writes the file.

    Raises:
        ValueError: for another ending, or .parquet without pyarrow.
    """
    write = writers.get(path.suffix.lower())
    if write is None:
        *others, last = writers
        raise ValueError(
            f"--out must be named {', '.join(others)} or {last}, but got {str(path)!r}. Rename it."
        )
    if path.suffix.lower() == ".parquet":
        import_pyarrow()

    def write_whole(rows: Rows) -> None:
        with atomic_replace(path) as (part,):
            write(part, rows)

    return write_whole
