"""Run Jupyter notebooks in this process, keep their outputs, and turn them into pages.

What a kernel would do with the few kinds of cells that there are: code in one namespace, its
prints, and the value of a last line, as text or as a picture. No kernel is started, so that a test
of five notebooks loads the libraries once (decision 117)."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
Cell = dict[str, Any]
PARAMETERS = "parameters"  # the tag of the cell whose values a run may replace
INDENT = 1  # of the files, as Jupyter writes them


def read(path: Path) -> Notebook:
    """Read a notebook."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, notebook: Notebook) -> None:
    """Write a notebook."""
    text = json.dumps(notebook, indent=INDENT, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def run(notebook: Notebook, parameters: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Run all cells in order, put their outputs into the notebook, and return the namespace.

    Args:
        parameters: in the place of what the cell with the tag "parameters" sets.

    Raises:
        Exception: what a cell raises.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            cell["execution_count"] = number
            cell["outputs"] = list(_run_cell(source(cell), number, names))
            if PARAMETERS in cell["metadata"].get("tags", ()):
                names.update(parameters)
    return names


def source(cell: Cell) -> str:
    """Return the text of a cell."""
    return "".join(cell["source"])


def _run_cell(code: str, number: int, names: dict[str, Any]) -> Iterator[Cell]:
    tree = ast.parse(code, f"cell {number}")
    last = tree.body[-1] if tree.body else None
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if isinstance(last, ast.Expr):
            tree.body.pop()
            exec(compile(tree, f"cell {number}", "exec"), names)
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        else:
            exec(compile(tree, f"cell {number}", "exec"), names)
    if text := printed.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": _lines(text)}
    if value is not None:
        data: dict[str, Any] = {"text/plain": _lines(_plain(value))}
        if _is_picture(value):
            data["image/png"] = base64.b64encode(value._repr_png_()).decode()
        yield {
            "output_type": "execute_result", "execution_count": number, "metadata": {},
            "data": data,
        }  # fmt: skip


def _plain(value: Any) -> str:
    """Return the text of a value; of a picture without its place in memory."""
    return f"a picture of {value.size[0]} x {value.size[1]}" if _is_picture(value) else repr(value)


def _is_picture(value: Any) -> bool:
    return hasattr(value, "_repr_png_")


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


# --- pages ----------------------------------------------------------------------------------------


def to_page(notebook: Notebook, name: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by their names beside the page.

    Args:
        name: of the file, without its suffix.
    """
    parts, pictures = [], {}
    for number, cell in enumerate(notebook["cells"]):
        text = source(cell)
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```py\n{text}\n```")
        for output in cell["outputs"]:
            if png := output.get("data", {}).get("image/png"):
                pictures[f"{name}-{number}.png"] = base64.b64decode(png)
                parts.append(f"![Output of the cell above]({name}-{number}.png)")
            else:
                said = output.get("text") or output["data"]["text/plain"]
                parts.append(f"```text\n{''.join(said).rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures
