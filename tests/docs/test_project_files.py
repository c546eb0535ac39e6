"""The files that people and services read: they say one version, and are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomllib
import yaml

import skipguide

ROOT = Path(__file__).parents[2]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")


def test_one_version_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    pack = tomllib.loads((ROOT / "comfyui" / "pyproject.toml").read_text(encoding="utf-8"))
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert first is not None
    assert {cited["version"], pack["project"]["version"], first[1]} == {skipguide.__version__}


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
