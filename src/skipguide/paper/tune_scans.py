"""The scans of the lab models that the proof of `skipguide tune` starts from.

They are of the paper's pool: four prompts behind those of all maps, at the guidance scale of each
map, in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from skipguide.paper import models
from skipguide.paper.rows import Row
from skipguide.tuning.scan.layer_map import LayerMap, ScanOptions
from skipguide.tuning.scan.trajectory import TrajectoryScan

PROMPTS = range(1024, 1028)


def make_scan(model: str, guidance_scale: float, note: Callable[[str], None]) -> LayerMap:
    """Scan a lab model on its trajectories at a guidance scale.

    Args:
        note: is called with the name of each prompt before it is scanned.
    """
    weights = models.find_weights(model)
    assert weights is not None  # of a packaged model
    made = models.ClipGenerator(model, weights, "cpu", None, "float32")
    records = []
    for number in PROMPTS:
        note(f"{model} at CFG {guidance_scale:g}, prompt {number}")
        with TrajectoryScan(made.pipe, ScanOptions(axes=(None,))) as scan:
            for call in made.calls(Row(guidance_scale), [number]):
                made.run_call(call)
            records.append(scan.record())
    return LayerMap.build(records)


def write_scan(layer_map: LayerMap, path: Path) -> None:
    """Write a scan where the proof finds it: all of it or nothing."""
    from skipguide.files.atomic import atomic_replace

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_replace(path) as (part,):
        part.write_text(layer_map.to_json(), encoding="utf-8")
