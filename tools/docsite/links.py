"""Links of pages that lead out of docs/: on GitHub to a file of the repository, on the site to a
page or a copy of that file."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

# Files of the repository that are pages of the site.
PAGES = {"README.md": "index.md", "comfyui/README.md": "comfyui.md"}
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?\)")
_NOTEBOOK = re.compile(r"(\]\([^):]+)\.ipynb\)")
_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
# The place of docs/ in the repository, by which a link that leaves it is known.
_DOCS = "docs"


def repository_paths(markdown: str, page: str) -> list[str]:
    """Return the files outside of docs/ that a page links to, by their paths in the repository."""
    return [path for path, _ in _outside(markdown, page)]


def to_site(markdown: str, page: str) -> str:
    """Return a page with links that leave docs/, and those to notebooks, turned to what the site
    has there.

    Args:
        page: the page's path below docs/.
    """
    for path, written in _outside(markdown, page):
        target = PAGES.get(path, f"repository/{path}")
        relative = posixpath.relpath(target, posixpath.dirname(page) or ".")
        markdown = markdown.replace(f"]({written})", f"]({relative})")
        markdown = markdown.replace(f"]({written}#", f"]({relative}#")
    return _NOTEBOOK.sub(r"\1.md)", markdown)


def from_folder(root: Path, path: str) -> str:
    """Return a page of another folder of the repository as a page at the top of docs/.

    Its relative links are written as from there."""
    folder = posixpath.dirname(path)

    def moved(match: re.Match[str]) -> str:
        start, target, anchor = match.groups()
        if ":" in target:
            return match[0]
        there = posixpath.normpath(posixpath.join(folder, target))
        return f"{start}{posixpath.relpath(there, _DOCS)}{anchor or ''})"

    return _LINK.sub(moved, (root / path).read_text(encoding="utf-8"))


def read_checked(root: Path, path: str) -> bytes:
    """Return the content of a file of the repository that a page links to.

    Raises:
        ValueError: if there is no such file.
    """
    file = root / path
    if not file.is_file():
        raise ValueError(
            f"a link of a page in docs/ needs a file of the repository, but {path} is none. Mend"
            " the link."
        )
    return file.read_bytes()


def _outside(markdown: str, page: str) -> Iterator[tuple[str, str]]:
    """Yield (path in the repository, link as written) of each link that leaves docs/."""
    here = posixpath.join(_DOCS, posixpath.dirname(page))
    for match in _LINK.finditer(_FENCE.sub("", markdown)):
        written = match[2]
        if ":" in written:
            continue
        there = posixpath.normpath(posixpath.join(here, written))
        if not there.startswith(f"{_DOCS}/") and there != _DOCS:
            yield there, written
