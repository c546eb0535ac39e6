# Built by `make comfyui` from src/skipguide/families/preset_files.py; do not edit.
"""A preset in a file of one's own, as `skipguide tune` writes it: `tune.toml`.

    format = 1

    [preset]                      # as a row of presets.toml
    model = "genmo/mochi-1-preview"
    pipelines = ["MochiPipeline"]
    depth = 48
    layers = [34]
    scale = 2.0
    skip = "residual"
    normalize = true

    [preset.defaults]
    guidance_scale = 4.5

    [provenance]                  # may be left out
    verdict = "use"
    gain = 0.031
    gain_interval = [0.012, 0.05]

A file whose verdict is "use CFG alone" has no layers, scale or skip in [preset]; the best STG of
what was tried may stand in [best_stg], with its own guidance_scale and num_inference_steps where
it ran with others than [preset.defaults] has.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ..families import preset_schema, presets
from ..families.preset_folder import find_preset_file
from ..families.preset_schema import CFG_ALONE, FORMAT, OF_TERMS, TIED, USE
from ..families.presets import ModelFacts, Preset
from ..families.toml_text import to_toml
from ..method.protocols import PlainData, ReadOnlyData
from ..method.terms import SLG, STG, Schedule

_log = logging.getLogger("skipguide")


@dataclass(frozen=True)
class Provenance:
    """The measurement behind the setting of a file; one that was written by hand may have none.

    Args:
        skipguide: the version that measured it.
        date: of the measurement, as 2026-11-30.
        weights: the fingerprint of the model's weights, as in the record of a video.
        prompts: how many prompts chose it.
        answer_prompts: how many others, which chose nothing, measured the gain.
        prompts_sha256: of all of these texts.
        metric: what was measured, in words; larger is better.
        gain: the mean paired difference to CFG alone.
        gain_interval: its 95 % interval.
        verdict: one of preset_schema.VERDICTS.
        sentence: the answer in plain English.
        command: that was typed.
    """

    skipguide: str = ""
    date: str = ""
    weights: Mapping[str, str] = field(default_factory=dict)
    prompts: int = 0
    answer_prompts: int = 0
    prompts_sha256: str = ""
    metric: str = ""
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    verdict: str = USE
    sentence: str = ""
    command: str = ""


@dataclass(frozen=True)
class PresetFile:
    """A preset of one's own.

    Args:
        row: the setting, without layers where the answer is to use CFG alone.
        provenance: where it comes from.
        best_stg: the best STG of what was tried, where the answer is CFG alone; the same row with
            layers, and in its defaults the guidance scale and the steps that it ran with.
        name: what people call it: the file's name without ".toml".
        sha256: of the file's content.
    """

    row: Preset
    provenance: Provenance = field(default_factory=Provenance)
    best_stg: Preset | None = None
    name: str = ""
    sha256: str = ""

    @property
    def is_cfg_alone(self) -> bool:
        """True if its answer is to use no STG."""
        return self.row.is_cfg_alone

    def to_plain(self) -> PlainData:
        """Return the content of the file, and its `name` and `sha256` where it was read from one.

        `from_plain` reads it again.
        """
        row = _said(self.row, ("name", "recommended"))
        if self.is_cfg_alone:
            row = {name: value for name, value in row.items() if name not in OF_TERMS}
        found: PlainData = {
            "format": FORMAT,
            "preset": {**({"name": self.row.name} if self.row.name else {}), **row},
            "provenance": _said(self.provenance),
            "best_stg": None if self.best_stg is None else self._plain_best(self.best_stg),
            "file": {"name": self.name, "sha256": self.sha256} if self.name else None,
        }
        return {name: value for name, value in found.items() if value}

    def _plain_best(self, best: Preset) -> PlainData:
        said = _said(best)
        found = {name: said[name] for name in OF_TERMS if name in said}
        return {**found, **self.beside_best()}

    def beside_best(self) -> PlainData:
        """Return what the best STG ran with where that is not what the preset has."""
        own = {} if self.best_stg is None else self.best_stg.defaults
        return {
            name: own[name]
            for name in preset_schema.OF_BEST
            if name in own and own[name] != self.row.defaults.get(name)
        }

    def to_toml(self) -> str:
        """Return the text of the file; `read_preset_file` reads it as the same preset."""
        content = self.to_plain()
        content.pop("file", None)
        return to_toml(content)

    def for_ledger(self) -> PlainData:
        """Return `to_plain` without what names a place of a machine: the command, folders."""
        made = dataclasses.replace(self.provenance, command="")
        row = dataclasses.replace(self.row, model=self.model_name)
        return dataclasses.replace(self, row=row, provenance=made).to_plain()

    @property
    def model_name(self) -> str:
        """The model, of a folder its name alone."""
        named = PurePath(self.row.model)
        return named.name if named.is_absolute() else self.row.model

    def describe(self) -> str:
        """Return the setting and the answer in a phrase, for lists."""
        return ", ".join(filter(None, [presets.describe_preset(self.row), self.describe_answer()]))

    def describe_answer(self) -> str:
        """Return what was measured in a phrase: "gain +0.031 (+0.012 to +0.050) of sharpness"."""
        made = self.provenance
        if made.gain is None:
            return ""
        interval = (
            f" ({made.gain_interval[0]:+.3g} to {made.gain_interval[1]:+.3g})"
            if made.gain_interval
            else ""
        )
        of = f" of {made.metric}" if made.metric else ""
        tied = f", {TIED}" if made.verdict == TIED else ""
        whose = " of the winner of its race" if self.is_cfg_alone else ""
        return f"gain{whose} {made.gain:+.3g}{interval}{of}{tied}"


def _said(made: Any, without: tuple[str, ...] = ()) -> PlainData:
    """Return the parts that are not their defaults, as a file has them."""
    found: PlainData = {}
    for entry in dataclasses.fields(made):
        value = getattr(made, entry.name)
        required = entry.default is entry.default_factory is dataclasses.MISSING
        plain = list(value) if isinstance(value, tuple) else value
        default = entry.default if entry.default_factory is dataclasses.MISSING else {}
        if entry.name not in without and (required or value != default) and value is not None:
            found[entry.name] = dict(plain) if isinstance(plain, Mapping) else plain
    return found


# --- reading --------------------------------------------------------------------------------------


def read_preset_file(given: str | Path, base: Path = Path()) -> PresetFile:
    """Read a preset.

    Args:
        given: the file, or the name of one in the folder of one's own, without ".toml".
        base: the folder from which a relative path counts.

    Raises:
        ValueError: for a file that is not there or no preset; all that is wrong in it at once.
    """
    path = find_preset_file(given, base)
    content = preset_schema.load_toml(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _build(content, str(given), path.stem, digest)


def from_plain(content: ReadOnlyData, where: str = "preset") -> PresetFile:
    """Read what `PresetFile.to_plain` wrote.

    Raises:
        ValueError: for all that is wrong in it at once.
    """
    known = content.get("file")
    known = known if isinstance(known, Mapping) else {}
    rest = {name: value for name, value in content.items() if name != "file"}
    return _build(rest, where, str(known.get("name", "")), str(known.get("sha256", "")))


def _build(content: ReadOnlyData, where: str, name: str, digest: str) -> PresetFile:
    preset_schema.check(content, where)
    scale = 1.0 if content["preset"].get("schedule") else 0.0  # beside bins it is no one's
    written = {"layers": (), "scale": scale, "skip": "residual", "source": ""}
    row = presets.to_preset({**written, "name": name, **content["preset"]})
    made = dict(content.get("provenance", {}))
    if "gain_interval" in made:
        made["gain_interval"] = tuple(made["gain_interval"])
    return PresetFile(
        row,
        Provenance(**{"verdict": CFG_ALONE if row.is_cfg_alone else USE, **made}),
        _best_of(content, written),
        name,
        digest,
    )


def _best_of(content: ReadOnlyData, written: ReadOnlyData) -> Preset | None:
    """Return the row of [best_stg]; None where there is none."""
    given = content.get("best_stg")
    if given is None:
        return None
    preset = content["preset"]
    terms = {name: value for name, value in given.items() if name not in preset_schema.OF_BEST}
    own = {name: value for name, value in given.items() if name in preset_schema.OF_BEST}
    defaults = {**preset.get("defaults", {}), **own}
    return presets.to_preset({**written, **preset, **terms, "defaults": defaults})


# --- for a model ----------------------------------------------------------------------------------


def check_model(file: PresetFile, facts: ModelFacts, given: str | Path = "") -> None:
    """Check that a preset is for a model.

    Args:
        given: what the user called the file, for the error.

    Raises:
        ValueError: if it is for a model of another class or size.
    """
    row, came = file.row, str(given) or file.name or "the preset"
    fits = presets.fits_size(row, facts.depth, facts.width, facts.config)
    if set(row.pipelines) & set(facts.names) and fits:
        return
    other = ", ".join(
        f"{name} = {facts.config.get(name)!r}"
        for name, value in row.config.items()
        if facts.config.get(name) != value
    )
    own = f" with {', '.join(f'{name} = {value!r}' for name, value in row.config.items())}"
    raise ValueError(
        f"the preset must be for the model, but {came} is for {row.model}"
        f" ({' or '.join(row.pipelines)} of {presets.describe_size(row.depth, row.width)}"
        f"{own if other else ''}), and this is a {facts.names[0]} of"
        f" {presets.describe_size(facts.depth, facts.width if row.width else 0)}"
        f"{f' with {other}' if other else ''}. Tune this model, or choose the layer yourself, as in"
        f" {presets.example_term(facts)}."
    )


def stg_of_file(pipe: object, given: str | Path) -> STG | Schedule | tuple[STG, ...]:
    """Return the STG of a preset file for a pipeline, and log what it is.

    Raises:
        ValueError: as STG.preset.
    """
    file = read_preset_file(given)
    check_model(file, presets.facts_of(pipe), given)
    if file.row.kind == "slg":
        raise ValueError(
            f"STG.preset needs a preset of STG, but {given} is one of SLG. Write SLG.preset(pipe,"
            f" file={str(given)!r})."
        )
    if file.is_cfg_alone:
        raise ValueError(describe_cfg_alone(file, given))
    found = presets.to_terms(file.row, source_of(file))
    assert not isinstance(found, SLG)
    _log.info("preset %s for %s: %s.", given, file.row.model, file.describe())
    return found


def slg_of_file(pipe: object, given: str | Path) -> SLG:
    """Return the SLG of a preset file for a pipeline, and log what it is.

    Raises:
        ValueError: as SLG.preset.
    """
    file = read_preset_file(given)
    check_model(file, presets.facts_of(pipe), given)
    found = None if file.is_cfg_alone else presets.to_terms(file.row, source_of(file))
    if not isinstance(found, SLG):
        raise ValueError(
            f"SLG.preset needs a preset of SLG, but {given} is one of STG. Write STG.preset(pipe,"
            f" file={str(given)!r})."
        )
    _log.info("preset %s for %s: %s.", given, file.row.model, file.describe())
    return found


def source_of(file: PresetFile) -> str:
    """Return whose setting it is, without a place of the machine."""
    made = file.provenance
    by = f" measured by skipguide {made.skipguide}" if made.skipguide else ""
    on = f" on {made.date}" if made.date else ""
    return f"{file.name}.toml{by}{on}"


def describe_cfg_alone(file: PresetFile, given: str | Path) -> str:
    """Return the answer of a file that says not to use STG, and what to do."""
    scale = file.row.defaults.get("guidance_scale")
    call = f"guidance_scale={scale:g}" if scale is not None else "the guidance_scale of your choice"
    best = ""
    if file.best_stg:
        beside = " and ".join(f"{name}={value:g}" for name, value in file.beside_best().items())
        with_it = f" with {beside}" if beside else ""
        best = f" Its best STG all the same: {in_python(file.best_stg)}{with_it}."
    said = answer_of(file, str(given))
    return f"{said} Run the pipeline without guide(), with {call}.{best}"


def answer_of(file: PresetFile, name: str) -> str:
    """Return the sentence of a file that says to use CFG alone, with the name of the file."""
    said = file.provenance.sentence or "No STG that was tried is worth its cost."
    whole = said.startswith("Use CFG alone")
    return f"the answer of {name} is{':' if whole else ' to use CFG alone:'} {said}"


def in_python(row: Preset) -> str:
    """Return a setting as one writes it in Python."""
    if row.schedule:
        return f"Schedule([Bin(**row) for row in {list(map(dict, row.schedule))}])"
    shared = {
        name: getattr(row, name)
        for name, default in (("start", 0.0), ("stop", 1.0), ("normalize", False))
        if getattr(row, name) != default
    }
    if row.skip != "residual":
        shared = {"skip": row.skip, **shared}
    terms = row.terms or ({"axis": row.axis, "scale": row.scale},)
    written = [
        f"STG({', '.join(f'{name}={value!r}' for name, value in parts.items())})"
        for term in terms
        for parts in [
            {"layers": list(row.layers), "scale": term["scale"], **shared,
             **({"axis": term["axis"]} if term["axis"] else {})}
        ]
    ]  # fmt: skip
    return ", ".join(written) + (f" with rescale={row.rescale:g}" if row.rescale else "")
