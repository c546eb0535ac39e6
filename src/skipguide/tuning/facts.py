"""The facts of a loaded model that a tuning needs, as plain data that workers can send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skipguide.families import lookup, presets
from skipguide.method.protocols import PlainData
from skipguide.tuning.scan.record import ScanOptions


@dataclass(frozen=True)
class Facts:
    """The facts of a model.

    Args:
        pipeline, family, denoiser: the classes, and the name of the row.
        depth, width: as presets tell checkpoints apart.
        published: the name of the published setting for it; "" if none is known.
        cells: how many cells the scan has.
        weak_passes: forward passes that all weak passes of one state take together.
    """

    pipeline: str
    family: str
    denoiser: str
    depth: int
    width: int
    published: str
    cells: int
    weak_passes: float

    def to_dict(self) -> PlainData:
        """Return it ready for JSON."""
        return dict(vars(self))


def facts_of(pipe: Any, options: ScanOptions) -> Facts:
    """Return the facts of a pipeline.

    Raises:
        ValueError: for a pipeline that guide() refuses, or layers, skips or axes that it has not.
    """
    from skipguide.tuning.scan.trajectory import survey_cells

    known = presets.facts_of(pipe)
    denoiser = lookup.denoisers_of(pipe, known.family)[0]
    cells, weak_passes = survey_cells(pipe, options)
    return Facts(
        type(pipe).__name__,
        known.family.name,
        type(denoiser).__name__,
        known.depth,
        known.width,
        _published(pipe),
        len(cells),
        weak_passes,
    )


def _published(pipe: Any) -> str:
    try:
        return presets.preset_for(pipe).name
    except ValueError:
        return ""
