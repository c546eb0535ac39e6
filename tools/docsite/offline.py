"""Check that a built site loads nothing from other hosts when it is looked at.

Links that a reader may follow are none of its business; scripts, styles, fonts, images, frames,
media, and hints to a browser to connect somewhere are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

# The attributes of tags that make a browser load something.
_LOADED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "input": ("src",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
# A <link> with another rel (canonical, next, license) is not loaded.
_LOADED_RELS = {
    "stylesheet", "icon", "shortcut", "apple-touch-icon", "preload", "prefetch", "modulepreload",
    "preconnect", "dns-prefetch", "manifest", "mask-icon",
}  # fmt: skip
_EXTERNAL = re.compile(r"(?:^|,)\s*(?:[a-z]+:)?//", re.IGNORECASE)
_IN_STYLE = re.compile(
    r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""", re.IGNORECASE
)


def external_requests(folder: Path) -> list[str]:
    """Return what the pages and styles in a folder would load from other hosts, with the file."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".html", ".css"):
            text = path.read_text(encoding="utf-8")
            urls = in_page(text) if path.suffix == ".html" else in_style(text)
            found += [f"{path.relative_to(folder)}: {url}" for url in urls]
    return found


def in_style(css: str) -> list[str]:
    """Return the addresses on other hosts that a style sheet loads."""
    return _IN_STYLE.findall(css)


def in_page(html: str) -> list[str]:
    """Return the addresses on other hosts that a page loads."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.found


class _Reader(HTMLParser):
    """Collect the addresses that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        given = {name: value or "" for name, value in attrs}
        self.found += [url for url in _loaded(tag, given) if _EXTERNAL.search(url)]
        self.found += in_style(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += in_style(data)


def _loaded(tag: str, given: dict[str, str]) -> Iterator[str]:
    names = _LOADED.get(tag, ())
    if tag == "link" and _LOADED_RELS.intersection(given.get("rel", "").lower().split()):
        names = ("href",)
    yield from (given[name] for name in names if name in given)
