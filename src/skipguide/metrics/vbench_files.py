"""VBench's own files: videos under the names that its scorer expects, and its result JSON.

With them, the official scorer runs on our videos in an environment of its own, because it needs
other versions of nearly every dependency.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from skipguide.files import folders, video
from skipguide.files.text import dump_json
from skipguide.lab.training_loop import atomic_path
from skipguide.metrics.catalog import METRICS
from skipguide.metrics.inputs import find_prompt

VIDEOS, PROMPTS, RESULTS = "videos", "prompts.json", "skipguide_eval_results.json"
_MAX_NAME_BYTES = 255 - len("-9999.mp4")  # bytes of a file name
# VBench multiplies the value of one video by this, but not the mean over videos.
_VIDEO_SCALES = {"imaging_quality": 100.0}


def export(videos: Mapping[str, Sequence[Path]], folder: Path) -> dict[Path, Path]:
    """Lay videos out as VBench expects: folder/videos/{prompt}-{index}.mp4 and folder/prompts.json.

    The folder must hold nothing but videos, because VBench takes the suffix of all files from the
    first name. prompts.json is for `--prompt_file` with `--mode=custom_input`; for VBench's
    standard prompts the names suffice.

    Args:
        videos: prompt -> files, which are linked where the disk allows, else copied.

    Returns:
        Where each file is now. folder/videos is what VBench calls `--videos_path`.

    Raises:
        ValueError: for a prompt that cannot be a file name, or a folder that is not empty.
    """
    check_export(videos, folder)
    target = folder / VIDEOS
    names = {
        path: (text, f"{text}-{i}.mp4")
        for text, paths in videos.items()
        for i, path in enumerate(paths)
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as part:
        part.mkdir()
        for path, (_, name) in names.items():
            _link_or_copy(path, part / name)
    _write_json(folder / PROMPTS, {name: text for text, name in names.values()})
    return {path: target / name for path, (_, name) in names.items()}


def check_export(prompts: Iterable[str], folder: Path) -> None:
    """Raise ValueError where `export` would, before the work that ends with it."""
    for text in prompts:
        _check_name(text)
    if (folder / VIDEOS).exists():
        raise ValueError(
            f"videos for VBench need a new folder, but {folder / VIDEOS} exists. Choose another"
            " one."
        )
    folders.check_writable(folder, "the folder for VBench")


def _check_name(text: str) -> None:
    if (
        not text
        or "/" in text
        or "\0" in text
        or text.startswith(".")
        or len(os.fsencode(text)) > _MAX_NAME_BYTES
    ):
        raise ValueError(
            f"a prompt for VBench must be usable as a file name (at most {_MAX_NAME_BYTES} bytes,"
            f" no slash, no dot at the start), but got {text[:60]!r}. Leave it out."
        )


def _link_or_copy(source: Path, target: Path) -> None:
    # A hard link to a link is a link with the same text, which leads nowhere from another folder.
    file = source.resolve(strict=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    with video.atomic_replace(path) as (part,):
        part.write_text(dump_json(content, indent=4) + "\n", "utf-8")


def group_by_prompt(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Group mp4 files by their prompt, taken from their own record or else from their name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(paths):
        found.setdefault(find_prompt(path), []).append(path)
    return found


# --- results --------------------------------------------------------------------------------------


def write_results(path: Path, values: Mapping[str, Mapping[str, float]]) -> None:
    """Write values of ours in the layout of VBench's `..._eval_results.json`.

    The layout is dimension -> [mean, one entry per video].

    Args:
        values: dimension -> video -> value, in our units.
    """
    content = {
        dimension: [
            sum(rows.values()) / len(rows),
            [
                {"video_path": name, "video_results": _to_vbench_value(dimension, value)}
                for name, value in rows.items()
            ],
        ]
        for dimension, rows in values.items()
        if rows
    }
    _write_json(path, content)


def _to_vbench_value(dimension: str, value: float) -> float | bool:
    return (
        bool(value) if dimension == "dynamic_degree" else value * _VIDEO_SCALES.get(dimension, 1.0)
    )


def read_results(path: Path) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Read what VBench's scorer wrote: its number of each dimension, and the values of each video.

    The first is what its leaderboard uses. For subject and background consistency it is a mean over
    pairs of frames, which is not the mean over videos if they differ in length. The second maps
    dimension -> file name -> value, in our units.

    Raises:
        ValueError: if the file is not such a result.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        totals = {dimension: float(entry[0]) for dimension, entry in content.items()}
        values = {
            dimension: _parse_video_values(dimension, entry[1])
            for dimension, entry in content.items()
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"a result of VBench must be its ..._eval_results.json, but {path} cannot be read as"
            " one. Check the name."
        ) from error
    return totals, values


def _parse_video_values(dimension: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    scale = _VIDEO_SCALES.get(dimension, 1.0)
    return {
        re.split(r"[\\/]", row["video_path"])[-1]: float(row["video_results"]) / scale
        for row in rows
    }


def quality_score(values: Mapping[str, float]) -> float | None:
    """Return VBench's quality score from the means of its seven quality dimensions, or None.

    None means that not all of them are there. Each is shifted and stretched so that the published
    bounds become 0 and 1, and weighted; the leaderboard's temporal flickering covers static videos
    only.
    """
    rows = [row for row in METRICS.values() if row.normalised]
    if any(row.name not in values for row in rows):
        return None
    scaled = [
        row.weight
        * (values[row.name] - row.normalised[0])
        / (row.normalised[1] - row.normalised[0])
        for row in rows
        if row.normalised
    ]
    return sum(scaled) / sum(row.weight for row in rows)
