"""Tables of rows with names as CSV, and what Parquet needs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any


def to_csv(rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> str:
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
