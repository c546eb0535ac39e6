"""The notebooks run in few steps, and the outputs that they are kept with are those of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from docsite import links, notebooks
from support.doc_pages import ROOT

FOLDER = ROOT / "docs" / "notebooks"
PROMPT = "a small red star orbiting over a blue background"
SMALL: dict[str, dict[str, Any]] = {
    "first-clip": dict(steps=2),
    "choose-a-layer": dict(steps=4, prompts=[PROMPT]),
    "your-own-metric": dict(steps=2, seeds=[0, 1]),
    "a-blind-test": dict(steps=2, prompts=[PROMPT], seeds=[0, 1]),
    "adding-a-family": dict(steps=2),
}
PATHS = sorted(FOLDER.glob("*.ipynb"))


def said(notebook: notebooks.Notebook) -> str:
    """The text of all outputs."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    return "".join(
        "".join(output.get("text") or output["data"]["text/plain"]) for output in outputs
    )


def test_each_notebook_is_run_by_a_test() -> None:
    assert {path.stem for path in PATHS} == set(SMALL)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "first-clip" else [pytest.mark.long])
        for name in SMALL
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skipguide.families import lookup

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lookup, "FAMILIES", lookup.FAMILIES)  # one of them adds a row
    notebook = notebooks.read(FOLDER / f"{name}.ipynb")
    kept = [len(cell.get("outputs", ())) for cell in notebook["cells"]]
    names = notebooks.run(notebook, SMALL[name])
    assert names["steps"] == SMALL[name]["steps"]
    assert [len(cell.get("outputs", ())) for cell in notebook["cells"]] == kept
    assert "False" not in said(notebook)  # each comparison holds


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_name_no_machine(path: Path) -> None:
    notebook = notebooks.read(path)
    assert notebook["nbformat"] == 4
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert said(notebook)
    assert not re.search(r"/(tmp|home|root|work|usr|opt)\b|0x[0-9a-f]{6}", said(notebook))
    assert path.stat().st_size < 1e6


def test_a_notebook_as_a_page() -> None:
    cell: dict[str, Any] = {"cell_type": "code", "metadata": {}, "source": ["print(1)\n", "2"]}
    text = {"cell_type": "markdown", "metadata": {}, "source": ["# A\n", "[b](c.ipynb)"]}
    notebook = {"cells": [text, cell]}
    notebooks.run(notebook)
    page, pictures = notebooks.to_page(notebook, "a")
    said = "```py\nprint(1)\n2\n```\n\n```text\n1\n```\n\n```text\n2\n```\n"
    assert page == f"# A\n[b](c.ipynb)\n\n{said}"
    assert pictures == {}
    assert "[b](c.md)" in links.to_site(page, "notebooks/a.md")


def test_a_picture_is_an_output_and_a_file_of_the_page() -> None:
    code = "from PIL import Image\nImage.new('L', (3, 2))"
    cell: dict[str, Any] = {"cell_type": "code", "metadata": {}, "source": [code]}
    notebook = {"cells": [cell]}
    notebooks.run(notebook)
    (output,) = cell["outputs"]
    assert output["data"]["text/plain"] == ["a picture of 3 x 2"]
    page, pictures = notebooks.to_page(notebook, "a")
    assert pictures["a-0.png"].startswith(b"\x89PNG")
    assert "![Output of the cell above](a-0.png)" in page


def test_an_error_of_a_cell_is_one_of_the_run() -> None:
    cell = {"cell_type": "code", "metadata": {}, "source": ["1 / 0"]}
    with pytest.raises(ZeroDivisionError):
        notebooks.run({"cells": [cell]})
