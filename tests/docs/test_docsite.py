"""What `make docs` adds to the pages, and that pages of docs/ can be read on GitHub as well: their
links lead to files of the repository."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import yaml

import skipguide
from docsite import api_pages, cli_page, links, model_pages, offline
from skipguide.families import presets
from skipguide.families.rows import FAMILIES, REFUSED_PIPELINES
from support.doc_pages import ROOT, blocks, command_lines, parse

MEASURED = model_pages.measured_costs((ROOT / "docs" / "bench.md").read_text(encoding="utf-8"))
MODELS = model_pages.model_pages(MEASURED)
NAMES = [f"models/{name}.md" for name in ("mochi", "wan", "hunyuan", "svd", "sd3", "ltx-2")]


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "paper", "tune", "decisions"])
def test_links_between_pages_lead_to_files(folder: str) -> None:
    """Of the repository, so that they work on GitHub; the site's own are checked by mkdocs."""
    missing = []
    for page in sorted((ROOT / "docs" / folder).glob("*.md")):
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)", text):
            if ":" not in target and not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
    assert missing == []


def test_each_page_is_in_the_nav_or_said_to_be_outside_of_it() -> None:
    class Loader(yaml.SafeLoader):
        """Reads mkdocs.yml, which names a function."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    config: Any = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    listed = set(re.findall(r"[\w./-]+\.md", yaml.safe_dump(config["nav"])))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= listed


def test_links_that_leave_docs() -> None:
    text = "[a](../examples/sweep.yaml), [b](../README.md#x), [c](tune.md), [d](https://x.org)\n"
    quoted = "```\n[e](../none.py)\n```\n"
    assert links.repository_paths(text + quoted, "page.md") == ["examples/sweep.yaml", "README.md"]
    assert links.to_site(text, "page.md") == (
        "[a](repository/examples/sweep.yaml), [b](index.md#x), [c](tune.md), [d](https://x.org)\n"
    )
    assert "](../index.md#x)" in links.to_site("[b](../../README.md#x)", "paper/page.md")
    with pytest.raises(ValueError, match=r"needs a file of the repository, but none\.py is none"):
        links.read_checked(ROOT, "none.py")


def test_a_page_of_another_folder(tmp_path: Path) -> None:
    (tmp_path / "comfyui").mkdir()
    text = "[a](pictures/a.png) [b](../docs/tune.md#x) [c](https://x.org)"
    (tmp_path / "comfyui" / "README.md").write_text(text, encoding="utf-8")
    moved = links.from_folder(tmp_path, "comfyui/README.md")
    assert moved == "[a](../comfyui/pictures/a.png) [b](tune.md#x) [c](https://x.org)"


# --- nothing from other hosts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://x.org/a.js"></script>',
        '<link rel="stylesheet" href="//x.org/a.css">',
        '<link rel="preconnect" href="https://x.org">',
        '<img srcset="a.png 1x, https://x.org/b.png 2x">',
        "<style>@import 'https://x.org/a.css';</style>",
        '<p style="background: url(https://x.org/a.png)">',
        "<video poster=https://x.org/a.png></video>",
    ],
)
def test_what_a_browser_would_load_from_elsewhere_is_found(html: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(f"<html><body>{html}", encoding="utf-8")
    (found,) = offline.external_requests(tmp_path)
    assert found.startswith("index.html: ")
    assert "//x.org" in found


def test_what_a_reader_may_follow_is_not(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<link rel="canonical" href="https://x.org"><a href="https://x.org">x</a>'
        '<script src="a.js"></script><img src="data:image/png;base64,a//b">'
        '<svg xmlns="http://www.w3.org/2000/svg"><use href="#a"/></svg>',
        encoding="utf-8",
    )
    (tmp_path / "a.css").write_text("a { background: url(data:image/svg+xml;x) }", encoding="utf-8")
    assert offline.external_requests(tmp_path) == []
    (tmp_path / "a.css").write_text(
        "@font-face { src: url(https://x.org/f.woff) }", encoding="utf-8"
    )
    assert offline.external_requests(tmp_path) == ["a.css: https://x.org/f.woff"]


# --- pages of models ------------------------------------------------------------------------------


def test_there_is_a_page_for_each_family_and_each_is_in_the_nav() -> None:
    assert set(MODELS) == {model_pages.page_path(family) for family in FAMILIES}
    paths = re.findall(r"models/[\w-]+\.md", str(model_pages.model_nav()))
    assert sorted(paths) == sorted(MODELS)


def test_each_preset_and_each_pipeline_is_on_a_page() -> None:
    text = "\n".join(MODELS.values())
    for row in presets.load_presets():
        if row.pipelines:
            assert f"| **{row.name}** |" in text or f"| {row.name} |" in text
    for family in FAMILIES:
        page = MODELS[model_pages.page_path(family)]
        assert all(f"- `{name}`" in page for name in family.pipelines)
        assert page.startswith(f"# {family.title}\n")


@pytest.mark.parametrize("page", NAMES)
def test_command_lines_of_a_model_are_read(page: str) -> None:
    found = command_lines(MODELS[page], page)
    assert len(found) >= 2
    for _, words in found:
        parse(words)


@pytest.mark.parametrize(
    ("name", "cost"),
    [("mochi", 13 / 48), ("hunyuan-double-2", 57 / 60), ("sd3.5-medium", 14 / 24),
     ("ltx-2b", 9 / 28), ("svd", None), ("wan-slg-9", None)],
)  # fmt: skip
def test_a_weak_pass_is_counted_in_blocks(name: str, cost: float | None) -> None:
    row = next(row for row in presets.load_presets() if row.name == name)
    family = next(family for family in FAMILIES if set(family.pipelines) & set(row.pipelines))
    found = model_pages.weak_pass(row, family)
    assert found == (None if cost is None else pytest.approx(cost))


# What diffusers' modules warn of when they are imported is theirs.
@pytest.mark.filterwarnings("ignore")
def test_families_that_start_from_a_picture_are_those_whose_calls_take_one() -> None:
    needs, takes = set(), set()
    for family in FAMILIES:
        calls = [getattr(diffusers, name, None) for name in family.pipelines]
        calls = [inspect.signature(kind.__call__).parameters for kind in calls if kind]
        images = [call["image"] for call in calls if "image" in call]
        takes |= {family.name} if images else set()
        required = [image for image in images if image.default is inspect.Parameter.empty]
        needs |= {family.name} if calls and len(required) == len(calls) else set()
    assert needs == model_pages.NEED_PICTURE
    assert takes >= model_pages.TAKE_PICTURE - needs


def test_a_refused_pipeline_stands_with_its_family() -> None:
    by_name = {family.name: model_pages.refused_pipelines(family) for family in FAMILIES}
    assert "LTX2DFRPipeline" in by_name["ltx-2"]
    assert "LTXI2VLongMultiPromptPipeline" in by_name["ltx"]
    assert "ZImageOmniPipeline" in by_name["z-image"]
    listed = [name for names in by_name.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) <= set(REFUSED_PIPELINES)


# --- pages of the command line and the API --------------------------------------------------------


def test_the_page_of_the_command_line_has_each_verb_and_option() -> None:
    page = cli_page.cli_page()
    for name, command in cli_page.commands():
        section = page.split(f"## {name}\n")[1].split("\n## ")[0]
        assert f"    skipguide {name}" in section
        if name not in cli_page.LONG:
            flags = {o for p in command.params for o in p.opts if o.startswith("--")} - {"--help"}
            assert [flag for flag in flags if flag not in section] == []


def test_each_public_name_is_on_a_page_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = api_pages.api_pages()
    text = "\n".join(pages.values())
    names = [f"skipguide.{name}" for name in skipguide.__all__ if name != "__version__"]
    names += ["skipguide.guider.SkipGuidance", "skipguide.runs.Run", "skipguide.metrics.evaluate"]
    assert [name for name in names if f"::: {name}\n" not in text] == []
    monkeypatch.setattr(skipguide, "__all__", [*skipguide.__all__, "forgotten"])
    with pytest.raises(ValueError, match="in none: forgotten"):
        api_pages.api_pages()


def test_generated_pages_have_no_open_block() -> None:
    for page, text in {**MODELS, "cli.md": cli_page.cli_page()}.items():
        assert text.count("```") == 2 * len(list(blocks(text, page)))
