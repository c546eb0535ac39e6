"""Presets in files for the built-in Mochi: one of STG, and one whose answer is to use CFG alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from skipguide.families.preset_files import PresetFile, Provenance
from skipguide.families.presets import Preset

STG_ROW = Preset(
    model="lab-mochi", pipelines=("MochiPipeline",), depth=12, width=160, layers=("blocks:8",),
    scale=2.0, skip="attention", source="", stop=0.75, rescale=0.5, normalize=True,
    defaults={"guidance_scale": 2.0},
)  # fmt: skip
MEASURED = Provenance(
    skipguide="1.2.3", date="2026-11-30", prompts=16, metric="sharpness", gain=0.031,
    gain_interval=(0.012, 0.05), sentence="Sharpness rises by 0.031 (0.012 to 0.05).",
    command="skipguide tune --model somewhere/else",
)  # fmt: skip
STG_FILE = PresetFile(STG_ROW, MEASURED)
CFG_FILE = PresetFile(
    dataclasses.replace(STG_ROW, layers=(), scale=0.0, skip="residual", stop=1.0, rescale=0.0,
                        normalize=False),
    dataclasses.replace(MEASURED, verdict="use CFG alone", gain=0.001,
                        gain_interval=(-0.01, 0.012), sentence="The interval holds 0."),
    STG_ROW,
)  # fmt: skip


def write_preset(path: Path, file: PresetFile) -> Path:
    """Write a preset, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file.to_toml(), encoding="utf-8")
    return path
