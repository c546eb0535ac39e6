"""The files that people and services read: they say one version, and are complete."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
import tomllib
import yaml

import comfyui_archive
import skipguide

ROOT = Path(__file__).parents[2]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")


def test_one_version_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    pack = tomllib.loads((ROOT / "comfyui" / "pyproject.toml").read_text(encoding="utf-8"))
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert first is not None
    assert {cited["version"], pack["project"]["version"], first[1]} == {skipguide.__version__}


def test_the_node_pack_is_an_archive_that_can_be_made_again(tmp_path: Path) -> None:
    made, again = (comfyui_archive.write(tmp_path / name) for name in ("one", "two"))
    assert made.name == f"comfyui-skipguide-{skipguide.__version__}.zip"
    assert made.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(made) as archive:
        names = set(archive.namelist())
        for name in ("__init__.py", "LICENSE", "README.md", "pyproject.toml", "web/skipguide.js"):
            kept = (ROOT / "comfyui" / name).read_bytes()
            assert archive.read(f"skipguide/{name}") == kept
    assert "skipguide/_skipguide/method/formula.py" in names
    assert (ROOT / "comfyui" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert [path.name for path in (tmp_path / "one").iterdir()] == [made.name]


def test_the_citation_has_what_the_format_requires() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    paper = cited["preferred-citation"]
    assert {"type", "title", "authors", "year"} <= paper.keys()
    assert all({"family-names", "given-names"} == author.keys() for author in paper["authors"])


def test_each_issue_form_asks_for_something() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()
             if path.name != "config.yml"]  # fmt: skip
    assert len(forms) > 1
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= form.keys()
        for part in form["body"]:
            assert part["type"] in ("input", "textarea")
            assert part["attributes"]["label"]


@pytest.mark.parametrize("name", PAGES)
def test_links_of_the_pages_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (ROOT / link).exists(), link
    for named in re.findall(r"`(docs/[^`]*)`", text):
        assert (ROOT / named).exists(), named
