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
from skipguide.families import preset_files, preset_schema, presets
from skipguide.families.preset_files import PresetFile, Provenance
from skipguide.families.presets import Preset
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData
from skipguide.models.fields import flag_name
from skipguide.runs import storage
from skipguide.tuning.answer.result import Answer
from skipguide.tuning.answer.verdicts import NOT_MEASURED
from skipguide.tuning.board import finite
from skipguide.tuning.events import Planned, TuneResult
from skipguide.tuning.names import ANSWER, PRESET
from skipguide.tuning.options import TuneOptions, prompts_hash
from skipguide.tuning.race.candidates import Candidate
from skipguide.tuning.race.state import AT_THE_SAME_PRICE
from skipguide.tuning.scan.layer_map import LayerMap

if TYPE_CHECKING:
    from skipguide.tuning.run import Tuning

# Where a model runs, not what its videos are: the machine of who types the line decides that.
_OF_MACHINE = ("device", "offload", "compile", "vae_tiling", "attention")


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
        file = preset_of(tuning.options, planned, everyone, found, tuning.command)
        storage.write_file(folder, PRESET, file.to_toml().encode())
        preset = folder / PRESET
    command = line_to_type(tuning.options, preset)
    content = {**found.to_dict(), "command": command, "preset": preset and PRESET}
    text = json.dumps(finite(content), allow_nan=False, ensure_ascii=False)
    storage.write_file(folder, ANSWER, text.encode())
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
    return shlex.join([*words, *_flags_beside(options), "--preset", preset.as_posix()])


def _flags_beside(options: TuneOptions) -> list[str]:
    """Return the flags of what all videos shared and no preset has: what is loaded, and how."""
    in_preset = {"model", "steps", *preset_schema.OF_VIDEOS, *_OF_MACHINE}
    found: list[str] = []
    for name, value in options.common.items():
        if name in in_preset or name not in GenerationSettings.model_fields or value is None:
            continue
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, bool):
                found.append(flag_name(name) if one else f"--no-{flag_name(name)[2:]}")
            elif isinstance(one, str | int | float):
                found += [flag_name(name), str(one)]
    return found


def preset_of(
    options: TuneOptions, planned: Planned, everyone: Sequence[Candidate], found: Answer,
    command: str = "",
) -> PresetFile:  # fmt: skip
    """Return the recommended setting as a preset, with where it comes from.

    Args:
        command: that was typed; "" from Python.
    """
    by_name = {one.name: one for one in everyone}
    assert found.recommended is not None
    chosen = by_name[found.recommended]
    row = row_of(options, planned, chosen)
    kept = None
    if not chosen.has_stg and found.best_stg is not None:
        kept = row_of(options, planned, by_name[found.best_stg.name])
    made = dataclasses.replace(provenance(options, planned, found), command=command)
    if not chosen.has_stg:
        made = dataclasses.replace(made, verdict=preset_files.CFG_ALONE)
    return PresetFile(row, made, kept)


def measured_size(options: TuneOptions, own: GenerationSettings) -> PlainData:
    """Return what was asked for of all videos and a preset has: size, frames, and the like.

    A preset that left it out would make other videos than those that were measured.

    Args:
        own: the settings of CFG alone, complete.
    """
    found: PlainData = {}
    for name in preset_schema.OF_VIDEOS:
        value = getattr(own, name) if options.common.get(name) is not None else None
        if value is not None:
            whole = float(value)
            found[name] = int(whole) if whole.is_integer() else whole
    return found


def row_of(options: TuneOptions, planned: Planned, one: Candidate) -> Preset:
    """Return a candidate as a row of presets."""
    facts, own = planned.facts, planned.own.complete
    defaults: PlainData = {**measured_size(options, own)}
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
