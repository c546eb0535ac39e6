"""Write a run as a folder that a browser opens from a disk: the page with its data, and the
videos."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from skipguide.files import folders
from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.studio import files, page_data

_OWN_VIDEO = re.compile(files.CLIP_PATTERN)


def write_report(run: Run, out: Path, overwrite: bool = False) -> PlainData:
    """Write the report of a run; it appears under its name when it is complete.

    Args:
        out: a folder, `index.html` and `clips/` in it.

    Returns:
        {"folder", "page", "clips", "bytes"}

    Raises:
        ValueError: if `out` exists and may not be overwritten, or is something else than a report.
    """
    _check_target(run, out, overwrite)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        (part / "clips").mkdir(parents=True)
        keys = [clip.key for clip in run.clips("done")]
        for key in keys:
            path = files.find_video(run, key)
            shutil.copyfile(path, part / "clips" / f"{key}{path.suffix}")
        data = json.dumps(page_data.describe(run), ensure_ascii=False)
        (part / "index.html").write_text(
            files.render_page("index.html", inline=True, data=data), encoding="utf-8"
        )
        size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        if out.exists():
            shutil.rmtree(out)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {"folder": str(out), "page": str(out / "index.html"), "clips": len(keys), "bytes": size}


def _is_report(folder: Path) -> bool:
    """Return whether everything in a folder was written here."""
    page = folder / "index.html"
    names = {path.name for path in folders.contents(folder)}
    if not page.is_file() or not names <= {"index.html", "clips"}:
        return False
    own = folder / "clips"
    clips = [path.name for path in folders.contents(own)] if own.is_dir() else []
    text = page.read_text(encoding="utf-8", errors="replace")
    return files.DATA_TAG in text and all(map(_OWN_VIDEO.fullmatch, clips))


def _check_target(run: Run, out: Path, overwrite: bool) -> None:
    inside = run.folder.resolve().is_relative_to(out.resolve())
    if inside or (out.exists() and not _is_report(out)):
        raise ValueError(
            f"a report must be a new folder or a report to replace, but {out} is not. Name another"
            " with --out."
        )
    if out.exists() and not overwrite:
        raise ValueError(
            f"a report must be a new folder, but {out} exists. Pass --overwrite or another name."
        )
    folders.check_writable(out, "--out")
