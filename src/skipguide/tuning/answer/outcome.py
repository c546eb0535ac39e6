"""Write what a tuning found: the answer, `tune.toml`, the report, and the line to type."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import skipguide
from skipguide.families import preset_files, presets
from skipguide.families.preset_files import PresetFile, Provenance
from skipguide.families.presets import Preset
from skipguide.method.protocols import PlainData
from skipguide.runs import storage
from skipguide.tuning.answer.answer import Answer
from skipguide.tuning.answer.verdicts import NOT_MEASURED
from skipguide.tuning.board import finite
from skipguide.tuning.events import Planned, TuneResult
from skipguide.tuning.names import FOLDER, PRESET
from skipguide.tuning.options import TuneOptions, prompts_hash
from skipguide.tuning.race.candidates import Candidate
from skipguide.tuning.race.state import AT_THE_SAME_PRICE
from skipguide.tuning.scan.layer_map import LayerMap

if TYPE_CHECKING:
    from skipguide.tuning.run import Tuning


def write(
    tuning: Tuning,
    planned: Planned,
    layer_map: LayerMap,
    everyone: Sequence[Candidate],
    found: Answer,
) -> TuneResult:
    """Write the files of an answer into the run, each at once or not at all."""
    folder, preset = tuning.folder, None
    if found.recommended is not None:
        file = preset_of(tuning.options, planned, everyone, found)
        storage.write_file(folder, PRESET, file.to_toml().encode())
        preset = folder / PRESET
    command = line_to_type(tuning.options, preset)
    content = {**found.to_dict(), "command": command, "preset": preset and PRESET}
    text = json.dumps(finite(content), allow_nan=False, ensure_ascii=False)
    storage.write_file(folder, f"{FOLDER}/answer.json", text.encode())
    tuning.board.answer = content
    tuning.board.write()
    report = write_report(folder)
    return TuneResult(folder, layer_map, found, None, preset, report, command)


def write_report(folder: Path) -> Path:
    """Write `report.html` from the files of the run."""
    from skipguide.tuning.report import report

    return report.write_report(folder)


def line_to_type(options: TuneOptions, preset: Path | None) -> str:
    """Return the command that uses the answer."""
    if preset is None:
        return ""
    first = options.prompts[0]
    subject = [] if first.text is None else ["A PROMPT"]
    subject += [] if first.image is None else ["--image", "PICTURE"]
    words = ["skipguide", "generate", *subject, "--model", options.model]
    return shlex.join([*words, "--preset", preset.as_posix()])


def preset_of(
    options: TuneOptions, planned: Planned, everyone: Sequence[Candidate], found: Answer
) -> PresetFile:
    """Return the recommended setting as a preset, with where it comes from."""
    by_name = {one.name: one for one in everyone}
    assert found.recommended is not None
    chosen = by_name[found.recommended]
    row = row_of(options, planned, chosen)
    best = _best_stg(everyone, found, chosen)
    kept = None
    if not chosen.has_stg and best is not None:
        kept = row_of(options, planned, best)
    made = provenance(options, planned, found)
    if not chosen.has_stg:
        made = dataclasses.replace(made, verdict=preset_files.CFG_ALONE)
    return PresetFile(row, made, kept)


def _best_stg(everyone: Sequence[Candidate], found: Answer, chosen: Candidate) -> Candidate | None:
    """Return the best STG of those measured on prompts that chose nothing, beside the same CFG.

    A file has one guidance scale, so that an STG which raced beside another one is not in it; and
    one that left after a few prompts can look better there than it is.

    Args:
        chosen: the setting of the file.
    """
    gains = {
        entry.name: entry.difference.estimate.value
        for entry in found.contestants
        if entry.held_back and entry.difference is not None
    }
    known = [
        one
        for one in everyone
        if one.has_stg and one.name in gains and one.guidance_scale == chosen.guidance_scale
    ]
    return max(known, key=lambda one: gains[one.name], default=None)


def row_of(options: TuneOptions, planned: Planned, one: Candidate) -> Preset:
    """Return a candidate as a row of presets."""
    facts, own = planned.facts, planned.own.complete
    defaults: PlainData = {}
    scale = own.guidance_scale if one.guidance_scale is None else one.guidance_scale
    if scale is not None:
        defaults["guidance_scale"] = scale
    if one.role == AT_THE_SAME_PRICE:
        defaults["num_inference_steps"] = one.given["steps"]
    elif own.steps is not None:
        defaults["num_inference_steps"] = own.steps
    base = Preset(
        model=options.model, pipelines=(facts.pipeline,), depth=facts.depth, layers=(), scale=0.0,
        skip="residual", source=f"skipguide tune {skipguide.__version__}", width=facts.width,
        defaults=defaults,
    )  # fmt: skip
    if one.role == "preset":
        return _with_published(base, facts.published)
    if one.cell is None:
        return base
    return dataclasses.replace(
        base, layers=tuple(one.cell.layers), scale=one.scale, skip=one.cell.skip,
        axis=one.cell.axis, start=one.start, stop=one.stop, normalize=True,
    )  # fmt: skip


def _with_published(base: Preset, name: str) -> Preset:
    row = next(row for row in presets.load_presets() if row.name == name)
    names = (*preset_files.OF_TERMS, "source")
    return dataclasses.replace(base, **{at: getattr(row, at) for at in names})


def provenance(options: TuneOptions, planned: Planned, found: Answer) -> Provenance:
    """Return where an answer comes from."""
    racing, kept = options.split()
    gain = found.gain and found.gain.difference.estimate
    interval = None
    if gain and gain.low is not None and gain.high is not None:
        interval = (gain.low, gain.high)
    return Provenance(
        skipguide=skipguide.__version__,
        date=datetime.date.today().isoformat(),
        weights=dict(planned.own.weights),
        prompts=len(racing),
        answer_prompts=gain.count if gain else len(kept[: planned.plan.held_back]),
        prompts_sha256=prompts_hash(options),
        metric=found.gain.metric if found.gain else "",
        gain=gain.value if gain else None,
        gain_interval=interval,
        verdict=found.verdict if found.verdict != NOT_MEASURED else preset_files.TIED,
        sentence=found.sentences[0] if found.sentences else "",
    )
