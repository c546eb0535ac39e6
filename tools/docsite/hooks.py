"""Hooks of mkdocs (mkdocs.yml): add the generated pages, mend links that leave docs/, and check
what was built.

The pages in docs/ are read on GitHub too, so that they link to files of the repository by their
paths. Such a file becomes a file of the site, below repository/."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parents[1]))

from docsite import api_pages, cli_page, links, model_pages, notebooks, offline

ROOT = Path(__file__).parents[2]
COMFYUI = "comfyui.md"  # comfyui/README.md on the site
MODELS_ENTRY = "Models"  # of the nav in mkdocs.yml; a page for each family is added to it


@functools.cache
def generated_pages() -> dict[str, str]:
    """Return all pages that are made from code and data, by their paths below docs/."""
    measured = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    return {
        "cli.md": cli_page.cli_page(),
        **model_pages.model_pages(model_pages.measured_costs(measured)),
        **api_pages.api_pages(),
        COMFYUI: links.from_folder(ROOT, "comfyui/README.md"),
    }


@functools.cache
def notebook_pages() -> dict[str, str | bytes]:
    """Return the notebooks as pages, and their pictures, by their paths below docs/."""
    found: dict[str, str | bytes] = {}
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page, pictures = notebooks.to_page(notebooks.read(path), path.stem)
        file = f"docs/notebooks/{path.name}"
        found[f"notebooks/{path.stem}.md"] = f"{page}\n*The notebook is `{file}`.*\n"
        found |= {f"notebooks/{name}": picture for name, picture in pictures.items()}
    return found


def on_config(config: Any) -> Any:
    """Put the pages of the families into the nav."""
    section = next(entry for entry in config["nav"] if MODELS_ENTRY in entry)[MODELS_ENTRY]
    section += model_pages.model_nav()
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and the files of the repository that pages link to."""
    pages: dict[str, str | bytes] = {**generated_pages(), **notebook_pages()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    wanted = {
        path
        for file in files.documentation_pages()
        for path in links.repository_paths(file.content_string, file.src_uri)
    }
    for path in sorted(wanted - set(links.PAGES)):
        content = links.read_checked(ROOT, path)
        files.append(File.generated(config, f"repository/{path}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links that leave docs/ lead to what the site has in their place."""
    return links.to_site(markdown, page.file.src_uri)


def on_post_build(config: Any) -> None:
    """Fail if a page would load something from another host."""
    found = offline.external_requests(Path(config["site_dir"]))
    if found:
        raise PluginError(
            "the site must load nothing from other hosts, but these pages do: "
            + "; ".join(found[:10])
            + ". Switch the feature off in mkdocs.yml, or put the file into docs/."
        )
