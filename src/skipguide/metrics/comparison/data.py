"""The comparison in long form, one row per setting and measure, as CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from skipguide.files import tables
from skipguide.metrics.comparison.layout import caption
from skipguide.metrics.comparison.table import ComparedRow, Comparison

COLUMNS = tuple(field.name for field in fields(ComparedRow))


def write_csv(table: Comparison) -> str:
    """Return the rows as CSV; what is unknown is empty, bold is true or false."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in table.rows:
        values = asdict(row).values()
        writer.writerow([str(v).lower() if isinstance(v, bool) else v for v in values])
    return out.getvalue()


def write_parquet(table: Comparison, path: Path) -> None:
    """Write the rows with their types; the caption and the notes are in the file's metadata.

    Raises:
        ValueError: without pyarrow.
    """
    arrow, parquet = tables.import_pyarrow()
    kinds = {"str": arrow.string(), "float": arrow.float64(), "int": arrow.int64()}
    kinds["bool"] = arrow.bool_()
    columns = [(field.name, _kind(kinds, str(field.type))) for field in fields(ComparedRow)]
    said = {"caption": caption(table), "notes": list(table.notes), "adjust": table.adjust}
    described = {"skipguide": json.dumps(said, ensure_ascii=False)}
    schema = arrow.schema(columns, described)
    rows = [asdict(row) for row in table.rows]
    parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), path)


def _kind(kinds: dict[str, Any], annotation: str) -> Any:
    """Return the column's type: `float | None` is float; what is named otherwise is text."""
    return kinds.get(annotation.partition(" ")[0], kinds["str"])
