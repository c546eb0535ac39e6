"""The files of a map: map.csv, map.json, and map.png where matplotlib is there."""

from __future__ import annotations

from pathlib import Path

from skipguide.files import tables
from skipguide.files.atomic import atomic_replace
from skipguide.models import packages
from skipguide.tuning.scan.layer_map import LayerMap

CSV, JSON, PNG = "map.csv", "map.json", "map.png"
NO_PICTURE = (
    "map.png was not drawn, for it needs matplotlib. Install skipguide[report]; the studio draws"
    " the map without it."
)


def write(found: LayerMap, folder: Path) -> list[str]:
    """Write the files of a map into a folder, each whole or not at all.

    Returns:
        Notes: one if there is no picture, for matplotlib is missing.

    Raises:
        OSError: if the folder cannot be written.
    """
    texts = {JSON: found.to_json(), CSV: tables.to_csv(found.rows())}
    for name, text in texts.items():
        with atomic_replace(folder / name) as (part,):
            part.write_text(text, encoding="utf-8", newline="")
    if not packages.is_installed("matplotlib"):
        return [NO_PICTURE]
    from skipguide.tuning.scan import map_picture

    with atomic_replace(folder / PNG) as (part,):
        map_picture.save(map_picture.draw(found), part)
    return []
