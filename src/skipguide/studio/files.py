"""The only files that the studio gives out: its own page, and the videos and images of the
ledger."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import stat
from functools import cache
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from skipguide.files import clips
from skipguide.runs import Clip, Run

MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
KEY_PATTERN = r"[0-9a-f]{16}"
CLIP_PATTERN = rf"{KEY_PATTERN}\.(?:mp4|png|webp)"  # the name of a clip, or one of a test
_ENTRY = re.compile(r'<script type="module" src="/static/([\w.]+)">')
_IMPORT = re.compile(r'^import .*"studio/([\w.]+)";', re.MULTILINE)
_STYLE = re.compile(r'<link rel="stylesheet" href="/static/([\w.]+)">')
DATA_TAG = '<script type="application/json" id="data">'  # begins what a page has in it of its run
_IMAGE_TYPES = {
    "PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp",
    "BMP": "image/bmp", "GIF": "image/gif", "TIFF": "image/tiff",
}  # fmt: skip


def find_video(run: Run, key: str) -> Path:
    """Return the video of a clip, if it is a plain file within the run directory.

    Raises:
        ValueError: if the run has no such clip, it is not done, or its file is a link, a pipe or
            outside of the run.
    """
    if not re.fullmatch(KEY_PATTERN, key):
        raise ValueError(
            f"the key of a clip must be 16 digits of 0-9 and a-f, but got {key[:40]!r}. Take one of"
            " the run."
        )
    return _check_video(run, run.clip(key))


def _check_video(run: Run, clip: Clip) -> Path:
    if clip.status != "done" or clip.video is None:
        raise ValueError(
            f"a clip must be done to be shown, but {clip.key} is {clip.status}. Run the sweep."
        )
    if clip.video.suffix not in clips.SUFFIXES or not _is_plain_file(clip.video, run.folder):
        raise ValueError(
            f"a video must be a plain file in the run directory, but that of {clip.key} is not."
            " Make it again."
        )
    return clip.video


def plain_file(path: Path, folder: Path) -> Path | None:
    """Return a file if it is a plain one within a folder: no link, no pipe."""
    return path if _is_plain_file(path, folder) else None


def _is_plain_file(path: Path, folder: Path) -> bool:
    try:
        real, root = path.resolve(strict=True), folder.resolve(strict=True)
        return real.is_relative_to(root) and stat.S_ISREG(path.lstat().st_mode)
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        return False


def find_image(run: Run, prompt: int) -> tuple[Path, str]:
    """Return the image that a prompt starts from, and its media type.

    Raises:
        ValueError: if it is no plain file within the run directory, no image, or as `Run.image_of`.
    """
    path = run.image_of(prompt)
    kind = _image_type(path) if _is_plain_file(path, run.folder) else None
    if kind is None:
        raise ValueError(
            "a picture must be a plain file in the run directory, of a kind that models take, but"
            f" that of prompt {prompt} is not. Choose another one."
        )
    return path, kind


def _image_type(path: Path) -> str | None:
    """Return the media type by the content, because a name may say anything."""
    from PIL import Image

    from skipguide.files.image import FORMATS

    try:
        with Image.open(path, formats=FORMATS) as found:
            return _IMAGE_TYPES.get(found.format or "")
    except Exception:  # decoders raise nearly anything
        return None


# --- the page -------------------------------------------------------------------------------------


@cache
def load_assets() -> dict[str, bytes]:
    """Read the files of the page once, by name, so that no name in a request becomes a path."""
    folder = resources.files("skipguide.studio") / "static"
    return {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if Path(entry.name).suffix in MEDIA_TYPES
    }


def import_map(inline: bool) -> str:
    """Return where the browser finds the modules "studio/NAME.js": on the server, or in the page.

    Modules cannot be files beside a page that is a file: browsers take each file for another site.
    """
    modules = {
        name: content for name, content in sorted(load_assets().items()) if name.endswith(".js")
    }
    found = {
        f"studio/{name}": f"data:text/javascript,{quote(content)}" if inline else f"/static/{name}"
        for name, content in modules.items()
    }
    return json.dumps({"imports": found})


def _ahead(page: str) -> str:
    """Return links that let a browser load all modules of a page at once, not one after another,
    and the run meanwhile."""
    (entry,) = _ENTRY.findall(page)
    found, left = set(), {entry}
    while left:
        name = left.pop()
        found.add(name)
        left |= set(_IMPORT.findall(load_assets()[name].decode())) - found
    links = [f'<link rel="modulepreload" href="/static/{name}">' for name in sorted(found)]
    if entry == "main.js":  # what takes longest comes first: browsers ask for six things at a time
        links.insert(0, '<link rel="preload" as="fetch" crossorigin href="/api/run">')
    return "".join(f"\n{link}" for link in links)


def render_page(name: str, inline: bool = False, data: str = "") -> str:
    """Return a page with its import map.

    Args:
        inline: include the modules and the style, so that the page needs no other file.
        data: JSON that the page starts from, instead of asking a server.
    """
    text = load_assets()[name].decode()
    text = text.replace(
        "<!-- import map -->",
        f'<script type="importmap">{import_map(inline)}</script>{"" if inline else _ahead(text)}',
    )
    if inline:
        icon = f"data:image/svg+xml,{quote(load_assets()['icon.svg'])}"
        start = '<script type="module">import "studio/main.js";</script>'
        text = _STYLE.sub(lambda link: f"<style>{load_assets()[link[1]].decode()}</style>", text)
        text = text.replace('<script type="module" src="/static/main.js"></script>', start)
        text = text.replace("/static/icon.svg", icon)
    # "<" is all that can end a script, or begin a comment in it
    data_element = f"{DATA_TAG}{data.replace('<', chr(92) + 'u003c')}</script>"
    return text.replace("<!-- data -->", data_element if data else "")


def import_map_hash() -> str:
    """Return the hash that lets the Content-Security-Policy allow that one inline script."""
    return base64.b64encode(hashlib.sha256(import_map(False).encode()).digest()).decode()
