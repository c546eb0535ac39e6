"""Write a run as one file to send: the page with its data, the videos, tables, plans, and the
ledger.

It opens without a server and without a network once it is unpacked; `skipguide studio` and
`skipguide runs merge` take it as it is. The same run is the same bytes.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import skipguide
from skipguide.files import folders, video
from skipguide.files.places import clip_without_folders
from skipguide.files.text import displayable
from skipguide.method.protocols import PlainData
from skipguide.runs import Run, shareable, storage
from skipguide.runs.ledger import NAME
from skipguide.studio import files, page_data, report_tables
from skipguide.tuning.report import shown

_MOMENT = (1980, 1, 1, 0, 0, 0)  # of every file: the first that a .zip can hold
_README = """{name}: a run of skipguide {version}

Unpack everything into a folder, then open index.html in a browser. It needs no network.

clips/           the videos
tables/          clips, numbers of the settings with their intervals, and votes, as CSV (UTF-8)
plans/           what the run was made from
images/          the pictures that videos start from, if they do
tune/            of `skipguide tune`: the map of the layers, the race and its answer; tune.toml is
                 the preset that it found
ledger.sqlite    all of it for skipguide: `skipguide studio FILE.zip` shows it with votes and
                 synchronous playing, `skipguide runs merge FILE.zip RUN --out NEW` joins it

No folder of the machine that made it is named in here{raters}.
"""


def write_zip(run: Run, out: Path, overwrite: bool = False, with_names: bool = False) -> PlainData:
    """Write a run as a .zip; it appears under its name when it is complete.

    Args:
        with_names: keep the names of raters, who are "rater 3f2a1c04" or the like else.

    Returns:
        {"file", "clips", "votes", "bytes"}

    Raises:
        ValueError: if `out` exists and may not be replaced, is no .zip, or a video is damaged.
        OSError: if it cannot be written.
    """
    _check_target(out, overwrite)
    name = displayable(run.folder.resolve().name) or "run"
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        storage.translate_os_errors(out),
        tempfile.TemporaryDirectory(prefix="skipguide-report-") as around,
        video.atomic_replace(out) as (part,),
        zipfile.ZipFile(part, "w") as packed,
    ):
        folder = Path(around) / name
        folder.mkdir()

        def keep_video(key: str, _: str) -> bytes:
            path = files.find_video(run, key)
            content = clip_without_folders(path)
            _add(packed, f"{name}/{shareable.CLIPS}/{key}{path.suffix}", content)
            return content

        shareable.write_shareable(run.ledger, folder, keep_video, with_names)
        for path, content in shown.shareable_files(run.folder):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
            _add(packed, f"{name}/{path}", content)
        with Run.open(folder) as shared:
            for path, content in _contents(run, shared, with_names):
                _add(packed, f"{name}/{path}", content)
            told = {"clips": shared.counts()["done"], "votes": len(shared.votes())}
    return {"file": str(out), **told, "bytes": out.stat().st_size}


def _check_target(out: Path, overwrite: bool) -> None:
    if out.suffix.lower() != ".zip" or out.is_dir():
        raise ValueError(
            f"a report in one file must be named .zip, but got {str(out)!r}. Name it so with --out."
        )
    if out.exists() and not overwrite:
        raise ValueError(
            f"a report must be a new file, but {out} exists. Pass --overwrite or another name."
        )
    folders.check_writable(out.absolute().parent, "the folder of --out")


def _add(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file as it would be on every machine and at every time."""
    entry = zipfile.ZipInfo(name, _MOMENT)
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    is_dense = name.endswith((".mp4", ".png", ".jpg", ".jpeg", ".webp"))
    packed.writestr(entry, content, zipfile.ZIP_STORED if is_dense else zipfile.ZIP_DEFLATED)


def _contents(run: Run, shared: Run, with_names: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the files beside the videos: (name, content)."""
    data = page_data.describe(shared)
    page = files.render_page("index.html", True, json.dumps(data, ensure_ascii=False))
    yield "index.html", page.encode()
    raters = "" if with_names or not shared.votes() else ", and no rater"
    told = _README.format(name=data["name"], version=skipguide.__version__, raters=raters)
    yield "README.txt", told.encode()
    yield NAME, (shared.folder / NAME).read_bytes()
    for number, plan in enumerate(shared.plans(), 1):
        yield f"plans/plan-{number}.yaml", plan.encode()
    for name, text in report_tables.tables(shared, data).items():
        yield f"tables/{name}.csv", text.encode()
    seen = set()
    for prompt in run.prompts():
        if prompt.image is not None and prompt.image_sha256 is not None:
            path = storage.image_name(prompt.image_sha256, prompt.image)
            if path not in seen and (run.folder / path).is_file():
                yield path, files.find_image(run, prompt.id)[0].read_bytes()
            seen.add(path)
