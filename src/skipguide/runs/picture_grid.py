"""The pictures of a run on one sheet: a row per prompt and seed, a column per setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from skipguide.files import clips, image, video
from skipguide.files.frames import Frames
from skipguide.runs.entities import Clip
from skipguide.runs.run import Run

NAME = "grid.png"
MOST_ROWS, MOST_COLUMNS = 32, 12
_LARGEST = 512  # pixels of the longer side of a picture on the sheet
_EMPTY = 40  # grey where a picture is still to be made


def write(folder: Path) -> Path | None:
    """Write the sheet of a run into its folder; None if the run has no pictures.

    Of a run of many the first rows and columns are on it.

    Raises:
        ValueError: if a picture cannot be read.
        OSError: if the sheet cannot be written.
    """
    with Run.open(folder) as run:
        sheet = draw(run)
    if sheet is None:
        return None
    with video.atomic_replace(folder / NAME) as (part,):
        sheet.save(part, format="PNG")
    return folder / NAME


def draw(run: Run) -> Image.Image | None:
    """Draw the pictures of a run that are done; None if there are none.

    Raises:
        ValueError: if a picture cannot be read.
    """
    done = [clip for clip in run.clips("done") if clip.is_picture]
    if not done:
        return None
    settings = {setting.id: setting.name for setting in run.settings()}
    shown = [number for number in settings if any(clip.setting == number for clip in done)]
    texts = {prompt.id: prompt.text or prompt.image or "" for prompt in run.prompts()}
    rows: dict[tuple[int, int], dict[int, Clip]] = {}
    for clip in done:
        rows.setdefault((clip.prompt, clip.seed), {})[clip.setting] = clip
    box = _box(done)
    drawn = {}
    for (prompt, seed), cells in list(rows.items())[:MOST_ROWS]:
        row = {settings[number]: _read(cells.get(number), box) for number in shown[:MOST_COLUMNS]}
        drawn[f"{texts[prompt]}, seed {seed}"] = video.place_side_by_side(row)
    return video.stack_rows(drawn)


def _box(done: Sequence[Clip]) -> tuple[int, int]:
    """Return the width and the height that each picture gets."""
    width, height = (max(getattr(clip, name) for clip in done) for name in ("width", "height"))
    scale = min(1.0, _LARGEST / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _read(clip: Clip | None, box: tuple[int, int]) -> Frames:
    if clip is None or clip.video is None:
        return np.full((1, box[1], box[0], 3), _EMPTY, np.uint8)
    frames, _ = clips.read(clip.video)
    return np.asarray(image.fit_to_size(Image.fromarray(frames[0]), *box, pad=True))[None]
